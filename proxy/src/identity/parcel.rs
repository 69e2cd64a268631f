//! A certificate with its key, on its way to another process of ours: a successor must not have to ask for hundreds of
//! certificates before its first connection.
//!
//! ```text
//!   identity   count of PEM texts   PEM texts   key (PKCS #8)
//! ```
//!
//! Each text and the key with its length before it, lengths and the count in 32 bits, little endian. What comes is checked as an
//! answer of the certificate authority is.

use rustls::pki_types::UnixTime;
use xds::Identity;
use zeroize::Zeroizing;

use super::ca::SignedChain;
use super::certificate::Credentials;
use super::chain::{Chain, ChainError};
use super::request::signing_key;

/// The private parts of [`Credentials`], as they can be taken along. Wiped when dropped.
pub(super) struct Origin {
    pub(super) answer: SignedChain,
    /// PKCS #8.
    pub(super) key: Zeroizing<Vec<u8>>,
}

/// Why a parcel can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    /// It isn't one.
    #[error("a certificate on its way from another process is cut short")]
    Malformed,
    /// The certificate would not be accepted from its authority either.
    #[error("a certificate of another process can't be used: {0}")]
    Refused(String),
}

/// The credentials as bytes. They hold the key. None if they were not signed for a request of ours.
pub(super) fn pack(credentials: &Credentials) -> Option<Zeroizing<Vec<u8>>> {
    let Origin { answer, key } = credentials.origin.as_ref()?;
    let identity = credentials.identity().to_string();
    let texts = answer.0.iter().map(|text| 4 + text.len()).sum::<usize>();
    // Exactly as large as needed: nothing is left behind where it grew out of.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 + identity.len() + 4 + texts + 4 + key.len()));
    put(&mut bytes, identity.as_bytes());
    bytes.extend_from_slice(&length(answer.0.len()));
    answer.0.iter().for_each(|text| put(&mut bytes, text.as_bytes()));
    put(&mut bytes, key);
    Some(bytes)
}

/// Whose a parcel is, and the credentials, which get this generation.
///
/// # Errors
/// [`ParcelError`].
pub(super) fn unpack(bytes: &[u8], generation: u64) -> Result<(Identity, Credentials), ParcelError> {
    let mut rest = bytes;
    let identity = text(&mut rest)?.parse::<Identity>().map_err(|_| ParcelError::Malformed)?;
    let count = number(&mut rest)?;
    let answer = (0..count).map(|_| text(&mut rest).map(str::to_owned)).collect::<Result<_, _>>()?;
    let key = Zeroizing::new(take(&mut rest)?.to_vec());
    if !rest.is_empty() {
        return Err(ParcelError::Malformed);
    }
    let answer = SignedChain(answer);
    let mut credentials = accept(&answer, &key, &identity, generation)
        .map_err(|error| ParcelError::Refused(error.to_string()))?;
    credentials.origin = Some(Origin { answer, key });
    Ok((identity, credentials))
}

fn accept(
    answer: &SignedChain,
    key: &[u8],
    identity: &Identity,
    generation: u64,
) -> Result<Credentials, ChainError> {
    Chain::parse(answer)?.accept(identity, signing_key(key)?, UnixTime::now(), generation)
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(bytes: &mut Vec<u8>, what: &[u8]) {
    bytes.extend_from_slice(&length(what.len()));
    bytes.extend_from_slice(what);
}

fn number(rest: &mut &[u8]) -> Result<usize, ParcelError> {
    let (number, tail) = rest.split_first_chunk::<4>().ok_or(ParcelError::Malformed)?;
    *rest = tail;
    Ok(u32::from_le_bytes(*number) as usize)
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ParcelError> {
    let length = number(rest)?;
    let (taken, tail) = rest.split_at_checked(length).ok_or(ParcelError::Malformed)?;
    *rest = tail;
    Ok(taken)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, ParcelError> {
    std::str::from_utf8(take(rest)?).map_err(|_| ParcelError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::request::Request;
    use crate::identity::testing::{WEB, fake_authority};

    async fn signed() -> Credentials {
        let identity: Identity = WEB.parse().unwrap();
        let request = Request::new(identity.clone()).unwrap();
        let answer = fake_authority().sign(&identity, request.csr()).await.unwrap();
        request.accept(&answer, UnixTime::now(), 7).ok().unwrap()
    }

    #[tokio::test]
    async fn it_arrives_as_it_was() {
        let credentials = signed().await;
        let (identity, arrived) = unpack(&pack(&credentials).unwrap(), 3).ok().unwrap();
        assert_eq!((identity, arrived.generation()), (credentials.identity().clone(), 3));
        assert_eq!(arrived.validity, credentials.validity);
        assert_eq!(arrived.certified.cert, credentials.certified.cert);
        assert_eq!(pack(&arrived), pack(&credentials), "it can travel on");
    }

    #[tokio::test]
    async fn a_parcel_that_was_cut_or_mixed_up_is_refused() {
        let (one, other) = (signed().await, signed().await);
        let bytes = pack(&one).unwrap();
        for length in 0..bytes.len() {
            assert!(unpack(&bytes[..length], 0).is_err(), "{length}");
        }
        let mut mixed = signed().await;
        mixed.origin.as_mut().unwrap().key = other.origin.as_ref().unwrap().key.clone();
        let error = unpack(&pack(&mixed).unwrap(), 0).err().unwrap();
        assert!(matches!(error, ParcelError::Refused(_)), "{error}");
    }
}
