//! Opens to those who call at the hand-over's socket, as long as this process has the role.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drain::handover::channel::Channel;
use drain::handover::message::{Hello, Verdict};
use tokio::sync::mpsc;

use super::node_role::NodeRole;
use crate::handover::greeting;
use crate::handover::line::{Line, Waiter};

/// See the module. Who calls while there is a session hears that this process is busy; the others are passed on.
pub(super) struct Doorkeeper {
    pub(super) role: Arc<NodeRole>,
    /// There is a session.
    pub(super) busy: Arc<AtomicBool>,
    pub(super) callers: mpsc::UnboundedSender<Channel>,
    /// What a caller hears with the refusal.
    pub(super) hello: Hello,
}

impl Doorkeeper {
    /// Runs until nobody wants to know of callers.
    pub(super) async fn run(self) {
        let mut seats = self.role.seats();
        loop {
            // Only the socket is kept: with a copy of the lock this process would keep it after the role has gone.
            let waiter = seats.borrow_and_update().as_ref().map(Waiter::new);
            match waiter {
                Some(Ok(waiter)) => tokio::select! {
                    changed = seats.changed() => if changed.is_err() { return },
                    () = self.open(&waiter) => {}
                },
                Some(Err(error)) => {
                    tracing::error!(%error, "no successor can call here");
                    return;
                }
                None => {
                    if seats.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn open(&self, waiter: &Waiter) {
        loop {
            waiter.readable().await;
            let accept = || self.role.current_seat()?.accept().transpose();
            match waiter.read(accept) {
                Some(Ok(channel)) if self.busy.load(Ordering::Acquire) => self.refuse(channel),
                // Without anybody who wants to know this task ends with the process.
                Some(Ok(channel)) => drop(self.callers.send(channel)),
                None => {}
                Some(Err(error)) => tracing::warn!(%error, "somebody who called was turned away"),
            }
        }
    }

    fn refuse(&self, channel: Channel) {
        let hello = self.hello.clone();
        tokio::spawn(async move {
            let Ok(line) = Line::new(channel) else { return };
            // Who doesn't greet hears nothing.
            if greeting::answer(&line, hello, |_| Verdict::Busy).await.is_ok() {
                line.readable().await;
            }
        });
    }
}
