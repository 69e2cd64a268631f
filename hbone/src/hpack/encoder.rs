//! The encoder: the static table and literals without indexing, so that there is no state to keep or move.

use super::table::STATIC_TABLE;

/// Begins a header block: says that we use no dynamic table.
///
/// Only a peer that lowers SETTINGS_HEADER_TABLE_SIZE is owed that (RFC 9113 section 4.3.1), and only once;
/// but it is one byte, allowed at the start of any block, and so right without remembering anything.
pub(crate) fn begin_block(out: &mut Vec<u8>) {
    integer(0b0010_0000, 5, 0, out);
}

/// Appends a field: an index if the static table has it whole, else a literal, with the name's index if the
/// static table has the name.
///
/// `name` is in lower case, as HTTP/2 wants it (RFC 9113 section 8.2.1).
pub(crate) fn encode(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let same_name = |entry: &&(&str, &str)| entry.0.as_bytes() == name;
    let indexed = (1..).zip(&STATIC_TABLE).filter(|(_, entry)| same_name(entry));
    let whole = indexed.clone().find(|(_, entry)| entry.1.as_bytes() == value);
    let named = || indexed.clone().next();
    if let Some((index, _)) = whole {
        integer(0b1000_0000, 7, index, out);
    } else if let Some((index, _)) = named() {
        integer(0b0000_0000, 4, index, out);
        string(value, out);
    } else {
        integer(0b0000_0000, 4, 0, out);
        string(name, out);
        string(value, out);
    }
}

/// Appends an integer whose first bits share a byte with `pattern` (RFC 7541 section 5.1).
fn integer(pattern: u8, prefix: u8, value: usize, out: &mut Vec<u8>) {
    let mask = u8::MAX >> (8 - prefix);
    if value < usize::from(mask) {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a string as it is (section 5.2).
fn string(string: &[u8], out: &mut Vec<u8>) {
    integer(0b0000_0000, 7, string.len(), out);
    out.extend_from_slice(string);
}
