//! The role's way from one side to the other.

use super::vocabulary::{Action, Say, Took};
use super::{Ability, BackWhy, Giving, Session};
use crate::handover::limits;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
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

impl Session {
    pub(super) fn role_state(&mut self, epoch: u32, actions: &mut Vec<Action>) {
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

    pub(super) fn role_prepared(&mut self, epoch: u32, actions: &mut Vec<Action>) {
        if matches!(self.role, Role::Offered { .. }) && epoch == self.epoch {
            self.role = Role::Stopping;
            actions.push(Action::StopAccepting);
        }
    }

    pub(super) fn role_refused(&mut self, epoch: u32, reason: String, now: u64, actions: &mut Vec<Action>) {
        if matches!(self.role, Role::Offered { .. }) && epoch == self.epoch {
            self.role = Role::Holding;
            self.offer_after = now + limits::ROLE_RETRY_MS;
            actions.push(Action::KeepRole { reason });
        }
    }

    pub(super) fn role_promise_kept(&mut self, epoch: u32, actions: &mut Vec<Action>) {
        if self.role == Role::Promised && epoch == self.epoch {
            self.take_role(Took::Given, actions);
        }
    }

    /// Also if parts came without their end.
    pub(super) fn role_promise_void(&mut self, actions: &mut Vec<Action>) {
        if let Role::Without | Role::Promised | Role::Checking = self.role {
            self.role = Role::Without;
            actions.push(Action::DropRole);
        }
    }

    pub(super) fn stopped(&mut self, now: u64, actions: &mut Vec<Action>) {
        match &self.role {
            Role::Stopping => {
                self.role = Role::Committing { until: now + limits::COMMIT_MS };
                actions.push(Action::CommitRole { epoch: self.epoch });
            }
            Role::Keeping { reason } => self.keep_role(&reason.clone(), now, actions),
            _ => {}
        }
    }

    pub(super) fn lock(&mut self, ours: bool, now: u64, actions: &mut Vec<Action>) {
        if let Role::Orphaned { .. } = self.role {
            if ours {
                self.take_role(Took::Inherited, actions);
            } else {
                self.role = Role::Orphaned { next_try: now + limits::LOCK_RETRY_MS };
            }
        }
    }

    pub(super) fn role_offered(&mut self, result: Result<(), String>, now: u64, actions: &mut Vec<Action>) {
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

    pub(super) fn role_committed(&mut self, sent: bool, now: u64, actions: &mut Vec<Action>) {
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

    pub(super) fn role_checked(&mut self, result: Result<(), String>, actions: &mut Vec<Action>) {
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
    pub(super) fn withdraw_role(&mut self, reason: &str, now: u64, actions: &mut Vec<Action>) {
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

    /// What follows from where it stands now.
    pub(super) fn role_goes_on(&mut self, now: u64, actions: &mut Vec<Action>) {
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
    }

    /// The other side should have the role, and could take it.
    pub(super) fn would_offer(&self) -> bool {
        let wanted = self.peer.wants && self.peer.able == Ability::Alone;
        let needed = self.terminating && self.peer.able != Ability::No;
        (wanted || needed) && !self.peer.gone && !self.peer.terminating
    }
}
