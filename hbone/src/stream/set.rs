//! The streams of a connection by id, in an order that repeats.

use super::Stream;
use crate::event::StreamId;

/// Streams sorted by id. Ids only grow, so opening appends; there are a few hundred at most.
#[derive(Default)]
pub(crate) struct Streams(Vec<Stream>);

impl Streams {
    pub(crate) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.position(id).map(|at| &self.0[at])
    }

    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.position(id).map(|at| &mut self.0[at])
    }

    /// Adds a stream with an id above all before it.
    pub(crate) fn push(&mut self, stream: Stream) {
        debug_assert!(self.0.last().is_none_or(|last| last.id < stream.id));
        self.0.push(stream);
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        self.position(id).map(|at| self.0.remove(at))
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Stream> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Stream> {
        self.0.iter_mut()
    }

    /// Streams that aren't closed (RFC 9113 section 5.1.2); others only wait for their reader.
    pub(crate) fn active(&self) -> usize {
        self.0.iter().filter(|stream| !stream.state.is_closed()).count()
    }

    fn position(&self, id: StreamId) -> Option<usize> {
        self.0.binary_search_by_key(&id, |stream| stream.id).ok()
    }
}
