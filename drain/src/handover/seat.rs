//! The place of the one who has the role: a lock, and a socket where others find it.
//!
//! ```text
//!   directory (0700, ours)        default /var/run/ztunnel/handover
//!     handover.sock               bound under another name first, then renamed: nobody finds it before it listens
//!     handover.lock               locked (flock) by whoever has the role; a socket is stale when it is free
//! ```
//!
//! Nobody unlinks anything: whoever did might unlink what belongs to somebody else by now.
//!
//! **A lock belongs to an open file, and every copy of its descriptor is that same open file.** So it travels with its
//! descriptor, at no moment free; and it is free only when the last copy is closed, or its process has died. Who gives it
//! away must close its own copy at once: kept, it would outlive the new holder, and nobody could follow that one.
//! Unlocking (`LOCK_UN`) would take it from the new holder, so a seat is only ever closed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::channel::Channel;

/// The lock's name, beside the socket's.
pub const LOCK: &str = "handover.lock";

/// How many may connect before they are accepted.
const BACKLOG: i32 = 8;

/// The right to the role, and the socket where candidates connect.
#[derive(Debug)]
pub struct Seat {
    lock: OwnedFd,
    listener: OwnedFd,
}

/// What [`Seat::take`] found.
#[derive(Debug)]
pub enum Taken {
    /// Nobody had it. Now this process has.
    Free(Seat),
    /// Somebody has it; this is a connection to them.
    Held(Channel),
}

/// Why there is no seat.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// The path names no file in a directory.
    #[error("{} is no path of a socket", .0.display())]
    NoPath(PathBuf),
    /// The directory is another user's: whoever that is could be given everything.
    #[error("{} belongs to uid {uid}, not to this process's {own}", .path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// The effective user id of this process.
        own: u32,
    },
    /// Others than its owner may enter or read the directory.
    #[error("{} has mode {mode:04o}, it must be 0700", .path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Somebody has the lock, and does not answer at the socket. It may be just about to, or the lock has become free
    /// since: try again for as long as a hello may take.
    #[error("the lock beside {} is held, but nobody answers there: {cause}", .path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What connecting says.
        cause: Errno,
    },
    /// The process at the other end is another user's; the connection is closed.
    #[error("uid {uid} is at the other end, which is not this process's {own}")]
    Stranger {
        /// Whose it is.
        uid: u32,
        /// The effective user id of this process.
        own: u32,
    },
    /// What should be the lock of the role is not locked by its descriptor.
    #[error("the lock that was given is another one's")]
    NotTheLock,
    /// A system call failed.
    #[error("{what} {}: {cause}", .path.display())]
    System {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the call says.
        cause: Errno,
    },
}

impl Seat {
    /// Takes the seat if it is free, else connects to its holder. Makes the directory of `path` (the socket's) if there is
    /// none, but not that one's parent.
    ///
    /// # Errors
    ///
    /// [`SeatError`]; after [`SeatError::Silent`] it may be tried again.
    pub fn take(path: &Path) -> Result<Taken, SeatError> {
        match Self::try_lock(path)? {
            Some(seat) => Ok(Taken::Free(seat)),
            None => connect(path).map(Taken::Held),
        }
    }

    /// Connects to whoever has the seat. For a process that must not take it any more, but may have something to give.
    ///
    /// # Errors
    ///
    /// [`SeatError::Silent`] if nobody answers.
    pub fn call(path: &Path) -> Result<Channel, SeatError> {
        connect(path)
    }

    /// Takes the seat if it is free. A process that had it before must have closed its copy of that lock.
    ///
    /// # Errors
    ///
    /// [`SeatError`].
    pub fn try_lock(path: &Path) -> Result<Option<Self>, SeatError> {
        let (Some(directory), Some(_)) = (path.parent(), path.file_name()) else {
            return Err(SeatError::NoPath(path.to_owned()));
        };
        let checked = checked_directory(directory)?;
        let failed = |cause| SeatError::System { what: "locking", path: directory.join(LOCK), cause };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&checked, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { lock, listener: listen(path)? })),
            Err(Errno::AGAIN) => Ok(None),
            Err(cause) => Err(failed(cause)),
        }
    }

    /// The seat as it was given by its holder.
    ///
    /// # Errors
    ///
    /// [`SeatError::NotTheLock`] if `lock` does not hold it; what the system calls say.
    pub fn from_parts(lock: OwnedFd, listener: OwnedFd) -> Result<Self, SeatError> {
        let failed = |what| {
            move |cause| SeatError::System { what, path: PathBuf::from("(given by its holder)"), cause }
        };
        // Of the same open file this changes nothing; another one would have to wait.
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Err(SeatError::NotTheLock),
            Err(cause) => return Err(failed("locking")(cause)),
        }
        for descriptor in [&lock, &listener] {
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC).map_err(failed("keeping"))?;
        }
        if !sockopt::socket_acceptconn(&listener).map_err(failed("listening at"))? {
            return Err(failed("listening at")(Errno::INVAL));
        }
        rustix::io::ioctl_fionbio(&listener, true).map_err(failed("listening at"))?;
        Ok(Self { lock, listener })
    }

    /// What to give away with the role: the lock, then the listener, as [`Seat::from_parts`] takes them. Once they are
    /// sent the seat must be dropped.
    pub fn parts(&self) -> [BorrowedFd<'_>; 2] {
        [self.lock.as_fd(), self.listener.as_fd()]
    }

    /// Who has connected; `None` if nobody is waiting.
    ///
    /// # Errors
    ///
    /// [`SeatError::Stranger`]; what the system calls say. Others may be waiting all the same.
    pub fn accept(&self) -> Result<Option<Channel>, SeatError> {
        let failed = |cause| SeatError::System {
            what: "accepting at",
            path: PathBuf::from("the hand-over socket"),
            cause,
        };
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => {
                    let channel = Channel::new(socket).map_err(failed)?;
                    return known(channel).map(Some);
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(cause) => return Err(failed(cause)),
            }
        }
    }
}

/// For the event loop: readable when somebody has connected.
impl AsFd for Seat {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The directory, made if there is none, and nobody else's.
fn checked_directory(path: &Path) -> Result<OwnedFd, SeatError> {
    let failed = |what| move |cause| SeatError::System { what, path: path.to_owned(), cause };
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        // It may be there all the same, on a file system that is not written to.
        Err(cause) if !path.is_dir() => return Err(failed("making")(cause)),
        Err(_) => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("opening"))?;
    let stat = rustix::fs::fstat(&directory).map_err(failed("looking at"))?;
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own {
        return Err(SeatError::ForeignDirectory { path: path.to_owned(), uid: stat.st_uid, own });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(SeatError::OpenDirectory { path: path.to_owned(), mode: mode.as_raw_mode() });
    }
    Ok(directory)
}

/// A listener at the path, in the place of whatever was there. Only the holder of the lock may do that.
fn listen(path: &Path) -> Result<OwnedFd, SeatError> {
    let failed = |cause| SeatError::System { what: "listening at", path: path.to_owned(), cause };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // Somebody died between binding and renaming.
    match rustix::fs::unlink(&new) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(cause) => return Err(failed(cause)),
    }
    let listener = socket().map_err(failed)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(&new).map_err(failed)?).map_err(failed)?;
    rustix::net::listen(&listener, BACKLOG).map_err(failed)?;
    rustix::fs::rename(&new, path).map_err(failed)?;
    Ok(listener)
}

/// A connection to whoever has the lock.
fn connect(path: &Path) -> Result<Channel, SeatError> {
    let failed = |cause| SeatError::System { what: "connecting to", path: path.to_owned(), cause };
    let socket = socket().map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    match rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)) {
        Ok(()) => known(Channel::new(socket).map_err(failed)?),
        // Nothing is there, nobody listens, or nobody accepts.
        Err(cause @ (Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN)) => {
            Err(SeatError::Silent { path: path.to_owned(), cause })
        }
        Err(cause) => Err(failed(cause)),
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The channel, if the one at its other end is who we are.
fn known(channel: Channel) -> Result<Channel, SeatError> {
    let own = rustix::process::geteuid().as_raw();
    match channel.peer_uid() {
        Ok(uid) if uid == own => Ok(channel),
        Ok(uid) => Err(SeatError::Stranger { uid, own }),
        Err(cause) => {
            Err(SeatError::System { what: "asking who is at", path: PathBuf::from("the other end"), cause })
        }
    }
}

#[cfg(test)]
mod tests;
