//! The decoder (RFC 7541 sections 3 and 6).

use super::input::Input;
use super::table::{DynamicTable, Entry, LARGEST_TABLE_SIZE, RestoreError, lookup};
use super::{HpackError, entry_size};

/// One direction's header decompression state.
///
/// What a block costs is bounded by its length and by [`EXCESS`] times the limit on header lists: each field
/// costs no more than its decoded size.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: DynamicTable,
    /// The largest limit that the peer may set: our SETTINGS_HEADER_TABLE_SIZE. Never below the limit.
    maximum: usize,
    /// Whether the next block must begin with a size update.
    update_owed: bool,
}

/// A decoder's numbers, for freezing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// The dynamic table's current capacity, in bytes (RFC 7541 section 4.2).
    pub(crate) limit: usize,
    /// The capacity that we allow: the acknowledged SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) maximum: usize,
    /// Whether the next block must begin with a size update.
    pub(crate) update_owed: bool,
}

/// A list this many times beyond the limit isn't even decoded for the table's sake.
const EXCESS: usize = 16;

impl Decoder {
    /// A decoder with an empty table of `max_table_size` bytes: [`DEFAULT_TABLE_SIZE`](super::DEFAULT_TABLE_SIZE)
    /// on a new connection, whatever we advertise.
    pub(crate) fn new(max_table_size: usize) -> Self {
        Self { table: DynamicTable::new(max_table_size), maximum: max_table_size, update_owed: false }
    }

    /// The peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE.
    ///
    /// If the table holds more than that, the peer's next block must say that it has shrunk its own
    /// (RFC 9113 section 4.3.1). If not, there is nothing to evict and a peer that never indexes needs no
    /// update.
    pub(crate) fn set_max_table_size(&mut self, size: usize) {
        self.update_owed |= self.table.size() > size;
        self.maximum = size;
        self.table.set_limit(self.table.limit().min(size));
    }

    /// Decodes a complete header block and hands out its fields in order.
    ///
    /// `limit` bounds the header list: names, values and 32 bytes a field (RFC 9113 section 6.5.2). Fields
    /// beyond are decoded for the table's sake and not handed out. The fields handed out are worth nothing if
    /// this returns an error; and any error but [`HpackError::TooLarge`] makes the decoder useless.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut input = Input::new(block);
        self.size_updates(&mut input)?;
        let mut strings = Strings::default();
        let mut list_size = 0;
        while let Some(first) = input.peek() {
            let form = Form::of(first)?;
            let (name, value) = strings.field(form, &mut input, &self.table)?;
            list_size += entry_size(name, value);
            if list_size <= limit {
                field(name, value);
            } else if list_size / EXCESS > limit {
                return Err(HpackError::Excessive);
            }
            if form == Form::LiteralIndexing {
                let entry = Entry::new(name, value);
                self.table.insert(entry);
            }
        }
        if list_size > limit { Err(HpackError::TooLarge) } else { Ok(()) }
    }

    /// The dynamic table's entries, oldest first.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.table.iter()
    }

    /// Everything but the entries.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes { limit: self.table.limit(), maximum: self.maximum, update_owed: self.update_owed }
    }

    /// A decoder with these sizes and an empty table: [`Self::restore_entry`] fills it.
    pub(crate) fn restore(sizes: Sizes) -> Result<Self, RestoreError> {
        if sizes.limit > sizes.maximum || sizes.maximum > LARGEST_TABLE_SIZE {
            return Err(RestoreError::Sizes);
        }
        let table = DynamicTable::new(sizes.limit);
        Ok(Self { table, maximum: sizes.maximum, update_owed: sizes.update_owed })
    }

    /// Puts back an entry, in the order of [`Self::entries`].
    pub(crate) fn restore_entry(&mut self, name: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        self.table.restore(name, value)
    }

    /// Size updates come first in a block (RFC 7541 section 4.2).
    fn size_updates(&mut self, input: &mut Input<'_>) -> Result<(), HpackError> {
        while input.peek().is_some_and(is_size_update) {
            let size = input.integer(5)? as usize;
            if size > self.maximum {
                return Err(HpackError::SizeUpdateTooLarge);
            }
            self.table.set_limit(size);
            self.update_owed = false;
        }
        if self.update_owed { Err(HpackError::MissingSizeUpdate) } else { Ok(()) }
    }
}

/// How a field is represented (section 6), told by the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// An index for name and value (section 6.1).
    Indexed,
    /// A literal that enters the dynamic table (section 6.2.1).
    LiteralIndexing,
    /// A literal that doesn't, or must never (sections 6.2.2 and 6.2.3): the same to who passes nothing on.
    Literal,
}

impl Form {
    fn of(first: u8) -> Result<Self, HpackError> {
        match first {
            0b1000_0000.. => Ok(Form::Indexed),
            0b0100_0000.. => Ok(Form::LiteralIndexing),
            _ if is_size_update(first) => Err(HpackError::MisplacedSizeUpdate),
            _ => Ok(Form::Literal),
        }
    }

    /// The bits of the first byte that belong to the index.
    fn prefix(self) -> u8 {
        match self {
            Form::Indexed => 7,
            Form::LiteralIndexing => 6,
            Form::Literal => 4,
        }
    }
}

fn is_size_update(first: u8) -> bool {
    first & 0b1110_0000 == 0b0010_0000
}

/// Room for a field's Huffman-coded strings.
#[derive(Default)]
struct Strings {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Strings {
    fn field<'s, 'b: 's>(
        &'s mut self,
        form: Form,
        input: &mut Input<'b>,
        table: &'s DynamicTable,
    ) -> Result<(&'s [u8], &'s [u8]), HpackError> {
        let index = input.integer(form.prefix())?;
        if form == Form::Indexed {
            return lookup(table, index).ok_or(HpackError::UnknownIndex);
        }
        let name = match index {
            0 => input.string(&mut self.name)?,
            _ => lookup(table, index).ok_or(HpackError::UnknownIndex)?.0,
        };
        Ok((name, input.string(&mut self.value)?))
    }
}
