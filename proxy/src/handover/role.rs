//! What a session needs of the process around it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use drain::handover::session::Took;

use super::parts::Part;

/// Something that takes time.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The role in this process: who accepts, who listens to istio-cni, who holds the lock.
pub trait Role: Send + Sync + 'static {
    /// Takes leave of istio-cni and copies everything that listens. The process goes on accepting.
    ///
    /// # Errors
    /// Why that isn't possible now; then nothing has changed.
    fn offer(&self) -> Work<'_, Result<Vec<Arc<Part>>, String>>;

    /// Accepts nothing any more, but keeps the copies.
    fn stop_accepting(&self) -> Work<'_, ()>;

    /// Copies of the lock and of the socket at which successors call, in this order.
    ///
    /// # Errors
    /// If this process has none, or the kernel refuses.
    fn seat(&self) -> io::Result<Vec<OwnedFd>>;

    /// What was offered stays here: everything is as before.
    fn keep(&self) -> Work<'_, ()>;

    /// What was offered is the other side's. The lock is let go of; the copies are kept.
    fn given(&self);

    /// Whether these parts make a role for this process.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, parts: &[Part]) -> Result<(), String>;

    /// The pods of these parts are known here from now on. Nothing is accepted for them yet.
    fn meet(&self, parts: &[Part]);

    /// This process has the role: it accepts. Parts and seat are empty if they were not given.
    fn take(&self, took: Took, parts: Vec<Part>, seat: Vec<OwnedFd>);

    /// Whether the lock was free, and is ours now.
    fn try_lock(&self) -> bool;

    /// istio-cni has deleted a pod: nothing of it is left here when this returns.
    fn pod_deleted<'a>(&'a self, uid: &'a str) -> Work<'a, ()>;

    /// What is left here can't be handed over any more.
    fn cannot_give(&self);
}
