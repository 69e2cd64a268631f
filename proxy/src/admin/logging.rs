//! `/logging`: what is logged, shown and changed while the process runs.

use http::request::Parts;

use super::parameter;
use crate::http_server::{Method, Response, StatusCode, text};
use crate::telemetry::log::LogHandle;

const USAGE: &str = "
usage: POST /logging                              shows the levels
usage: POST /logging?level=<level>                sets the level of everything that has none of its own
usage: POST /logging?level=<scope>=<level>,…      sets the level of scopes; <scope>:<level> works too
usage: POST /logging?reset[&level=…]              goes back to RUST_LOG first

levels: error, warn, info, debug, trace, off
scopes: a module such as ztunnel::pool, or access
";

pub(super) fn handle(log: &LogHandle, head: &Parts) -> Response {
    if head.method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, format!("use POST\n{USAGE}"));
    }
    let level = parameter(head, "level").unwrap_or_default();
    let changed = match (parameter(head, "reset"), level.as_str()) {
        (Some(_), level) => log.reset(level),
        (None, "") => Ok(()),
        (None, level) => log.add(level),
    };
    if let Err(error) = changed {
        return text(StatusCode::BAD_REQUEST, format!("Invalid level provided: {error}\n{USAGE}"));
    }
    match log.current() {
        Ok(current) => text(StatusCode::OK, format!("current log level is {current}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
