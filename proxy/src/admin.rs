//! The admin server: what an operator and `istioctl` ask of a running proxy. On loopback only.

mod connections;
mod dump;
mod handover;
mod logging;
mod version;
mod workload_state;

use std::future::Future;
use std::io;
use std::sync::Arc;

use drain::Registry;
use http::request::Parts;
use tokio::sync::mpsc;
use tracing::info;

use crate::handover::status::Status;
use crate::http_server::{self, Method, Response, StatusCode, Stop, content, empty, text};
use crate::identity::CertificateSummary;
use crate::pod::{Pods, WorkloadName};
use crate::telemetry::log::LogHandle;
use crate::telemetry::{ConnectionFacts, Telemetry};

/// What the admin server shows and can do.
pub struct Admin {
    /// Mesh state.
    pub store: xds::Store,
    /// The node that it runs on, if known.
    pub node: Option<String>,
    /// The pods that this proxy serves.
    pub pods: Pods,
    /// Gives uid and name of each pod that it was told to serve and doesn't yet.
    pub pending: Box<dyn Fn() -> Vec<(Arc<str>, WorkloadName)> + Send + Sync>,
    /// Mesh state that was given by file, as the key `staticConfig` shows it; null if none was.
    pub static_config: serde_json::Value,
    /// The configs of the subsystems, as the key `config` shows them. Without secrets.
    pub config: serde_json::Value,
    /// `AdminConfig::istio_version`.
    pub istio_version: String,
    /// Gives a summary of each certificate, never a key.
    pub certificates: Box<dyn Fn() -> Vec<CertificateSummary> + Send + Sync>,
    /// The live connections.
    pub connections: Arc<Registry<ConnectionFacts>>,
    /// The clock that connections are stamped with.
    pub telemetry: Telemetry,
    /// Changes what is logged.
    pub log: LogHandle,
    /// A message here shuts the process down gracefully.
    pub shutdown: mpsc::Sender<()>,
    /// Where this process stands among those that hand over to each other.
    pub handover: Status,
}

/// Path and purpose, for the index.
const PAGES: [(&str, &str); 6] = [
    ("config_dump", "the mesh's state, certificates (without keys), version and configuration, as JSON"),
    ("connections", "live connections, oldest first, as JSON; ?limit=N for the first N"),
    (
        "logging",
        "POST: show log levels, or change them with ?level=debug, ?level=access=debug,pool=trace, ?reset",
    ),
    ("handover", "who accepts, and how the last hand-overs went, as JSON"),
    ("handover/plan", "what a successor would get, and what would stay and drain, as JSON"),
    ("quitquitquit", "POST: shut down gracefully"),
];

/// Serves the pages until `stop`. Call it once for each listener.
pub fn serve(
    listener: std::net::TcpListener,
    admin: Arc<Admin>,
    stop: Stop,
) -> io::Result<impl Future<Output = ()> + Send> {
    http_server::serve("admin", listener, move |head| admin.handle(head), stop)
}

impl Admin {
    fn handle(&self, head: &Parts) -> Response {
        match head.uri.path() {
            "/" => index(),
            "/config_dump" => json(&dump::ConfigDump::new(self)),
            "/connections" => connections::handle(self, head),
            "/logging" => logging::handle(&self.log, head),
            "/handover" => handover::status(self),
            "/handover/plan" => handover::plan(self),
            "/quitquitquit" => self.quit(&head.method),
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    fn quit(&self, method: &Method) -> Response {
        if method != Method::POST {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        info!("shutdown requested by the admin server");
        // A full or closed channel means that it is under way.
        let _ = self.shutdown.try_send(());
        text(StatusCode::OK, "shutdown now\n")
    }
}

fn index() -> Response {
    let rows: String = PAGES
        .iter()
        .map(|(path, purpose)| format!("<tr><td><a href=\"{path}\">{path}</a></td><td>{purpose}</td></tr>\n"))
        .collect();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><title>ztunnel admin</title></head>\n<body>\n\
         <h1>ztunnel</h1>\n<table>\n{rows}</table>\n</body>\n</html>\n"
    );
    content(StatusCode::OK, "text/html; charset=utf-8", page)
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec_pretty(value) {
        Ok(json) => content(StatusCode::OK, "application/json", json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be shown as JSON: {error}\n")),
    }
}

/// The value of a parameter of a request's query, with `%xx` and `+` decoded; `""` if it has none.
fn parameter(head: &Parts, name: &str) -> Option<String> {
    let pairs = head.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (first, escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (other, _) => {
                bytes.push(*other);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
