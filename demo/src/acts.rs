//! What happens to the mesh while the traffic runs: a policy comes and takes a connection away, istiod goes for five
//! seconds and comes back with news.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};

use crate::control_plane::ResourceType;
use crate::guest::{self, Guest};
use crate::istiod::{Istiod, IstiodError};
use crate::place::{Place, PlaceError};
use crate::traffic::Dial;

/// What the acts play with.
#[derive(Debug)]
pub struct Scene {
    /// The control plane.
    pub istiod: Istiod,
    /// How many streams it has when all is well.
    pub streams: u64,
    /// Where the guest is.
    pub guest: Place,
    /// How the guest reaches the server.
    pub dial: Dial,
    /// Where the guest's server is.
    pub server_place: Place,
    /// Its address.
    pub server: SocketAddr,
    /// A policy that denies the guest: an item of the `policies` of a mesh file.
    pub policy: String,
}

/// What came of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ActFigures {
    /// From the change of the policy until the connection that it forbids was closed.
    pub policy_closed_ms: f64,
    /// How long istiod was away.
    pub outage_seconds: f64,
    /// From its return until every node had its stream again.
    pub back_after_seconds: f64,
    /// Workloads and services that it had to send again, though nothing about them had changed.
    pub sent_again: u64,
}

/// An act did not come out as promised.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The mesh did something else.
    #[error("{0}")]
    Promise(String),
    /// The control plane.
    #[error(transparent)]
    Istiod(#[from] IstiodError),
    /// The policy cannot be read.
    #[error(transparent)]
    Policy(#[from] xds::local::LocalConfigError),
    /// The network namespace is not there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The guest's server.
    #[error("the guest's server cannot listen: {0}")]
    Listen(#[source] io::Error),
    /// A thread.
    #[error("no thread for the acts: {0}")]
    Thread(#[source] io::Error),
    /// They were not played to the end.
    #[error("the acts were broken off")]
    BrokenOff,
}

/// The acts, being played on a thread of their own. Dropping them breaks them off.
#[derive(Debug)]
pub struct Acts {
    news: mpsc::Receiver<String>,
    thread: Option<JoinHandle<Result<ActFigures, ActError>>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Acts {
    /// Begins.
    ///
    /// # Errors
    /// The guest's server cannot listen, or there is no thread.
    pub fn begin(scene: Scene) -> Result<Self, ActError> {
        let listener = scene.server_place.run(|| std::net::TcpListener::bind(scene.server))?;
        let listener = listener.map_err(ActError::Listen)?;
        listener.set_nonblocking(true).map_err(ActError::Listen)?;
        let (tell, news) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let play = move || {
            // The guest dials from here; the server and istiod have their sockets already, or go where they belong.
            scene.guest.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(ActError::Thread)?.block_on(async {
                tokio::select! {
                    figures = Play { scene, tell, begun: Instant::now() }.play() => figures,
                    served = guest::serve(listener) => Err(ActError::Listen(served.err().unwrap_or(io::ErrorKind::Other.into()))),
                    _ = stopped => Err(ActError::BrokenOff),
                }
            })
        };
        let thread = thread::Builder::new().name("acts".to_owned()).spawn(play).map_err(ActError::Thread)?;
        Ok(Self { news, thread: Some(thread), stop: Some(stop) })
    }

    /// What has happened since the last call, a line each.
    pub fn news(&self) -> impl Iterator<Item = String> + '_ {
        self.news.try_iter()
    }

    /// Whether they are over.
    pub fn are_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What came of them; breaks them off if they are not over.
    ///
    /// # Errors
    /// See [`ActError`].
    pub fn end(mut self) -> Result<ActFigures, ActError> {
        self.join().unwrap_or(Err(ActError::BrokenOff))
    }

    fn join(&mut self) -> Option<Result<ActFigures, ActError>> {
        drop(self.stop.take());
        // A panic there has been reported by the thread itself.
        self.thread.take()?.join().ok()
    }
}

impl Drop for Acts {
    fn drop(&mut self) {
        self.join();
    }
}

struct Play {
    scene: Scene,
    tell: mpsc::Sender<String>,
    begun: Instant,
}

impl Play {
    async fn play(mut self) -> Result<ActFigures, ActError> {
        let policy_closed_ms = self.policy_comes().await?;
        self.wait_for(OUTAGE_AT).await;
        let known = self.sent();
        let away = Instant::now();
        self.scene.istiod.kill();
        self.say("istiod is killed; traffic shall not notice");
        // Told to nobody before istiod is back.
        self.scene.istiod.cluster().edit(|edit| edit.remove_policy(POLICY));
        sleep(OUTAGE).await;
        self.scene.istiod.restart()?;
        let outage_seconds = away.elapsed().as_secs_f64();
        let back_after_seconds = self.istiod_returns().await?;
        let sent_again = self.sent();
        self.say(&format!(
            "istiod was away for {outage_seconds:.1} s; {back_after_seconds:.1} s after its return both nodes had their \
             streams again, with {sent_again} of {known} resources sent again"
        ));
        self.guest_is_admitted().await?;
        Ok(ActFigures { policy_closed_ms, outage_seconds, back_after_seconds, sent_again })
    }

    /// A guest is connected; a policy forbids it. Returns after how many milliseconds it was cut off.
    async fn policy_comes(&self) -> Result<f64, ActError> {
        self.wait_for(POLICY_AT).await;
        let mut guest =
            self.arrive().await.map_err(|error| promise(format!("the guest was not let in: {error}")))?;
        let policies = xds::local::load(&format!("policies:\n- {}\n", self.scene.policy))?.policies;
        let changed = Instant::now();
        self.scene.istiod.cluster().edit(|edit| policies.iter().for_each(|policy| edit.policy(policy)));
        if timeout(POLICY_PATIENCE, guest.closed()).await.is_err() {
            return Err(promise(format!(
                "a policy forbids the guest, but {POLICY_PATIENCE:?} later it is still there"
            )));
        }
        let closed_ms = changed.elapsed().as_secs_f64() * 1000.0;
        if self.arrive().await.is_ok() {
            return Err(promise("a policy forbids the guest, but it was let in".to_owned()));
        }
        self.say(&format!(
            "a new policy denies port {}: the one connection there was closed after {closed_ms:.0} ms, a new one is refused",
            self.scene.server.port()
        ));
        Ok(closed_ms)
    }

    /// Returns after how many seconds every node has its stream again, and has acknowledged what came.
    async fn istiod_returns(&self) -> Result<f64, ActError> {
        let returned = Instant::now();
        while !self.is_served() {
            if returned.elapsed() > RETURN_PATIENCE {
                return Err(promise(format!(
                    "{RETURN_PATIENCE:?} after istiod's return a node is without a stream"
                )));
            }
            sleep(LOOK).await;
        }
        Ok(returned.elapsed().as_secs_f64())
    }

    /// The policy was withdrawn while istiod was away.
    async fn guest_is_admitted(&self) -> Result<(), ActError> {
        let returned = Instant::now();
        while let Err(error) = self.arrive().await {
            if returned.elapsed() > POLICY_PATIENCE {
                return Err(promise(format!("the policy is gone, but the guest is not let in: {error}")));
            }
            sleep(LOOK).await;
        }
        self.say("the policy was withdrawn meanwhile: the guest is let in again");
        Ok(())
    }

    async fn arrive(&self) -> io::Result<Guest> {
        Guest::arrive(self.scene.dial, self.scene.server).await
    }

    fn is_served(&self) -> bool {
        let statistics = self.scene.istiod.statistics();
        let acknowledged = |of| statistics.iter().map(|replica| replica.of(of).acks).sum::<u64>();
        statistics.iter().map(|replica| replica.streams_open).sum::<u64>() >= self.scene.streams
            && ResourceType::ALL.into_iter().all(|of| acknowledged(of) >= self.scene.streams)
    }

    /// Workloads and services that were sent since istiod started.
    fn sent(&self) -> u64 {
        self.scene.istiod.statistics().iter().map(|replica| replica.addresses.resources).sum()
    }

    async fn wait_for(&self, at: Duration) {
        sleep_until((self.begun + at).into()).await;
    }

    fn say(&self, what: &str) {
        // Whoever listened has gone: then nobody wants to know.
        self.tell.send(format!("{:4.0} s: {what}", self.begun.elapsed().as_secs_f64())).ok();
    }
}

fn promise(broken: String) -> ActError {
    ActError::Promise(broken)
}

/// The key of the policy that comes and goes.
pub const POLICY: &str = "demo/no-guests";

const POLICY_AT: Duration = Duration::from_secs(2);
const OUTAGE_AT: Duration = Duration::from_secs(4);
const OUTAGE: Duration = Duration::from_secs(5);
const POLICY_PATIENCE: Duration = Duration::from_secs(3);
/// The delay between two attempts may have grown to 15 s.
const RETURN_PATIENCE: Duration = Duration::from_secs(25);
const LOOK: Duration = Duration::from_millis(20);
