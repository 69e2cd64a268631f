//! Connections on their way to the other side.

use super::Session;
use super::vocabulary::{Action, BackWhy, Offer, Report, Say};
use crate::handover::limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giving {
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
pub(super) enum Step {
    /// The next wave starts at this time.
    At(u64),
    /// It is being frozen.
    Freezing,
    /// Its offers are out.
    Offered,
    /// The canary is committed; its proof is awaited until then.
    Proving { offer: Offer, until: u64 },
}

impl Session {
    pub(super) fn prepared(&mut self, offer: Offer, actions: &mut Vec<Action>) {
        if self.offered.contains_key(&offer) {
            actions.push(Action::Commit(offer));
        }
    }

    pub(super) fn refused(
        &mut self,
        offer: Offer,
        reason: String,
        again: bool,
        now: u64,
        actions: &mut Vec<Action>,
    ) {
        if self.offered.remove(&offer).is_none() {
            return;
        }
        if again {
            actions.push(Action::TakeBack(offer, BackWhy::Later("the other side can't take it yet")));
            return self.try_later(now);
        }
        // Whoever ends refuses everything; another one may take it.
        let why = if self.peer.terminating {
            BackWhy::Later("the other side has been told to end")
        } else {
            BackWhy::Refused(reason.clone())
        };
        actions.push(Action::TakeBack(offer, why));
        self.canary_failed(reason, now, actions);
    }

    pub(super) fn proved(&mut self, offer: Offer, actions: &mut Vec<Action>) {
        if let Giving::Canary { step: Step::Proving { offer: canary, .. }, role_given, .. } = self.giving
            && canary == offer
        {
            self.giving = Giving::Baking { until: role_given + self.bake_ms };
            actions.push(Action::Report(Report::CanaryProved));
        }
    }

    pub(super) fn not_proved(&mut self, offer: Offer, reason: String, now: u64, actions: &mut Vec<Action>) {
        if let Giving::Canary { step: Step::Proving { offer: canary, .. }, .. } = self.giving
            && canary == offer
        {
            self.canary_failed(reason, now, actions);
        }
    }

    /// The next wave, or the same canary, waits a little.
    fn try_later(&mut self, now: u64) {
        if let Giving::Canary { step: step @ Step::Offered, .. }
        | Giving::Waves { step: step @ Step::Offered } = &mut self.giving
        {
            *step = Step::At(now + limits::WAVE_RETRY_MS);
        }
    }

    pub(super) fn wave(&mut self, offers: &[Offer], now: u64, actions: &mut Vec<Action>) {
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

    pub(super) fn committed(&mut self, offer: Offer, sent: bool, now: u64, actions: &mut Vec<Action>) {
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

    /// Offers that were not answered in time are void.
    pub(super) fn expire(&mut self, now: u64, actions: &mut Vec<Action>) {
        let late: Vec<Offer> =
            self.offered.iter().filter(|(_, until)| **until <= now).map(|(offer, _)| *offer).collect();
        for &offer in &late {
            self.offered.remove(&offer);
            self.say(Say::Abort { offer }, actions);
            actions.push(Action::TakeBack(offer, BackWhy::Later("the other side did not answer in time")));
        }
        match &mut self.giving {
            Giving::Waves { step: Step::Offered } if !late.is_empty() => self.try_later(now),
            Giving::Canary { step: Step::Offered, .. } if !late.is_empty() => {
                self.canary_failed("the other side did not answer in time".to_owned(), now, actions);
            }
            Giving::Canary { step: Step::Proving { until, .. }, .. } if *until <= now => {
                self.canary_failed("its peer did not answer in time".to_owned(), now, actions);
            }
            _ => {}
        }
    }

    /// What follows from where it stands now.
    pub(super) fn giving_goes_on(&mut self, now: u64, actions: &mut Vec<Action>) {
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
}

impl Giving {
    /// With a canary. Those before it belonged to somebody else.
    pub(super) fn begin(role_given: u64) -> Self {
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
