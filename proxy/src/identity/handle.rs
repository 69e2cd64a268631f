//! What a worker holds: a look into the published certificates, and a way to ask for one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use xds::Identity;
use zeroize::Zeroizing;

use super::certificate::Credentials;
use super::parcel::{self, ParcelError};
use super::summary::CertificateSummary;

/// What is known of an identity's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<C = Arc<Credentials>> {
    /// There is a valid one.
    Ready(C),
    /// There will be an answer: ask by [`Certificates::request`].
    Pending,
    /// There is none, and why. The manager goes on trying by itself.
    Unavailable(Arc<str>),
}

impl<C> Lookup<C> {
    /// Whether an answer is still to come.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending)
    }
}

/// The certificates of this node. Cheap to clone; every worker has one. No method blocks.
#[derive(Clone)]
pub struct Certificates {
    published: Arc<ArcSwap<Published>>,
    commands: mpsc::UnboundedSender<Command>,
}

/// Called once, on the control thread (or on the caller's, if the manager is gone): must not block.
pub(super) type Wake = Box<dyn FnOnce() + Send>;

/// What the handles ask of the manager.
pub(super) enum Command {
    Request { identity: Identity, wake: Wake },
    WarmUp { identity: Identity },
    Retain { wanted: BTreeSet<Identity> },
    Adopt { identity: Identity, credentials: Arc<Credentials> },
}

/// What the manager has to say, whole: a reader sees one state of it.
#[derive(Default)]
pub(super) struct Published {
    pub(super) certificates: HashMap<Identity, Lookup>,
    /// The manager is gone: nothing that is pending will come.
    pub(super) stopped: bool,
}

impl Certificates {
    pub(super) fn new(published: Arc<ArcSwap<Published>>, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { published, commands }
    }

    /// What is known of the identity's certificate. Takes no lock. [`Lookup::Pending`] if nobody has asked for it yet.
    pub fn lookup(&self, identity: &Identity) -> Lookup {
        let published = self.published.load();
        match published.certificates.get(identity) {
            None | Some(Lookup::Pending) if published.stopped => {
                Lookup::Unavailable("the certificate manager has stopped".into())
            }
            None => Lookup::Pending,
            Some(known) => known.clone(),
        }
    }

    /// A connection waits for this certificate: it goes before everything else.
    ///
    /// `wake` is called once, when [`lookup`](Self::lookup) isn't pending any more, for better or worse. It runs on
    /// the control thread and must not block.
    pub fn request(&self, identity: &Identity, wake: Box<dyn FnOnce() + Send>) {
        let command = Command::Request { identity: identity.clone(), wake };
        if let Err(mpsc::error::SendError(Command::Request { wake, .. })) = self.commands.send(command) {
            wake();
        }
    }

    /// This certificate will be needed: it is fetched when no connection waits for another one.
    pub fn warm_up(&self, identity: &Identity) {
        // Without a manager there is nothing to prepare for.
        let _ = self.commands.send(Command::WarmUp { identity: identity.clone() });
    }

    /// From now on the certificates of these identities are kept and renewed, and no others. Until the first call those
    /// of everybody who was asked for are.
    ///
    /// What isn't wanted is forgotten once nobody waits for it and 10 s after it was asked for last, by
    /// [`request`](Self::request) or [`warm_up`](Self::warm_up): it is renewed no more and not found any more, and its
    /// key is gone with the last tunnel that uses it. Asking for it again fetches it anew. So the order of these calls
    /// does not matter, and nothing has to be called for an identity that never comes back.
    pub fn retain(&self, wanted: BTreeSet<Identity>) {
        let _ = self.commands.send(Command::Retain { wanted });
    }

    /// Each certificate that is in use, with its key, for another process of ours ([`Certificates::adopt`]). Wiped when dropped.
    pub fn parcels(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let published = self.published.load();
        let ready = published.certificates.values().filter_map(|lookup| match lookup {
            Lookup::Ready(credentials) => parcel::pack(credentials),
            _ => None,
        });
        ready.collect()
    }

    /// Uses a certificate of another process of ours, if there is none.
    ///
    /// # Errors
    /// If it would not be accepted from its authority either.
    pub fn adopt(&self, parcel: &[u8]) -> Result<(), ParcelError> {
        let (identity, credentials) = parcel::unpack(parcel, 0)?;
        let _ = self.commands.send(Command::Adopt { identity, credentials: Arc::new(credentials) });
        Ok(())
    }

    /// All certificates, without their keys, in the order of the identities.
    pub fn summaries(&self) -> Vec<CertificateSummary> {
        let published = self.published.load();
        let mut identities: Vec<&Identity> = published.certificates.keys().collect();
        identities.sort();
        identities
            .into_iter()
            .map(|identity| CertificateSummary::new(identity, &self.lookup(identity)))
            .collect()
    }
}
