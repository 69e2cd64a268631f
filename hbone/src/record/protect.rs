//! Seals and opens single records, and counts them.
//!
//! The sequence number starts at 0 with each key (RFC 8446, section 5.3), so it is at once the nonce, the order of records and the
//! number of records under the current key.

use aws_lc_rs::aead::Aad;

use super::keys::{KeyMaterial, RecordKey, Suite, TrafficSecret};
use super::message::RecordBoundary;
use super::{APPLICATION_DATA, HEADER, MAX_PAYLOAD, RecordError, TRAILER};

/// One direction under its current key.
struct Epoch {
    secret: TrafficSecret,
    key: RecordKey,
    /// Of the next record.
    sequence: u64,
}

impl Epoch {
    fn new(secret: TrafficSecret, sequence: u64) -> Result<Self, RecordError> {
        let key = secret.material()?.into_key()?;
        Ok(Self { secret, key, sequence })
    }

    /// The direction under its next key. The current one is wiped.
    fn advance(&mut self) -> Result<(), RecordError> {
        *self = Self::new(self.secret.next()?, 0)?;
        Ok(())
    }

    fn is_at(&self, sequence: u64, material: &KeyMaterial) -> bool {
        self.sequence == sequence && self.secret.material().is_ok_and(|own| own.is(material))
    }
}

/// The receiving direction.
pub(super) struct Opener(Epoch);

/// What a record's ciphertext held; the content lies right behind the header now.
pub(super) struct Inner {
    pub(super) content_type: u8,
    pub(super) length: usize,
}

impl Opener {
    pub(super) fn new(secret: TrafficSecret, sequence: u64) -> Result<Self, RecordError> {
        Epoch::new(secret, sequence).map(Self)
    }

    /// Opens `record`, which is exactly one record, in place.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Inner, RecordError> {
        if self.0.sequence >= MAX_RECORDS {
            return Err(RecordError::PeerKeyWornOut);
        }
        let (header, ciphertext) = record.split_first_chunk_mut::<HEADER>().ok_or(RecordError::BadMac)?;
        let nonce = self.0.key.nonce(self.0.sequence);
        let plaintext = self
            .0
            .key
            .aead
            .open_in_place(nonce, Aad::from(*header), ciphertext)
            .map_err(|_| RecordError::BadMac)?;
        self.0.sequence += 1;
        if plaintext.len() > MAX_PAYLOAD + 1 {
            return Err(RecordError::Overflow);
        }
        // The type is the last byte that is not padding (RFC 8446, section 5.4).
        let length =
            plaintext.iter().rposition(|&byte| byte != 0).ok_or(RecordError::UnexpectedContent(0))?;
        Ok(Inner { content_type: plaintext[length], length })
    }

    /// Whether the peer should be asked for a new key: once under each.
    pub(super) fn wants_update(&self) -> bool {
        self.0.sequence == ASK_AFTER
    }

    /// Follows the peer to its next key. Only possible where a record ended: bytes of the old epoch in a message of
    /// the new one would let an attacker move them.
    pub(super) fn update(&mut self, _proof: RecordBoundary) -> Result<(), RecordError> {
        self.0.advance()
    }

    pub(super) fn is_at(&self, sequence: u64, material: &KeyMaterial) -> bool {
        self.0.is_at(sequence, material)
    }

    pub(super) fn sequence(&self) -> u64 {
        self.0.sequence
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.0.secret.expose()
    }
}

/// The sending direction.
pub(super) struct Sealer(Epoch);

impl Sealer {
    pub(super) fn new(secret: TrafficSecret, sequence: u64) -> Result<Self, RecordError> {
        Epoch::new(secret, sequence).map(Self)
    }

    /// Seals the content `record[HEADER..HEADER + length]` in place; returns the length of the record.
    pub(super) fn seal(
        &mut self,
        record: &mut [u8],
        length: usize,
        content_type: u8,
    ) -> Result<usize, RecordError> {
        if length > MAX_PAYLOAD {
            return Err(RecordError::NoRoom);
        }
        let total = HEADER + length + TRAILER;
        let record = record.get_mut(..total).ok_or(RecordError::NoRoom)?;
        if self.0.sequence >= MAX_RECORDS {
            return Err(RecordError::KeyWornOut);
        }
        // At most 16401: fits.
        let [high, low] = ((length + TRAILER) as u16).to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        record[..HEADER].copy_from_slice(&header);
        record[HEADER + length] = content_type;
        let (inner, tag) = record[HEADER..].split_at_mut(length + 1);
        let nonce = self.0.key.nonce(self.0.sequence);
        // Counted before it is used: whatever happens next, this nonce is never used again.
        self.0.sequence += 1;
        let sealed = self
            .0
            .key
            .aead
            .seal_in_place_separate_tag(nonce, Aad::from(header), inner)
            .map_err(|_| RecordError::Crypto)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(total)
    }

    /// Appends a record with this short content to `out`.
    pub(super) fn append(
        &mut self,
        content: &[u8],
        content_type: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let mut record = vec![0; HEADER + content.len() + TRAILER];
        record[HEADER..HEADER + content.len()].copy_from_slice(content);
        self.seal(&mut record, content.len(), content_type)?;
        out.extend_from_slice(&record);
        Ok(())
    }

    /// Whether the key is to be changed before the next application data.
    pub(super) fn is_update_due(&self) -> bool {
        self.0.sequence >= UPDATE_AFTER
    }

    /// Changes to the next key, right after the message that announces it.
    pub(super) fn update(&mut self) -> Result<(), RecordError> {
        self.0.advance()
    }

    pub(super) fn is_at(&self, sequence: u64, material: &KeyMaterial) -> bool {
        self.0.is_at(sequence, material)
    }

    pub(super) fn suite(&self) -> Suite {
        self.0.secret.suite()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.0.sequence
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.0.secret.expose()
    }
}

/// Our own key is changed after this many records, well before a peer would mind.
pub(super) const UPDATE_AFTER: u64 = 1 << 23;

/// A peer that has sealed this many records under one key is asked for a new one. Many change it by themselves at this
/// number; some never do, and would otherwise be cut at [`MAX_RECORDS`].
pub(super) const ASK_AFTER: u64 = 1 << 24;

/// No key, of either side, protects more: 2^24.5 full records of AES-GCM are what is considered safe (RFC 8446,
/// section 5.5).
pub(super) const MAX_RECORDS: u64 = 23_726_566;
