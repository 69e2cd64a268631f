//! The envelope around a frozen connection, and the codec of its fields. `SNAPSHOT.md` documents the format.

use zeroize::Zeroizing;

use crate::error::ThawError;
use crate::time::Time;

/// A frozen connection as bytes, in two parts that travel apart.
pub struct Snapshot {
    /// Everything but the traffic secrets. Whoever holds only this can neither read nor write.
    pub state: Vec<u8>,
    /// The traffic secrets. They must never be used by two processes.
    pub secrets: Secrets,
}

/// Traffic secrets in transit. Wiped from memory when dropped; never printed.
pub struct Secrets(Zeroizing<Vec<u8>>);

impl Secrets {
    /// Takes over bytes that [`Secrets::expose`] gave in another process.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be sent to the one successor and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Puts a body into its envelope; tells its checksum too.
pub(crate) fn seal(features: &[&str], body: &[u8]) -> (Vec<u8>, u32) {
    let mut rest = Writer::with_capacity(64 + body.len());
    rest.count(features.len());
    for feature in features {
        rest.bytes(feature.as_bytes());
    }
    let rest = [rest.written(), body].concat();
    let checksum = crc32fast::hash(&rest);
    let mut envelope = Vec::with_capacity(ENVELOPE + rest.len());
    envelope.extend_from_slice(MAGIC);
    envelope.extend_from_slice(&VERSION.to_be_bytes());
    envelope.extend_from_slice(&(rest.len() as u32).to_be_bytes());
    envelope.extend_from_slice(&checksum.to_be_bytes());
    envelope.extend_from_slice(&rest);
    (envelope, checksum)
}

/// Checks an envelope; gives its checksum and a reader that stands at the body.
pub(crate) fn open<'a>(known: &[&str], bytes: &'a [u8]) -> Result<(u32, Reader<'a>), ThawError> {
    let mut reader = Reader::new(bytes);
    if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
        return Err(ThawError::NotASnapshot);
    }
    match reader.u16()? {
        VERSION => {}
        other => return Err(ThawError::Version(other)),
    }
    let length = reader.u32()? as usize;
    if length > MAX_LENGTH {
        return Err(ThawError::TooLarge);
    }
    let checksum = reader.u32()?;
    let rest = reader.take(length)?;
    reader.end()?;
    if crc32fast::hash(rest) != checksum {
        return Err(ThawError::Checksum);
    }
    let mut body = Reader::new(rest);
    for _ in 0..body.count()? {
        let feature = body.bytes()?;
        if !known.iter().any(|known| known.as_bytes() == feature) {
            return Err(ThawError::Feature(String::from_utf8_lossy(feature).into_owned()));
        }
    }
    Ok((checksum, body))
}

/// What a snapshot begins with.
const MAGIC: &[u8] = b"HBONE\0fz";

/// The one format version that this build writes and reads.
const VERSION: u16 = 1;

/// Magic, version, length, checksum.
const ENVELOPE: usize = 8 + 2 + 4 + 4;

/// More than what the windows let a connection hold.
const MAX_LENGTH: usize = 1 << 30;

/// Writes fields one after another, integers big-endian.
///
/// Wiped when dropped, and made large enough at once where it takes secrets, so that growing leaves no copy behind.
pub(crate) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(capacity)) }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// The length in 32 bits, then the bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("windows and buffers are bounded far below 4 GiB");
        self.u32(length);
        self.bytes.extend_from_slice(bytes);
    }

    /// A list's length in 32 bits; its items must follow.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("lists are bounded far below 2^32 items"));
    }

    /// How long after `now` it will be, in ms; 0 if it is due.
    pub(crate) fn left(&mut self, now: Time, deadline: Time) {
        self.u64(deadline.since(now));
    }

    /// What was written so far.
    pub(crate) fn written(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_secrets(self) -> Secrets {
        Secrets(self.bytes)
    }
}

/// Reads fields back. Every getter checks bounds; nothing is reserved on the word of a length field.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ThawError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, ThawError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ThawError::Invalid("a flag neither 0 nor 1")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ThawError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ThawError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ThawError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, ThawError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], ThawError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(crate) fn count(&mut self) -> Result<usize, ThawError> {
        Ok(self.u32()? as usize)
    }

    /// A deadline on a clock that stands at 0; to be rebased once the reader's own time is known.
    pub(crate) fn left(&mut self) -> Result<Time, ThawError> {
        Ok(Time(self.u64()?))
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], ThawError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(ThawError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<(), ThawError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ThawError::Invalid("bytes behind the last field")) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ThawError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ThawError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }
}
