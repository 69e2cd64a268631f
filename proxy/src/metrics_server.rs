//! Where Prometheus scrapes.

use std::future::Future;
use std::io;

use http::request::Parts;
use hyper::header::ACCEPT;

use crate::http_server::{self, Method, StatusCode, Stop, content, empty};
use crate::telemetry::Telemetry;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves `GET /metrics` and `/stats/prometheus` until `stop`.
pub fn serve(
    listener: std::net::TcpListener,
    telemetry: Telemetry,
    stop: Stop,
) -> io::Result<impl Future<Output = ()> + Send> {
    let handle = move |head: &Parts| match (head.uri.path(), &head.method) {
        ("/metrics" | "/stats/prometheus", &Method::GET) => {
            content(StatusCode::OK, content_type(head), telemetry.exposition())
        }
        ("/metrics" | "/stats/prometheus", _) => empty(StatusCode::METHOD_NOT_ALLOWED),
        _ => empty(StatusCode::NOT_FOUND),
    };
    http_server::serve("stats", listener, handle, stop)
}

/// The text is the same; a scraper that knows only the older format is told that name.
fn content_type(head: &Parts) -> &'static str {
    let mut accepted = head.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.any(|value| value.contains("application/openmetrics-text")) { OPEN_METRICS } else { PLAIN }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::http_server::testing::{block_on, listener, request};

    #[test]
    fn both_paths_expose_the_metrics() {
        block_on(async {
            let (listener, address) = listener();
            let (_stop, stopped) = watch::channel(false);
            tokio::spawn(serve(listener, Telemetry::new("1.31.0", || 0), stopped).unwrap());
            for path in ["/metrics", "/stats/prometheus"] {
                let (status, head, body) = request(address, "GET", path, "").await;
                assert_eq!(status, 200);
                assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
                assert!(body.contains("istio_build{component=\"ztunnel\",tag=\"1.31.0\"} 1\n"), "{body}");
                assert!(body.ends_with("# EOF\n"));
            }
            let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
            let (_, head, _) = request(address, "GET", "/metrics", accept).await;
            assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
            assert_eq!(request(address, "POST", "/metrics", "").await.0, 405);
            assert_eq!(request(address, "GET", "/", "").await.0, 404);
        });
    }
}
