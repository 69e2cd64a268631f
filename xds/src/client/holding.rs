//! Keeps updates back for a moment, so that a workload is never seen without the policies that it names.
//!
//! In one push istiod sends the workload that names a new policy first, and then the policy. In between the workload
//! would name what nobody knows, which denies. So such an update waits for the next response about policies, and both
//! become visible together. Not for ever: a policy may never come.

use crate::proto::ResourceType;
use crate::store::Update;
use crate::subscription::Answer;

/// A response with what it changes.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) answer: Answer,
    pub(super) update: Update,
}

/// Without I/O. Times are milliseconds of one monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Holding {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    responses: Vec<Response>,
    until: u64,
}

impl Holding {
    /// Takes a response in, and gives those that are to be applied now, as one update, in this order.
    ///
    /// `is_known` tells whether there is a policy of this key.
    pub(super) fn take(
        &mut self,
        response: Response,
        is_known: impl Fn(&str) -> bool,
        now: u64,
    ) -> Vec<Response> {
        match (ResourceType::from_url(&response.answer.type_url), &mut self.held) {
            (Some(ResourceType::Address), Some(held)) => {
                held.responses.push(response);
                Vec::new()
            }
            (Some(ResourceType::Address), None)
                if response.update.named_policies().any(|key| !is_known(key)) =>
            {
                self.held = Some(Held { responses: vec![response], until: now + LONGEST });
                Vec::new()
            }
            (Some(ResourceType::Authorization), _) => {
                let mut responses = self.release();
                responses.push(response);
                responses
            }
            _ => vec![response],
        }
    }

    /// When what is held must be [released](Self::release).
    pub(super) fn timeout(&self) -> Option<u64> {
        self.held.as_ref().map(|held| held.until)
    }

    /// What is held, to be applied now.
    pub(super) fn release(&mut self) -> Vec<Response> {
        self.held.take().map(|held| held.responses).unwrap_or_default()
    }
}

/// Milliseconds.
const LONGEST: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ADDRESS, AUTHORIZATION};
    use crate::{Workload, WorkloadSpec};

    fn response(type_url: &str, nonce: &str, policies: &[&str]) -> Response {
        let mut update = Update::default();
        let spec = WorkloadSpec {
            uid: nonce.into(),
            namespace: "n".into(),
            authorization_policies: policies.iter().map(|key| (*key).into()).collect(),
            ..WorkloadSpec::default()
        };
        update.insert_workload(Workload::new(spec).unwrap());
        let answer = Answer {
            type_url: type_url.to_owned(),
            nonce: nonce.to_owned(),
            accepted: Vec::new(),
            removed: Vec::new(),
            complaints: Vec::new(),
            answered: Vec::new(),
        };
        Response { answer, update }
    }

    fn take(holding: &mut Holding, type_url: &str, nonce: &str, policies: &[&str]) -> String {
        nonces(holding.take(response(type_url, nonce, policies), |key| key == "n/known", 1_000))
    }

    fn nonces(responses: Vec<Response>) -> String {
        responses.into_iter().map(|response| response.answer.nonce).collect()
    }

    #[test]
    fn a_workload_waits_for_the_policies_that_it_names() {
        let mut holding = Holding::default();
        assert_eq!(take(&mut holding, ADDRESS, "a", &[]), "a");
        assert_eq!(take(&mut holding, ADDRESS, "b", &["n/known"]), "b");
        assert_eq!(holding.timeout(), None);
        assert_eq!(take(&mut holding, ADDRESS, "c", &["n/known", "n/new"]), "");
        assert_eq!(holding.timeout(), Some(1_300));
        // What comes later stays later; other types have nothing to do with it.
        assert_eq!(take(&mut holding, ADDRESS, "d", &[]), "");
        assert_eq!(take(&mut holding, "type.googleapis.com/x.Y", "x", &[]), "x");
        assert_eq!(take(&mut holding, AUTHORIZATION, "e", &[]), "cde");
        assert_eq!(holding.timeout(), None);
        assert_eq!(take(&mut holding, AUTHORIZATION, "f", &[]), "f");
    }

    #[test]
    fn what_is_held_can_be_had_without_a_policy() {
        let mut holding = Holding::default();
        take(&mut holding, ADDRESS, "a", &["n/new"]);
        take(&mut holding, ADDRESS, "b", &["n/new"]);
        assert_eq!(holding.timeout(), Some(1_300));
        assert_eq!(nonces(holding.release()), "ab");
        assert_eq!((holding.timeout(), nonces(holding.release())), (None, String::new()));
    }
}
