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

use super::limits;

pub use vocabulary::{Action, BackWhy, Event, Offer, Report, Say, Start, Took};

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

/// What is known of the other side.
#[derive(Clone, Copy, Debug)]
struct Peer {
    wants: bool,
    able: Ability,
    terminating: bool,
    gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Holding,
    Offering,
    Offered {
        until: u64,
    },
    Stopping,
    /// Nobody accepts: not for longer than until then.
    Committing {
        until: u64,
    },
    /// It is not given after all, but what was begun for that is not done yet. Only then can it be undone.
    Keeping {
        reason: String,
    },
    Without,
    Checking,
    Promised,
    /// The other side is gone, or the lock would be free.
    Orphaned {
        next_try: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Giving {
    /// The role was never given from here, or it is here.
    Nothing,
    Canary {
        step: Step,
        tries: u8,
        role_given: u64,
    },
    Baking {
        until: u64,
    },
    Waves {
        step: Step,
    },
    GivenUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The next wave starts at this time.
    At(u64),
    /// It is being frozen.
    Freezing,
    /// Its offers are out.
    Offered,
    /// The canary is committed; its proof is awaited until then.
    Proving { offer: Offer, until: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    Checking { canary: bool },
    Promised { canary: bool },
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

    /// Whether this side has said *prepared* and has not heard what came of it: what it promised to take may be its own
    /// already. Such a process must not end.
    pub fn has_promised(&self) -> bool {
        self.role == Role::Promised
            || self.taken.values().any(|taking| matches!(taking, Taking::Promised { .. }))
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
                let able = if alone { Ability::Alone } else { Ability::WithHelp };
                if able > self.able {
                    self.able = able;
                    self.say(Say::Able { alone }, actions);
                }
            }
            Event::Terminate => {
                if !std::mem::replace(&mut self.terminating, true) {
                    self.say(Say::Terminating, actions);
                }
            }
            Event::RoleOffered(result) => self.role_offered(result, now, actions),
            Event::Stopped => match &self.role {
                Role::Stopping => {
                    self.role = Role::Committing { until: now + limits::COMMIT_MS };
                    actions.push(Action::CommitRole { epoch: self.epoch });
                }
                Role::Keeping { reason } => self.keep_role(&reason.clone(), now, actions),
                _ => {}
            },
            Event::RoleCommitted(sent) => self.role_committed(sent, now, actions),
            Event::RoleChecked(result) => self.role_checked(result, actions),
            Event::Lock(ours) => {
                if let Role::Orphaned { .. } = self.role {
                    if ours {
                        self.take_role(Took::Inherited, actions);
                    } else {
                        self.role = Role::Orphaned { next_try: now + limits::LOCK_RETRY_MS };
                    }
                }
            }
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
            Say::Able { alone } => {
                let able = if alone { Ability::Alone } else { Ability::WithHelp };
                self.peer.able = self.peer.able.max(able);
            }
            Say::Terminating => {
                self.peer.terminating = true;
                if let Role::Offering | Role::Offered { .. } | Role::Stopping = self.role {
                    self.withdraw_role("the other side has been told to end", now, actions);
                }
            }
            Say::RoleState { epoch } => {
                if self.role != Role::Without || self.terminating {
                    let reason = "this process has been told to end".to_owned();
                    actions.push(Action::DropRole);
                    self.say(Say::RoleRefused { epoch, reason }, actions);
                } else {
                    self.epoch = epoch;
                    self.role = Role::Checking;
                    actions.push(Action::CheckRole);
                }
            }
            Say::RolePrepared { epoch } => {
                if matches!(self.role, Role::Offered { .. }) && epoch == self.epoch {
                    self.role = Role::Stopping;
                    actions.push(Action::StopAccepting);
                }
            }
            Say::RoleRefused { epoch, reason } => {
                if matches!(self.role, Role::Offered { .. }) && epoch == self.epoch {
                    self.role = Role::Holding;
                    self.offer_after = now + limits::ROLE_RETRY_MS;
                    actions.push(Action::KeepRole { reason });
                }
            }
            Say::RoleCommit { epoch } => {
                if self.role == Role::Promised && epoch == self.epoch {
                    self.take_role(Took::Given, actions);
                }
            }
            // Its parts may have come without their end.
            Say::RoleAbort { .. } => {
                if let Role::Without | Role::Promised | Role::Checking = self.role {
                    self.role = Role::Without;
                    actions.push(Action::DropRole);
                }
            }
            Say::State { offer, canary } => {
                if self.terminating || !self.holds_role() {
                    let reason = "this process has been told to end".to_owned();
                    actions.push(Action::Drop(offer));
                    self.say(Say::Refused { offer, reason }, actions);
                } else {
                    self.taken.insert(offer, Taking::Checking { canary });
                    actions.push(Action::Check(offer));
                }
            }
            Say::Prepared { offer } => {
                if self.offered.contains_key(&offer) {
                    actions.push(Action::Commit(offer));
                }
            }
            Say::Refused { offer, reason } => {
                if self.offered.remove(&offer).is_some() {
                    // Whoever ends refuses everything; another one may take it.
                    let why = if self.peer.terminating {
                        BackWhy::Later("the other side has been told to end")
                    } else {
                        BackWhy::Refused(reason.clone())
                    };
                    actions.push(Action::TakeBack(offer, why));
                    self.canary_failed(reason, now, actions);
                }
            }
            Say::Commit { offer } => {
                if let Some(Taking::Promised { canary }) = self.taken.remove(&offer) {
                    actions.push(Action::Run { offer, canary });
                }
            }
            Say::Abort { offer } => {
                if self.taken.remove(&offer).is_some() {
                    actions.push(Action::Drop(offer));
                }
            }
            Say::Proved { offer } => {
                if let Giving::Canary { step: Step::Proving { offer: canary, .. }, role_given, .. } =
                    self.giving
                    && canary == offer
                {
                    self.giving = Giving::Baking { until: role_given + self.bake_ms };
                    actions.push(Action::Report(Report::CanaryProved));
                }
            }
            Say::NotProved { offer, reason } => {
                if let Giving::Canary { step: Step::Proving { offer: canary, .. }, .. } = self.giving
                    && canary == offer
                {
                    self.canary_failed(reason, now, actions);
                }
            }
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

    fn role_offered(&mut self, result: Result<(), String>, now: u64, actions: &mut Vec<Action>) {
        if let Role::Keeping { reason } = &self.role {
            return self.keep_role(&reason.clone(), now, actions);
        }
        if self.role != Role::Offering {
            return;
        }
        match result {
            Ok(()) => {
                self.role = Role::Offered { until: now + limits::ROLE_MS };
                self.say(Say::RoleState { epoch: self.epoch }, actions);
            }
            Err(reason) => self.keep_role(&reason, now, actions),
        }
    }

    fn role_committed(&mut self, sent: bool, now: u64, actions: &mut Vec<Action>) {
        if !matches!(self.role, Role::Committing { .. }) {
            return;
        }
        if !sent {
            return self.keep_role("the commit could not be sent", now, actions);
        }
        self.role = Role::Without;
        actions.push(Action::RoleGiven);
        self.giving = Giving::begin(now);
        if self.peer.gone {
            self.giving = Giving::Nothing;
            if !self.terminating {
                self.role = Role::Orphaned { next_try: now };
            }
        } else if !self.terminating {
            // It would take the role back if the other side had to end.
            self.say(Say::Able { alone: true }, actions);
        }
    }

    fn role_checked(&mut self, result: Result<(), String>, actions: &mut Vec<Action>) {
        if self.role != Role::Checking {
            return;
        }
        let epoch = self.epoch;
        match result {
            Ok(()) if !self.terminating => {
                self.role = Role::Promised;
                self.say(Say::RolePrepared { epoch }, actions);
            }
            result => {
                let reason = result.err().unwrap_or_else(|| "this process has been told to end".to_owned());
                self.role = Role::Without;
                actions.push(Action::DropRole);
                self.say(Say::RoleRefused { epoch, reason }, actions);
            }
        }
    }

    fn take_role(&mut self, took: Took, actions: &mut Vec<Action>) {
        self.role = Role::Holding;
        self.able = Ability::Alone;
        self.peer.wants = false;
        // What we had still to give stays: it is served where new ones are accepted.
        self.giving = Giving::Nothing;
        for offer in std::mem::take(&mut self.offered).into_keys() {
            self.say(Say::Abort { offer }, actions);
            actions.push(Action::TakeBack(offer, BackWhy::Later("the role has come back")));
        }
        actions.push(Action::TakeRole(took));
    }

    /// The role stays here, as soon as nothing is on its way that would end it here.
    fn withdraw_role(&mut self, reason: &str, now: u64, actions: &mut Vec<Action>) {
        match self.role {
            Role::Offering | Role::Stopping => self.role = Role::Keeping { reason: reason.to_owned() },
            _ => self.keep_role(reason, now, actions),
        }
    }

    fn keep_role(&mut self, reason: &str, now: u64, actions: &mut Vec<Action>) {
        self.role = Role::Holding;
        self.offer_after = now + limits::ROLE_RETRY_MS;
        self.say(Say::RoleAbort { epoch: self.epoch }, actions);
        actions.push(Action::KeepRole { reason: reason.to_owned() });
    }

    fn wave(&mut self, offers: &[Offer], now: u64, actions: &mut Vec<Action>) {
        self.freezing = false;
        let until = now + limits::PREPARED_MS;
        if !self.giving.awaits_wave() {
            for &offer in offers {
                self.say(Say::Abort { offer }, actions);
                actions.push(Action::TakeBack(offer, BackWhy::Later("things have changed meanwhile")));
            }
            return;
        }
        self.offered.extend(offers.iter().map(|&offer| (offer, until)));
        match &mut self.giving {
            Giving::Canary { step: step @ Step::Freezing, .. } if !offers.is_empty() => *step = Step::Offered,
            // There is nothing that could prove anything.
            Giving::Canary { step: Step::Freezing, role_given, .. } => {
                self.giving = Giving::Baking { until: *role_given + self.bake_ms };
            }
            Giving::Waves { step: step @ Step::Freezing } if offers.is_empty() => {
                // What is still being set up may be movable later.
                *step = Step::At(now + limits::WAVE_RETRY_MS);
                actions.push(Action::Report(Report::NothingLeft));
            }
            Giving::Waves { step: step @ Step::Freezing } => *step = Step::Offered,
            _ => {}
        }
    }

    fn committed(&mut self, offer: Offer, sent: bool, now: u64, actions: &mut Vec<Action>) {
        if self.offered.remove(&offer).is_none() {
            return;
        }
        if !sent {
            actions.push(Action::TakeBack(offer, BackWhy::Later("the commit could not be sent")));
            self.say(Say::Abort { offer }, actions);
            return self.canary_failed("the commit could not be sent".to_owned(), now, actions);
        }
        if let Giving::Canary { step: step @ Step::Offered, .. } = &mut self.giving {
            *step = Step::Proving { offer, until: now + limits::CANARY_MS };
        }
    }

    fn checked(&mut self, offer: Offer, result: Result<(), String>, actions: &mut Vec<Action>) {
        let Some(Taking::Checking { canary }) = self.taken.get(&offer).copied() else { return };
        match result {
            Ok(()) if !self.terminating => {
                self.taken.insert(offer, Taking::Promised { canary });
                self.say(Say::Prepared { offer }, actions);
            }
            result => {
                let reason = result.err().unwrap_or_else(|| "this process has been told to end".to_owned());
                self.taken.remove(&offer);
                actions.push(Action::Drop(offer));
                self.say(Say::Refused { offer, reason }, actions);
            }
        }
    }

    fn canary_failed(&mut self, reason: String, now: u64, actions: &mut Vec<Action>) {
        if let Giving::Canary { tries, role_given, .. } = self.giving {
            actions.push(Action::Report(Report::CanaryFailed(reason)));
            if tries + 1 >= limits::CANARIES {
                self.giving = Giving::GivenUp;
                actions.push(Action::Report(Report::GivenUp));
            } else {
                self.giving = Giving::Canary { step: Step::At(now), tries: tries + 1, role_given };
            }
        }
    }

    /// What follows from where everything stands now.
    fn go_on(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.role == Role::Holding && self.would_offer() && now >= self.offer_after {
            self.epoch += 1;
            self.role = Role::Offering;
            actions.push(Action::OfferRole);
        }
        match self.role {
            Role::Offered { until } if now >= until => {
                self.keep_role("the other side did not answer in time", now, actions);
            }
            Role::Committing { until } if now >= until => {
                self.keep_role("the commit could not be sent in time", now, actions);
            }
            Role::Orphaned { .. } if self.terminating => self.role = Role::Without,
            Role::Orphaned { next_try } if now >= next_try => {
                // Until the answer is there.
                self.role = Role::Orphaned { next_try: now + limits::LOCK_RETRY_MS };
                actions.push(Action::TryLock);
            }
            _ => {}
        }
        self.expire(now, actions);
        if let Giving::Baking { until } = self.giving
            && (self.terminating || now >= until)
        {
            self.giving = Giving::Waves { step: Step::At(now) };
        }
        if !self.can_give() || self.freezing {
            return;
        }
        let none_out = self.offered.is_empty();
        let canary = matches!(self.giving, Giving::Canary { .. });
        match &mut self.giving {
            Giving::Canary { step, .. } | Giving::Waves { step }
                if step.is_due(now) || (!canary && *step == Step::Offered && none_out) =>
            {
                *step = Step::Freezing;
                self.freezing = true;
                actions.push(Action::GiveWave { canary });
            }
            _ => {}
        }
    }

    /// Offers that were not answered in time are void.
    fn expire(&mut self, now: u64, actions: &mut Vec<Action>) {
        let late: Vec<Offer> =
            self.offered.iter().filter(|(_, until)| **until <= now).map(|(offer, _)| *offer).collect();
        for &offer in &late {
            self.offered.remove(&offer);
            self.say(Say::Abort { offer }, actions);
            actions.push(Action::TakeBack(offer, BackWhy::Later("the other side did not answer in time")));
        }
        match &mut self.giving {
            Giving::Waves { step: step @ Step::Offered } if !late.is_empty() => {
                *step = Step::At(now + limits::WAVE_RETRY_MS);
            }
            Giving::Canary { step: Step::Offered, .. } if !late.is_empty() => {
                self.canary_failed("the other side did not answer in time".to_owned(), now, actions);
            }
            Giving::Canary { step: Step::Proving { until, .. }, .. } if *until <= now => {
                self.canary_failed("its peer did not answer in time".to_owned(), now, actions);
            }
            _ => {}
        }
    }

    /// The other side should have the role, and could take it.
    fn would_offer(&self) -> bool {
        let wanted = self.peer.wants && self.peer.able == Ability::Alone;
        let needed = self.terminating && self.peer.able != Ability::No;
        (wanted || needed) && !self.peer.gone && !self.peer.terminating
    }

    fn say(&self, say: Say, actions: &mut Vec<Action>) {
        if !self.peer.gone {
            actions.push(Action::Send(say));
        }
    }
}

impl Giving {
    /// With a canary. Those before it belonged to somebody else.
    fn begin(role_given: u64) -> Self {
        Self::Canary { step: Step::At(role_given), tries: 0, role_given }
    }

    /// It has asked for a wave, and still wants it.
    fn awaits_wave(self) -> bool {
        matches!(self, Self::Canary { step: Step::Freezing, .. } | Self::Waves { step: Step::Freezing })
    }
}

impl Step {
    fn is_due(self, now: u64) -> bool {
        matches!(self, Self::At(at) if at <= now)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
