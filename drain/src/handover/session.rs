//! One side of a hand-over session, without sockets, threads or a clock.
//!
//! Two processes, joined by one socket, are two of these machines. They are alike: either may have the *role* (accept
//! connections; at most one has it) and either may own connections. What each wants follows from four facts about it: whether it
//! has the role, wants it, could take it, and has been told to end.
//!
//! ```text
//!  the role       OfferRole     parts sent      prepared      nothing is accepted       sent
//!   Holding ───────► Offering ───────► Offered ───────► Stopping ───────► Committing ───────► Without
//!      ▲                │                 │                │                  │                  │ parts came, CheckRole
//!      │◄───────────────┴── KeepRole ─────┴────────────────┴──── not sent ────╯                  ▼
//!      ├──────────────────────────────── committed: TakeRole ◄────────────────────────────── Promised
//!      ╰──────────── the peer is gone, and the lock is ours: TakeRole ◄── Orphaned ◄─────────────╯ (and Without)
//!
//!  connections    role given     ACK of its PING    bake over, or told to end
//!   Nothing ─────────► Canary ────────► Baking ──────────────► Waves ──► (as long as there are some)
//!                        │ three fail
//!                        ╰────────────► GivenUp: the rest drains here
//! ```
//!
//! On its way back from *Offering* and *Stopping* a role is *Keeping* until what was begun there is done.
//!
//! A connection that is offered belongs to the giver until its commit is sent, and to the taker from then on. Each offer has a
//! number of its own, so a promise that comes too late is about nothing.
//!
//! The caller passes on what happens ([`Session::handle`]), carries out what that returns, in order, and sends
//! [`Event::Tick`] when [`Session::timeout`] is due. Times are milliseconds on one monotonic clock.

use std::collections::BTreeMap;

use giving::{Giving, Step};
use role::Role;
use taking::Taking;

pub use vocabulary::{Action, BackWhy, Event, Offer, Refusal, Report, Say, Start, Took};

mod giving;
mod role;
mod taking;
mod vocabulary;

/// See the module.
#[derive(Debug)]
pub struct Session {
    bake_ms: u64,
    able: Ability,
    terminating: bool,
    peer: Peer,
    role: Role,
    epoch: u32,
    /// Not before this time is the role offered again.
    offer_after: u64,
    giving: Giving,
    /// A wave is being frozen.
    freezing: bool,
    /// Offered by us, and not yet committed.
    offered: BTreeMap<Offer, u64>,
    /// Asked to be committed, or committed as a canary and not proved.
    taken: BTreeMap<Offer, Taking>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ability {
    No,
    WithHelp,
    Alone,
}

impl Ability {
    fn of(alone: bool) -> Self {
        if alone { Self::Alone } else { Self::WithHelp }
    }
}

/// What is known of the other side.
#[derive(Clone, Copy, Debug)]
struct Peer {
    wants: bool,
    able: Ability,
    terminating: bool,
    gone: bool,
}

impl Session {
    /// One side, at the beginning.
    pub fn new(start: Start) -> Self {
        let Start { holds, peer_wants, had_role, terminating, bake_ms } = start;
        Self {
            bake_ms,
            // Whoever serves already can.
            able: if holds { Ability::Alone } else { Ability::No },
            terminating,
            peer: Peer { wants: peer_wants, able: Ability::No, terminating: false, gone: false },
            role: if holds { Role::Holding } else { Role::Without },
            epoch: 0,
            offer_after: 0,
            giving: if had_role && !holds { Giving::begin(0) } else { Giving::Nothing },
            freezing: false,
            offered: BTreeMap::new(),
            taken: BTreeMap::new(),
        }
    }

    /// What is said before anything else.
    pub fn begin(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.terminating {
            actions.push(Action::Send(Say::Terminating));
        }
        actions
    }

    /// Whether this side has the role, and has not promised it away.
    pub fn holds_role(&self) -> bool {
        matches!(
            self.role,
            Role::Holding
                | Role::Offering
                | Role::Offered { .. }
                | Role::Stopping
                | Role::Committing { .. }
                | Role::Keeping { .. }
        )
    }

    /// Whether connections that are here can still go to the other side.
    pub fn can_give(&self) -> bool {
        !self.holds_role()
            && !self.peer.gone
            && !self.peer.terminating
            && !matches!(self.giving, Giving::Nothing | Giving::GivenUp)
    }

    /// Whether connections follow the role as soon as one of them is proved: nothing is waited for in between.
    pub fn gives_at_once(&self) -> bool {
        self.terminating || self.bake_ms == 0
    }

    /// Whether this side has said *prepared* and has not heard what came of it: what it promised to take may be its own
    /// already. Such a process must not end.
    pub fn has_promised(&self) -> bool {
        self.role == Role::Promised
            || self.taken.values().any(|taking| matches!(taking, Taking::Promised { .. }))
    }

    /// Whether this side, which has no role, should close the socket. Both have been told to end, so neither takes anything from
    /// the other: what is left here may go to whoever takes the role next, and to nobody as long as this session keeps its
    /// holder busy.
    pub fn is_useless(&self) -> bool {
        let both_end = self.terminating && self.peer.terminating;
        let nothing_offered = !self.freezing && self.offered.is_empty() && self.taken.is_empty();
        self.role == Role::Without && both_end && nothing_offered && !self.peer.gone
    }

    /// Whether the other side is gone, and nothing that was begun is still under way here: the session can be forgotten.
    pub fn is_over(&self) -> bool {
        let role_is_moving = matches!(
            self.role,
            Role::Offering | Role::Stopping | Role::Committing { .. } | Role::Keeping { .. } | Role::Checking
        );
        self.peer.gone && !role_is_moving && !self.freezing
    }

    /// When [`Event::Tick`] is wanted.
    pub fn timeout(&self) -> Option<u64> {
        let role = match self.role {
            Role::Offered { until } | Role::Committing { until } => Some(until),
            Role::Orphaned { next_try } => Some(next_try),
            Role::Holding if self.would_offer() => Some(self.offer_after),
            _ => None,
        };
        let giving = match self.giving {
            Giving::Baking { until } => Some(until),
            Giving::Canary { step, .. } | Giving::Waves { step } => match step {
                Step::At(at) if self.can_give() && !self.freezing => Some(at),
                Step::Proving { until, .. } => Some(until),
                _ => None,
            },
            _ => None,
        };
        let offers = self.offered.values().copied().min();
        [role, giving, offers].into_iter().flatten().min()
    }

    /// Takes in what happened at `now`; returns what to do, in order.
    pub fn handle(&mut self, event: Event, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take_in(event, now, &mut actions);
        self.go_on(now, &mut actions);
        actions
    }

    fn take_in(&mut self, event: Event, now: u64, actions: &mut Vec<Action>) {
        match event {
            Event::Heard(say) if !self.peer.gone => self.heard(say, now, actions),
            Event::Heard(_) | Event::Tick => {}
            Event::PeerGone => self.peer_gone(now, actions),
            Event::Able { alone } => {
                if Ability::of(alone) > self.able {
                    self.able = Ability::of(alone);
                    self.say(Say::Able { alone }, actions);
                }
            }
            Event::Terminate => {
                if !std::mem::replace(&mut self.terminating, true) {
                    self.say(Say::Terminating, actions);
                }
            }
            Event::RoleOffered(result) => self.role_offered(result, now, actions),
            Event::Stopped => self.stopped(now, actions),
            Event::RoleCommitted(sent) => self.role_committed(sent, now, actions),
            Event::RoleChecked(result) => self.role_checked(result, actions),
            Event::Lock(ours) => self.lock(ours, now, actions),
            Event::Wave(offers) => self.wave(&offers, now, actions),
            Event::Committed(offer, sent) => self.committed(offer, sent, now, actions),
            Event::Checked(offer, result) => self.checked(offer, result, actions),
            Event::Proof(offer, result) => match result {
                Ok(()) => self.say(Say::Proved { offer }, actions),
                Err(reason) => self.say(Say::NotProved { offer, reason }, actions),
            },
        }
    }

    fn heard(&mut self, say: Say, now: u64, actions: &mut Vec<Action>) {
        match say {
            Say::Able { alone } => self.peer.able = self.peer.able.max(Ability::of(alone)),
            Say::Terminating => {
                self.peer.terminating = true;
                if let Role::Offering | Role::Offered { .. } | Role::Stopping = self.role {
                    self.withdraw_role("the other side has been told to end", now, actions);
                }
            }
            Say::RoleState { epoch } => self.role_state(epoch, actions),
            Say::RolePrepared { epoch } => self.role_prepared(epoch, actions),
            Say::RoleRefused { epoch, reason } => self.role_refused(epoch, reason, now, actions),
            Say::RoleCommit { epoch } => self.role_promise_kept(epoch, actions),
            Say::RoleAbort { .. } => self.role_promise_void(actions),
            Say::State { offer, canary } => self.state(offer, canary, actions),
            Say::Commit { offer } => self.promise_kept(offer, actions),
            Say::Abort { offer } => self.promise_void(offer, actions),
            Say::Prepared { offer } => self.prepared(offer, actions),
            Say::Refused { offer, reason, again } => self.refused(offer, reason, again, now, actions),
            Say::Proved { offer } => self.proved(offer, actions),
            Say::NotProved { offer, reason } => self.not_proved(offer, reason, now, actions),
        }
    }

    fn peer_gone(&mut self, now: u64, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.peer.gone, true) {
            return;
        }
        for offer in std::mem::take(&mut self.offered).into_keys() {
            actions.push(Action::TakeBack(offer, BackWhy::Later("the other side is gone")));
        }
        for offer in std::mem::take(&mut self.taken).into_keys() {
            actions.push(Action::Drop(offer));
        }
        self.giving = Giving::Nothing;
        match self.role {
            Role::Holding => {}
            Role::Offering | Role::Offered { .. } | Role::Stopping => {
                self.withdraw_role("the other side is gone", now, actions);
            }
            Role::Keeping { .. } => {}
            // Whether the commit was sent is told next.
            Role::Committing { .. } => {}
            Role::Without | Role::Checking | Role::Promised => {
                if !self.terminating {
                    self.role = Role::Orphaned { next_try: now };
                } else if self.role != Role::Without {
                    self.role = Role::Without;
                    actions.push(Action::DropRole);
                }
            }
            Role::Orphaned { .. } => {}
        }
    }

    /// What follows from where everything stands now.
    fn go_on(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.role_goes_on(now, actions);
        self.expire(now, actions);
        self.giving_goes_on(now, actions);
    }

    fn say(&self, say: Say, actions: &mut Vec<Action>) {
        if !self.peer.gone {
            actions.push(Action::Send(say));
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
