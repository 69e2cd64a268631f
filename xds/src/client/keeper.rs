//! What takes long: decoding responses, or what another process tells, and applying them. Has no part in I/O or time, so that it can run elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rpds::HashTrieSetSync;
use tracing::debug;

use super::holding::{Holding, Response};
use crate::decode::{Decoded, Decoder};
use crate::proto::discovery::DeltaDiscoveryResponse;
use crate::store::{Store, Update};
use crate::subscription::Answer;
use crate::telling::{Learnt, Telling};

/// Owns the way from a response's bytes into the store.
#[derive(Debug)]
pub(super) struct Keeper {
    decoder: Decoder,
    holding: Holding,
    store: Store,
}

/// What came of a piece of work.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The type of the response, if there was one that can be read, and its size in bytes.
    pub(super) received: Option<(String, usize)>,
    /// Responses that are visible now.
    pub(super) applied: Vec<Answer>,
    /// What another process told and is visible now: its generation, and of what it speaks.
    pub(super) learnt: Option<(u64, [Answer; 2])>,
}

impl Keeper {
    pub(super) fn new(store: Store) -> Self {
        Self { decoder: Decoder::default(), holding: Holding::default(), store }
    }

    /// Takes a response in. Of `awaited` those are answered that it speaks of.
    pub(super) fn take(
        &mut self,
        bytes: Bytes,
        awaited: &HashTrieSetSync<Arc<str>>,
        now: u64,
    ) -> Result<Outcome, prost::DecodeError> {
        let size = bytes.len();
        let mut response = DeltaDiscoveryResponse::decode(bytes)?;
        debug!(
            type_url = response.type_url,
            resources = response.resources.len(),
            removed = response.removed_resources.len(),
            bytes = size,
            "response"
        );
        let answered = answered(&response, awaited);
        let type_url = response.type_url.clone();
        let nonce = std::mem::take(&mut response.nonce);
        let Decoded { update, accepted, removed, complaints } = self.decoder.decode(response);
        let answer = Answer { type_url: type_url.clone(), nonce, accepted, removed, complaints, answered };
        let ready = self.holding.take(
            Response { answer, update },
            |key| self.store.load().policy_by_key(key).is_some(),
            now,
        );
        Ok(Outcome { received: Some((type_url, size)), applied: self.apply(ready), learnt: None })
    }

    /// Applies what is held back.
    pub(super) fn release(&mut self) -> Outcome {
        let ready = self.holding.release();
        Outcome { applied: self.apply(ready), ..Outcome::default() }
    }

    /// Applies what another process tells, as one update. Nothing of it is held back: it comes in an order that needs
    /// no holding.
    pub(super) fn learn(&mut self, telling: Telling) -> Outcome {
        let Learnt { generation, update, answers } = Learnt::new(telling, &mut self.decoder);
        self.publish(update, &answers);
        Outcome { learnt: Some((generation, answers)), ..Outcome::default() }
    }

    /// When to [`release`](Self::release).
    pub(super) fn timeout(&self) -> Option<u64> {
        self.holding.timeout()
    }

    /// All of them in one update.
    fn apply(&self, responses: Vec<Response>) -> Vec<Answer> {
        let mut update = Update::default();
        let mut answers = Vec::new();
        for response in responses {
            update.append(response.update);
            answers.push(response.answer);
        }
        self.publish(update, &answers);
        answers
    }

    fn publish(&self, update: Update, answers: &[Answer]) {
        let answered: Vec<_> = answers.iter().flat_map(|answer| answer.answered.iter().cloned()).collect();
        if !update.is_empty() || !answered.is_empty() {
            self.store.update(|edit| {
                update.apply(edit);
                for name in answered {
                    edit.answer(name);
                }
            });
        }
    }
}

/// By whatever name the control plane has it.
fn answered(response: &DeltaDiscoveryResponse, awaited: &HashTrieSetSync<Arc<str>>) -> Vec<Arc<str>> {
    if awaited.is_empty() {
        return Vec::new();
    }
    let resources = response.resources.iter();
    let names = resources.flat_map(|resource| std::iter::once(&resource.name).chain(&resource.aliases));
    names.chain(&response.removed_resources).filter_map(|name| awaited.get(&**name).cloned()).collect()
}
