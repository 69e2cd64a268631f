//! The two tables that indexes point into (RFC 7541 section 2.3): one index space, the static table first.

use std::collections::VecDeque;

use super::{ENTRY_OVERHEAD, entry_size};

/// The dynamic table's size before SETTINGS says otherwise (RFC 9113 section 6.5.2), in bytes.
pub(crate) const DEFAULT_TABLE_SIZE: usize = 4096;

/// The largest dynamic table that can be asked for, in bytes: what a restored one may not exceed either.
pub(crate) const LARGEST_TABLE_SIZE: usize = 1 << 16;

/// A dynamic table that no decoder can have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The limit exceeds the maximum, or the maximum what we ever allow.
    #[error("HPACK table sizes out of bounds")]
    Sizes,
    /// The entries exceed the limit.
    #[error("HPACK table entries exceed the table's limit")]
    Entries,
}

/// The dynamic table. Invariant: `size <= limit`.
#[derive(Debug)]
pub(super) struct DynamicTable {
    /// The newest at the back.
    entries: VecDeque<Entry>,
    /// The sum of [`entry_size`] of all entries.
    size: usize,
    /// The table's capacity, in the measure of `size`: what the peer last set.
    limit: usize,
}

impl DynamicTable {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, limit }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Changes the capacity and evicts what no longer fits (section 4.3).
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.evict(limit);
    }

    /// Adds an entry and evicts for it; one too large for the table empties it (section 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        let Some(room) = self.limit.checked_sub(entry.size()) else {
            self.evict(0);
            return;
        };
        self.evict(room);
        self.size += entry.size();
        self.entries.push_back(entry);
    }

    /// Adds an entry that must fit without eviction: the next in the order of [`Self::iter`].
    pub(super) fn restore(&mut self, name: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        if entry_size(name, value) > self.limit - self.size {
            return Err(RestoreError::Entries);
        }
        self.insert(Entry::new(name, value));
        Ok(())
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(Entry::field)
    }

    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_front()
        {
            self.size -= entry.size();
        }
    }
}

/// The name and value at `index` of the common index space (section 2.3.3).
pub(super) fn lookup(dynamic: &DynamicTable, index: u32) -> Option<(&[u8], &[u8])> {
    let index = (index as usize).checked_sub(1)?;
    if let Some((name, value)) = STATIC_TABLE.get(index) {
        return Some((name.as_bytes(), value.as_bytes()));
    }
    let newer = index - STATIC_TABLE.len();
    let position = dynamic.entries.len().checked_sub(newer + 1)?;
    dynamic.entries.get(position).map(Entry::field)
}

/// An entry of the dynamic table.
#[derive(Debug)]
pub(super) struct Entry {
    /// Name and value in one piece.
    bytes: Box<[u8]>,
    name_length: usize,
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self { bytes: [name, value].concat().into(), name_length: name.len() }
    }

    fn size(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD
    }

    fn field(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.name_length)
    }
}

/// The static table (appendix A): the first entry has index 1.
pub(super) const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
