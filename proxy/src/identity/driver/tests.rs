//! The manager with a CA, on tokio's paused clock.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::identity::Lookup;
use crate::identity::ca::Signing;
use crate::identity::fake_ca::FakeCa;
use crate::identity::testing::{DAY, DB, TestCa, WEB, talk};
use crate::telemetry::Telemetry;

/// Does what it was told for the next requests, then signs.
struct Script {
    ca: FakeCa,
    steps: Mutex<VecDeque<Step>>,
}

enum Step {
    Fail,
    Hang,
    Panic,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        let root = TestCa::new("root");
        let ca = FakeCa::new(root.root_pem(), &root.key_pem(), DAY).unwrap();
        Arc::new(Self { ca, steps: Mutex::new(steps.into_iter().collect()) })
    }
}

impl CertificateAuthority for Script {
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str) -> Signing<'a> {
        match self.steps.lock().unwrap().pop_front() {
            None => self.ca.sign(identity, csr),
            Some(Step::Fail) => Box::pin(async { Err(CaError::Unreachable("nobody there".into())) }),
            Some(Step::Hang) => Box::pin(pending()),
            Some(Step::Panic) => Box::pin(async { panic!("a fault in the CA client") }),
        }
    }
}

fn metrics() -> ControlPlaneMetrics {
    Telemetry::new("", || 0).control_plane().clone()
}

fn web() -> Identity {
    WEB.parse().unwrap()
}

/// Asks as a worker would: look, request, wait, look again.
async fn ask(certificates: &Certificates, identity: &Identity) -> Lookup {
    let lookup = certificates.lookup(identity);
    if !lookup.is_pending() {
        return lookup;
    }
    let (wake, woken) = oneshot::channel();
    certificates.request(identity, Box::new(move || wake.send(()).unwrap()));
    // An hour of the paused clock: a test that waits for ever says nothing.
    tokio::time::timeout(Duration::from_secs(3_600), woken).await.expect("woken in time").unwrap();
    certificates.lookup(identity)
}

async fn ready(certificates: &Certificates, identity: &Identity) -> Arc<Credentials> {
    loop {
        match ask(certificates, identity).await {
            Lookup::Ready(credentials) => return credentials,
            Lookup::Pending => panic!("woken too early"),
            Lookup::Unavailable(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

fn reason(lookup: Lookup) -> String {
    match lookup {
        Lookup::Unavailable(reason) => reason.to_string(),
        Lookup::Pending => panic!("pending"),
        Lookup::Ready(_) => panic!("ready"),
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_come_and_work() {
    let (certificates, manager) = start(Script::new([]), metrics());
    tokio::spawn(manager);
    assert!(certificates.lookup(&web()).is_pending());
    let web = ready(&certificates, &web()).await;
    let db = ready(&certificates, &DB.parse().unwrap()).await;
    talk(&web, &db, DB).unwrap();
    assert!(web.client([DB]).is_ok());
    assert!(matches!(web.client(Vec::<String>::new()), Err(crate::identity::ClientError::NobodyExpected)));
    let summaries = certificates.summaries();
    assert_eq!(summaries.iter().map(|summary| summary.identity.to_string()).collect::<Vec<_>>(), [DB, WEB]);
    assert!(summaries.iter().all(|summary| summary.state.to_string() == "Available"));
}

#[tokio::test(start_paused = true)]
async fn a_warm_certificate_is_there_before_it_is_asked_for() {
    let (certificates, manager) = start(Script::new([]), metrics());
    tokio::spawn(manager);
    certificates.warm_up(&web());
    while certificates.lookup(&web()).is_pending() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(certificates.lookup(&web()), Lookup::Ready(_)));
}

#[tokio::test(start_paused = true)]
async fn failures_have_a_reason_and_pass() {
    // A new identity is tried three times before the first attempts count.
    for (steps, why) in [
        (vec![Step::Fail, Step::Fail, Step::Fail], "the CA cannot be reached: nobody there"),
        (vec![Step::Hang], "the CA did not answer within 10 s"),
        (vec![Step::Panic, Step::Panic, Step::Panic], "the certificate request panicked"),
    ] {
        let (certificates, manager) = start(Script::new(steps), metrics());
        tokio::spawn(manager);
        assert_eq!(reason(ask(&certificates, &web()).await), why);
        assert_eq!(certificates.summaries()[0].state.to_string(), format!("Unavailable: {why}"));
        let failed = Instant::now();
        ready(&certificates, &web()).await;
        assert!(failed.elapsed() <= Duration::from_secs(5), "{why}: {:?}", failed.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_hears_late_of_an_identity_costs_no_connection() {
    let (certificates, manager) = start(Script::new([Step::Fail, Step::Fail]), metrics());
    tokio::spawn(manager);
    let begun = Instant::now();
    assert!(matches!(ask(&certificates, &web()).await, Lookup::Ready(_)), "the first to ask waited");
    assert!(begun.elapsed() <= Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_certificate_is_gone_with_its_last_user() {
    let (certificates, manager) = start(Script::new([]), metrics());
    tokio::spawn(manager);
    let (web, db) = (web(), DB.parse().unwrap());
    let held = ready(&certificates, &web).await;
    let kept = ready(&certificates, &db).await;
    certificates.retain(BTreeSet::from([db.clone()]));
    while !certificates.lookup(&web).is_pending() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(certificates.summaries().iter().map(|summary| &summary.identity).collect::<Vec<_>>(), [&db]);
    let alive = Arc::downgrade(&held);
    talk(&held, &kept, DB).unwrap();
    drop(held);
    assert!(alive.upgrade().is_none(), "nobody else has the key");

    let again = ready(&certificates, &web).await;
    assert!(again.generation() > kept.generation(), "fetched anew");
}

#[tokio::test(start_paused = true)]
async fn when_the_manager_goes_nobody_is_left_waiting() {
    let (certificates, manager) = start(Script::new([Step::Hang]), metrics());
    let task = tokio::spawn(manager);
    let waiting = tokio::spawn({
        let certificates = certificates.clone();
        async move { ask(&certificates, &web()).await }
    });
    while certificates.summaries().is_empty() {
        tokio::task::yield_now().await;
    }
    task.abort();
    let stopped = "the certificate manager has stopped";
    assert_eq!(reason(waiting.await.unwrap()), stopped);
    // Those who come later are not left waiting either.
    let (wake, woken) = oneshot::channel();
    certificates.request(&web(), Box::new(move || wake.send(()).unwrap()));
    woken.await.unwrap();
    assert_eq!(reason(certificates.lookup(&DB.parse().unwrap())), stopped);
}

#[tokio::test(start_paused = true)]
async fn requests_that_the_manager_never_saw_are_woken_too() {
    let (certificates, manager) = start(Script::new([]), metrics());
    let (wake, woken) = oneshot::channel();
    certificates.request(&web(), Box::new(move || wake.send(()).unwrap()));
    drop(manager);
    woken.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_manager_ends_with_the_last_handle() {
    let (certificates, manager) = start(Script::new([]), metrics());
    let task = tokio::spawn(manager);
    drop(certificates.clone());
    drop(certificates);
    task.await.unwrap();
}
