//! A test switch (`HANDOVER_PAUSE_AT`): the process stops itself (SIGSTOP) when it first comes to a step of a hand-over, on
//! either side. Whoever started it then kills it, tells it to end, or lets it go on.
//!
//! | step | the giver stops when | the taker stops when |
//! |---|---|---|
//! | `hello` | the session begins | the session begins |
//! | `able`, `role-prepared`, `prepared` | it has read what the taker says | it has said so |
//! | `role-state`, `role-commit`, `commit` | it has sent it | it has read it |
//! | `canary`, `state` | it has sent the state of the first connection, of a later one | it has read it |
//! | `done` | nothing is left to give | a connection runs that is no canary |

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use drain::handover::message::Message;
use rustix::process::{Signal, getpid, kill_process};

static STEP: OnceLock<String> = OnceLock::new();
static PAUSED: AtomicBool = AtomicBool::new(false);

/// Sets the step; the first setting counts.
pub fn set(step: String) {
    // Two hand-overs in one process are those of a test.
    let _ = STEP.set(step);
}

/// This process has come to a step.
pub fn at(step: &str) {
    if STEP.get().is_some_and(|wanted| wanted == step) && !PAUSED.swap(true, Ordering::Relaxed) {
        tracing::warn!(step, "this process stops itself, as HANDOVER_PAUSE_AT says");
        // A process may always signal itself.
        let _ = kill_process(getpid(), Signal::STOP);
    }
}

/// A message was sent or read.
pub fn at_message(message: &Message) {
    match message {
        Message::Able { .. } => at("able"),
        Message::RoleState { .. } => at("role-state"),
        Message::RolePrepared { .. } => at("role-prepared"),
        Message::RoleCommit { .. } => at("role-commit"),
        Message::State { canary: true, .. } => at("canary"),
        Message::State { canary: false, .. } => at("state"),
        Message::Prepared { .. } => at("prepared"),
        Message::Commit { .. } => at("commit"),
        _ => {}
    }
}
