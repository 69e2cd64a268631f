//! Runs the subscription: time, attempts, demands, and the keeper's work.

use std::sync::Arc;
use std::time::Duration;

use prost::DecodeError;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::attempt::{Attempt, Event};
use super::keeper::{Keeper, Outcome};
use super::{ClientConfig, Reports};
use crate::connect::Server;
use crate::store::Store;
use crate::subscription::{Action, Ending, Report, Subscription};

pub(super) struct Driver {
    server: Server,
    store: Store,
    reports: Arc<dyn Reports>,
    synced: watch::Sender<bool>,
    subscription: Subscription,
    attempt: Option<Attempt>,
    /// None while it works.
    keeper: Option<Keeper>,
    /// One piece at a time: responses are applied in their order.
    work: Option<JoinHandle<Worked>>,
    start: Instant,
}

type Worked = (Keeper, Result<Outcome, DecodeError>);

impl Driver {
    pub(super) fn new(
        config: ClientConfig,
        store: Store,
        reports: Arc<dyn Reports>,
        synced: watch::Sender<bool>,
    ) -> Self {
        Self {
            server: config.server,
            subscription: Subscription::new(config.node, config.on_demand, fastrand::Rng::new()),
            keeper: Some(Keeper::new(store.clone())),
            store,
            reports,
            synced,
            attempt: None,
            work: None,
            start: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, mut demands: mpsc::UnboundedReceiver<Arc<str>>) {
        loop {
            while let Some(action) = self.subscription.poll() {
                self.perform(action);
            }
            let held_until = self.keeper.as_ref().and_then(Keeper::timeout).map(|at| self.instant(at));
            let timeout = self.subscription.timeout().map(|at| self.instant(at));
            // While the keeper works neither the stream nor the time is looked at: what it does may decide both.
            let idle = self.work.is_none();
            tokio::select! {
                worked = finished(&mut self.work) => self.worked(worked),
                event = next_event(&mut self.attempt), if idle => self.handle(event),
                () = until(held_until), if idle => self.release(),
                () = until(timeout), if idle => {
                    let now = self.now();
                    self.subscription.handle_timeout(now);
                }
                Some(name) = demands.recv() => self.subscription.demand(&name),
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Connect { avoid } => self.attempt = Some(Attempt::start(self.server.clone(), avoid)),
            Action::Send(request) => {
                if let Some(attempt) = &self.attempt {
                    attempt.send(request);
                }
            }
            Action::Close => self.close(),
            Action::Report(report) => self.report(&report),
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Connected(address) => {
                debug!(%address, "connected to the control plane; subscribing");
                self.subscription.connected(address, now);
            }
            Event::Response(bytes) => {
                self.subscription.received(now);
                let awaited = self.subscription.awaited().clone();
                self.work(move |keeper| keeper.take(bytes, &awaited, now));
            }
            Event::Ended(ending) => self.ended(&ending),
        }
    }

    fn worked(&mut self, worked: Result<Worked, JoinError>) {
        self.work = None;
        let now = self.now();
        let result = match worked {
            Ok((keeper, result)) => {
                self.keeper = Some(keeper);
                result.map_err(|error| format!("the response cannot be read: {error}"))
            }
            Err(_) => {
                // What it held is lost, but was not acknowledged either: it will be sent again.
                self.keeper = Some(Keeper::new(self.store.clone()));
                Err("the response made the decoder panic".to_owned())
            }
        };
        match result {
            Ok(outcome) => {
                // It waited for us.
                self.subscription.received(now);
                if let Some((type_url, bytes)) = outcome.received {
                    self.reports.received(&type_url, bytes);
                }
                for answer in outcome.applied {
                    self.subscription.applied(answer, now);
                }
            }
            Err(reason) => self.ended(&Ending::Broken { reason, usual: false }),
        }
    }

    fn ended(&mut self, ending: &Ending) {
        let now = self.now();
        self.close();
        self.subscription.ended(ending, now);
    }

    /// What is held back is applied: nobody will send what it waits for.
    fn close(&mut self) {
        self.attempt = None;
        if self.keeper.as_ref().is_some_and(|keeper| keeper.timeout().is_some()) {
            self.release();
        }
    }

    fn release(&mut self) {
        self.work(|keeper| Ok(keeper.release()));
    }

    fn work(&mut self, piece: impl FnOnce(&mut Keeper) -> Result<Outcome, DecodeError> + Send + 'static) {
        if let Some(mut keeper) = self.keeper.take() {
            self.work = Some(tokio::task::spawn_blocking(move || {
                let result = piece(&mut keeper);
                (keeper, result)
            }));
        }
    }

    fn report(&self, report: &Report) {
        match report {
            Report::Connected { outage_ms } => {
                match outage_ms {
                    None => info!("connected to the control plane"),
                    Some(outage_ms) => info!(outage_ms, "connected to the control plane again"),
                }
                self.reports.connected(true);
                self.synced.send_replace(true);
            }
            Report::Terminated(reason) => {
                self.reports.connected(false);
                self.reports.terminated(*reason);
            }
            Report::Failing { reason } => warn!("no control plane: {reason}; trying again"),
            Report::StillFailing { reason, retry_in_ms } => debug!(retry_in_ms, "no control plane: {reason}"),
            Report::Refused { type_url, resources, reasons } => {
                warn!(type_url, resources, "resources cannot be used: {reasons}");
                self.reports.refused(type_url, *resources);
            }
            Report::UnknownType { type_url } => warn!(type_url, "the control plane sends an unknown type"),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn instant(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }
}

async fn finished(work: &mut Option<JoinHandle<Worked>>) -> Result<Worked, JoinError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn next_event(attempt: &mut Option<Attempt>) -> Event {
    match attempt {
        Some(attempt) => attempt.event().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
