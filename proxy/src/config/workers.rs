//! How many data-plane workers there are.

use std::time::Duration;

use serde::Serialize;

use super::{ConfigError, Environment, ProxyConfig};

/// The data plane's threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerConfig {
    /// Number of workers, at least 1.
    pub threads: usize,
    /// `TUNNEL_MOVE_INTERVAL` (an extension, for tests): each tunnel moves to the next worker at this interval.
    pub move_interval: Option<Duration>,
}

const THREADS: &str = "ZTUNNEL_WORKER_THREADS";

impl WorkerConfig {
    /// Threads from `ZTUNNEL_WORKER_THREADS` (a number, `NN%` of the CPUs, 0 for all of them), else ProxyConfig's
    /// `concurrency`, else from the container's CPU limit and request.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let cpus = cpus(environment)?;
        let threads = match environment.get(THREADS) {
            Some(text) => explicit(text, cpus)?,
            None => match ProxyConfig::from_environment(environment)?.concurrency {
                Some(0) => cpus,
                Some(threads) => usize::from(threads),
                None => automatic(environment, cpus)?,
            },
        };
        let move_interval = environment.duration("TUNNEL_MOVE_INTERVAL")?;
        if move_interval == Some(Duration::ZERO) {
            return Err(ConfigError::new(
                "TUNNEL_MOVE_INTERVAL",
                "0 is no interval; leave it unset to move nothing",
            ));
        }
        Ok(Self { threads: threads.max(1), move_interval })
    }
}

fn explicit(text: &str, cpus: usize) -> Result<usize, ConfigError> {
    let wrong = || {
        let problem = format!(
            "{text:?} is not a number of threads; use a number, a share such as 50%, or 0 for all CPUs"
        );
        ConfigError::new(THREADS, problem)
    };
    if let Some(share) = text.strip_suffix('%') {
        let share: usize = share.trim().parse().ok().filter(|share| *share <= 1000).ok_or_else(wrong)?;
        return Ok((cpus * share).div_ceil(100));
    }
    match text.parse::<u16>().map_err(|_| wrong())? {
        0 => Ok(cpus),
        threads => Ok(usize::from(threads)),
    }
}

/// The limit is what the container can use; without one, a quarter of the machine or what was requested.
fn automatic(environment: &Environment, cpus: usize) -> Result<usize, ConfigError> {
    let limit = quantity(environment, "ZTUNNEL_RESOURCE_CPU_LIMIT")?;
    let request = quantity(environment, "ZTUNNEL_RESOURCE_CPU_REQUEST")?.unwrap_or(0);
    Ok(match limit {
        Some(limit) => limit.max(request),
        None => cpus.div_ceil(4).max(request).max(2),
    })
}

/// `ZTUNNEL_CPU_LIMIT` (what Kubernetes says that the container may use), else the CPUs of the machine.
fn cpus(environment: &Environment) -> Result<usize, ConfigError> {
    Ok(quantity(environment, "ZTUNNEL_CPU_LIMIT")?.unwrap_or(environment.cpus()).max(1))
}

/// A Kubernetes quantity of CPUs (`2`, `1.5`, `1500m`), rounded up; 0 counts as unset.
fn quantity(environment: &Environment, name: &'static str) -> Result<Option<usize>, ConfigError> {
    let Some(text) = environment.get(name) else { return Ok(None) };
    let wrong = || ConfigError::new(name, format!("{text:?} is not a quantity of CPUs; use 2, 1.5 or 1500m"));
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<u32>().map_err(|_| wrong())?,
        None => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            let fraction = format!("{fraction:0<3}");
            let whole: u32 = whole.parse().ok().filter(|whole| *whole < 1 << 20).ok_or_else(wrong)?;
            let fraction: u32 = fraction.get(..3).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
            whole * 1000 + fraction
        }
    };
    let whole = usize::try_from(milli.div_ceil(1000)).map_err(|_| wrong())?;
    Ok(Some(whole).filter(|whole| *whole > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(cpus: usize, variables: &[(&str, &str)]) -> Result<usize, String> {
        let environment = Environment::from_variables(variables.iter().copied()).with_cpus(cpus);
        WorkerConfig::from_environment(&environment).map(|c| c.threads).map_err(|e| e.to_string())
    }

    #[test]
    fn a_number_a_share_or_everything() {
        assert_eq!(threads(8, &[(THREADS, "3")]), Ok(3));
        assert_eq!(threads(8, &[(THREADS, "50%")]), Ok(4));
        assert_eq!(threads(8, &[(THREADS, "1%")]), Ok(1));
        assert_eq!(threads(8, &[(THREADS, "0")]), Ok(8));
        assert_eq!(threads(8, &[(THREADS, "0"), ("ZTUNNEL_CPU_LIMIT", "5")]), Ok(5));
        assert_eq!(threads(8, &[("PROXY_CONFIG", "concurrency: 6")]), Ok(6));
        assert_eq!(threads(8, &[("PROXY_CONFIG", "concurrency: 6"), (THREADS, "1")]), Ok(1));
    }

    #[test]
    fn the_container_decides_when_nobody_else_does() {
        assert_eq!(threads(4, &[]), Ok(2));
        assert_eq!(threads(64, &[]), Ok(16));
        assert_eq!(threads(4, &[("ZTUNNEL_RESOURCE_CPU_REQUEST", "2500m")]), Ok(3));
        assert_eq!(
            threads(4, &[("ZTUNNEL_RESOURCE_CPU_LIMIT", "1"), ("ZTUNNEL_RESOURCE_CPU_REQUEST", "200m")]),
            Ok(1)
        );
        assert_eq!(threads(4, &[("ZTUNNEL_RESOURCE_CPU_LIMIT", "1.5")]), Ok(2));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            threads(4, &[(THREADS, "many")]).unwrap_err(),
            "ZTUNNEL_WORKER_THREADS: \"many\" is not a number of threads; \
             use a number, a share such as 50%, or 0 for all CPUs"
        );
        for text in ["-1%", "x%", "70000"] {
            assert!(threads(4, &[(THREADS, text)]).is_err(), "{text}");
        }
        for text in ["1,5", "1.x", "", "m"].into_iter().filter(|text| !text.is_empty()) {
            assert!(threads(4, &[("ZTUNNEL_CPU_LIMIT", text)]).is_err(), "{text}");
        }
    }
}
