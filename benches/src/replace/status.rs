//! What a proxy says of its hand-overs, and the kernel of its process.

use std::fs;

use demo::node::{ADMIN_PORT, Node, NodeError};
use serde_json::Value;

/// Where a process stands (`GET /handover`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Its pod's name.
    pod: String,
    /// It accepts connections.
    pub owns: bool,
    /// What it took in its last session.
    pub taken: Taken,
}

/// Connections that a process took from another one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// Those of applications.
    pub connections: usize,
    /// Bytes of their state.
    pub bytes: u64,
    /// How many pauses are known: tunnels, and connections that are in none.
    pub pauses: u64,
    /// p50, p99, the longest, ms.
    pub pause_ms: [f64; 3],
}

impl Standing {
    /// Of the process that answers for this node, which may still be another one.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn of(node: &Node) -> Result<Self, NodeError> {
        let body = node.page(ADMIN_PORT, "/handover")?.body;
        Ok(Self::read(&serde_json::from_str(&body).unwrap_or_default()))
    }

    /// Whether it is this one's.
    pub fn pod_is(&self, name: &str) -> bool {
        self.pod.ends_with(&format!("/{name}"))
    }

    fn read(page: &Value) -> Self {
        let taken = page["sessions"].as_array().and_then(|sessions| Some(&sessions.last()?["taken"]));
        let taken = taken.unwrap_or(&Value::Null);
        let count = |kind: &str| taken["moved"][kind].as_u64().unwrap_or_default();
        let pause = |name: &str| taken["pause"][name].as_f64().unwrap_or_default();
        Self {
            pod: page["pod"].as_str().unwrap_or_default().to_owned(),
            owns: page["role"] == "owner",
            taken: Taken {
                connections: ["stream", "plain", "setup"].map(count).iter().sum::<u64>() as usize,
                bytes: taken["bytes"].as_u64().unwrap_or_default(),
                pauses: taken["pause"]["count"].as_u64().unwrap_or_default(),
                pause_ms: ["p50Ms", "p99Ms", "maxMs"].map(pause),
            },
        }
    }
}

/// Whether a process has been stopped (SIGSTOP).
pub fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_session_counts() {
        let page = r#"{"role":"owner","pod":"demo/client-2","sessions":[{"taken":{"moved":{"stream":1}}},
            {"taken":{"moved":{"tunnel":2,"stream":100,"plain":3,"setup":4},"bytes":9000,
             "pause":{"count":9,"p50Ms":0.5,"p99Ms":1.5,"maxMs":2.5}}}]}"#;
        let standing = Standing::read(&serde_json::from_str(page).expect("JSON"));
        assert!(standing.owns && standing.pod_is("client-2") && !standing.pod_is("client-1"));
        let taken = Taken { connections: 107, bytes: 9000, pauses: 9, pause_ms: [0.5, 1.5, 2.5] };
        assert_eq!(standing.taken, taken);
        assert_eq!(Standing::read(&Value::Null), Standing::default());
    }
}
