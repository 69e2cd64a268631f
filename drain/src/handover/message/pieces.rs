//! What does not fit into one message is cut, and joined at the other side.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::Payload;

/// The most bytes that a state, or a part of the role, may have: 64 MiB.
pub const MAX_STATE_BYTES: usize = 64 << 20;

/// The most descriptors that it may have.
pub const MAX_STATE_DESCRIPTORS: usize = 4096;

/// Bytes in a piece: leaves room for the envelope in a message of 64 KiB.
const BYTES: usize = 60 << 10;

/// Descriptors in a piece. The kernel's limit is 253 (unix(7)); the distance costs nothing.
const DESCRIPTORS: usize = 64;

/// As much of a state, or of a part of the role, as one message carries; its descriptors travel beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its number, from 0.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Its bytes.
    pub bytes: Payload,
}

/// Cuts a state into pieces, in order, each with the descriptors to send with it. There is at least one.
pub fn pieces<'a, 'fd>(
    bytes: &'a [u8],
    descriptors: &'a [BorrowedFd<'fd>],
) -> impl ExactSizeIterator<Item = (Piece, &'a [BorrowedFd<'fd>])> + use<'a, 'fd> {
    let parts = bytes.len().div_ceil(BYTES).max(descriptors.len().div_ceil(DESCRIPTORS)).max(1);
    (0..parts).map(move |part| {
        let bytes = Payload::new(slice(bytes, part, BYTES).to_vec());
        (Piece { part: part as u32, parts: parts as u32, bytes }, slice(descriptors, part, DESCRIPTORS))
    })
}

fn slice<T>(all: &[T], part: usize, size: usize) -> &[T] {
    let start = (part * size).min(all.len());
    &all[start..(start + size).min(all.len())]
}

/// Joins the pieces of one state. Dropping it closes the descriptors that it holds.
#[derive(Debug, Default)]
pub struct Assembler {
    pieces: Vec<Payload>,
    bytes: usize,
    descriptors: Vec<OwnedFd>,
    /// Of the first piece; 0 before it.
    parts: u32,
}

/// A state that came whole.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Payload,
    /// Its descriptors, in order.
    pub descriptors: Vec<OwnedFd>,
}

/// Why pieces make no state. What came of it is closed and wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// A piece is missing, or came twice.
    #[error("piece {got} came where piece {expected} should have")]
    OutOfOrder {
        /// The number of the piece that should have come.
        expected: u32,
        /// The number of the one that did.
        got: u32,
    },
    /// The pieces don't agree on how many they are.
    #[error("a piece is one of {got}, the first was one of {expected}")]
    OtherCount {
        /// What the first piece says.
        expected: u32,
        /// What this one says.
        got: u32,
    },
    /// More than [`MAX_STATE_BYTES`].
    #[error("a state has more than {MAX_STATE_BYTES} bytes")]
    TooManyBytes,
    /// More than [`MAX_STATE_DESCRIPTORS`].
    #[error("a state has more than {MAX_STATE_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
}

impl Assembler {
    /// Before the first piece.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece with its descriptors; returns the state once it is whole. After that, and after an error,
    /// it is as new.
    ///
    /// # Errors
    ///
    /// [`AssemblyError`]; what came so far is dropped.
    pub fn add(&mut self, piece: Piece, descriptors: Vec<OwnedFd>) -> Result<Option<Whole>, AssemblyError> {
        let mut so_far = std::mem::take(self);
        so_far.check(&piece, descriptors.len())?;
        so_far.parts = piece.parts;
        so_far.bytes += piece.bytes.len();
        so_far.pieces.push(piece.bytes);
        so_far.descriptors.extend(descriptors);
        if so_far.pieces.len() < so_far.parts as usize {
            *self = so_far;
            return Ok(None);
        }
        // Exactly as large as needed from the start: nothing is left behind where it grew out of.
        let mut bytes = Payload::new(Vec::with_capacity(so_far.bytes));
        for piece in &so_far.pieces {
            bytes.extend_from_slice(piece);
        }
        Ok(Some(Whole { bytes, descriptors: so_far.descriptors }))
    }

    fn check(&self, piece: &Piece, descriptors: usize) -> Result<(), AssemblyError> {
        // Pieces are bounded by the count of what came, so never more than fit in 32 bits.
        let expected = self.pieces.len() as u32;
        if piece.part != expected {
            return Err(AssemblyError::OutOfOrder { expected, got: piece.part });
        }
        if expected > 0 && piece.parts != self.parts {
            return Err(AssemblyError::OtherCount { expected: self.parts, got: piece.parts });
        }
        if self.bytes + piece.bytes.len() > MAX_STATE_BYTES {
            return Err(AssemblyError::TooManyBytes);
        }
        if self.descriptors.len() + descriptors > MAX_STATE_DESCRIPTORS {
            return Err(AssemblyError::TooManyDescriptors);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn states_of_every_size_come_back_whole() {
        let (_, pipe) = std::io::pipe().expect("a pipe");
        for (bytes, descriptors) in
            [(0, 0), (1, 1), (BYTES, 64), (BYTES + 1, 0), (0, 65), (200_000, 3), (10, 1000), (3 << 20, 1)]
        {
            let state: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let borrowed = vec![pipe.as_fd(); descriptors];
            let mut assembler = Assembler::new();
            let cut = pieces(&state, &borrowed);
            let mut left = bytes.div_ceil(BYTES).max(descriptors.div_ceil(DESCRIPTORS)).max(1);
            assert_eq!(cut.len(), left, "{bytes} bytes, {descriptors} descriptors");
            let mut carried = 0;
            let mut joined = None;
            for (piece, with) in cut {
                assert!(joined.is_none() && piece.bytes.len() <= BYTES && with.len() <= DESCRIPTORS);
                carried += with.len();
                joined = assembler.add(piece, Vec::new()).expect("in order");
                left -= 1;
                assert_eq!(joined.is_some(), left == 0);
            }
            assert_eq!(carried, descriptors);
            assert!(*joined.expect("the last piece makes it whole").bytes == state);
        }
    }

    #[test]
    fn descriptors_keep_their_order_and_are_closed_when_it_fails() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut assembler = Assembler::new();
        let copy = || OwnedFd::from(writer.try_clone().expect("room for a few"));
        let (one, two, three) = (copy(), copy(), copy());
        let numbers = [&one, &two, &three].map(std::os::fd::AsRawFd::as_raw_fd);
        assert!(assembler.add(piece(0, 2), vec![one, two]).expect("in order").is_none());
        let whole = assembler.add(piece(1, 2), vec![three]).expect("in order").expect("the last one");
        let came: Vec<_> = whole.descriptors.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        assert_eq!(came, numbers);

        assert!(assembler.add(piece(0, 3), whole.descriptors).expect("in order").is_none());
        drop(writer);
        assembler.add(piece(2, 3), Vec::new()).expect_err("one is missing");
        assert_eq!(reader.read(&mut [0]).expect("a pipe can be read"), 0, "all copies are closed");
        assembler.add(piece(0, 1), Vec::new()).expect("as new").expect("whole");
    }

    #[test]
    fn what_is_out_of_order_is_named() {
        let fails = |first: &[Piece], bad| {
            let mut assembler = Assembler::new();
            for piece in first {
                assert!(assembler.add(piece.clone(), Vec::new()).expect("in order").is_none());
            }
            assembler.add(bad, Vec::new()).expect_err("out of order")
        };
        let order = |expected, got| AssemblyError::OutOfOrder { expected, got };
        assert_eq!(fails(&[], piece(1, 3)), order(0, 1));
        assert_eq!(fails(&[piece(0, 3)], piece(0, 3)), order(1, 0), "twice");
        assert_eq!(fails(&[piece(0, 3)], piece(2, 3)), order(1, 2), "one is missing");
        assert_eq!(fails(&[piece(0, 3)], piece(1, 2)), AssemblyError::OtherCount { expected: 3, got: 2 });
    }

    #[test]
    fn what_never_ends_is_refused() {
        let assembler = Assembler {
            pieces: vec![Payload::default()],
            bytes: MAX_STATE_BYTES - 1,
            descriptors: Vec::new(),
            parts: u32::MAX,
        };
        let next = |bytes| Piece { bytes: Payload::new(vec![0; bytes]), ..piece(1, u32::MAX) };
        assert_eq!(assembler.check(&next(1), MAX_STATE_DESCRIPTORS), Ok(()));
        assert_eq!(assembler.check(&next(2), 0), Err(AssemblyError::TooManyBytes));
        let descriptors = MAX_STATE_DESCRIPTORS + 1;
        assert_eq!(assembler.check(&next(0), descriptors), Err(AssemblyError::TooManyDescriptors));
    }

    fn piece(part: u32, parts: u32) -> Piece {
        Piece { part, parts, bytes: Payload::default() }
    }
}
