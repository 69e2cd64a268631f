//! The URI names (SPIFFE IDs, RFC 5280 section 4.2.1.6) that a certificate carries.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use xds::Identity;

/// Who the holder of this chain is: the first URI name of the leaf that is an identity of the mesh.
///
/// The chain must have been verified by then; this only reads. `None` if there is no such name, or no leaf.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Option<Identity> {
    uri_names(chain.first()?)?.iter().find_map(|name| name.parse().ok())
}

/// Every URI name of a certificate, in its order. `None` if it can't be parsed, or names itself in two extensions.
pub(super) fn uri_names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let Some(extension) = certificate.subject_alternative_name().ok()? else { return Some(Vec::new()) };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Some(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Leaf, TestCa};

    #[test]
    fn the_first_name_that_is_an_identity_counts() {
        let ca = TestCa::new("root");
        let leaf = Leaf::new(&["https://example.com/", "spiffe://td/ns/a/sa/b", "spiffe://td/ns/c/sa/d"]);
        let (certified, _) = ca.issue(&leaf);
        assert_eq!(
            peer_identity(&certified.cert).map(|id| id.to_string()).as_deref(),
            Some("spiffe://td/ns/a/sa/b")
        );
        assert_eq!(uri_names(&certified.cert[0]).map(|names| names.len()), Some(3));
    }

    #[test]
    fn no_name_and_no_certificate_are_nobody() {
        let (certified, _) = TestCa::new("root").issue(&Leaf::new(&[]));
        assert_eq!(peer_identity(&certified.cert), None);
        assert_eq!(peer_identity(&[]), None);
        assert_eq!(peer_identity(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }

    #[test]
    fn bytes_behind_the_certificate_are_refused() {
        let (certified, _) = TestCa::new("root").issue(&Leaf::new(&["spiffe://td/ns/a/sa/b"]));
        let mut der = certified.cert[0].to_vec();
        der.push(0);
        assert_eq!(peer_identity(&[CertificateDer::from(der)]), None);
    }
}
