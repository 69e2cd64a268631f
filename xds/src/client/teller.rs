//! Tells one other process of the mesh.
//!
//! What has changed is gathered by name until it is told, so that a slow listener costs no more than one name for each
//! resource, and hears of each only what holds when its turn comes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::spawn_blocking;

use crate::telling::{Names, Pieces, State, Telling};

/// A task; ends when it is dropped, after what has changed before, or when nobody listens.
pub(super) struct Teller {
    next: Arc<Mutex<Option<Next>>>,
    wake: mpsc::Sender<()>,
}

/// What is to be told, and of which state.
struct Next {
    state: State,
    names: Names,
}

impl Teller {
    /// Begins with everything that there is.
    pub(super) fn start(state: State, demanded: BTreeSet<Arc<str>>, listener: mpsc::Sender<Telling>) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let next = Arc::new(Mutex::new(None));
        tokio::spawn(run(state, demanded, next.clone(), woken, listener));
        Self { next, wake }
    }

    /// Tells of what has changed and is visible now. Says whether anybody listens.
    pub(super) fn tell(&self, state: &State, change: impl FnOnce(&mut Names)) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let Next { state: latest, names } =
            next.get_or_insert_with(|| Next { state: state.clone(), names: Names::default() });
        latest.clone_from(state);
        change(names);
        !matches!(self.wake.try_send(()), Err(TrySendError::Closed(())))
    }
}

async fn run(
    state: State,
    demanded: BTreeSet<Arc<str>>,
    next: Arc<Mutex<Option<Next>>>,
    mut woken: mpsc::Receiver<()>,
    listener: mpsc::Sender<Telling>,
) {
    // To list a large mesh takes a while, as to encode it does.
    let Ok(mut pieces) = spawn_blocking(move || Pieces::first(state, demanded)).await else { return };
    loop {
        let told = pieces.last_generation();
        if !tell_all(pieces, &listener).await {
            return;
        }
        let Next { state, names } = loop {
            tokio::select! {
                () = listener.closed() => return,
                woken = woken.recv() => if woken.is_none() { return },
            }
            if let Some(next) = next.lock().unwrap_or_else(PoisonError::into_inner).take() {
                break next;
            }
        };
        pieces = Pieces::then(state, names, told);
    }
}

/// Piece by piece, each on a thread for work that takes long, which never waits for the listener: it would hold up the
/// end of the process. Says whether anybody listened to the end.
async fn tell_all(mut pieces: Pieces, listener: &mpsc::Sender<Telling>) -> bool {
    loop {
        let made = spawn_blocking(move || {
            let telling = pieces.next();
            (telling, pieces)
        });
        let Ok((telling, rest)) = made.await else { return false };
        let Some(telling) = telling else { return true };
        if listener.send(telling).await.is_err() {
            return false;
        }
        pieces = rest;
    }
}
