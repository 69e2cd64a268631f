//! How this process hands over to its successor, and takes over from its predecessor.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{ConfigError, Environment, ProxyMode};

/// Where successors call, and what becomes of a process that has handed over. All of it are extensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoverConfig {
    /// `HANDOVER_UDS`: the socket of the owner; the lock is beside it.
    pub socket: PathBuf,
    /// `HANDOVER_BAKE`: from the giving of the role until connections follow, if nothing hurries.
    pub bake: Duration,
    /// `HANDOVER_STANDBY`.
    pub standby: Standby,
    /// `HANDOVER_PAUSE_AT`, a test switch: the step at which this process stops itself, once (see
    /// [`pause`](crate::handover::pause)).
    pub pause_at: Option<String>,
}

/// What a process does that has handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standby {
    /// It waits for SIGTERM, and would take the role back: the kubelet would start it again if it ended.
    Wait,
    /// It ends as soon as it owns nothing: for hosts without a kubelet.
    Exit,
}

impl HandoverConfig {
    /// From `HANDOVER`, `HANDOVER_UDS`, `HANDOVER_BAKE` and `HANDOVER_STANDBY`. None if there is to be no hand-over: with
    /// `HANDOVER=false`, and in dedicated mode without a socket.
    pub fn from_environment(
        environment: &Environment,
        mode: &ProxyMode,
    ) -> Result<Option<Self>, ConfigError> {
        let socket = environment.get("HANDOVER_UDS").map(|path| environment.path(path));
        let bake = environment.duration("HANDOVER_BAKE")?.unwrap_or(Duration::from_secs(10));
        const STANDBY: &str = "HANDOVER_STANDBY";
        let standby = match environment.get(STANDBY) {
            None | Some("wait") => Standby::Wait,
            Some("exit") => Standby::Exit,
            Some(other) => {
                return Err(ConfigError::new(STANDBY, format!("{other:?} is neither wait nor exit")));
            }
        };
        let wanted = environment.optional_boolean("HANDOVER")?;
        let socket = match (socket, mode, wanted) {
            (_, _, Some(false)) | (None, ProxyMode::Dedicated(_), None) => return Ok(None),
            (Some(socket), ..) => socket,
            (None, ProxyMode::Shared(_), _) => environment.path(DEFAULT_SOCKET),
            (None, ProxyMode::Dedicated(_), Some(true)) => {
                let problem = "must be set for HANDOVER=true in dedicated mode: one path for each workload";
                return Err(ConfigError::new("HANDOVER_UDS", problem));
            }
        };
        let pause_at = environment.get("HANDOVER_PAUSE_AT").map(str::to_owned);
        Ok(Some(Self { socket, bake, standby, pause_at }))
    }
}

const DEFAULT_SOCKET: &str = "/var/run/ztunnel/handover/handover.sock";

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Option<HandoverConfig>, String> {
        let all = mode.iter().chain(variables).copied();
        let environment = Environment::from_variables(all);
        let mode = ProxyMode::from_environment(&environment).expect("a mode");
        HandoverConfig::from_environment(&environment, &mode).map_err(|error| error.to_string())
    }

    const DEDICATED: [(&str, &str); 2] =
        [("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "shop/cart/cart")];

    #[test]
    fn on_by_default_for_a_node_and_with_a_path_for_a_workload() {
        let shared = config(&[], &[]).unwrap().expect("on");
        assert_eq!(shared.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!((shared.bake, shared.standby), (Duration::from_secs(10), Standby::Wait));
        assert_eq!(config(&[], &[("HANDOVER", "false")]).unwrap(), None);
        assert_eq!(config(&DEDICATED, &[]).unwrap(), None);
        let path = [("HANDOVER_UDS", "/run/h.sock"), ("HANDOVER_BAKE", "1s"), ("HANDOVER_STANDBY", "exit")];
        let dedicated = config(&DEDICATED, &path).unwrap().expect("on");
        assert_eq!(dedicated.socket, PathBuf::from("/run/h.sock"));
        assert_eq!((dedicated.bake, dedicated.standby), (Duration::from_secs(1), Standby::Exit));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert!(config(&DEDICATED, &[("HANDOVER", "true")]).unwrap_err().contains("HANDOVER_UDS"));
        assert!(config(&[], &[("HANDOVER_STANDBY", "sleep")]).unwrap_err().contains("wait nor exit"));
    }
}
