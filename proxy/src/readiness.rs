//! Whether this proxy is ready for traffic; what a rolling update waits for.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::info;

use crate::http_server::{self, Method, Response, StatusCode, Stop, empty, text};

/// The set of things that must still happen before this proxy is ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    missing: BTreeSet<&'static str>,
    /// It will never be ready again; tasks that end with the process are no news.
    ended: bool,
    latches: usize,
    /// It was ready while there was a latch.
    held: bool,
}

/// Something that is not ready yet. Dropping it says that it is.
#[derive(Debug)]
#[must_use = "dropping it at once makes it ready at once"]
pub struct Pending {
    name: &'static str,
    readiness: Readiness,
}

/// Keeps a process ready that is, or becomes so; dropping it tells the truth again.
///
/// A DaemonSet that has two pods on a node deletes the outdated one as soon as it is not ready, also while that is handing
/// everything over to the other one, which isn't ready yet.
#[derive(Debug)]
#[must_use = "dropping it at once does nothing"]
pub struct Latch(Readiness);

impl Readiness {
    /// Makes the proxy unready until the task is dropped. Two tasks of one name are one.
    pub fn pending(&self, name: &'static str) -> Pending {
        self.lock().missing.insert(name);
        Pending { name, readiness: self.clone() }
    }

    /// Makes the proxy unready until the end of the process, for this reason.
    pub fn end(&self, reason: &'static str) {
        let mut state = self.lock();
        state.missing.insert(reason);
        state.ended = true;
    }

    /// Keeps the process ready, once it is, as long as the result lives; only [`end`](Self::end) wins over that.
    pub fn latch(&self) -> Latch {
        let mut state = self.lock();
        state.latches += 1;
        state.held |= state.missing.is_empty();
        Latch(self.clone())
    }

    /// What keeps the process from being ready, in the order of the alphabet.
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.lock();
        if state.held && !state.ended { Vec::new() } else { state.missing.iter().copied().collect() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.readiness.lock();
        state.missing.remove(self.name);
        state.held |= state.latches > 0 && state.missing.is_empty();
        if state.ended {
            return;
        }
        let rest = state.missing.iter().copied().collect::<Vec<_>>().join(", ");
        drop(state);
        if rest.is_empty() {
            info!(task = self.name, "ready");
        } else {
            info!(task = self.name, pending = %rest, "a task is ready");
        }
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.latches -= 1;
        state.held &= state.latches > 0;
    }
}

/// Serves `GET /healthz/ready` until `stop`: 200 if ready, else 500 with what is missing.
pub fn serve(
    listener: std::net::TcpListener,
    readiness: Readiness,
    stop: Stop,
) -> io::Result<impl Future<Output = ()> + Send> {
    let handle = move |head: &http::request::Parts| match (head.uri.path(), &head.method) {
        ("/healthz/ready", &Method::GET) => reply(&readiness.missing()),
        ("/healthz/ready", _) => empty(StatusCode::METHOD_NOT_ALLOWED),
        _ => empty(StatusCode::NOT_FOUND),
    };
    http_server::serve("readiness", listener, handle, stop)
}

fn reply(missing: &[&str]) -> Response {
    if missing.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("not ready, pending: {}\n", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::http_server::testing::{block_on, listener, request};

    #[test]
    fn who_was_ready_stays_so_while_it_is_latched() {
        let readiness = Readiness::default();
        let latch = readiness.latch();
        let first = readiness.pending("proxy");
        assert!(readiness.missing().is_empty(), "it was ready at the latch");
        let second = readiness.latch();
        drop(latch);
        assert!(readiness.missing().is_empty(), "there is another one");
        drop(second);
        assert_eq!(readiness.missing(), ["proxy"]);

        let latch = readiness.latch();
        assert_eq!(readiness.missing(), ["proxy"], "it never was ready");
        drop(first);
        let again = readiness.pending("state manager");
        assert!(readiness.missing().is_empty(), "it was, since then");
        readiness.end("draining");
        assert_eq!(readiness.missing(), ["draining", "state manager"]);
        drop((latch, again));
        assert_eq!(readiness.missing(), ["draining"]);
    }

    #[test]
    fn the_probe_sees_what_is_missing() {
        block_on(async {
            let (listener, address) = listener();
            let (_stop, stopped) = watch::channel(false);
            let readiness = Readiness::default();
            let state = readiness.pending("state manager");
            let proxy = readiness.pending("proxy");
            tokio::spawn(serve(listener, readiness.clone(), stopped).unwrap());
            let probe = async || {
                let (status, _, body) = request(address, "GET", "/healthz/ready", "").await;
                (status, body)
            };

            assert_eq!(probe().await, (500, "not ready, pending: proxy, state manager\n".to_owned()));
            drop(state);
            assert_eq!(probe().await, (500, "not ready, pending: proxy\n".to_owned()));
            drop(proxy);
            assert_eq!(probe().await, (200, "ready\n".to_owned()));
            let again = readiness.pending("proxy");
            assert_eq!(probe().await.0, 500);
            drop(again);
            assert_eq!(probe().await.0, 200);

            let late = readiness.pending("proxy");
            readiness.end("draining");
            drop(late);
            assert_eq!(probe().await, (500, "not ready, pending: draining\n".to_owned()));

            assert_eq!(request(address, "POST", "/healthz/ready", "").await.0, 405);
            assert_eq!(request(address, "GET", "/", "").await.0, 404);
        });
    }
}
