//! Who signs certificates: the seam between the manager and a CA.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use xds::Identity;

/// Signs certificates of workloads.
pub trait CertificateAuthority: Send + Sync {
    /// Asks for a certificate of `identity`. `csr` is a PKCS #10 request (RFC 2986) in PEM.
    ///
    /// Nothing in the answer is trusted yet: the caller checks it against what it asked for. The caller also bounds
    /// the time; dropping the future gives the request up.
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str) -> Signing<'a>;
}

/// A request on its way to the CA.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<SignedChain, CaError>> + Send + 'a>>;

/// A CA's answer as it came, in PEM: `[leaf, intermediates…, roots]`. The last element may hold several roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedChain(pub Vec<String>);

/// Why a CA didn't sign. All of them may pass: the manager tries again.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum CaError {
    /// No answer: the CA or the way to it is down.
    #[error("the CA cannot be reached: {0}")]
    Unreachable(String),
    /// The CA answered no.
    #[error("the CA refused: {0}")]
    Refused(String),
}

/// How the fake CA signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeCaConfig {
    /// `SECRET_TTL`: life of a certificate.
    pub ttl: Duration,
    /// `FAKE_CA_ROOT_CERT` and `FAKE_CA_ROOT_KEY` (extensions): another root than the one in the source.
    pub root: Option<RootFiles>,
}

/// A CA's own certificate and key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, PKCS #8.
    pub key: PathBuf,
}

/// Why there is no fake CA.
#[derive(thiserror::Error, Debug)]
pub enum FakeCaError {
    /// This binary was built without it, as every binary that is shipped.
    #[error("FAKE_CA=true needs a binary built with the feature `fake-ca` (cargo build --features fake-ca)")]
    NotBuilt,
    /// A file of [`RootFiles`] can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root's certificate or key can't be used.
    #[error("the fake CA's root is not usable: {0}")]
    Root(#[from] rcgen::Error),
}

/// `FAKE_CA=true`: signs whatever it is asked to, with a root whose key anyone can read. For tests and the demo.
///
/// Every process with the same root trusts every other one.
#[cfg(feature = "fake-ca")]
pub fn fake_authority(config: &FakeCaConfig) -> Result<Arc<dyn CertificateAuthority>, FakeCaError> {
    let ca = super::fake_ca::FakeCa::open(config)?;
    tracing::warn!(
        "FAKE_CA: certificates are signed with a test key that anyone can read; nothing is protected. \
         Never use this outside tests."
    );
    Ok(Arc::new(ca))
}

/// `FAKE_CA=true` is refused: this binary was built without the feature `fake-ca`.
#[cfg(not(feature = "fake-ca"))]
pub fn fake_authority(_config: &FakeCaConfig) -> Result<Arc<dyn CertificateAuthority>, FakeCaError> {
    Err(FakeCaError::NotBuilt)
}

#[cfg(all(test, not(feature = "fake-ca")))]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_the_fake_ca_names_the_feature_that_is_missing() {
        let config = FakeCaConfig { ttl: Duration::from_secs(60), root: None };
        let error = fake_authority(&config).err().map(|error| error.to_string());
        assert!(
            error.is_some_and(|text| text.contains("FAKE_CA=true") && text.contains("--features fake-ca"))
        );
    }
}
