//! Connections that shall live through everything that happens to the proxies, and fresh ones all the time. The
//! applications are those of `demo`: both ends check every byte.
//!
//! A connection that breaks is begun anew, as an application does it; that it had to be is counted.

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use demo::node::Node;
use demo::place::Place;
use demo::traffic::{Clients, Counts, Dial, Ends, Plan, Server};
use hdrhistogram::Histogram;

use crate::traffic::nothing;
use crate::wait::{PATIENCE, POLL, until_blocking};
use crate::world::{APPLICATION, Host, SERVICE, World};

/// How many connections, of every kind that matters to a proxy that is replaced.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Blocks both ways as fast as they go.
    pub bulk: usize,
    /// Requests and answers, with pauses of at most 50 ms.
    pub requests: usize,
    /// A request about once a second.
    pub idle: usize,
    /// As `requests`, to a peer outside of the mesh.
    pub plain: usize,
    /// Places where a new connection is opened for every single request.
    pub fresh: usize,
}

impl Mix {
    /// A few of each.
    pub const SMALL: Self = Self { bulk: 1, requests: 6, idle: 6, plain: 3, fresh: 2 };

    /// Two hundred, as the measurements of stock were made with.
    pub const LARGE: Self = Self { bulk: 2, requests: 48, idle: 130, plain: 20, fresh: 3 };
}

/// Clients in one place that do one thing.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where they are.
    pub place: Place,
    /// How they reach the servers.
    pub dial: Dial,
    /// Addresses that are taken in turn.
    pub servers: Vec<SocketAddr>,
    /// What they do.
    pub plan: Plan,
}

/// See the module.
#[derive(Debug)]
pub struct LongLived {
    long: Vec<Running>,
    fresh: Vec<Running>,
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Running {
    clients: Clients,
    plan: Plan,
}

impl LongLived {
    /// Starts `mix` in a world: from the workload `client` through `node` to `server` and `plain`, whose applications are
    /// started, too. Returns when every long-lived connection has carried something.
    ///
    /// # Panics
    /// One does not come up.
    pub fn through(world: &World, node: &Node, mix: Mix) -> Self {
        let servers = [Host::Server, Host::Plain].map(|host| world.application(host));
        let mesh = vec![servers[0].address(), world.at(Host::Service, SERVICE)];
        let plain = vec![world.at(Host::Plain, APPLICATION)];
        let line = |servers: &Vec<SocketAddr>, plan| Line {
            place: Place::Here,
            dial: Dial::Socks5(node.socks5()),
            servers: servers.clone(),
            plan,
        };
        let long = vec![
            line(&mesh, Plan { bulk: mix.bulk, ..nothing() }),
            line(&mesh, Plan { idle: mix.requests, ..nothing() }),
            line(&mesh, Plan { idle: mix.idle, idle_pause: IDLE_PAUSE, ..nothing() }),
            line(&plain, Plan { idle: mix.plain, ..nothing() }),
        ];
        let fresh = vec![line(&mesh, Plan { fresh: mix.fresh, ..nothing() })];
        Self::start(long, fresh, servers.into())
    }

    /// Starts `long`, whose connections live until [`LongLived::stop`], and `fresh` beside them. Returns when every one of
    /// the first has carried something.
    ///
    /// # Panics
    /// One does not come up.
    pub fn start(long: Vec<Line>, fresh: Vec<Line>, servers: Vec<Server>) -> Self {
        // A number decides a connection's bytes: no two lines may give the same one.
        let mut seeds = 1..;
        let mut run = |lines: Vec<Line>| -> Vec<Running> {
            let lines = lines.into_iter().filter(|line| line.plan.connections() > 0);
            lines.zip(&mut seeds).map(|(line, seed)| Running::start(line, seed)).collect()
        };
        let all = Self { long: run(long), fresh: run(fresh), servers };
        all.go_on();
        all
    }

    /// Waits until every kind has got somewhere since now. Failures are left to [`LongLived::seen`].
    ///
    /// # Panics
    /// One has not.
    pub fn go_on(&self) {
        let all = || self.long.iter().chain(&self.fresh);
        let begin: Vec<Counts> = all().map(Running::counts).collect();
        until_blocking("every kind of connection goes on", || {
            all().zip(&begin).all(|(running, begin)| running.got_on_since(begin))
        });
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Seen {
        let of = |all: &[Running]| Kind::of(all.iter().map(Running::counts));
        let (long, fresh) = (of(&self.long), of(&self.fresh));
        let servers = Kind::of(self.servers.iter().map(|server| server.tally().counts()));
        let planned = self.long.iter().map(|running| running.plan.connections() as u64).sum();
        Seen { planned, long, fresh, servers }
    }

    /// How long the long-lived connections stood still, since this was asked last.
    pub fn stalls(&self) -> Stalls {
        let of_each = self.long.iter().map(|running| running.clients.tally().stalls());
        let all = of_each.reduce(|mut all, some| {
            all.add(some).expect("the same bounds");
            all
        });
        Stalls(all.expect("there are long-lived connections"))
    }

    /// Lets every connection come to its proper end, and waits until the servers have seen it.
    pub fn stop(self) -> Seen {
        for running in self.long.iter().chain(&self.fresh) {
            // What has not ended by then is open in what is returned.
            running.clients.finish(PATIENCE);
        }
        let begun = Instant::now();
        while self.seen().servers.open > 0 && begun.elapsed() < PATIENCE {
            thread::sleep(POLL);
        }
        self.seen()
    }
}

impl Running {
    fn start(line: Line, seed: u64) -> Self {
        let plan = Plan { seed, ..line.plan };
        let clients = Clients::start(&line.place, line.dial, line.servers, plan.clone());
        Self { clients: clients.expect("clients start"), plan }
    }

    fn counts(&self) -> Counts {
        self.clients.tally().counts()
    }

    fn got_on_since(&self, begin: &Counts) -> bool {
        let (plan, now) = (&self.plan, self.counts());
        now.checked >= begin.checked + BULK * plan.bulk as u64
            && now.answers >= begin.answers + 2 * (plan.requests + plan.idle) as u64
            && now.closed >= begin.closed + 2 * (plan.fresh + plan.half_close) as u64
    }
}

/// What applications have seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Long-lived connections that there were to be.
    pub planned: u64,
    /// Those that there were.
    pub long: Kind,
    /// Fresh ones.
    pub fresh: Kind,
    /// Both, from the other end.
    pub servers: Kind,
}

/// Connections of one kind.
#[derive(Debug, Clone, Default)]
pub struct Kind {
    /// Begun.
    pub opened: u64,
    /// Not ended yet.
    pub open: u64,
    /// Ended otherwise than both sides wanted.
    pub lost: Ends,
    /// Payload bytes sent.
    pub sent: u64,
    /// Payload bytes that arrived, all of them right.
    pub checked: u64,
    /// The first few failures, in words.
    pub failures: Vec<String>,
}

impl Kind {
    fn of(counts: impl Iterator<Item = Counts>) -> Self {
        counts.fold(Self::default(), |mut all, counts| {
            all.opened += counts.opened;
            all.open += counts.open();
            all.lost += counts.ends;
            all.sent += counts.sent;
            all.checked += counts.checked;
            all.failures.extend(counts.failures);
            all
        })
    }
}

impl Seen {
    /// Everything that is not as if the proxies had never been touched; empty is good. Of connections that still run, too.
    pub fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        for (who, kind) in
            [("long-lived", &self.long), ("fresh", &self.fresh), ("the servers'", &self.servers)]
        {
            if kind.lost.total() > 0 || !kind.failures.is_empty() {
                losses.push(format!("{who} connections: {} ({})", kind.lost, kind.failures.join("; ")));
            }
        }
        if self.long.opened != self.planned {
            losses.push(format!("{} long-lived connections became {}", self.planned, self.long.opened));
        }
        losses
    }

    /// Checks that nothing was lost, and that everything has ended: each byte that was sent has arrived.
    ///
    /// # Panics
    /// Something was.
    pub fn all_whole(&self) {
        assert_eq!(self.losses(), [""; 0], "{self}");
        assert_eq!(self.long.open + self.fresh.open + self.servers.open, 0, "some have not ended: {self}");
        let (sent, checked) = (self.long.sent + self.fresh.sent, self.long.checked + self.fresh.checked);
        assert_eq!((sent, self.servers.sent), (self.servers.checked, checked), "{self}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { planned, long, fresh, .. } = self;
        write!(
            f,
            "{planned} long-lived connections, {}; {} fresh ones, {}; {} MB checked",
            long.lost,
            fresh.opened,
            fresh.lost,
            (long.checked + fresh.checked + self.servers.checked) / 1_000_000,
        )
    }
}

/// The longest time that each connection stood still.
#[derive(Debug, Clone)]
pub struct Stalls(Histogram<u64>);

impl Stalls {
    /// That of the worst one.
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// 99 of 100 did better.
    pub fn p99(&self) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(0.99))
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, all] = [self.0.value_at_quantile(0.5), self.0.value_at_quantile(0.99), self.0.max()]
            .map(|micros| micros as f64 / 1000.0);
        write!(f, "stalls {half:.1} ms, 99 % {most:.1} ms, worst {all:.1} ms")
    }
}

/// What a bulk connection has carried when it is said to have got on, in bytes.
const BULK: u64 = 1 << 20;
const IDLE_PAUSE: Duration = Duration::from_secs(2);
