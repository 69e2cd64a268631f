//! Certificates of the workloads on this node, and what their holders check of each other.
//!
//! ```text
//!   worker ── lookup (no lock) ──► published map ◄── publishes ── manager ── sign ──► CertificateAuthority
//!      └───── request (channel) ────────────────────────────────►   │
//!      ◄───── wake ─────────────────────────────────────────────────┘
//! ```
//!
//! * [`Certificates`] is the handle that every worker holds. It never blocks.
//! * [`Credentials`] are one identity's key, certificate chain and roots, with the TLS configurations made of them.
//! * The manager ([`start`]) runs on the control thread: it decides which certificate is fetched when, keeps a valid
//!   one when the CA fails, and renews it at half of its life.
//! * [`CertificateAuthority`] is whoever signs.
//!
//! Private keys are made here, never leave the process, and have neither `Debug` nor `Serialize`.

mod ca;
mod certificate;
mod chain;
mod driver;
#[cfg(any(test, feature = "fake-ca"))]
mod fake_ca;
mod handle;
mod manager;
mod names;
mod parcel;
mod request;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
mod verify;

pub use ca::{
    CaError, CertificateAuthority, FakeCaConfig, FakeCaError, RootFiles, SignedChain, Signing, fake_authority,
};
pub use certificate::{ClientError, Credentials};
pub use driver::start;
pub use handle::{Certificates, Lookup};
pub use names::peer_identity;
pub use parcel::ParcelError;
pub use summary::{CertificateEntry, CertificateState, CertificateSummary};
pub use verify::PeerNameError;
