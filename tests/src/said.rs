//! What a node says from some moment on: its log, and its dump.

use demo::node::{ADMIN_PORT, Node};
use serde_json::Value;

use crate::wait;
use crate::world::log;

/// The log of a node since some moment.
#[derive(Debug)]
pub struct Since<'n> {
    node: &'n Node,
    length: usize,
}

impl<'n> Since<'n> {
    /// Since now.
    pub fn now(node: &'n Node) -> Self {
        Self { node, length: log(node).len() }
    }

    /// Since the node was started.
    pub fn start(node: &'n Node) -> Self {
        Self { node, length: 0 }
    }

    /// The lines of `level` that have all of `parts`.
    pub fn lines(&self, level: &str, parts: &[&str]) -> Vec<String> {
        let has = |line: &&str| {
            line.split('\t').nth(1) == Some(level) && parts.iter().all(|part| line.contains(part))
        };
        log(self.node)[self.length..].lines().filter(has).map(ToOwned::to_owned).collect()
    }

    /// Waits for the first such line.
    ///
    /// # Panics
    /// None comes.
    pub async fn line(&self, level: &str, parts: &[&str]) -> String {
        let mut line = None;
        let what = format!("a line of level {level} has all of {parts:?}");
        let begun = std::time::Instant::now();
        while line.is_none() {
            let log = || log(self.node)[self.length..].to_owned();
            assert!(begun.elapsed() < wait::PATIENCE, "never: {what} in\n{}", log());
            tokio::time::sleep(wait::POLL).await;
            line = self.lines(level, parts).into_iter().next();
        }
        line.expect("the loop has ended")
    }

    /// Checks that one warning was given, which has all of `parts`.
    ///
    /// # Panics
    /// There was none, or another one.
    pub fn one_warning(&self, parts: &[&str]) {
        let all = self.lines("warn", &[]);
        assert!(
            all.len() == 1 && self.lines("warn", parts).len() == 1,
            "not one warning with {parts:?}: {all:#?}"
        );
    }
}

/// `/config_dump`.
///
/// # Panics
/// The node does not answer.
pub fn dump(node: &Node) -> Value {
    let page = node.page(ADMIN_PORT, "/config_dump").expect("a page");
    serde_json::from_str(&page.body).expect("JSON")
}

/// The names in one of the lists of [`dump`].
///
/// # Panics
/// There is no such list.
pub fn dumped(node: &Node, list: &str) -> Vec<String> {
    let dump = dump(node);
    let items = dump[list].as_array().expect("a list").iter();
    items.map(|item| item["name"].as_str().expect("each has a name").to_owned()).collect()
}
