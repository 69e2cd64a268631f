//! Conversations through a world. The applications are those of `demo`: both ends check every byte.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use demo::node::Node;
use demo::place::Place;
use demo::traffic::{Clients, Counts, Dial, Plan, Tally, socks5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::wait;

/// Clients that are at it.
#[derive(Debug)]
pub struct Traffic {
    clients: Clients,
    plan: Plan,
}

impl Traffic {
    /// Starts `plan` against `servers`, addresses of one application that are taken in turn.
    ///
    /// # Panics
    /// There are no threads.
    pub fn start(dial: Dial, servers: Vec<SocketAddr>, plan: Plan) -> Self {
        Self::start_in(&Place::Here, dial, servers, plan)
    }

    /// As [`Traffic::start`], in another network namespace.
    ///
    /// # Panics
    /// There are no threads, or no namespace.
    pub fn start_in(place: &Place, dial: Dial, servers: Vec<SocketAddr>, plan: Plan) -> Self {
        let clients = Clients::start(place, dial, servers, plan.clone()).expect("clients start");
        Self { clients, plan }
    }

    /// What the clients counted.
    pub fn counts(&self) -> Counts {
        self.clients.tally().counts()
    }

    /// Waits until every part of the plan has got somewhere since now, none of it wrong.
    ///
    /// # Panics
    /// It has not, or a connection failed.
    pub async fn progress(&self) {
        let begin = self.counts();
        let plan = &self.plan;
        let bytes = 1 << 20;
        let short = plan.fresh + plan.half_close;
        wait::until("every conversation goes on", || {
            let now = self.counts();
            no_failure("the clients", &now);
            (plan.bulk == 0 || now.checked >= begin.checked + bytes * plan.bulk as u64)
                && (plan.requests + plan.idle == 0
                    || now.answers >= begin.answers + 3 * (plan.requests + plan.idle) as u64)
                && now.closed >= begin.closed + 2 * short as u64
        })
        .await;
    }

    /// Lets every conversation come to its proper end, and checks that none failed.
    ///
    /// # Panics
    /// One did, or did not end.
    pub fn finish(self) -> Counts {
        let ended = self.clients.finish(wait::PATIENCE);
        let counts = self.counts();
        no_failure("the clients", &counts);
        assert!(ended && counts.open() == 0, "{} connections did not end: {counts:?}", counts.open());
        counts
    }
}

/// Runs `plan` until every part of it has got somewhere, then to its end, every byte checked.
pub async fn converse(dial: Dial, servers: Vec<SocketAddr>, plan: Plan) -> Counts {
    let traffic = Traffic::start(dial, servers, plan);
    traffic.progress().await;
    traffic.finish()
}

/// Waits until the application has seen the end of all of its connections, and checks that each was a good one.
///
/// # Panics
/// One was not.
pub async fn all_whole(application: &Tally) -> Counts {
    wait::until("the application has seen every end", || application.counts().open() == 0).await;
    let counts = application.counts();
    no_failure("the application", &counts);
    counts
}

/// Starts an application that sends back what it gets, for [`visit`]s. It ends with the runtime.
///
/// # Panics
/// It cannot listen.
pub async fn echo(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("the application listens");
    tokio::spawn(async move {
        while let Ok((mut visitor, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = visitor.split();
                // What becomes of a visit is its visitor's business.
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
}

/// One connection of an application at `node` to an [`echo`], with a word and its answer.
///
/// # Errors
/// The connection is refused or breaks off.
pub async fn visit(node: &Node, server: SocketAddr) -> io::Result<()> {
    let talk = async {
        let mut connection = socks5::connect(node.socks5(), server).await.map_err(io::Error::other)?;
        connection.write_all(b"hello").await?;
        let mut answer = [0; 5];
        connection.read_exact(&mut answer).await?;
        (answer == *b"hello").then_some(()).ok_or_else(|| io::Error::other("a wrong answer"))
    };
    tokio::time::timeout(wait::PATIENCE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A few connections of every pattern there is.
pub fn everything() -> Plan {
    Plan { fresh: 2, ..mixture(8) }
}

/// `count` connections at once, of every pattern if there are enough of them.
pub fn mixture(count: usize) -> Plan {
    let (bulk, half_close, idle) = match count {
        0..5 => (count, 0, 0),
        5..50 => (1, 3, 1),
        _ => (2, 10, 20),
    };
    let requests = count - bulk - half_close - idle;
    Plan { bulk, requests, half_close, idle, ..nothing() }
}

/// One connection that carries bytes both ways as fast as it can.
pub fn bulk() -> Plan {
    Plan { bulk: 1, ..nothing() }
}

/// Connections that stay open and say something now and then.
pub fn idle(count: usize) -> Plan {
    Plan { idle: count, ..nothing() }
}

/// A plan to be filled in.
pub fn nothing() -> Plan {
    let idle_pause = Duration::from_millis(50);
    Plan { bulk: 0, requests: 0, fresh: 0, half_close: 0, idle: 0, idle_pause, seed: 11 }
}

fn no_failure(who: &str, counts: &Counts) {
    assert_eq!(counts.failed, 0, "{who}: {:#?}", counts.failures);
}
