//! The first words of two processes to each other.

use std::collections::BTreeMap;
use std::time::Duration;

use drain::handover::limits;
use drain::handover::message::{Hello, Message, Verdict};
use xds::connect::RootCertificates;

use super::line::Line;
use super::mesh;

/// The version of the protocol that this build speaks, and the oldest one that it still understands.
pub const VERSION: u32 = 1;

/// What this process says of itself.
#[derive(Clone, Debug)]
pub struct Card {
    /// `namespace/name` of the pod that it runs in.
    pub pod: String,
    /// What must be equal for connections to move.
    pub compatibility: BTreeMap<String, String>,
    /// By whom the authority is known that signs certificates. Must be equal, too; read anew for each greeting, since a file of
    /// them follows the cluster's.
    pub roots: Option<RootCertificates>,
}

/// Why two processes have nothing to do with each other.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// It said nothing in time.
    #[error("the process that holds the hand-over lock has said nothing within {} s", limits::HELLO_MS / 1_000)]
    Silent,
    /// It has gone, or speaks another protocol.
    #[error("the hand-over's greeting failed: {0}")]
    Failed(String),
}

impl Card {
    /// The greeting of a process that has not been told to end.
    pub fn hello(&self, wants_role: bool, holds_role: bool, room: usize) -> Hello {
        Hello {
            version: VERSION,
            oldest_version: VERSION,
            pod: self.pod.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            wants_role,
            holds_role,
            terminating: false,
            room: u32::try_from(room).unwrap_or(u32::MAX),
            compatibility: self.facts(),
            features: vec![mesh::FEATURE.to_owned()],
        }
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = self.compatibility.clone();
        facts.extend(self.roots.as_ref().map(|roots| ("roots".to_owned(), fingerprint(roots))));
        facts
    }

    /// What differs from the other's, if anything does: then no connection moves.
    pub fn differs(&self, other: &Hello) -> Option<String> {
        let (ours, theirs) = (self.facts(), &other.compatibility);
        let key = ours.keys().chain(theirs.keys()).find(|key| ours.get(*key) != theirs.get(*key))?;
        let shown = |of: &BTreeMap<String, String>| of.get(key).cloned().unwrap_or_default();
        Some(format!("another {key}: {:?} there, {:?} here", shown(theirs), shown(&ours)))
    }
}

/// Equal if and only if the certificates are.
fn fingerprint(roots: &RootCertificates) -> String {
    let digest = |pem: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pem.trim_ascii());
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    };
    match roots {
        RootCertificates::System => "of the system".to_owned(),
        RootCertificates::Pem(pem) => digest(pem.as_bytes()),
        RootCertificates::File(path) => {
            std::fs::read(path).map_or_else(|error| error.kind().to_string(), |pem| digest(&pem))
        }
    }
}

/// The next message, if it comes in time.
async fn hear(line: &Line) -> Result<Message, GreetingError> {
    let received = async {
        loop {
            line.readable().await;
            if let Some(received) = line.try_receive() {
                return received;
            }
        }
    };
    match tokio::time::timeout(Duration::from_millis(limits::HELLO_MS), received).await {
        Err(_) => Err(GreetingError::Silent),
        Ok(Ok(received)) => Ok(received.message),
        Ok(Err(error)) => Err(GreetingError::Failed(error.to_string())),
    }
}

fn say(line: &Line, message: &Message) -> Result<(), GreetingError> {
    // The first messages of a socket always find room.
    line.send(message).map_err(|error| GreetingError::Failed(error.to_string()))
}

async fn hello(line: &Line) -> Result<Hello, GreetingError> {
    match hear(line).await? {
        Message::Hello(hello) if hello.oldest_version <= VERSION && VERSION <= hello.version => Ok(hello),
        Message::Hello(hello) if hello.oldest_version > VERSION => Err(GreetingError::Failed(format!(
            "it speaks version {} and nothing older",
            hello.oldest_version
        ))),
        Message::Hello(hello) => Ok(hello),
        _ => Err(GreetingError::Failed("it did not say hello".to_owned())),
    }
}

/// The greeting of whoever calls: its hello, the holder's, the holder's verdict.
///
/// # Errors
/// [`GreetingError`].
pub async fn call(line: &Line, ours: Hello) -> Result<(Hello, Verdict), GreetingError> {
    say(line, &Message::Hello(ours))?;
    let theirs = hello(line).await?;
    match hear(line).await? {
        Message::Verdict(verdict) => Ok((theirs, verdict)),
        _ => Err(GreetingError::Failed("it gave no verdict".to_owned())),
    }
}

/// The greeting of the holder, who decides by what the caller says.
///
/// # Errors
/// [`GreetingError`].
pub async fn answer(
    line: &Line,
    ours: Hello,
    decide: impl FnOnce(&Hello) -> Verdict,
) -> Result<(Hello, Verdict), GreetingError> {
    let theirs = hello(line).await?;
    say(line, &Message::Hello(ours))?;
    let verdict = decide(&theirs);
    say(line, &Message::Verdict(verdict.clone()))?;
    Ok((theirs, verdict))
}
