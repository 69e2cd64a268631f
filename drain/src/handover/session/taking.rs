//! Connections on their way from the other side.

use super::Session;
use super::vocabulary::{Action, Offer, Refusal, Say};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    Checking { canary: bool },
    Promised { canary: bool },
}

impl Session {
    pub(super) fn state(&mut self, offer: Offer, canary: bool, actions: &mut Vec<Action>) {
        if self.terminating || !self.holds_role() {
            actions.push(Action::Drop(offer));
            self.refuse(offer, ending(), actions);
        } else {
            self.taken.insert(offer, Taking::Checking { canary });
            actions.push(Action::Check(offer));
        }
    }

    pub(super) fn promise_kept(&mut self, offer: Offer, actions: &mut Vec<Action>) {
        if let Some(Taking::Promised { canary }) = self.taken.remove(&offer) {
            actions.push(Action::Run { offer, canary });
        }
    }

    pub(super) fn promise_void(&mut self, offer: Offer, actions: &mut Vec<Action>) {
        if self.taken.remove(&offer).is_some() {
            actions.push(Action::Drop(offer));
        }
    }

    pub(super) fn checked(&mut self, offer: Offer, result: Result<(), Refusal>, actions: &mut Vec<Action>) {
        let Some(Taking::Checking { canary }) = self.taken.get(&offer).copied() else { return };
        match result {
            Ok(()) if !self.terminating => {
                self.taken.insert(offer, Taking::Promised { canary });
                self.say(Say::Prepared { offer }, actions);
            }
            result => {
                self.taken.remove(&offer);
                actions.push(Action::Drop(offer));
                self.refuse(offer, result.err().unwrap_or_else(ending), actions);
            }
        }
    }

    fn refuse(&self, offer: Offer, refusal: Refusal, actions: &mut Vec<Action>) {
        let (reason, again) = match refusal {
            Refusal::Never(reason) => (reason, false),
            Refusal::NotYet(reason) => (reason, true),
        };
        self.say(Say::Refused { offer, reason, again }, actions);
    }
}

fn ending() -> Refusal {
    Refusal::Never("this process has been told to end".to_owned())
}
