use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use drain::{Kind, Tracked};
use serde_json::{Value, json};
use tokio::sync::watch;
use xds::{Workload, WorkloadSpec};

use super::*;
use crate::config::{LogConfig, LogFormat};
use crate::http_server::testing::{block_on, listener, request};
use crate::identity::{CertificateEntry, CertificateState};
use crate::namespace::Namespace;
use crate::pod::Pod;
use crate::telemetry::log::LogGuard;
use crate::telemetry::{Direction, Party};

/// A running admin server.
struct Bench {
    address: SocketAddr,
    connections: Arc<Registry<ConnectionFacts>>,
    store: xds::Store,
    pods: Pods,
    pending: Arc<Mutex<Pending>>,
    shutdown: mpsc::Receiver<()>,
    _stop: watch::Sender<bool>,
    _log: (tracing::Dispatch, LogGuard),
}

/// Uid and name of each pod to come.
type Pending = Vec<(Arc<str>, WorkloadName)>;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

impl Bench {
    fn start() -> Self {
        let config = LogConfig { filter: "info".into(), format: LogFormat::Plain };
        let (dispatch, log, guard) = crate::telemetry::log::build(&config, io::sink()).unwrap();
        let connections = Registry::new(1);
        let (pods, pending) = (Pods::default(), Arc::<Mutex<Pending>>::default());
        let to_come = pending.clone();
        let store = xds::Store::new();
        let held = store.clone();
        let (shutdown, receiver) = mpsc::channel(1);
        let telemetry = Telemetry::new("1.31.0", || 5_000);
        let admin = Admin {
            store,
            node: Some("node-1".into()),
            pods: pods.clone(),
            pending: Box::new(move || to_come.lock().unwrap().clone()),
            static_config: json!({"workloads": []}),
            config: json!({"pool": {"maxStreamsPerConnection": 100}}),
            istio_version: "1.31.0".into(),
            certificates: Box::new(|| vec![summary()]),
            connections: Arc::clone(&connections),
            telemetry: telemetry.clone(),
            log,
            shutdown,
            handover: Status::new("istio-system/ztunnel-1".to_owned(), telemetry.handover().clone()),
        };
        let (listener, address) = listener();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, Arc::new(admin), stopped).unwrap());
        Self {
            address,
            connections,
            store: held,
            pods,
            pending,
            shutdown: receiver,
            _stop: stop,
            _log: (dispatch, guard),
        }
    }

    fn serve(&self, uid: &str, workload: WorkloadName) {
        let namespace = Arc::new(Namespace::current().unwrap());
        self.pods.insert(Arc::new(Pod::new(uid, workload, namespace, false)));
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = request(self.address, "GET", path, "").await;
        (status, body)
    }

    async fn post(&self, path: &str) -> (u16, String) {
        let (status, _, body) = request(self.address, "POST", path, "content-length: 0\r\n").await;
        (status, body)
    }

    async fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// An outbound stream of shop/web-1.
    fn connect(&self, port: u16, opened_ms: u64) -> Tracked<ConnectionFacts> {
        let facts = ConnectionFacts {
            direction: Direction::Outbound,
            source: Some(SocketAddr::from(([10, 0, 0, 1], port))),
            source_party: Party {
                identity: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
                ..party("web-1")
            },
            destination: Some("10.0.0.2:15008".parse().unwrap()),
            destination_party: Party::default(),
            application: None,
            hbone_destination: Some("10.0.0.2:8080".into()),
            service: None,
            mutual_tls: true,
        };
        self.connections.track(1, Kind::Stream, facts, opened_ms)
    }

    /// An inbound connection of shop/web-1 to another pod of its namespace, in plain text.
    fn accept(&self, pod: &str, port: u16) -> Tracked<ConnectionFacts> {
        let facts = ConnectionFacts {
            direction: Direction::Inbound,
            source: Some(SocketAddr::from(([10, 0, 0, 1], port))),
            source_party: party("web-1"),
            destination: Some("10.0.0.2:8080".parse().unwrap()),
            destination_party: party(pod),
            application: Some("10.0.0.2:8080".parse().unwrap()),
            hbone_destination: None,
            service: None,
            mutual_tls: false,
        };
        self.connections.track(0, Kind::Plain, facts, 0)
    }
}

fn party(pod: &str) -> Party {
    Party { name: Some(pod.into()), namespace: Some("shop".into()), ..Party::default() }
}

fn named(pod: &str) -> WorkloadName {
    WorkloadName { namespace: "shop".into(), name: pod.into(), service_account: "web".into() }
}

fn summary() -> CertificateSummary {
    let entry = CertificateEntry {
        pem: CERTIFICATE.into(),
        serial_number: "18446744073709551616".into(),
        valid_from: UNIX_EPOCH + Duration::from_secs(1_709_210_096),
        expiration_time: UNIX_EPOCH + Duration::from_secs(1_709_296_496),
    };
    CertificateSummary {
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        state: CertificateState::Available,
        chain: vec![entry.clone()],
        roots: vec![entry],
    }
}

#[test]
fn the_index_names_every_page() {
    block_on(async {
        let bench = Bench::start();
        let (status, body) = bench.get("/").await;
        assert_eq!(status, 200);
        for (path, _) in PAGES {
            assert!(body.contains(&format!("href=\"{path}\"")), "{path}");
            assert_ne!(bench.get(&format!("/{path}")).await.0, 404, "{path}");
        }
        assert_eq!(bench.get("/nothing").await.0, 404);
    });
}

#[test]
fn the_dump_has_the_keys_that_istioctl_reads() {
    block_on(async {
        let bench = Bench::start();
        let dump = bench.json("/config_dump").await;
        assert_eq!(dump["workloads"], json!([]));
        assert_eq!(dump["services"], json!([]));
        assert_eq!(dump["policies"], json!([]));
        assert_eq!(dump["stagedServices"], json!({}));
        assert_eq!(dump["staticConfig"], json!({"workloads": []}));
        assert_eq!(dump["config"]["pool"]["maxStreamsPerConnection"], json!(100));
        assert_eq!(dump["version"]["istioVersion"], json!("1.31.0"));
        assert_eq!(dump["version"]["version"], json!(env!("CARGO_PKG_VERSION")));
        let certificate = json!({
            "pem": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=",
            "serialNumber": "18446744073709551616",
            "validFrom": "2024-02-29T12:34:56Z",
            "expirationTime": "2024-03-01T12:34:56Z",
        });
        assert_eq!(
            dump["certificates"],
            json!([{
                "identity": "spiffe://cluster.local/ns/shop/sa/web",
                "state": "Available",
                "certChain": [certificate],
                "rootCerts": [certificate],
            }])
        );
    });
}

#[test]
fn the_dump_shows_the_pod_of_a_dedicated_proxy() {
    block_on(async {
        let bench = Bench::start();
        bench.serve("", named("web-1"));
        let connection = bench.connect(40_000, 1_000);
        let tunnel = bench.connect(40_001, 2_000);
        tunnel.set_kind(Kind::Tunnel);
        let web = |state| {
            json!({
                "state": state,
                "info": {"name": "web-1", "namespace": "shop", "serviceAccount": "web"},
                "connections": {
                    "inbound": [],
                    "outbound": [{
                        "src": "10.0.0.1:40000",
                        "originalDst": "10.0.0.2:8080",
                        "actualDst": "10.0.0.2:15008",
                        "protocol": "HBONE",
                    }],
                },
            })
        };
        assert_eq!(bench.json("/config_dump").await["workloadState"], json!({"shop/web-1": web("Pending")}));

        let workload = Workload::new(WorkloadSpec {
            uid: "Kubernetes//Pod/shop/web-1".into(),
            name: "web-1".into(),
            namespace: "shop".into(),
            service_account: "web".into(),
            node: "node-1".into(),
            ..WorkloadSpec::default()
        });
        bench.store.update(|edit| edit.insert_workload(workload.unwrap()));
        let dump = bench.json("/config_dump").await;
        assert_eq!(dump["workloadState"], json!({"Kubernetes//Pod/shop/web-1": web("Up")}));
        assert_eq!(dump["workloads"][0]["name"], "web-1");
        drop((connection, tunnel));
    });
}

#[test]
fn the_dump_shows_each_pod_with_its_own_connections() {
    block_on(async {
        let bench = Bench::start();
        bench.serve("uid-1", named("web-1"));
        bench.serve("uid-2", named("web-2"));
        bench.pending.lock().unwrap().push(("uid-3".into(), named("web-3")));
        let open = [
            bench.connect(40_000, 1_000),
            bench.accept("web-2", 40_001),
            bench.accept("web-3", 40_002),
            bench.accept("somebody-else", 40_003),
        ];

        let dump = bench.json("/config_dump").await;
        let state = |pod: &str, state, inbound: Value, outbound: Value| {
            json!({
                "state": state,
                "info": {"name": pod, "namespace": "shop", "serviceAccount": "web"},
                "connections": {"inbound": inbound, "outbound": outbound},
            })
        };
        let inbound = |source| {
            let (from, to) = (format!("10.0.0.1:{source}"), "10.0.0.2:8080");
            json!([{"src": from, "originalDst": to, "actualDst": to, "protocol": "TCP"}])
        };
        let outbound = json!([{
            "src": "10.0.0.1:40000",
            "originalDst": "10.0.0.2:8080",
            "actualDst": "10.0.0.2:15008",
            "protocol": "HBONE",
        }]);
        let nothing = || json!([]);
        assert_eq!(
            dump["workloadState"],
            json!({
                "uid-1": state("web-1", "Up", nothing(), outbound),
                "uid-2": state("web-2", "Up", inbound(40_001), nothing()),
                // It was served once, and its connections go on.
                "uid-3": state("web-3", "Pending", inbound(40_002), nothing()),
            })
        );

        bench.pods.remove("uid-1");
        bench.pending.lock().unwrap().clear();
        let dump = bench.json("/config_dump").await;
        let left: Vec<&String> = dump["workloadState"].as_object().unwrap().keys().collect();
        assert_eq!(left, ["uid-2"]);
        drop(open);
    });
}

#[test]
fn live_connections_are_listed_oldest_first() {
    block_on(async {
        let bench = Bench::start();
        assert_eq!(bench.json("/connections").await, json!({"total": 0, "connections": []}));
        let young = bench.connect(40_001, 4_000);
        let old = bench.connect(40_000, 1_000);
        old.add_sent(7);
        old.add_received(2);

        let list = bench.json("/connections").await;
        assert_eq!(list["total"], 2);
        assert_eq!(list["connections"][1]["source"]["address"], "10.0.0.1:40001");
        assert_eq!(
            list["connections"][0],
            json!({
                "id": old.id(),
                "kind": "stream",
                "direction": "outbound",
                "source": {
                    "address": "10.0.0.1:40000",
                    "workload": "web-1",
                    "namespace": "shop",
                    "identity": "spiffe://cluster.local/ns/shop/sa/web",
                },
                "destination": {
                    "address": "10.0.0.2:15008", "workload": null, "namespace": null, "identity": null,
                },
                "hboneDestination": "10.0.0.2:8080",
                "service": null,
                "mutualTls": true,
                "bytesSent": 7,
                "bytesReceived": 2,
                "ageMs": 4_000,
                "worker": 1,
            })
        );

        let limited = bench.json("/connections?limit=1").await;
        assert_eq!(limited["total"], 2);
        assert_eq!(limited["connections"].as_array().unwrap().len(), 1);
        assert_eq!(limited["connections"][0]["id"], old.id());
        assert_eq!(bench.get("/connections?limit=all").await.0, 400);

        drop((young, old));
        assert_eq!(bench.json("/connections").await["total"], 0);
    });
}

#[test]
fn levels_are_shown_changed_and_reset() {
    block_on(async {
        let bench = Bench::start();
        let level = |text: &str| (200, format!("current log level is {text}\n"));
        assert_eq!(bench.post("/logging").await, level("info"));
        assert_eq!(bench.post("/logging?level=").await, level("info"));
        assert_eq!(bench.post("/logging?level=access=debug").await, level("access=debug,info"));
        assert_eq!(bench.post("/logging?level=dns:trace,warn").await, level("access=debug,dns=trace,warn"));
        assert_eq!(bench.post("/logging?level=a%3Ddebug&reset").await, level("a=debug,info"));
        assert_eq!(bench.post("/logging?reset").await, level("info"));

        let (status, body) = bench.post("/logging?level=loud").await;
        assert_eq!(status, 400);
        assert!(body.starts_with("Invalid level provided: \"loud\""), "{body}");
        assert_eq!(bench.post("/logging").await, level("info"));
        assert_eq!(bench.get("/logging?level=debug").await.0, 405);
    });
}

#[test]
fn only_a_post_shuts_down() {
    block_on(async {
        let mut bench = Bench::start();
        assert_eq!(bench.get("/quitquitquit").await.0, 405);
        assert!(bench.shutdown.try_recv().is_err());
        assert_eq!(bench.post("/quitquitquit").await, (200, "shutdown now\n".into()));
        assert!(bench.shutdown.try_recv().is_ok());
        // Again and again, whether or not anybody listens.
        assert_eq!(bench.post("/quitquitquit").await.0, 200);
        assert_eq!(bench.post("/quitquitquit").await.0, 200);
    });
}

#[test]
fn parameters_are_decoded() {
    let value = |uri: &str, name| {
        let (head, ()) = hyper::Request::builder().uri(uri).body(()).unwrap().into_parts();
        parameter(&head, name)
    };
    assert_eq!(value("/x?a=1&b=x%3Dy+z", "b"), Some("x=y z".into()));
    assert_eq!(value("/x?reset", "reset"), Some(String::new()));
    assert_eq!(value("/x?a=%zz%4", "a"), Some("%zz%4".into()));
    assert_eq!(value("/x?a=%+1", "a"), Some("% 1".into()));
    assert_eq!(value("/x", "a"), None);
}
