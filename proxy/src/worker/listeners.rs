//! Listening sockets that go to another process, and those that go back to the event loop.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Listening, Worker};
use crate::pod::Pod;

/// A copy of a listening socket: whose it is, what it is for.
pub type ListenerCopy = (Arc<Pod>, Listening, TcpListener);

impl Worker {
    /// Copies of all listening sockets, in no event loop.
    pub(super) fn copy_listeners(&self) -> io::Result<Vec<ListenerCopy>> {
        let copy = |listener: &super::Listener| {
            let socket = listener.socket.as_fd().try_clone_to_owned()?;
            Ok((listener.pod.clone(), listener.listening, socket.into()))
        };
        self.listeners.values().map(copy).collect()
    }

    /// Closes our own copies; those of the process's own pod only with `home`. What the kernel has queued is for whoever has
    /// the others.
    pub(super) fn let_go_of_listeners(&mut self, home: bool) {
        let goes = |listener: &super::Listener| home || !listener.pod.uid().is_empty();
        let going = self.listeners.iter().filter(|(_, listener)| goes(listener));
        let indexes: Vec<usize> = going.map(|(index, _)| *index).collect();
        for index in indexes {
            self.close_listener(index);
        }
    }
}
