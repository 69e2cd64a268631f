//! Items in rounds, side by side: a round takes each figure on every route, the next one in reverse order.

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
                let routes = self.routes()?;
                for connections in [1, 8] {
                    show(self.bulk(&routes, connections)?);
                }
            }
            Item::Latency => {
                let routes = self.routes()?;
                for connections in [1, 16] {
                    let title =
                        format!("requests of {} bytes, connections: {connections}", exchange::REQUEST);
                    let section = self.exchanges(title, &routes, |route, duration| {
                        exchange::requests(route, connections, duration)
                    });
                    show(section?);
                }
            }
            Item::Connect => {
                let routes = self.routes()?;
                for clients in [1, 8] {
                    let title = format!("new connections, clients: {clients}");
                    let section = self.exchanges(title, &routes, |route, duration| {
                        exchange::connects(route, clients, duration)
                    });
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
        NodeSettings { workers: self.workers, move_interval, environment: Vec::new() }
    }

    /// Calls `once` for every route in every round, in alternating order; the results by route.
    ///
    /// # Errors
    /// The first error of any of them.
    pub fn rounds<T>(
        &self,
        routes: &[Route],
        mut once: impl FnMut(&Route) -> Result<T, LoadError>,
    ) -> Result<Vec<Vec<T>>, LoadError> {
        let mut results: Vec<Vec<T>> = routes.iter().map(|_| Vec::new()).collect();
        for round in 0..self.rounds {
            let mut order: Vec<usize> = (0..routes.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for place in order {
                results[place].push(once(&routes[place])?);
            }
        }
        Ok(results)
    }

    /// Direct first, then through each build.
    fn routes(&self) -> Result<Vec<Route>, LoadError> {
        let mut routes = vec![Route::direct()?];
        for Build { label, proxy } in &self.builds {
            routes.push(Route::through(label, proxy, &self.settings(None), &self.logs)?);
        }
        Ok(routes)
    }

    fn bulk(&self, routes: &[Route], connections: usize) -> Result<Section, LoadError> {
        let results = self.rounds(routes, |route| bulk::transfer(route, connections, self.duration))?;
        let mut section = Section::new(format!("bulk, connections: {connections}"));
        compare(&mut section, routes, &results, "throughput", "Gb/s", Transfer::gigabits);
        for (route, transfers) in routes.iter().zip(&results) {
            let mut cost = |who: &str, seconds: fn(&Transfer) -> f64| {
                let values = transfers.iter().map(|transfer| seconds(transfer) / transfer.gigabytes());
                let item = format!("processor time, {}: {who}", route.label);
                section.push(Line::new(item, "CPU-s/GB", values.collect()));
            };
            if route.stage().is_some() {
                cost("client node", |transfer| transfer.cost.client_node);
                cost("server node", |transfer| transfer.cost.server_node);
            }
            cost("applications", |transfer| transfer.cost.ends);
        }
        compare_nodes(&mut section, routes, &results, |transfer| {
            transfer.cost.nodes() / transfer.gigabytes()
        });
        Ok(section)
    }

    fn exchanges(
        &self,
        title: String,
        routes: &[Route],
        once: impl Fn(&Route, Duration) -> Result<Exchange, LoadError>,
    ) -> Result<Section, LoadError> {
        let results = self.rounds(routes, |route| once(route, self.duration))?;
        let mut section = Section::new(title);
        compare(&mut section, routes, &results, "rate", "1/s", Exchange::rate);
        compare(&mut section, routes, &results, "p50", "µs", |exchange| exchange.micros(0.5));
        compare(&mut section, routes, &results, "p99", "µs", |exchange| exchange.micros(0.99));
        for (route, exchanges) in routes.iter().zip(&results) {
            let mut cost = |who: &str, seconds: fn(&Exchange) -> f64| {
                let values = exchanges.iter().map(|exchange| exchange.micros_each(seconds(exchange)));
                section.push(Line::new(
                    format!("processor time, {}: {who}", route.label),
                    "CPU-µs each",
                    values.collect(),
                ));
            };
            if route.stage().is_some() {
                cost("both nodes", |exchange| exchange.cost.nodes());
            }
            cost("applications", |exchange| exchange.cost.ends);
        }
        compare_nodes(&mut section, routes, &results, |exchange| exchange.micros_each(exchange.cost.nodes()));
        Ok(section)
    }
}

/// A line for each route, then the ratio of each to the first, then of the third to the second.
pub fn compare<T>(
    section: &mut Section,
    routes: &[Route],
    results: &[Vec<T>],
    what: &str,
    unit: &'static str,
    value: impl Fn(&T) -> f64,
) {
    let values: Vec<Vec<f64>> = results.iter().map(|results| results.iter().map(&value).collect()).collect();
    for (route, values) in routes.iter().zip(&values) {
        section.push(Line::new(format!("{what}, {}", route.label), unit, values.clone()));
    }
    for (place, by) in [(1, 0), (2, 0), (2, 1)] {
        if let (Some(this), Some(that)) = (values.get(place), values.get(by)) {
            let item = format!("{what}, {} / {}", routes[place].label, routes[by].label);
            section.push(Line::ratio(item, this, that));
        }
    }
}

/// The ratio of two builds' processor time. It is the steadiest figure of all on a host that has too few processors.
fn compare_nodes<T>(section: &mut Section, routes: &[Route], results: &[Vec<T>], cost: impl Fn(&T) -> f64) {
    if let ([_, first, second], [_, of_first, of_second]) = (routes, results) {
        let costs = |results: &[T]| results.iter().map(&cost).collect::<Vec<f64>>();
        let item = format!("processor time of both nodes, {} / {}", second.label, first.label);
        section.push(Line::ratio(item, &costs(of_second), &costs(of_first)));
    }
}
