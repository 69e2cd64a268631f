//! What the machines decide, carried out: at once, or later where it takes time.

use super::*;

impl World {
    pub(super) fn happens(&mut self, index: usize, event: Event) {
        let now = self.now;
        if let Some(session) = &mut self.processes[index].session {
            let actions = session.handle(event, now);
            self.carry_out(index, actions);
        }
        self.flush(index);
    }

    /// Sends what the kernel takes; hangs up when that was the last.
    pub(super) fn flush(&mut self, index: usize) {
        self.send_on(index);
        let process = &self.processes[index];
        if process.session.as_ref().is_some_and(Session::is_useless) && process.outgoing.is_empty() {
            self.break_off(index);
        }
    }

    fn send_on(&mut self, index: usize) {
        let peer = self.processes[index].peer;
        let process = &mut self.processes[index];
        if !process.gone && !process.outgoing.is_empty() && self.processes[peer].closed {
            // It fails. First everything is read that had come.
            self.processes[index].outgoing.clear();
            while let Some(packet) = self.processes[index].incoming.pop_front() {
                self.hear(index, packet);
            }
            return self.lost(index);
        }
        while !self.processes[index].gone && !self.processes[peer].closed {
            if self.processes[peer].incoming.len() >= self.capacity {
                return;
            }
            let Some(packet) = self.processes[index].outgoing.pop_front() else { return };
            self.processes[peer].incoming.push_back(packet.clone());
            match packet {
                Packet::Commit { offer, .. } => {
                    let process = &mut self.processes[index];
                    process.frozen.remove(&offer);
                    process.unproved += u8::from(!process.proved);
                    let most = process.unproved <= limits::CANARIES;
                    assert!(most, "{}", self.failed("nothing is proved, and it gives more"));
                    self.happens(index, Event::Committed(offer, true));
                }
                Packet::Say(Say::RoleCommit { .. }) => self.happens(index, Event::RoleCommitted(true)),
                _ => {}
            }
        }
    }

    pub(super) fn later(&mut self, index: usize, done: Done) {
        let at = self.now + self.random.u64(..100);
        self.processes[index].work.push((at, done));
    }

    pub(super) fn send(&mut self, index: usize, packet: Packet) {
        self.processes[index].outgoing.push_back(packet);
    }

    pub(super) fn carry_out(&mut self, index: usize, actions: Vec<Action>) {
        for action in actions {
            self.note(format_args!("{index} does {action:?}"));
            self.act(index, action);
        }
    }

    pub(super) fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Send(say) => {
                let promise = matches!(say, Say::Prepared { .. } | Say::RolePrepared { .. });
                let ends = promise && self.processes[index].terminating;
                assert!(!ends, "{}", self.failed("it promises, and is to end"));
                self.send(index, Packet::Say(say));
            }
            Action::OfferRole => {
                let result = if self.one_of(self.faults.refuse) { Err("can't".to_owned()) } else { Ok(()) };
                self.later(index, Done::Offered(result));
            }
            Action::StopAccepting => self.later(index, Done::Stopped),
            Action::CommitRole { epoch } => {
                assert!(
                    !self.processes[index].accepting,
                    "{}",
                    self.failed("it accepts, and gives the role")
                );
                self.send(index, Packet::Say(Say::RoleCommit { epoch }));
            }
            Action::KeepRole { .. } => {
                let process = &mut self.processes[index];
                process.outgoing.retain(|packet| !packet.gives_role());
                let busy =
                    process.work.iter().any(|(_, done)| matches!(done, Done::Offered(_) | Done::Stopped));
                (process.accepting, process.node_agent) = (true, true);
                assert!(!busy, "{}", self.failed("it keeps what is just being given away"));
            }
            Action::RoleGiven => {
                let process = &mut self.processes[index];
                (process.lock, process.proved, process.unproved) = (false, false, 0);
            }
            Action::CheckRole => {
                let result = self.checked().map_err(|_| UNREADABLE.to_owned());
                assert_eq!(self.processes[index].parts, 2, "{}", self.failed("parts of another offer"));
                self.happens(index, Event::RoleChecked(result));
            }
            Action::TakeRole(took) => {
                let process = &mut self.processes[index];
                if took == Took::Given {
                    assert_eq!(std::mem::take(&mut process.parts), 2, "the role came without its parts");
                }
                (process.accepting, process.copies, process.node_agent) = (true, true, true);
                process.wants = false;
            }
            Action::DropRole => self.processes[index].parts = 0,
            Action::TryLock => {
                let free = self.lock_is_free();
                self.processes[index].lock |= free;
                self.happens(index, Event::Lock(free));
            }
            Action::GiveWave { canary } => {
                let most = if canary { 1 } else { self.random.usize(1..5) };
                let process = &mut self.processes[index];
                assert!(process.freezing.is_empty(), "two waves at a time");
                let movable = process.running.iter().filter(|(_, movable)| **movable).map(|(id, _)| *id);
                process.freezing = movable.take(most).collect();
                for connection in &process.freezing {
                    process.running.remove(connection);
                }
                self.later(index, Done::Wave { canary });
            }
            Action::Commit(offer) => {
                let connection = self.processes[index].frozen.get(&offer).map(|(connection, _)| *connection);
                let Some(connection) = connection else {
                    panic!("{}", self.failed("it commits what is not here"))
                };
                self.send(index, Packet::Commit { offer, connection });
            }
            Action::TakeBack(offer, why) => {
                let process = &mut self.processes[index];
                process
                    .outgoing
                    .retain(|packet| !matches!(packet, Packet::Commit { offer: of, .. } if *of == offer));
                let frozen = process.frozen.remove(&offer);
                let movable = match &why {
                    BackWhy::Later(_) => true,
                    BackWhy::Refused(reason) => {
                        assert_eq!(reason, UNREADABLE, "it would have been taken another time");
                        false
                    }
                };
                process.running.extend(frozen.map(|(connection, _)| (connection, movable)));
                assert!(frozen.is_some(), "{}", self.failed("it takes back what is not here"));
            }
            Action::Check(offer) => {
                let result = self.checked();
                self.happens(index, Event::Checked(offer, result));
            }
            Action::Run { offer, canary } => {
                let connection = self.processes[index].states.remove(&offer);
                let Some(connection) = connection else {
                    panic!("{}", self.failed("it runs what never came"))
                };
                self.processes[index].running.insert(connection, true);
                if canary {
                    self.prove(index, offer);
                }
            }
            Action::Drop(offer) => {
                self.processes[index].states.remove(&offer);
            }
            Action::Report(Report::GivenUp) => self.processes[index].given_up = true,
            Action::Report(Report::CanaryProved) => self.processes[index].proved = true,
            Action::Report(_) => {}
        }
    }

    pub(super) fn checked(&mut self) -> Result<(), Refusal> {
        match () {
            () if self.one_of(self.faults.refuse) => Err(Refusal::Never(UNREADABLE.to_owned())),
            () if self.one_of(self.faults.refuse) => Err(Refusal::NotYet("not yet".to_owned())),
            () => Ok(()),
        }
    }

    pub(super) fn prove(&mut self, index: usize, offer: Offer) {
        if !self.one_of(self.faults.no_proof) {
            self.later(index, Done::Proof(offer, Ok(())));
        } else if self.random.bool() {
            self.later(index, Done::Proof(offer, Err("no answer".to_owned())));
        }
    }
}
