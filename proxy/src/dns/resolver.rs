//! What becomes of one question.
//!
//! ```text
//!  message ──► no question for us: ignored, or refused at once (FORMERR, NOTIMP)
//!     │
//!     ▼
//!  the mesh knows the name ──────────────────────► answered at once
//!     │ no, or the mesh doesn't know the pod yet
//!     ▼
//!  too many of the pod wait ─────────────────────► refused at once (REFUSED)
//!     │ no
//!     ▼
//!  wait until the mesh knows the pod ─► it knows the name ─► answered
//!     │ too long: SERVFAIL         └──► forwarded ─► passed on; nobody answers: SERVFAIL
//! ```
//!
//! All within [`BUDGET`].

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{Level, error, event};
use xds::{Store, Workload};

use super::answer::{Asker, Family, Found, Lookup};
use super::message::{Query, Unusable};
use super::names;
use super::resolv_conf::{ResolvConf, Resolvers};
use super::sockets::Origin;
use super::upstream;
use crate::config::{DnsConfig, SearchDomains};
use crate::pod::Pod;
use crate::telemetry::{DnsLabels, DnsMetrics, DnsTransport};

/// How long a client waits at most: its resolver would ask again then.
pub(super) const BUDGET: Duration = Duration::from_secs(5);
/// How many questions of one pod may wait for others. More are refused at once, as by CoreDNS (`max_concurrent`): the
/// client learns why, and waits for nothing. What the mesh knows is answered all the same.
const MOST_WAITING: usize = 256;
/// How long an answer may be remembered, in seconds.
const TIME_TO_LIVE: u32 = 30;

/// Answers the questions of all pods.
pub(super) struct Resolver {
    lookup: Lookup,
    node: Option<String>,
    search: SearchDomains,
    store: Store,
    metrics: DnsMetrics,
    resolv_conf: ResolvConf,
    origin: Origin,
}

/// A pod that asks.
pub(super) struct Client {
    pod: Arc<Pod>,
    search: [Arc<str>; 3],
    waiting: Arc<Semaphore>,
}

/// What becomes of a message.
pub(super) enum Outcome {
    /// This is sent back.
    Answered(Vec<u8>),
    /// Nothing is sent back.
    Ignored,
    /// [`Resolver::wait`] tells.
    Waits(Waiting),
}

/// A question whose answer is not here yet.
pub(super) struct Waiting {
    query: Query,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
}

impl Resolver {
    pub(super) fn new(config: DnsConfig, store: Store, metrics: DnsMetrics, origin: Origin) -> Self {
        Self {
            lookup: Lookup {
                cluster_domain: names::domain(&config.cluster_domain),
                preferred_namespace: config.preferred_namespace,
                ipv6: config.ipv6,
            },
            node: config.node,
            search: config.search,
            store,
            metrics,
            resolv_conf: ResolvConf::new(config.resolv_conf, config.nameserver_port),
            origin,
        }
    }

    pub(super) fn client(&self, pod: Arc<Pod>) -> Client {
        let search = names::kubernetes_search(&pod.workload().namespace, &self.lookup.cluster_domain);
        Client { pod, search, waiting: Arc::new(Semaphore::new(MOST_WAITING)) }
    }

    /// Does what can be done at once. A message that makes us panic is lost and nothing else.
    pub(super) fn receive(&self, client: &Client, message: &[u8], transport: DnsTransport) -> Outcome {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.judge(client, message, transport)));
        outcome.unwrap_or_else(|_| {
            error!(target: "dns", "a panic ended one question");
            Outcome::Ignored
        })
    }

    fn judge(&self, client: &Client, message: &[u8], transport: DnsTransport) -> Outcome {
        let query = match Query::read(message, transport) {
            Ok(query) => query,
            Err(Unusable::Ignored) => return Outcome::Ignored,
            Err(Unusable::Refused(reply)) => return Outcome::Answered(reply),
        };
        let workload = self.workload(client);
        if let Some(workload) = &workload
            && let Some(found) = self.find(client, workload, &query, &self.resolv_conf.load())
        {
            self.metrics.requested(&labels(&query, Some(workload)));
            return Outcome::Answered(answer(client, &query, found));
        }
        match client.waiting.clone().try_acquire_owned() {
            Ok(place) => Outcome::Waits(Waiting { query, deadline: Instant::now() + BUDGET, _place: place }),
            Err(_) => {
                self.metrics.requested(&labels(&query, workload.as_deref()));
                log(client, &query, "refused: too many are under way", 0);
                Outcome::Answered(query.failed(ResponseCode::Refused))
            }
        }
    }

    /// The answer to a question that had to wait.
    pub(super) async fn wait(&self, client: &Client, waiting: Waiting) -> Vec<u8> {
        let Waiting { query, deadline, _place } = waiting;
        let Ok(workload) = timeout_at(deadline, self.workload_once_known(client)).await else {
            self.metrics.requested(&labels(&query, None));
            log(client, &query, "failed: the mesh doesn't know the pod", 0);
            return query.failed(ResponseCode::ServFail);
        };
        let labels = labels(&query, Some(&workload));
        self.metrics.requested(&labels);
        let resolvers = self.resolv_conf.load();
        // The mesh may have learnt of the name while we waited for it to know the pod.
        if let Some(found) = self.find(client, &workload, &query, &resolvers) {
            return answer(client, &query, found);
        }
        self.metrics.forwarded(&labels);
        let begun = Instant::now();
        let answer = upstream::forward(&query, &client.pod, &resolvers, &self.origin, deadline).await;
        self.metrics.forwarding_ended(&labels, answer.is_ok(), begun.elapsed());
        match answer {
            Ok(answer) => {
                log(client, &query, "forwarded", 0);
                answer
            }
            Err(upstream::Unanswered) => {
                log(client, &query, "failed: no nameserver answers", 0);
                query.failed(ResponseCode::ServFail)
            }
        }
    }

    fn workload(&self, client: &Client) -> Option<Arc<Workload>> {
        let name = client.pod.workload();
        let mesh = self.store.load();
        mesh.local_workload(&name.namespace, &name.name, &name.service_account, self.node.as_deref()).cloned()
    }

    async fn workload_once_known(&self, client: &Client) -> Arc<Workload> {
        let mut changes = self.store.changes();
        loop {
            changes.mark_unchanged();
            if let Some(workload) = self.workload(client) {
                return workload;
            }
            if changes.changed().await.is_err() {
                // Without a store nothing will come; the caller's time limit ends this.
                std::future::pending::<()>().await;
            }
        }
    }

    fn find(
        &self,
        client: &Client,
        workload: &Workload,
        query: &Query,
        resolvers: &Resolvers,
    ) -> Option<Found> {
        let question = query.question();
        let family = Family::of(question.query_type()).filter(|_| question.query_class() == DNSClass::IN)?;
        let asked = names::text(question.name())?;
        let search = match self.search {
            SearchDomains::OfPod => &client.search[..],
            SearchDomains::OfResolvConf => resolvers.search(),
        };
        let asker = Asker { namespace: &client.pod.workload().namespace, network: &workload.network, search };
        self.lookup.find(&self.store.load(), asker, &asked, family)
    }
}

fn labels(query: &Query, source: Option<&Workload>) -> DnsLabels {
    DnsLabels::new(query.question().query_type(), query.transport(), source)
}

/// The answer to a name that the mesh knows, its addresses in a random order.
fn answer(client: &Client, query: &Query, mut found: Found) -> Vec<u8> {
    log(client, query, "answered", found.addresses.len());
    fastrand::shuffle(&mut found.addresses);
    query.answered(records(query.question().name(), &found))
}

/// The name as the client wrote it has the addresses, or is an alias of what is left of it without a search domain.
fn records(asked: &Name, found: &Found) -> Vec<Record> {
    if found.addresses.is_empty() {
        return Vec::new();
    }
    let record = |name: &Name, data| Record::from_rdata(name.clone(), TIME_TO_LIVE, data);
    let first_labels = |count| Name::from_labels(asked.iter().take(count)).ok();
    let target = found.alias_of.and_then(first_labels);
    let alias = target.iter().map(|target| record(asked, RData::CNAME(CNAME(target.clone()))));
    let owner = target.as_ref().unwrap_or(asked);
    let addresses = found.addresses.iter().map(|address| match address {
        IpAddr::V4(address) => record(owner, RData::A(A(*address))),
        IpAddr::V6(address) => record(owner, RData::AAAA(AAAA(*address))),
    });
    alias.chain(addresses).collect()
}

fn log(client: &Client, query: &Query, result: &str, endpoints: usize) {
    let (workload, question) = (client.pod.workload(), query.question());
    event!(
        target: "dns",
        Level::DEBUG,
        src.workload = %workload.name,
        src.namespace = %workload.namespace,
        query = %question.query_type(),
        domain = %question.name(),
        result,
        endpoints,
    );
}
