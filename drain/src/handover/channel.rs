//! The socket between the two sides of a hand-over: messages with descriptors, each whole or not at all.
//!
//! It is a connected `SOCK_SEQPACKET` socket (unix(7)) that never blocks. The sender closes nothing: its own copies stay
//! open whatever happens. The receiver marks all descriptors close-on-exec, and closes what came with a message that fails.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::sockopt::PeerCredentials;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use zeroize::Zeroize;

use super::message::{Message, decode, encode};

/// The most bytes that a message may have, its envelope included: 64 KiB.
pub const MAX_BYTES: usize = 64 << 10;

/// The most descriptors that a message may have. The kernel's limit is 253 (unix(7)).
pub const MAX_DESCRIPTORS: usize = 200;

/// How many descriptors one message can carry at all: a receiver with less space would see a count that is wrong.
const KERNEL_DESCRIPTORS: usize = 253;

/// What is on its way to a receiver that is busy: a wave, with room to spare.
const SEND_BUFFER: usize = 2 << 20;

/// One end of it.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// The other side ended with something unread. What it had sent is still there, and comes after this error.
    reset: AtomicBool,
}

/// A message as it came.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// This side's own copies of the descriptors, in the order in which they were given, all close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a message was not sent. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The socket takes no more now: once it is writable, try again.
    #[error("the socket takes no more now")]
    NotReady,
    /// The kernel keeps no more descriptors in flight until the other side has taken some (ETOOMANYREFS; processes with
    /// CAP_SYS_ADMIN or CAP_SYS_RESOURCE are exempt). The socket may be writable all the same: try again after a while.
    #[error("too many descriptors are in flight")]
    TooManyInFlight,
    /// The other side closed the socket, or died. What it sent before can still be received.
    #[error("the other side is gone")]
    Gone,
    /// More than [`MAX_BYTES`] or [`MAX_DESCRIPTORS`].
    #[error("a message of {bytes} bytes and {descriptors} descriptors is too large")]
    TooLarge {
        /// How many bytes it has.
        bytes: usize,
        /// How many descriptors.
        descriptors: usize,
    },
    /// A security module forbids it, as SELinux does between containers of different categories.
    #[error("sending is not allowed")]
    Denied,
    /// The system call failed in another way.
    #[error("the socket failed: {0}")]
    Socket(Errno),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// There is none now.
    #[error("there is nothing to receive now")]
    NotReady,
    /// The other side closed the socket, or died, and everything that it had sent has been received.
    #[error("the other side is gone")]
    Gone,
    /// The kernel dropped descriptors: this process has no room for them (`RLIMIT_NOFILE`), or a security module forbids
    /// it. Those that came are closed; the next message can be received.
    #[error("{got} of {expected} descriptors arrived")]
    DescriptorsLost {
        /// The message that they belong to.
        message: Box<Message>,
        /// How many it has.
        expected: usize,
        /// How many arrived.
        got: usize,
    },
    /// The other side does not speak as it should: this session should end.
    #[error("a message is malformed: {0}")]
    Malformed(String),
    /// The system call failed in another way.
    #[error("the socket failed: {0}")]
    Socket(Errno),
}

impl ReceiveError {
    /// Nothing has failed: there will be more.
    pub fn is_not_ready(&self) -> bool {
        matches!(self, Self::NotReady)
    }

    /// The other side has ended, and nothing else is wrong.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }
}

impl Channel {
    /// Around a connected socket, which it tells not to block.
    ///
    /// # Errors
    ///
    /// `EPROTOTYPE` if the socket does not keep messages apart; what the system calls say.
    pub fn new(socket: OwnedFd) -> Result<Self, Errno> {
        if sockopt::socket_type(&socket)? != SocketType::SEQPACKET {
            return Err(Errno::PROTOTYPE);
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Beyond the system's limit is for CAP_NET_ADMIN only; without, what is allowed must do.
        if sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
        }
        Ok(Self { socket, reset: AtomicBool::new(false) })
    }

    /// Two ends of one, in this process.
    ///
    /// # Errors
    ///
    /// What the system calls say.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (one, two) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(one)?, Self::new(two)?))
    }

    /// The effective user id of the process at the other end, at the time when it connected or listened (`SO_PEERCRED`).
    ///
    /// # Errors
    ///
    /// What the system call says.
    pub fn peer_uid(&self) -> Result<u32, Errno> {
        // A peer of another pid namespace, as every other pod is, has the number 0. rustix has no room for that and fails.
        let peer = nix::sys::socket::getsockopt(&self.socket, PeerCredentials);
        peer.map(|peer| peer.uid()).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    /// Sends one message with descriptors, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        let (head, payload) = encode(message, descriptors.len());
        let bytes = head.len() + payload.len();
        let too_large = SendError::TooLarge { bytes, descriptors: descriptors.len() };
        if bytes > MAX_BYTES || descriptors.len() > MAX_DESCRIPTORS {
            return Err(too_large);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "the space is made for the most that is allowed");
        }
        let slices = [IoSlice::new(&head), IoSlice::new(payload)];
        // Without NOSIGNAL a peer that is gone would kill this process by SIGPIPE.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| sendmsg(&self.socket, &slices, &mut control, flags)) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(SendError::NotReady),
            Err(Errno::TOOMANYREFS) => Err(SendError::TooManyInFlight),
            Err(Errno::CONNRESET) => {
                // The error is told once, and this side has just taken it from the receiver.
                self.reset.store(true, Ordering::Relaxed);
                Err(SendError::Gone)
            }
            Err(Errno::PIPE) => Err(SendError::Gone),
            Err(Errno::MSGSIZE) => Err(too_large),
            Err(Errno::ACCESS) => Err(SendError::Denied),
            Err(error) => Err(SendError::Socket(error)),
        }
    }

    /// Receives the next message. After the end of the other side, first what it had sent.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`].
    pub fn receive(&self) -> Result<Received, ReceiveError> {
        let mut buffer = vec![0; MAX_BYTES];
        let packet = self.packet(&mut buffer)?;
        let decoded = decode(&buffer[..packet.len]);
        // Secrets may have been there. The message has its own copy, which wipes itself.
        buffer[..packet.len].zeroize();
        if packet.truncated {
            return Err(ReceiveError::Malformed(format!("it has more than {MAX_BYTES} bytes")));
        }
        let (message, expected) = decoded.map_err(|error| ReceiveError::Malformed(error.to_string()))?;
        match packet.descriptors.len() {
            got if packet.descriptors_lost => {
                Err(ReceiveError::DescriptorsLost { message: Box::new(message), expected, got })
            }
            got if got != expected => Err(ReceiveError::Malformed(format!(
                "it came with {got} descriptors, and should have with {expected}"
            ))),
            _ => Ok(Received { message, descriptors: packet.descriptors }),
        }
    }

    fn packet(&self, buffer: &mut [u8]) -> Result<Packet, ReceiveError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
                Ok(received) if received.bytes == 0 => return Err(ReceiveError::Gone),
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                // It comes ahead of what is queued. The next call does not say it again.
                Err(Errno::CONNRESET) => self.reset.store(true, Ordering::Relaxed),
                Err(Errno::AGAIN) if self.reset.load(Ordering::Relaxed) => return Err(ReceiveError::Gone),
                Err(Errno::AGAIN) => return Err(ReceiveError::NotReady),
                Err(error) => return Err(ReceiveError::Socket(error)),
            }
        };
        // Owned from here on: any return closes them.
        let mut descriptors = Vec::new();
        for control_message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = control_message {
                descriptors.extend(rights);
            }
        }
        Ok(Packet {
            len: received.bytes,
            truncated: received.flags.contains(ReturnFlags::TRUNC),
            descriptors,
            descriptors_lost: received.flags.contains(ReturnFlags::CTRUNC),
        })
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What one system call yields.
struct Packet {
    len: usize,
    truncated: bool,
    descriptors: Vec<OwnedFd>,
    descriptors_lost: bool,
}

#[cfg(test)]
mod tests;
