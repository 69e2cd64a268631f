//! Where something runs: in the network namespace of this process, or in another one.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace to run things in. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Place {
    /// The network namespace of this process.
    Here,
    /// Another one, by an open file of it (as below `/run/netns`).
    Namespace(Arc<File>),
}

/// A network namespace could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("the network namespace cannot be entered: {0}")]
pub struct PlaceError(#[from] io::Error);

impl Place {
    /// Moves the calling thread there for good; its sockets and the processes that it starts belong there from now on.
    ///
    /// # Errors
    /// Entering needs root, and a namespace that still exists.
    pub fn enter(&self) -> Result<(), PlaceError> {
        match self {
            Self::Here => Ok(()),
            Self::Namespace(file) => {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|error| PlaceError(error.into()))
            }
        }
    }

    /// Does `work` there and waits for its result.
    ///
    /// # Errors
    /// As [`Place::enter`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, PlaceError> {
        match self {
            Self::Here => Ok(work()),
            Self::Namespace(_) => thread::scope(|scope| {
                let visitor = scope.spawn(|| self.enter().map(|()| work()));
                visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }),
        }
    }
}
