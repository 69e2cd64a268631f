//! Network namespaces: where the sockets of a pod are made.
//!
//! A thread belongs to one network namespace at a time, and a socket to the one that its thread was in when it made it. A
//! data-plane worker goes where its next socket belongs and stays there; every other thread stays in the process's own:
//! what has to be done elsewhere is done by a thread that lives no longer than that ([`Namespace::visit`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Which namespace: equal for two descriptors of the same one, in every process of the machine. Only as long as
/// somebody holds the namespace open: the kernel gives the number to another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    /// Of the file system that namespaces are files of.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
}

/// A network namespace, by an open descriptor of it, which keeps it alive.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
    id: NamespaceId,
}

impl Namespace {
    /// The one that this thread is in.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn current() -> io::Result<Self> {
        Self::new(File::open("/proc/thread-self/ns/net")?.into())
    }

    /// The one that a descriptor stands for. That it is one at all is not checked: [`Namespace::enter`] tells.
    ///
    /// # Errors
    /// If the kernel knows nothing of it.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&descriptor)?;
        Ok(Self { descriptor, id: NamespaceId { device: stat.st_dev, inode: stat.st_ino } })
    }

    /// Which one it is.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// Moves the calling thread there.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` if the descriptor is not a network namespace.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.descriptor.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Does `work` there, on a thread that ends with it, and waits for its result without blocking.
    ///
    /// # Errors
    /// As [`Namespace::enter`], or if there is no thread; `work` may fail, too.
    pub async fn visit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let there = Self { descriptor: self.descriptor.try_clone()?, id: self.id };
        let (done, result) = oneshot::channel();
        let visitor = move || {
            // Whoever asked may have stopped waiting.
            let _ = done.send(there.enter().and_then(|()| work()));
        };
        std::thread::Builder::new().name("visitor".to_owned()).spawn(visitor)?;
        result.await.unwrap_or_else(|_| Err(io::Error::other("the visit of a network namespace panicked")))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_again() {
        let [one, two] = [(); 2].map(|()| Namespace::current().unwrap());
        assert_eq!(one.id(), two.id());
        let other = Namespace::new(File::open("/proc/thread-self/ns/ipc").unwrap().into()).unwrap();
        assert_ne!(one.id(), other.id());
    }

    #[tokio::test]
    async fn what_is_no_network_namespace_is_refused() {
        let other = Namespace::new(File::open("/proc/thread-self/ns/ipc").unwrap().into()).unwrap();
        let error = other.visit(|| Ok(())).await.unwrap_err();
        let (invalid, denied) = (rustix::io::Errno::INVAL, rustix::io::Errno::PERM);
        let errno = error.raw_os_error();
        assert!([invalid, denied].map(|errno| Some(errno.raw_os_error())).contains(&errno), "{error}");
    }
}
