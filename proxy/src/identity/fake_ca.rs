//! A CA that signs whatever it is asked to. For tests and the demo; shipped binaries don't have it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use xds::Identity;

use super::ca::{CaError, CertificateAuthority, FakeCaConfig, FakeCaError, SignedChain, Signing};

/// Signs at once, in this process, with a root that several processes can share.
pub(super) struct FakeCa {
    issuer: Issuer<'static, KeyPair>,
    root: String,
    ttl: Duration,
}

impl FakeCa {
    /// With the root of the source, or that of the files.
    pub(super) fn open(config: &FakeCaConfig) -> Result<Self, FakeCaError> {
        match &config.root {
            None => Self::new(WORTHLESS_ROOT, WORTHLESS_KEY, config.ttl),
            Some(files) => Self::new(&read(&files.certificate)?, &read(&files.key)?, config.ttl),
        }
    }

    /// `root` and `key` in PEM.
    pub(super) fn new(root: &str, key: &str, ttl: Duration) -> Result<Self, FakeCaError> {
        let issuer = Issuer::from_ca_cert_pem(root, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, root: root.to_owned(), ttl })
    }

    /// The chain for a PEM request. Only the name and the key are taken from the request.
    fn issue(&self, identity: &Identity, csr: &str) -> Result<SignedChain, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let now = SystemTime::now();
        let params = &mut request.params;
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + self.ttl).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(SignedChain(vec![request.signed_by(&self.issuer)?.pem(), self.root.clone()]))
    }
}

impl CertificateAuthority for FakeCa {
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str) -> Signing<'a> {
        Box::pin(
            async move { self.issue(identity, csr).map_err(|error| CaError::Refused(error.to_string())) },
        )
    }
}

fn read(path: &Path) -> Result<String, FakeCaError> {
    fs::read_to_string(path).map_err(|source| FakeCaError::Read { path: path.to_owned(), source })
}

/// The clocks of two machines differ a little.
const BACKDATED: Duration = Duration::from_secs(120);

/// Valid from 2020 to 2120. Whoever trusts it trusts everybody: its key is printed below.
const WORTHLESS_ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBkjCCATegAwIBAgIBATAKBggqhkjOPQQDAjAvMS0wKwYDVQQKDCRXT1JUSExF
U1MgZmFrZSBDQSwgaXRzIGtleSBpcyBwdWJsaWMwIBcNMjAwMTAxMDAwMDAwWhgP
MjEyMDAxMDEwMDAwMDBaMC8xLTArBgNVBAoMJFdPUlRITEVTUyBmYWtlIENBLCBp
dHMga2V5IGlzIHB1YmxpYzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIMj2ytf
B79v+etvHuOsx7hbBDx4vIXe9EPRitbiqpG0cKUDu3hMYgGtjSIZiqd7SzVA9u7w
CzQer+UpRXXbGjOjQjBAMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEG
MB0GA1UdDgQWBBSLrJCkxhqaSUAADhefsnQpAb2CBTAKBggqhkjOPQQDAgNJADBG
AiEAv8YnwHbFiwrQqscpxo447TZSOPSrb/LMQ5mUCgH+hogCIQDEVEF8QwUTK07u
ft0rSD42Ff+y2BY2HUBdOICjlc9N0A==
-----END CERTIFICATE-----
";

/// A secret to nobody.
const WORTHLESS_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2rLGvP5yxrXxdq+m
xNrren4aWzAsCQHVIXy16VjUt46hRANCAASDI9srXwe/b/nrbx7jrMe4WwQ8eLyF
3vRD0YrW4qqRtHClA7t4TGIBrY0iGYqne0s1QPbu8As0Hq/lKUV12xoz
-----END PRIVATE KEY-----
";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::identity::ca::RootFiles;
    use crate::identity::request::Request;
    use crate::identity::testing::{DAY, TestCa, WEB, talk};

    fn certified(ca: &FakeCa, identity: &str) -> crate::identity::Credentials {
        let identity: Identity = identity.parse().unwrap();
        let request = Request::new(identity.clone()).unwrap();
        let chain = ca.issue(&identity, request.csr()).unwrap();
        request.accept(&chain, UnixTime::now(), 1).unwrap()
    }

    #[test]
    fn two_processes_with_the_root_of_the_source_trust_each_other() {
        let config = FakeCaConfig { ttl: DAY, root: None };
        let [one, two] = [(); 2].map(|()| FakeCa::open(&config).unwrap());
        talk(&certified(&one, WEB), &certified(&two, WEB), WEB).unwrap();
    }

    #[test]
    fn a_root_from_files_is_another_root() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            RootFiles { certificate: folder.path().join("root.pem"), key: folder.path().join("key.pem") };
        let other = TestCa::new("other");
        fs::write(&files.certificate, other.root_pem()).unwrap();
        let config = FakeCaConfig { ttl: DAY, root: Some(files.clone()) };
        let Err(FakeCaError::Read { path, .. }) = FakeCa::open(&config) else {
            panic!("there is no key yet")
        };
        assert_eq!(path, files.key);
        fs::write(&files.key, other.key_pem()).unwrap();
        let theirs = certified(&FakeCa::open(&config).unwrap(), WEB);
        let ours = certified(&FakeCa::open(&FakeCaConfig { ttl: DAY, root: None }).unwrap(), WEB);
        assert_eq!(talk(&ours, &theirs, WEB).unwrap_err(), "client: invalid peer certificate: UnknownIssuer");
    }

    #[test]
    fn what_it_cannot_read_it_refuses() {
        let ca = Arc::new(FakeCa::open(&FakeCaConfig { ttl: DAY, root: None }).unwrap());
        assert!(ca.issue(&WEB.parse().unwrap(), "not a request").is_err());
        assert!(matches!(FakeCa::new("no", WORTHLESS_KEY, DAY), Err(FakeCaError::Root(_))));
    }
}
