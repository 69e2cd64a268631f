//! The resources of one type, and in which order they changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use xds::proto::discovery;

/// A resource, ready to be sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// As it goes to clients that follow everything.
    pub(crate) message: discovery::Resource,
    /// Other names by which it may be asked for; clients on demand get them.
    pub(crate) aliases: Vec<String>,
    /// Who wants it: whoever asks for any of these.
    pub(crate) topics: Vec<Topic>,
}

/// What a client on demand can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// A resource by its name or an alias; with a service come its workloads.
    Name(Arc<str>),
    /// The workloads of a node. Its proxy gets them unasked.
    Node(Arc<str>),
}

/// The resources of one type.
///
/// Each change has a number. A stream remembers the last one that it told, so what it has to tell next follows from the
/// table: each name once, however often it changed meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Names by the number of their last change. Names of what is gone stay, since some stream may not know yet.
    changes: BTreeMap<u64, Arc<str>>,
    by_topic: HashMap<Topic, BTreeSet<Arc<str>>>,
    last_change: u64,
}

#[derive(Debug)]
struct Entry {
    last_change: u64,
    /// None if it is gone.
    resource: Option<Arc<Encoded>>,
}

impl Table {
    /// Inserts or replaces. The same content again is no change.
    pub(super) fn put(&mut self, resource: Encoded) {
        let name = Arc::<str>::from(&*resource.message.name);
        if self.get(&name).is_some_and(|known| known.message == resource.message) {
            return;
        }
        self.forget_topics(&name);
        for topic in &resource.topics {
            self.by_topic.entry(topic.clone()).or_default().insert(Arc::clone(&name));
        }
        self.change(name, Some(Arc::new(resource)));
    }

    /// Removes; nothing happens if it is not there.
    pub(super) fn remove(&mut self, name: &str) {
        if self.get(name).is_some() {
            self.forget_topics(name);
            self.change(name.into(), None);
        }
    }

    /// The number of the last change.
    pub(crate) fn last_change(&self) -> u64 {
        self.last_change
    }

    /// The resource of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Encoded>> {
        self.entries.get(name)?.resource.as_ref()
    }

    /// Everything, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Encoded>> {
        self.entries.values().filter_map(|entry| entry.resource.as_ref())
    }

    /// What somebody wants who asks for `topic`.
    pub(crate) fn by_topic(&self, topic: &Topic) -> impl Iterator<Item = &Arc<Encoded>> {
        self.by_topic.get(topic).into_iter().flatten().filter_map(|name| self.get(name))
    }

    /// What changed after the change of this number, in order; None is gone.
    pub(crate) fn changes_after(
        &self,
        number: u64,
    ) -> impl Iterator<Item = (&Arc<str>, Option<&Arc<Encoded>>)> {
        self.changes.range(number + 1..).map(|(_, name)| (name, self.get(name)))
    }

    fn change(&mut self, name: Arc<str>, resource: Option<Arc<Encoded>>) {
        self.last_change += 1;
        self.changes.insert(self.last_change, Arc::clone(&name));
        let entry = Entry { last_change: self.last_change, resource };
        if let Some(before) = self.entries.insert(name, entry) {
            self.changes.remove(&before.last_change);
        }
    }

    fn forget_topics(&mut self, name: &str) {
        let Some(known) = self.get(name).cloned() else { return };
        for topic in &known.topics {
            let Some(names) = self.by_topic.get_mut(topic) else { continue };
            names.remove(name);
            if names.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}
