//! Some connections at a time, from all workers.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::shared::Shared;
use crate::worker::{FrozenConnection, Kept, Message as ToWorker};

/// Connections that one wave takes from each worker at most.
const WAVE: usize = 32;

/// Descriptors that one wave takes from each worker at most. A tunnel that has more goes alone: all of a wave stand still until the
/// last of them runs again.
const WAVE_DESCRIPTORS: usize = 64;

/// Freezes some connections of all workers, or just one of any: as a canary, or because it is too large to go with others.
pub(super) async fn wave(
    shared: &Arc<Shared>,
    canary: bool,
    room: usize,
    but: &Arc<BTreeSet<u64>>,
) -> Vec<(FrozenConnection, Kept)> {
    let workers = shared.workers.get().map_or(0, Vec::len);
    let ask = |worker, most, descriptors| {
        let (reply, given) = oneshot::channel();
        let reply = Box::new(move |connections| {
            let _ = reply.send(connections);
        });
        shared.post(worker, ToWorker::GiveConnections { most, descriptors, canary, but: but.clone(), reply });
        given
    };
    let mut all = Vec::new();
    if !canary {
        let share = WAVE_DESCRIPTORS.min(room / workers.max(1));
        let asked: Vec<_> = (0..workers).map(|worker| ask(worker, WAVE, share)).collect();
        for given in asked {
            all.extend(given.await.unwrap_or_default());
        }
    }
    for worker in 0..workers {
        if !all.is_empty() {
            break;
        }
        all = ask(worker, 1, room).await.unwrap_or_default();
    }
    all
}
