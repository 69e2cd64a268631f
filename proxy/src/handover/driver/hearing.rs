//! What the other side says.

use std::os::fd::OwnedFd;
use std::time::Duration;

use drain::handover::message::{Message, Whole};
use drain::handover::session::{Event, Say};

use super::{Done, Driver};
use crate::handover::parts::Part;
use crate::handover::{pause, saying};

impl Driver {
    pub(super) fn received(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        pause::at_message(&message);
        let message = match saying::say(message) {
            Ok(say) => return self.happened(Event::Heard(say)),
            Err(message) => message,
        };
        match message {
            Message::RolePart { kind, piece } => match self.part_pieces.add(piece, descriptors) {
                Ok(None) => {}
                Ok(Some(Whole { bytes, descriptors })) => match Part::decode(kind, &bytes, descriptors) {
                    // Between different meshes not even a certificate passes.
                    Ok(Part::Certificate(_)) if self.differs.is_some() => self.parts_skipped += 1,
                    Ok(part) => self.parts.push(part),
                    Err(error) => self.bad_part = Some(error.to_string()),
                },
                Err(error) => self.bad_part = Some(error.to_string()),
            },
            Message::RoleState { epoch, parts } => {
                let got = self.parts.len() + self.parts_skipped;
                if got != parts as usize {
                    self.bad_part.get_or_insert_with(|| format!("{got} of {parts} parts of the role came"));
                }
                self.happened(Event::Heard(Say::RoleState { epoch }));
            }
            Message::RoleCommit { epoch } => {
                self.seat = descriptors;
                self.happened(Event::Heard(Say::RoleCommit { epoch }));
            }
            Message::State { offer, canary, mesh, frozen_at_ns, piece } => {
                match self.taking.piece(offer, mesh, frozen_at_ns, piece, descriptors) {
                    Ok(false) => {}
                    Ok(true) => self.happened(Event::Heard(Say::State { offer, canary })),
                    Err(error) => {
                        self.say(Message::Refused { offer, reason: error.to_string(), again: false });
                    }
                }
            }
            Message::Commit { offer, secrets } => {
                self.secrets = Some(secrets);
                self.happened(Event::Heard(Say::Commit { offer }));
                self.secrets = None;
            }
            Message::Mesh(piece) => {
                if let Err(reason) = self.mesh.heard(piece) {
                    tracing::warn!(%reason, "what the owner says of the mesh can't be used");
                }
            }
            Message::Counters(piece) => match self.counters.add(piece, descriptors) {
                Ok(None) => {}
                Ok(Some(Whole { bytes, .. })) => {
                    self.shared.telemetry.take_counters(&String::from_utf8_lossy(&bytes));
                }
                Err(error) => tracing::warn!(%error, "the other side's counters can't be used"),
            },
            Message::Room { descriptors } => self.giving.room = descriptors as usize,
            Message::Running { pause_us, .. } => {
                self.status.update(|summary| summary.given.pause.add(Duration::from_micros(pause_us)));
            }
            Message::PodDeleted { uid } => {
                let role = self.role.clone();
                self.beside(async move {
                    role.pod_deleted(&uid).await;
                    Done::PodClosed(uid)
                });
            }
            Message::PodClosed { uid } => {
                for (_, waiting) in self.waiting.extract_if(.., |(waiting, _)| **waiting == *uid) {
                    let _ = waiting.send(());
                }
            }
            Message::Coming(piece) => self.coming.heard(piece, &self.shared),
            Message::Done => self.coming.nothing_comes(&self.shared),
            Message::Goodbye { reason } => {
                tracing::info!(peer = %self.peer.pod, %reason, "the other side says goodbye");
            }
            // Nothing that decides anything, or of a later build.
            _ => {}
        }
    }
}
