//! What the machine decides.

use std::sync::Arc;

use drain::handover::message::Message;
use drain::handover::session::{Action, BackWhy, Event, Offer, Refusal, Report, Took};
use hbone::Secrets;

use super::wave::wave;
use super::{Done, Driver, FrozenInfo};
use crate::handover::mesh::{self, Due, Unparked};
use crate::handover::outgoing::{Commits, Descriptors, cut};
use crate::handover::status::{Left, Standing};
use crate::handover::taking::Committed;
use crate::handover::{pause, saying};
use crate::worker::{Message as ToWorker, Reply};

impl Driver {
    pub(super) fn act(&mut self, action: Action) {
        let role = self.role.clone();
        match action {
            Action::Send(say) => {
                if let Some(message) = saying::message(say, self.parts_sent) {
                    self.say(message);
                }
            }
            Action::OfferRole => {
                tracing::info!(peer = %self.peer.pod, "the role is offered to the successor");
                self.beside(async move { Done::Offered(role.offer().await) });
            }
            Action::StopAccepting => self.beside(async move {
                role.stop_accepting().await;
                Done::Stopped
            }),
            Action::CommitRole { epoch } => match self.role.seat() {
                Ok(seat) => {
                    let message = Message::RoleCommit { epoch };
                    self.outgoing.push_commit(message, Descriptors::Some(seat), Commits::Role);
                }
                Err(error) => {
                    tracing::warn!(%error, "the role can't be handed over");
                    self.happened(Event::RoleCommitted(false));
                }
            },
            Action::KeepRole { reason } => {
                tracing::warn!(peer = %self.peer.pod, %reason, "the role stays here");
                self.outgoing.withdraw(Commits::Role);
                self.coming.withdraw();
                self.beside(async move {
                    role.keep().await;
                    Done::Kept
                });
            }
            Action::RoleGiven => {
                tracing::info!(peer = %self.peer.pod, "the successor accepts from now on");
                self.phase("role");
                self.status.standing(Standing::Standby);
                self.coming.nothing_comes(&self.shared);
                self.role.given();
                let counters = self.shared.telemetry.leave_counters();
                for (piece, _) in cut(counters.as_bytes(), &[]) {
                    self.outgoing.push(Message::Counters(piece), Descriptors::None);
                }
            }
            Action::CheckRole => {
                let result = match self.bad_part.take() {
                    Some(reason) => Err(reason),
                    None => self.role.check(&self.parts),
                };
                self.happened(Event::RoleChecked(result));
            }
            Action::TakeRole(took) => {
                self.took = Some(took);
                if took == Took::Inherited {
                    self.shared.telemetry.take_counters_back();
                }
                let (parts, seat) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.seat));
                self.status.standing(Standing::Owner);
                self.phase("role");
                self.coming.withdraw();
                self.role.meet(&parts);
                // Before the first of them can be wanted.
                self.coming.expect(&self.shared);
                self.role.take(took, parts, seat);
            }
            Action::DropRole => {
                self.parts.clear();
                self.parts_skipped = 0;
                self.bad_part = None;
                self.coming.nothing_comes(&self.shared);
            }
            Action::TryLock => {
                let ours = self.role.try_lock();
                self.happened(Event::Lock(ours));
            }
            Action::GiveWave { canary } => {
                self.canary = canary;
                if !canary {
                    self.announce();
                }
                let (shared, room, stay) = (self.shared.clone(), self.giving.room, self.stay.clone());
                self.beside(async move { Done::Wave(wave(&shared, canary, room, &stay).await) });
            }
            Action::Commit(offer) => self.giving.commit(offer, &mut self.outgoing),
            Action::TakeBack(offer, why) => {
                let Some((connection, kept)) = self.giving.take_back(offer, &mut self.outgoing) else {
                    return;
                };
                if let BackWhy::Refused(reason) = &why {
                    tracing::info!(%reason, "a connection stays here");
                    self.status.update(|summary| summary.given.refused(reason));
                    self.count("given", connection.kind, connection.record.len(), "refused");
                    let cookie = connection.sockets.first().map(rustix::net::sockopt::socket_cookie);
                    if let Some(Ok(cookie)) = cookie {
                        Arc::make_mut(&mut self.stay).insert(cookie);
                    }
                }
                let worker = self.shared.loads.idlest();
                self.shared.post(worker, ToWorker::TakeBack(Box::new(connection), kept));
            }
            Action::Check(offer) => {
                let number = self.taking.mesh(offer);
                if self.mesh.knows(offer, number) {
                    self.check(offer);
                }
            }
            Action::Run { offer, canary } => self.run_connection(offer, canary),
            Action::Drop(offer) => {
                self.mesh.forget(offer);
                self.taking.drop(offer);
            }
            Action::Report(report) => self.report(&report),
        }
    }

    fn check(&mut self, offer: Offer) {
        let result = match &self.differs {
            Some(reason) => Err(reason.clone()),
            None => self.taking.check(offer, &self.shared),
        };
        self.happened(Event::Checked(offer, result.map_err(Refusal::Never)));
    }

    pub(super) fn mesh_due(&mut self, due: Due) {
        match due {
            Due::Tell(telling) => mesh::send(&telling, &mut self.outgoing),
            Due::Known => {
                tracing::info!(peer = %self.peer.pod, "the owner's view of the mesh has come");
                // Enough if the owner must end.
                self.happened(Event::Able { alone: false });
            }
            Due::Unpark => {
                for (offer, unparked) in self.mesh.unpark() {
                    match unparked {
                        Unparked::Known => self.check(offer),
                        Unparked::Late => {
                            let reason = "the policies that allowed it are not known here yet".to_owned();
                            self.happened(Event::Checked(offer, Err(Refusal::NotYet(reason))));
                        }
                    }
                }
            }
        }
    }

    fn run_connection(&mut self, offer: Offer, canary: bool) {
        let Some(Committed { connection, size }) = self.taking.commit(offer) else { return };
        // A connection that is no tunnel has none, which travels as no bytes.
        let secrets = self.secrets.take().filter(|secrets| !secrets.is_empty());
        let secrets = secrets.map(|secrets| Secrets::from_bytes(secrets.to_vec()));
        let (kind, streams) = (connection.kind(), connection.streams());
        let info = FrozenInfo { kind, streams, bytes: size, canary };
        let (ran, proved) = (self.done.0.clone(), self.done.0.clone());
        let taken = Box::new(move |result| {
            let _ = ran.send(Done::Ran(offer, info, result));
        });
        let proved = canary.then(|| -> Reply<Result<(), String>> {
            Box::new(move |result| {
                let _ = proved.send(Done::Proved(offer, result));
            })
        });
        self.running += 1;
        let expected = connection.pool_key().and_then(|key| self.shared.directory.expected(key));
        let worker = expected.unwrap_or_else(|| self.shared.loads.idlest());
        self.shared.loads.sent(worker);
        self.shared.post(worker, ToWorker::TakeConnection { prepared: connection, secrets, taken, proved });
    }

    fn phase(&self, name: &'static str) {
        let elapsed = self.now();
        self.status.update(|summary| {
            summary.phases.insert(name, elapsed);
        });
    }

    fn report(&mut self, report: &Report) {
        let peer = &self.peer.pod;
        match report {
            Report::CanaryProved => {
                tracing::info!(%peer, "the successor has proved that it can run what it is given");
                self.phase("canary");
            }
            Report::CanaryFailed(reason) => {
                tracing::warn!(%peer, %reason, "a connection was not proved at the successor");
            }
            Report::GivenUp => {
                tracing::error!(%peer, "no connection was proved at the successor: those that are left drain here");
                self.role.cannot_give();
                self.announce_nothing();
            }
            Report::NothingLeft => {
                self.announce_nothing();
                self.nothing_goes();
                pause::at("done");
            }
        }
    }

    /// What is still here can't be given now.
    fn nothing_goes(&self) {
        let (connections, room) = (self.shared.registry.len(), self.giving.room);
        let left = (connections > 0).then_some(Left { connections, room });
        self.status.update(|summary| {
            if left.is_some() && summary.left.is_none() {
                let peer = &self.peer.pod;
                tracing::info!(%peer, connections, room, "connections stay here for now; room is that for descriptors");
            }
            summary.left = left;
        });
    }
}
