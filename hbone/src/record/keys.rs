//! From a traffic secret to the key of a record, and to the next secret (RFC 8446, sections 7.1 to 7.3).

use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf};
use rustls::{CipherSuite, ConnectionTrafficSecrets};
use zeroize::Zeroizing;

use super::RecordError;

/// The cipher suites that the record layer speaks (RFC 8446, appendix B.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`; never offered by us
    ChaCha20Poly1305,
}

impl Suite {
    /// The suite with this code on the wire.
    pub(crate) fn from_code(code: u16) -> Option<Self> {
        match CipherSuite::from(code) {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Self::Aes128Gcm),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Self::Aes256Gcm),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Its code on the wire.
    pub(crate) fn code(self) -> u16 {
        u16::from(match self {
            Self::Aes128Gcm => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256Gcm => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::ChaCha20Poly1305 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        })
    }

    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
            Self::Aes256Gcm => hkdf::HKDF_SHA384,
        }
    }

    /// Length of the hash, and so of every secret.
    fn secret_length(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes256Gcm => 48,
        }
    }
}

/// An application traffic secret of one direction. All of its keys, and all later secrets, follow from it.
pub(super) struct TrafficSecret {
    suite: Suite,
    // On the heap, so that a move leaves no copy behind.
    bytes: Zeroizing<Vec<u8>>,
}

impl TrafficSecret {
    pub(super) fn new(suite: Suite, bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() != suite.secret_length() {
            return Err(RecordError::SecretLength);
        }
        Ok(Self { suite, bytes: Zeroizing::new(bytes.to_vec()) })
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    /// The secret itself: for the snapshot's secret half only.
    pub(super) fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// `application_traffic_secret_N+1` (section 7.2).
    pub(super) fn next(&self) -> Result<Self, RecordError> {
        Ok(Self { suite: self.suite, bytes: self.expand(b"traffic upd", self.suite.secret_length())? })
    }

    /// The key and IV that records are protected with (section 7.3).
    pub(super) fn material(&self) -> Result<KeyMaterial, RecordError> {
        let key = self.expand(b"key", self.suite.aead().key_len())?;
        let iv = self.expand(b"iv", aead::NONCE_LEN)?;
        Ok(KeyMaterial { suite: self.suite, key, iv })
    }

    /// HKDF-Expand-Label with an empty context (section 7.1).
    fn expand(&self, label: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        // Lengths here are constants below 256.
        let (output, name) = (length as u8, (PREFIX.len() + label.len()) as u8);
        let info = [&[0, output][..], &[name], PREFIX, label, &[0]];
        let mut bytes = Zeroizing::new(vec![0; length]);
        hkdf::Prk::new_less_safe(self.suite.hkdf(), &self.bytes)
            .expand(&info, Length(length))
            .and_then(|okm| okm.fill(&mut bytes))
            .map_err(|_| RecordError::Crypto)?;
        Ok(bytes)
    }
}

/// A key and an IV as bytes.
pub(crate) struct KeyMaterial {
    suite: Suite,
    key: Zeroizing<Vec<u8>>,
    iv: Zeroizing<Vec<u8>>,
}

impl KeyMaterial {
    /// What rustls extracted; `None` for a suite that the record layer does not speak.
    pub(crate) fn from_rustls(secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let (suite, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        Some(Self { suite, key: copy(key.as_ref()), iv: copy(iv.as_ref()) })
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        (self.key.to_vec(), self.iv.to_vec())
    }

    /// Equality in constant time.
    pub(super) fn is(&self, other: &Self) -> bool {
        let same = |a: &[u8], b: &[u8]| constant_time::verify_slices_are_equal(a, b).is_ok();
        self.suite == other.suite && same(&self.key, &other.key) && same(&self.iv, &other.iv)
    }

    /// Ready for use.
    pub(super) fn into_key(self) -> Result<RecordKey, RecordError> {
        let unbound = UnboundKey::new(self.suite.aead(), &self.key).map_err(|_| RecordError::Crypto)?;
        Ok(RecordKey { aead: LessSafeKey::new(unbound), iv: self.iv })
    }
}

/// Protects the records of one direction under one key.
///
/// `LessSafeKey`, because the key type made for TLS takes the first nonce that it sees for number 0, and so fails, some
/// records later, on a connection that was moved. The promise that it would keep, no nonce twice, is kept by whoever
/// counts the records.
pub(super) struct RecordKey {
    pub(super) aead: LessSafeKey,
    iv: Zeroizing<Vec<u8>>,
}

impl RecordKey {
    /// The nonce of the record with this sequence number (section 5.3).
    pub(super) fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce[aead::NONCE_LEN - 8..].copy_from_slice(&sequence.to_be_bytes());
        for (byte, iv) in nonce.iter_mut().zip(self.iv.iter()) {
            *byte ^= iv;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// What every label starts with.
const PREFIX: &[u8] = b"tls13 ";

/// A length, as the HKDF interface wants it.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_differs_in_every_part() {
        let material = |suite, key, iv| KeyMaterial {
            suite,
            key: Zeroizing::new(vec![key; 32]),
            iv: Zeroizing::new(vec![iv; 12]),
        };
        let one = material(Suite::Aes256Gcm, 1, 1);
        assert!(one.is(&material(Suite::Aes256Gcm, 1, 1)));
        assert!(!one.is(&material(Suite::ChaCha20Poly1305, 1, 1)));
        assert!(!one.is(&material(Suite::Aes256Gcm, 2, 1)));
        assert!(!one.is(&material(Suite::Aes256Gcm, 1, 2)));
    }
}
