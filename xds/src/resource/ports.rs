//! Service ports and what they lead to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Problem, ResourceError};

/// A map from service port to target port. A port may be listed without a number for its target (a named port, that
/// each workload resolves for itself); it is written with target 0.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PortMap(Box<[(u16, u16)]>);

impl PortMap {
    /// Builds the map from (service port, target port or 0), as the protocol has them.
    ///
    /// A service port may come twice (the same number for TCP and UDP): the last entry that has a target counts.
    pub fn new(
        field: &'static str,
        ports: impl IntoIterator<Item = (u32, u32)>,
    ) -> Result<Self, ResourceError> {
        let mut map = BTreeMap::new();
        for (service_port, target_port) in ports {
            let port = |number: u32| {
                u16::try_from(number).map_err(|_| ResourceError::new(field, Problem::NotAPort(number)))
            };
            let (service_port, target_port) = (port(service_port)?, port(target_port)?);
            if service_port == 0 {
                return Err(ResourceError::new(field, Problem::NotAPort(0)));
            }
            let entry = map.entry(service_port).or_insert(target_port);
            if target_port != 0 {
                *entry = target_port;
            }
        }
        Ok(Self(map.into_iter().collect()))
    }

    /// The target of a service port; none if the port is not listed or its target has no number here.
    pub fn target(&self, service_port: u16) -> Option<u16> {
        self.entry(service_port).filter(|target| *target != 0)
    }

    /// Whether the service port is listed, with or without a number for its target.
    pub fn contains(&self, service_port: u16) -> bool {
        self.entry(service_port).is_some()
    }

    /// All (service port, target port or 0), by service port.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }

    fn entry(&self, service_port: u16) -> Option<u16> {
        let index = self.0.binary_search_by_key(&service_port, |(port, _)| *port).ok()?;
        Some(self.0[index].1)
    }
}

impl fmt::Debug for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for PortMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for PortMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<u16, u16>::deserialize(deserializer)?;
        let entries = map.into_iter().map(|(service_port, target)| (service_port.into(), target.into()));
        Self::new("ports", entries).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_up() {
        let ports = PortMap::new("ports", [(443, 8443), (80, 0), (53, 1053), (53, 0)]).unwrap();
        assert_eq!(ports.target(443), Some(8443));
        assert_eq!((ports.target(80), ports.contains(80)), (None, true));
        assert_eq!(ports.target(53), Some(1053));
        assert_eq!((ports.target(81), ports.contains(81)), (None, false));
        assert_eq!(serde_json::to_string(&ports).unwrap(), r#"{"53":1053,"80":0,"443":8443}"#);
    }

    #[test]
    fn numbers_that_are_no_ports() {
        for entry in [(0, 80), (65_536, 80), (80, 65_536)] {
            assert!(PortMap::new("ports", [entry]).is_err(), "{entry:?}");
        }
    }
}
