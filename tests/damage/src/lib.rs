//! Protocol buffers with one thing wrong in one field, for tests of what reads them.
//!
//! A message is taken apart by its wire format alone (no schema): every field at every depth is left out, doubled, given
//! values at the edges of its type, cut, lengthened, or turned into one of another type. Random bits seldom do that: the lengths
//! around a field have to fit what is in it.
//!
//! Whether a length-delimited field is a message can't be told for sure: what reads as one is treated as one, and as
//! bytes, too.

/// A message that differs from a good one in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// What was done to which field, by the numbers of the fields around it.
    pub what: String,
    /// The message.
    pub bytes: Vec<u8>,
}

/// Values that numbers are replaced with.
const EDGES: [u64; 6] = [0, 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX];

/// Every message that one change to one field makes of this one. Nothing, if it isn't one.
#[must_use]
pub fn every(message: &[u8]) -> Vec<Damaged> {
    let mut all = Vec::new();
    for field in fields(message).unwrap_or_default() {
        let (before, after) = (&message[..field.begin], &message[field.end..]);
        for Damaged { what, bytes } in field.damaged(&message[field.begin..field.end]) {
            let bytes = [before, &bytes, after].concat();
            // What was empty before can't be emptied.
            if bytes != message {
                all.push(Damaged { what, bytes });
            }
        }
    }
    all
}

#[derive(Clone, Copy)]
struct Field<'a> {
    number: u64,
    value: Value<'a>,
    begin: usize,
    end: usize,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint,
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32,
}

impl Field<'_> {
    /// What can stand in its place.
    fn damaged(self, whole: &[u8]) -> Vec<Damaged> {
        let number = self.number;
        let mut all = Vec::new();
        let mut add =
            |what: &str, bytes: Vec<u8>| all.push(Damaged { what: format!("{number}: {what}"), bytes });
        add("left out", Vec::new());
        add("doubled", whole.repeat(2));
        add("a number instead", varint_field(number, 1));
        add("64 bits instead", [key(number, 1), vec![1; 8]].concat());
        add("bytes instead", bytes_field(number, b"x"));
        add("32 bits instead", [key(number, 5), vec![1; 4]].concat());
        match self.value {
            Value::Varint => {
                for edge in EDGES {
                    add(&format!("set to {edge}"), varint_field(number, edge));
                }
                add("a number that does not end", [key(number, 0), vec![0xFF; 11]].concat());
            }
            Value::Fixed64 => {
                for edge in EDGES {
                    add(&format!("set to {edge}"), [key(number, 1), edge.to_le_bytes().to_vec()].concat());
                }
            }
            Value::Fixed32 => {
                for edge in EDGES.map(|edge| edge as u32) {
                    add(&format!("set to {edge}"), [key(number, 5), edge.to_le_bytes().to_vec()].concat());
                }
            }
            Value::Bytes(content) => {
                let cut = content.split_last().map_or(content, |(_, rest)| rest);
                add("emptied", bytes_field(number, b""));
                add("cut by one", bytes_field(number, cut));
                add("cut in half", bytes_field(number, &content[..content.len() / 2]));
                add("lengthened by a zero", bytes_field(number, &[content, &[0]].concat()));
                add("lengthened by a digit", bytes_field(number, &[content, b"9"].concat()));
                add("repeated inside", bytes_field(number, &content.repeat(2)));
                add("no text", bytes_field(number, &[0xFF, 0xFE]));
                add("very long", bytes_field(number, &[b'1'; 70_000]));
                add(
                    "longer than it is",
                    [key(number, 2), varint(content.len() as u64 + 1), content.to_vec()].concat(),
                );
                add("endless", [key(number, 2), varint(u64::MAX), content.to_vec()].concat());
                for Damaged { what, bytes } in every(content) {
                    all.push(Damaged {
                        what: format!("{number}.{what}"),
                        bytes: bytes_field(number, &bytes),
                    });
                }
            }
        }
        all
    }
}

/// The fields of a message; None if it isn't one.
fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut all = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let begin = message.len() - rest.len();
        let key = read_varint(&mut rest)?;
        let value = match key & 7 {
            0 => read_varint(&mut rest).map(|_| Value::Varint)?,
            1 => take(&mut rest, 8).map(|_| Value::Fixed64)?,
            2 => {
                let length = read_varint(&mut rest)?;
                Value::Bytes(take(&mut rest, usize::try_from(length).ok()?)?)
            }
            5 => take(&mut rest, 4).map(|_| Value::Fixed32)?,
            _ => return None,
        };
        let number = key >> 3;
        if number == 0 || number >= 1 << 29 {
            return None;
        }
        all.push(Field { number, value, begin, end: message.len() - rest.len() });
    }
    Some(all)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn key(number: u64, wire_type: u64) -> Vec<u8> {
    varint(number << 3 | wire_type)
}

fn varint_field(number: u64, value: u64) -> Vec<u8> {
    [key(number, 0), varint(value)].concat()
}

fn bytes_field(number: u64, content: &[u8]) -> Vec<u8> {
    [key(number, 2), varint(content.len() as u64), content.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(all: &[Damaged], what: &str) -> Vec<u8> {
        let found = all.iter().find(|damaged| damaged.what == what);
        found.unwrap_or_else(|| panic!("{what}: {all:?}")).bytes.clone()
    }

    #[test]
    fn fields_inside_of_fields_are_reached_and_the_lengths_around_them_fit() {
        // 1: 150, 3: { 2: "testing", 1: { 4: 7 } }
        let inner = [bytes_field(2, b"testing"), bytes_field(1, &varint_field(4, 7))].concat();
        let message = [varint_field(1, 150), bytes_field(3, &inner)].concat();
        let all = every(&message);
        let expected = [bytes_field(2, b"testing"), bytes_field(1, &varint_field(4, u64::MAX))].concat();
        assert_eq!(
            find(&all, &format!("3.1.4: set to {}", u64::MAX)),
            [varint_field(1, 150), bytes_field(3, &expected)].concat()
        );
        assert_eq!(find(&all, "1: left out"), bytes_field(3, &inner));
        assert_eq!(
            find(&all, "3: doubled"),
            [varint_field(1, 150), bytes_field(3, &inner).repeat(2)].concat()
        );
        let cut = [bytes_field(2, b"testin"), bytes_field(1, &varint_field(4, 7))].concat();
        assert_eq!(find(&all, "3.2: cut by one"), [varint_field(1, 150), bytes_field(3, &cut)].concat());
        assert!(all.iter().all(|damaged| damaged.bytes != message));
    }

    #[test]
    fn numbers_of_fixed_size_are_fields_too() {
        let message = [key(1, 1), vec![9; 8], key(2, 5), vec![9; 4]].concat();
        let all = every(&message);
        assert_eq!(
            find(&all, "1: set to 1"),
            [key(1, 1), vec![1, 0, 0, 0, 0, 0, 0, 0], key(2, 5), vec![9; 4]].concat()
        );
        assert_eq!(find(&all, "2: left out"), message[..9]);
    }

    #[test]
    fn what_is_no_message_has_no_fields() {
        for bytes in [&b"testing"[..], &[0x08], &[0x0A, 5, 1], &[0x00, 1], &[0xFF; 11]] {
            assert_eq!(every(bytes), [], "{bytes:?}");
        }
    }
}
