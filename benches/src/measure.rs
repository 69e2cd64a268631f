//! Items in rounds, side by side: a round takes each figure on every route, the next one in reverse order. Each round has
//! nodes of its own: whatever is settled when they start, such as which worker gets which connection, varies from round to
//! round and shows in the range, instead of being taken for a property of the build.

use std::path::{Path, PathBuf};
use std::time::Duration;

use demo::node::Proxy;
use demo::stage::NodeSettings;

use crate::arguments::{Arguments, Item};
use crate::bulk::{self, Transfer};
use crate::error::{LoadError, during};
use crate::exchange::{self, Exchange};
use crate::figures::{Line, Section};
use crate::idle;
use crate::moves;
use crate::route::Route;

/// What is measured, and how.
#[derive(Debug)]
pub struct Bench {
    /// The builds: the first, and perhaps one to compare it with.
    pub builds: Vec<Build>,
    /// How often.
    pub rounds: usize,
    /// How long each time.
    pub duration: Duration,
    /// Data-plane threads of each node.
    pub workers: usize,
    /// Idle connections.
    pub idle: usize,
    /// Where the nodes' logs go.
    pub logs: PathBuf,
}

/// A proxy program.
#[derive(Debug)]
pub struct Build {
    /// What the figures call it.
    pub label: String,
    /// How it is started.
    pub proxy: Proxy,
}

/// What came of one route, round by round.
#[derive(Debug)]
pub struct Runs<T> {
    /// What the figures call the route.
    pub label: String,
    /// Whether there are nodes on it.
    pub through_nodes: bool,
    /// One for each round.
    pub results: Vec<T>,
}

impl<T> Runs<T> {
    fn of(route: &Route) -> Self {
        Self { label: route.label.clone(), through_nodes: route.stage().is_some(), results: Vec::new() }
    }
}

impl Bench {
    /// As the command line wants it.
    ///
    /// # Errors
    /// The system does not tell where this program is.
    pub fn new(arguments: &Arguments, logs: &Path) -> Result<Self, LoadError> {
        let first = match &arguments.proxy {
            Some(program) => Proxy::at(program),
            None => Proxy::own().map_err(during("no path of this program"))?,
        };
        let mut builds = vec![Build { label: "proxies".to_owned(), proxy: first }];
        if let Some(program) = &arguments.against {
            builds.push(Build { label: "against".to_owned(), proxy: Proxy::at(program) });
        }
        Ok(Self {
            builds,
            rounds: arguments.rounds,
            duration: arguments.duration,
            workers: arguments.workers,
            idle: arguments.idle,
            logs: logs.to_owned(),
        })
    }

    /// Measures one item, and gives each section to `show` as soon as it is there.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn item(&self, item: Item, show: &mut impl FnMut(Section)) -> Result<(), LoadError> {
        match item {
            Item::Bulk => {
                for connections in [1, 8] {
                    show(self.bulk(connections)?);
                }
            }
            Item::Latency => {
                for connections in [1, 16] {
                    let title =
                        format!("requests of {} bytes, connections: {connections}", exchange::REQUEST);
                    let section = self
                        .exchanges(title, |route, duration| exchange::requests(route, connections, duration));
                    show(section?);
                }
            }
            Item::Connect => {
                for clients in [1, 8] {
                    let title = format!("new connections, clients: {clients}");
                    let section =
                        self.exchanges(title, |route, duration| exchange::connects(route, clients, duration));
                    show(section?);
                }
            }
            Item::Idle => {
                for build in &self.builds {
                    show(idle::measure(self, build)?);
                }
            }
            Item::Moves => {
                for build in &self.builds {
                    show(moves::under_load(self, build)?);
                }
                show(moves::in_memory(self.rounds)?);
            }
        }
        Ok(())
    }

    /// Settings of all nodes.
    pub fn settings(&self, move_interval: Option<Duration>) -> NodeSettings {
        NodeSettings { workers: self.workers, move_interval, handover: false, environment: Vec::new() }
    }

    /// Calls `once` for every route that `make` gives, in every round anew and in alternating order.
    ///
    /// # Errors
    /// The first error of any of them.
    pub fn rounds<T>(
        &self,
        make: impl Fn() -> Result<Vec<Route>, LoadError>,
        mut once: impl FnMut(&Route) -> Result<T, LoadError>,
    ) -> Result<Vec<Runs<T>>, LoadError> {
        let mut runs: Vec<Runs<T>> = Vec::new();
        for round in 0..self.rounds {
            let routes = make()?;
            if runs.is_empty() {
                runs.extend(routes.iter().map(Runs::of));
            }
            let mut order: Vec<usize> = (0..routes.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for place in order {
                runs[place].results.push(once(&routes[place])?);
            }
        }
        Ok(runs)
    }

    /// Direct first, then through each build.
    fn routes(&self) -> Result<Vec<Route>, LoadError> {
        let mut routes = vec![Route::direct()?];
        for Build { label, proxy } in &self.builds {
            routes.push(Route::through(label, proxy, &self.settings(None), &self.logs)?);
        }
        Ok(routes)
    }

    fn bulk(&self, connections: usize) -> Result<Section, LoadError> {
        let runs =
            self.rounds(|| self.routes(), |route| bulk::transfer(route, connections, self.duration))?;
        let mut section = Section::new(format!("bulk, connections: {connections}"));
        compare(&mut section, &runs, "throughput", "Gb/s", Transfer::gigabits);
        for Runs { label, through_nodes, results: transfers } in &runs {
            let mut cost = |who: &str, seconds: fn(&Transfer) -> f64| {
                let values = transfers.iter().map(|transfer| seconds(transfer) / transfer.gigabytes());
                let item = format!("processor time, {label}: {who}");
                section.push(Line::new(item, "CPU-s/GB", values.collect()));
            };
            if *through_nodes {
                cost("client node", |transfer| transfer.cost.client_node);
                cost("server node", |transfer| transfer.cost.server_node);
            }
            cost("applications", |transfer| transfer.cost.ends);
        }
        compare_nodes(&mut section, &runs, |transfer| transfer.cost.nodes() / transfer.gigabytes());
        Ok(section)
    }

    fn exchanges(
        &self,
        title: String,
        once: impl Fn(&Route, Duration) -> Result<Exchange, LoadError>,
    ) -> Result<Section, LoadError> {
        let runs = self.rounds(|| self.routes(), |route| once(route, self.duration))?;
        let mut section = Section::new(title);
        compare(&mut section, &runs, "rate", "1/s", Exchange::rate);
        compare(&mut section, &runs, "p50", "µs", |exchange| exchange.micros(0.5));
        compare(&mut section, &runs, "p99", "µs", |exchange| exchange.micros(0.99));
        for Runs { label, through_nodes, results: exchanges } in &runs {
            let mut cost = |who: &str, seconds: fn(&Exchange) -> f64| {
                let values = exchanges.iter().map(|exchange| exchange.micros_each(seconds(exchange)));
                section.push(Line::new(
                    format!("processor time, {label}: {who}"),
                    "CPU-µs each",
                    values.collect(),
                ));
            };
            if *through_nodes {
                cost("both nodes", |exchange| exchange.cost.nodes());
            }
            cost("applications", |exchange| exchange.cost.ends);
        }
        compare_nodes(&mut section, &runs, |exchange| exchange.micros_each(exchange.cost.nodes()));
        Ok(section)
    }
}

/// A line for each route, then the ratio of each to the first, then of the third to the second.
pub fn compare<T>(
    section: &mut Section,
    runs: &[Runs<T>],
    what: &str,
    unit: &'static str,
    value: impl Fn(&T) -> f64,
) {
    let values: Vec<Vec<f64>> = runs.iter().map(|runs| runs.results.iter().map(&value).collect()).collect();
    for (Runs { label, .. }, values) in runs.iter().zip(&values) {
        section.push(Line::new(format!("{what}, {label}"), unit, values.clone()));
    }
    for (place, by) in [(1, 0), (2, 0), (2, 1)] {
        if let (Some(this), Some(that)) = (values.get(place), values.get(by)) {
            let item = format!("{what}, {} / {}", runs[place].label, runs[by].label);
            section.push(Line::ratio(item, this, that));
        }
    }
}

/// The ratio of two builds' processor time. It is the steadiest figure of all on a host that has too few processors.
fn compare_nodes<T>(section: &mut Section, runs: &[Runs<T>], cost: impl Fn(&T) -> f64) {
    if let [_, first, second] = runs {
        let costs = |runs: &Runs<T>| runs.results.iter().map(&cost).collect::<Vec<f64>>();
        let item = format!("processor time of both nodes, {} / {}", second.label, first.label);
        section.push(Line::ratio(item, &costs(second), &costs(first)));
    }
}
