//! Runs the manager: timers, the CA's answers, the published map. On the control thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use xds::Identity;

use super::ca::{CaError, CertificateAuthority};
use super::certificate::Credentials;
use super::chain::ChainError;
use super::handle::{Certificates, Command, Lookup, Published, Wake};
use super::manager::{Action, Issued, Manager, Now, Report};
use super::request::Request;
use crate::telemetry::{CertificateResult, ControlPlaneMetrics};

/// The handle for the workers, and the manager itself, which runs until every handle is gone.
///
/// The future needs a tokio runtime with time. When it is dropped, whoever waits is woken and finds
/// [`Lookup::Unavailable`](super::Lookup::Unavailable); certificates that are published stay.
pub fn start(
    ca: Arc<dyn CertificateAuthority>,
    metrics: ControlPlaneMetrics,
) -> (Certificates, impl Future<Output = ()> + Send) {
    let published = Arc::new(ArcSwap::default());
    let (sender, commands) = mpsc::unbounded_channel();
    let driver = Driver {
        ca,
        metrics,
        published: published.clone(),
        commands,
        manager: Manager::new(fastrand::Rng::new()),
        fetches: JoinSet::new(),
        fetching: HashMap::new(),
    };
    (Certificates::new(published, sender), driver.run())
}

type Fetched = Result<Issued<Arc<Credentials>>, FetchError>;

struct Driver {
    ca: Arc<dyn CertificateAuthority>,
    metrics: ControlPlaneMetrics,
    published: Arc<ArcSwap<Published>>,
    commands: mpsc::UnboundedReceiver<Command>,
    manager: Manager<Arc<Credentials>, Wake>,
    fetches: JoinSet<Fetched>,
    /// Whose they are, with the manager's number, which is the certificate's generation.
    fetching: HashMap<Id, (Identity, u64)>,
}

/// Why there is no new certificate.
#[derive(thiserror::Error, Debug)]
enum FetchError {
    #[error("cannot make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("the CA did not answer within {} s", SIGN_TIMEOUT.as_secs())]
    Timeout,
    #[error("the CA's answer is not usable: {0}")]
    Answer(#[from] ChainError),
    #[error("the certificate request panicked")]
    Panicked,
}

impl FetchError {
    fn result(&self) -> CertificateResult {
        match self {
            Self::Ca(CaError::Unreachable(_)) | Self::Timeout => CertificateResult::Unreachable,
            Self::Ca(CaError::Refused(_)) => CertificateResult::Refused,
            Self::Request(_) | Self::Answer(_) | Self::Panicked => CertificateResult::Unusable,
        }
    }
}

impl Driver {
    async fn run(mut self) {
        let start = Instant::now();
        loop {
            while let Some(action) = self.manager.poll() {
                self.perform(action);
            }
            let wait = self.manager.timeout(now(start)).map_or(LONGEST_SLEEP, Duration::from_millis);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Request { identity, wake }) => {
                        self.manager.request(&identity, wake, now(start));
                    }
                    Some(Command::WarmUp { identity }) => self.manager.warm_up(&identity, now(start)),
                    Some(Command::Retain { wanted }) => self.manager.retain(wanted, now(start)),
                    Some(Command::Adopt { identity, credentials }) => {
                        let validity = credentials.validity;
                        let issued = Issued { certificate: credentials, validity };
                        self.manager.adopt(&identity, issued, now(start));
                    }
                    None => return,
                },
                Some(fetched) = self.fetches.join_next_with_id() => self.finished(fetched, now(start)),
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => self.manager.handle_timeout(now(start)),
            }
        }
    }

    fn perform(&mut self, action: Action<Arc<Credentials>, Wake>) {
        match action {
            Action::Fetch(identity, number) => {
                let fetch = fetch(self.ca.clone(), identity.clone(), number);
                let task = self.fetches.spawn(fetch);
                self.fetching.insert(task.id(), (identity, number));
            }
            Action::Publish(identity, lookup) => {
                let mut certificates = self.published.load().certificates.clone();
                if let (Lookup::Ready(new), Some(Lookup::Ready(old))) = (&lookup, certificates.get(&identity))
                    && !new.shares_a_root_with(old)
                {
                    self.metrics.roots_replaced();
                    // It cannot be told from a mesh that was set up anew, and is its control plane's to decide.
                    warn!(%identity, "the CA has changed all its roots: peers with certificates of the old ones are \
                                      not trusted until they renew them");
                }
                certificates.insert(identity, lookup);
                self.published.store(Arc::new(Published { certificates, stopped: false }));
            }
            Action::Withdraw(identity) => {
                let mut certificates = self.published.load().certificates.clone();
                certificates.remove(&identity);
                self.published.store(Arc::new(Published { certificates, stopped: false }));
                debug!(%identity, "certificate forgotten: no pod of this identity is here any more");
            }
            Action::Wake(wake) => wake(),
            Action::Report(report) => report.log(),
        }
    }

    fn finished(&mut self, fetched: Result<(Id, Fetched), JoinError>, now: Now) {
        let (id, fetched) = fetched.unwrap_or_else(|error| (error.id(), Err(FetchError::Panicked)));
        if let Some((identity, number)) = self.fetching.remove(&id) {
            self.metrics
                .certificate(fetched.as_ref().map_or_else(FetchError::result, |_| CertificateResult::Signed));
            let outcome = fetched.map_err(|error| error.to_string().into());
            self.manager.finished(&identity, number, outcome, now);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let certificates = self.published.load().certificates.clone();
        self.published.store(Arc::new(Published { certificates, stopped: true }));
        for wake in self.manager.take_waiters() {
            wake();
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Request { wake, .. } = command {
                wake();
            }
        }
    }
}

impl Report {
    fn log(&self) {
        match self {
            Self::Failing { identity, reason } => {
                warn!(%identity, "no certificate: {reason}; trying again");
            }
            Self::Retrying { identity, reason, retry_in } => {
                debug!(%identity, retry_in_ms = retry_in, "no certificate: {reason}");
            }
            Self::Expired { identity } => {
                warn!(%identity, "the certificate has expired; connections of this identity fail");
            }
            Self::Recovered => info!("certificates are signed again"),
        }
    }
}

async fn fetch(ca: Arc<dyn CertificateAuthority>, identity: Identity, generation: u64) -> Fetched {
    let request = Request::new(identity.clone())?;
    let answer = tokio::time::timeout(SIGN_TIMEOUT, ca.sign(&identity, request.csr()))
        .await
        .map_err(|_| FetchError::Timeout)??;
    let credentials = request.accept(&answer, UnixTime::now(), generation)?;
    let validity = credentials.validity;
    debug!(%identity, generation, "certificate signed");
    Ok(Issued { certificate: Arc::new(credentials), validity })
}

fn now(start: Instant) -> Now {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Now {
        elapsed: millis(start.elapsed()),
        unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
    }
}

/// A CA that says nothing must not keep a slot.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// So that a wall clock that was set is noticed: certificates expire by it, timers don't run by it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
