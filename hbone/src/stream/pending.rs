//! Payload that arrived and that the local reader hasn't taken.

/// A queue of bytes that is read from the front as one slice.
#[derive(Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    /// Bytes at the front that are gone already.
    taken: usize,
}

impl Pending {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(crate) fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
    }

    /// Drops `n` bytes from the front, or all. Moves the rest only once as much is gone as is left, so each byte is
    /// moved at most once on average; an empty queue owns no memory.
    pub(crate) fn take(&mut self, n: usize) {
        self.taken += n.min(self.bytes().len());
        if self.taken == self.bytes.len() {
            *self = Self::default();
        } else if self.taken >= self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pending;

    #[test]
    fn first_in_first_out() {
        let mut pending = Pending::default();
        pending.push(b"abc");
        pending.push(b"def");
        pending.take(1);
        assert_eq!(pending.bytes(), b"bcdef");
        pending.take(3);
        assert_eq!(pending.bytes(), b"ef");
        pending.push(b"g");
        pending.take(9);
        assert!(pending.is_empty() && pending.bytes.capacity() == 0);
    }
}
