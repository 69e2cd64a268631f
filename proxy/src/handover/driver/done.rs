//! What took time, and is done.

use std::time::Duration;

use drain::handover::message::Message;
use drain::handover::session::Event;

use super::{Done, Driver};
use crate::handover::outgoing::{Descriptors, cut};
use crate::handover::pause;
use crate::telemetry::ConnectionLabels;
use crate::worker::{FrozenKind, Taken};

impl Driver {
    pub(super) fn completed(&mut self, done: Done) {
        match done {
            Done::Offered(Ok(parts)) => {
                self.parts_sent = u32::try_from(parts.len()).unwrap_or(u32::MAX);
                for part in parts {
                    let (kind, bytes) = part.encode();
                    for (piece, range) in cut(&bytes, &part.descriptors()) {
                        let message = Message::RolePart { kind, piece };
                        self.outgoing.push(message, Descriptors::Part(part.clone(), range));
                    }
                }
                if self.session.gives_at_once() {
                    self.announce();
                }
                self.happened(Event::RoleOffered(Ok(())));
            }
            Done::Offered(Err(reason)) => self.happened(Event::RoleOffered(Err(reason))),
            Done::Stopped => self.happened(Event::Stopped),
            Done::Wave(given) => {
                // Whatever was forbidden until now has been looked for among them, or will be at the other side.
                let mesh = self.mesh.number();
                let offers = self.giving.offer(given, self.canary, mesh, &mut self.outgoing);
                self.happened(Event::Wave(offers));
            }
            Done::Ran(offer, info, Ok(taken)) => {
                self.running -= 1;
                // It may have ended at once: the policies here forbid it, for example.
                let pause = match taken {
                    Taken::Running { pause } => pause,
                    Taken::Ended => Duration::ZERO,
                };
                self.status.update(|summary| {
                    summary.taken.moved(info.kind, info.streams, info.bytes);
                    summary.taken.pause.add(pause);
                });
                self.status.metrics().pause(pause);
                self.count("taken", info.kind, info.bytes, "moved");
                let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
                self.say(Message::Running { offer, pause_us });
                if !info.canary {
                    pause::at("done");
                }
            }
            // Who wants a proof hears of it, too.
            Done::Ran(_, info, Err(error)) => {
                self.running -= 1;
                tracing::error!(%error, "a connection was lost on its way here; please report it");
                self.count("taken", info.kind, info.bytes, "lost");
            }
            Done::Proved(offer, result) => self.happened(Event::Proof(offer, result)),
            Done::PodClosed(uid) => self.say(Message::PodClosed { uid }),
            Done::Kept => {}
        }
    }

    pub(super) fn count(
        &self,
        direction: &'static str,
        kind: FrozenKind,
        bytes: usize,
        result: &'static str,
    ) {
        let labels = ConnectionLabels { direction, kind: kind.name(), result };
        self.status.metrics().connection(&labels, bytes);
    }
}
