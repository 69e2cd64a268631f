//! Runs the subscription: time, attempts, demands, what is told and is to be told, and the keeper's work.

use std::sync::Arc;
use std::time::Duration;

use prost::DecodeError;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::attempt::{Attempt, Event};
use super::keeper::{Keeper, Outcome};
use super::teller::Teller;
use super::{ClientConfig, Command, Progress, Reports};
use crate::connect::Server;
use crate::proto::ResourceType;
use crate::store::Store;
use crate::subscription::{Action, Ending, Report, Subscription, Told};
use crate::telling::{Names, State};

pub(super) struct Driver {
    server: Server,
    store: Store,
    reports: Arc<dyn Reports>,
    progress: Progress,
    subscription: Subscription,
    attempt: Option<Attempt>,
    /// None while it works.
    keeper: Option<Keeper>,
    /// One piece at a time: responses are applied in their order.
    work: Option<Work>,
    told: Told,
    tellers: Vec<Teller>,
    /// Not yet told: only between two pieces of work is it known which generation holds what.
    new_demands: Vec<Arc<str>>,
    start: Instant,
}

struct Work {
    of: Source,
    task: JoinHandle<Worked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    ControlPlane,
    OtherProcess,
}

type Worked = (Keeper, Result<Outcome, DecodeError>);

impl Driver {
    pub(super) fn new(
        config: ClientConfig,
        store: Store,
        reports: Arc<dyn Reports>,
        progress: Progress,
    ) -> Self {
        let mut subscription = Subscription::new(config.node, config.on_demand, fastrand::Rng::new());
        if !config.begins_later {
            subscription.begin(0);
        }
        Self {
            server: config.server,
            subscription,
            keeper: Some(Keeper::new(store.clone())),
            store,
            reports,
            progress,
            attempt: None,
            work: None,
            told: Told::default(),
            tellers: Vec::new(),
            new_demands: Vec::new(),
            start: Instant::now(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut demands: mpsc::UnboundedReceiver<Arc<str>>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        loop {
            while let Some(action) = self.subscription.poll() {
                self.perform(action);
            }
            if self.work.is_none() {
                self.tell_demands();
                self.learn();
            }
            let held_until = self.keeper.as_ref().and_then(Keeper::timeout).map(|at| self.instant(at));
            let timeout = self.subscription.timeout().map(|at| self.instant(at));
            // While the keeper works neither the stream nor the time is looked at: what it does may decide both.
            let idle = self.work.is_none();
            let judges = idle && self.told.has_to_judge(self.subscription.stream());
            tokio::select! {
                (of, worked) = finished(&mut self.work) => self.worked(of, worked),
                event = next_event(&mut self.attempt), if idle => self.handle(event),
                () = until(held_until), if idle => self.release(),
                () = until(timeout), if idle => {
                    let now = self.now();
                    self.subscription.handle_timeout(now);
                }
                // There may be many of them.
                () = tokio::task::yield_now(), if judges => self.judge(),
                Some(name) = demands.recv() => self.demand(&name),
                Some(command) = commands.recv(), if idle => self.obey(command),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Tell(listener) => {
                let demanded = self.subscription.demanded().clone();
                self.tellers.push(Teller::start(self.state(), demanded, listener));
            }
            Command::Learn(telling) => {
                for name in telling.demanded() {
                    self.demand(name);
                }
                self.told.take(telling);
            }
            Command::Begin => self.subscription.begin(self.now()),
        }
    }

    fn demand(&mut self, name: &Arc<str>) {
        if self.subscription.demand(name) {
            self.new_demands.push(name.clone());
        }
    }

    fn tell_demands(&mut self) {
        let demands = std::mem::take(&mut self.new_demands);
        if !demands.is_empty() {
            self.tell(|names| names.demanded.extend(demands.iter().cloned()));
        }
    }

    /// Of the state that is visible now.
    fn tell(&mut self, change: impl Fn(&mut Names)) {
        if !self.tellers.is_empty() {
            let state = self.state();
            self.tellers.retain(|teller| teller.tell(&state, &change));
        }
    }

    /// Only while the keeper is idle do the two belong together.
    fn state(&self) -> State {
        State { snapshot: self.store.load().clone(), retained: self.subscription.retained().clone() }
    }

    /// Applies what is told next, if it counts.
    fn learn(&mut self) {
        if let Some(telling) = self.told.next_to_apply(self.subscription.stream()) {
            self.work(Source::OtherProcess, move |keeper| Ok(keeper.learn(telling)));
        }
    }

    fn judge(&mut self) {
        let state = self.state();
        self.told.judge(|change| state.agrees_with(change));
        self.show_caught_up();
    }

    fn show_caught_up(&self) {
        let generation = self.told.caught_up();
        self.progress.caught_up.send_if_modified(|shown| std::mem::replace(shown, generation) != generation);
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
                self.work(Source::ControlPlane, move |keeper| keeper.take(bytes, &awaited, now));
            }
            Event::Ended(ending) => self.ended(&ending),
        }
    }

    fn worked(&mut self, of: Source, worked: Result<Worked, JoinError>) {
        self.work = None;
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
        match (result, of) {
            (Ok(outcome), _) => self.visible(outcome),
            (Err(reason), Source::ControlPlane) => self.ended(&Ending::Broken { reason, usual: false }),
            (Err(_), Source::OtherProcess) => {
                warn!("what another process told made the decoder panic");
                self.told.lost();
            }
        }
    }

    fn visible(&mut self, Outcome { received, applied, learnt }: Outcome) {
        let now = self.now();
        // It waited for us.
        self.subscription.received(now);
        if let Some((type_url, bytes)) = received {
            self.reports.received(&type_url, bytes);
        }
        if applied.is_empty() && learnt.is_none() {
            return; // it is held back
        }
        let mut changed = Names::default();
        for answer in applied {
            changed.add(&answer);
            if let Some(r#type) = ResourceType::from_url(&answer.type_url) {
                self.told.brought(r#type, answer.names());
            }
            self.subscription.applied(answer, now);
        }
        if let Some((generation, answers)) = learnt {
            for answer in &answers {
                changed.add(answer);
                self.subscription.learnt(answer);
            }
            self.told.applied(generation);
        }
        self.show_caught_up();
        self.tell(|names| names.extend(&changed));
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
        self.work(Source::ControlPlane, |keeper| Ok(keeper.release()));
    }

    fn work(
        &mut self,
        of: Source,
        piece: impl FnOnce(&mut Keeper) -> Result<Outcome, DecodeError> + Send + 'static,
    ) {
        if let Some(mut keeper) = self.keeper.take() {
            let task = tokio::task::spawn_blocking(move || {
                let result = piece(&mut keeper);
                (keeper, result)
            });
            self.work = Some(Work { of, task });
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
                self.progress.synced.send_replace(true);
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

async fn finished(work: &mut Option<Work>) -> (Source, Result<Worked, JoinError>) {
    match work {
        Some(Work { of, task }) => (*of, task.await),
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
