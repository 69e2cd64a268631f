//! What another process tells of the mesh, and what becomes of it, without I/O.
//!
//! ```text
//!                 there is no stream                            ┌─► applied ─────────────┐
//!  ──► waiting ───────────────────────► to be applied ──────────┘        ▲               ▼
//!         │                                                              │           caught up
//!         │ ours is synced                        the stream has ended   │               ▲
//!         └───────────────► judged: outstanding ─────────────────────────┘               │
//!                                │        our own stream has brought the same            │
//!                                └─────── or something newer, name by name ──────────────┘
//! ```
//!
//! While our own stream syncs all wait: what it says and what was told could otherwise overtake each other.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Stream;
use crate::proto::ResourceType;
use crate::telling::{Change, Telling};

/// In the order in which they were told. Those that are judged keep only the changes that we have not caught up with.
#[derive(Debug, Default)]
pub(crate) struct Told {
    outstanding: VecDeque<Telling>,
    waiting: VecDeque<Telling>,
    caught_up: u64,
    /// Something was lost: we shall never catch up.
    is_broken: bool,
}

impl Told {
    /// Takes the next telling.
    pub(crate) fn take(&mut self, telling: Telling) {
        self.waiting.push_back(telling);
    }

    /// What is to be applied now; say when it [was](Self::applied), before the next.
    pub(crate) fn next_to_apply(&mut self, stream: Stream) -> Option<Telling> {
        match stream {
            Stream::Absent => self.outstanding.pop_front().or_else(|| self.waiting.pop_front()),
            Stream::Syncing | Stream::Synced => None,
        }
    }

    /// What is told up to this generation is visible.
    pub(crate) fn applied(&mut self, generation: u64) {
        self.catch_up(generation);
    }

    /// What was to be applied is lost.
    pub(crate) fn lost(&mut self) {
        self.is_broken = true;
    }

    /// Whether there is something to [judge](Self::judge).
    pub(crate) fn has_to_judge(&self, stream: Stream) -> bool {
        stream == Stream::Synced && !self.waiting.is_empty()
    }

    /// Judges the next telling: `holds` tells of each change whether the store says the same. If it does, it says so to
    /// what was told of the name before, too.
    pub(crate) fn judge(&mut self, holds: impl Fn(&Change) -> bool) {
        let Some(mut telling) = self.waiting.pop_front() else { return };
        let mut settled = HashSet::new();
        telling.retain(|change| {
            let Some((r#type, name)) = change.subject() else { return false };
            let holds = holds(change);
            if holds {
                settled.insert((r#type, name.clone()));
            }
            !holds
        });
        for earlier in &mut self.outstanding {
            forget(earlier, &settled);
        }
        self.outstanding.push_back(telling);
        self.settle();
    }

    /// Our own stream has brought something of these names: whatever was told of them is no longer waited for.
    pub(crate) fn brought<'a>(&mut self, r#type: ResourceType, names: impl Iterator<Item = &'a Arc<str>>) {
        if self.outstanding.is_empty() && self.waiting.is_empty() {
            return;
        }
        let settled = names.map(|name| (r#type, name.clone())).collect();
        for telling in self.outstanding.iter_mut().chain(&mut self.waiting) {
            forget(telling, &settled);
        }
        self.settle();
    }

    /// All that was told up to this generation is applied or caught up with.
    pub(crate) fn caught_up(&self) -> u64 {
        self.caught_up
    }

    fn settle(&mut self) {
        while self.outstanding.front().is_some_and(Telling::is_empty)
            && let Some(telling) = self.outstanding.pop_front()
        {
            self.catch_up(telling.generation());
        }
    }

    fn catch_up(&mut self, generation: u64) {
        if !self.is_broken {
            self.caught_up = self.caught_up.max(generation);
        }
    }
}

fn forget(telling: &mut Telling, names: &HashSet<(ResourceType, Arc<str>)>) {
    telling.retain(|change| {
        change.subject().is_none_or(|(r#type, name)| !names.contains(&(r#type, name.clone())))
    });
}

#[cfg(test)]
mod tests;
