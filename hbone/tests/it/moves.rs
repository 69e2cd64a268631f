//! The promise: freezing and thawing at any turn changes nothing that anybody can see.

use hbone::{Connection, Prepared, Secrets, SessionConfig, Snapshot, Time};

use crate::end::Moves;
use crate::established;
use crate::script::{self, Seen, Trouble};

/// A pair of connections to start from again and again, with the same keys.
struct Pair([Snapshot; 2]);

impl Pair {
    fn new(client: SessionConfig, server: SessionConfig) -> Self {
        let (client, server) = established(client, server);
        Self([client, server].map(|connection| connection.freeze().snapshot(Time(0))))
    }

    fn connections(&self) -> (Connection, Connection) {
        let [client, server] = &self.0;
        (thaw(client), thaw(server))
    }
}

fn thaw(snapshot: &Snapshot) -> Connection {
    let secrets = Secrets::from_bytes(snapshot.secrets.expose().to_vec());
    Prepared::read(&snapshot.state).unwrap().commit(Time(0), &secrets).unwrap()
}

fn pairs() -> Vec<Pair> {
    let (client, server) = (SessionConfig::client(), SessionConfig::server());
    let small = |config: SessionConfig| SessionConfig {
        stream_window: 20_000,
        connection_window: 70_000,
        max_frame_size: 16_384,
        max_concurrent_streams: 3,
        ..config
    };
    vec![
        Pair::new(client.clone(), server.clone()),
        Pair::new(small(client.clone()), small(server.clone())),
        Pair::new(client, small(server)),
    ]
}

/// How many scripts: `HBONE_SCRIPTS` for longer runs.
fn scripts() -> u64 {
    std::env::var("HBONE_SCRIPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

/// The first script: `HBONE_SEED` to repeat one that failed.
fn first_seed() -> u64 {
    std::env::var("HBONE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn moving_at_every_turn_changes_nothing() {
    let pairs = pairs();
    let mut total = 0;
    for seed in first_seed()..first_seed() + scripts() {
        let pair = &pairs[seed as usize % pairs.len()];
        let trouble = Trouble { resets: seed % 2 == 1, keys: seed % 4 >= 2, shutdown: seed % 5 == 0 };
        let run = |moves| script::run(pair.connections(), seed, 100, trouble, moves);
        let (still, _) = run([Moves::Never, Moves::Never]);
        let (moved, freezes) = match seed % 3 {
            0 => run([Moves::Always, Moves::Always]),
            1 => run([Moves::Always, Moves::Abort]),
            _ => run([Moves::Abort, Moves::Always]),
        };
        assert!(freezes > 100, "seed {seed}: {freezes}");
        total += freezes;
        for (end, (still, moved)) in still.iter().zip(&moved).enumerate() {
            compare(seed, end, still, moved);
        }
    }
    println!("{total} freezes");
}

/// Says where two runs part instead of printing all they saw.
fn compare(seed: u64, end: usize, still: &Seen, moved: &Seen) {
    let parted = still.log.iter().zip(&moved.log).find(|(still, moved)| still != moved);
    assert_eq!(parted, None, "seed {seed}, end {end}: events");
    assert_eq!(still.log.len(), moved.log.len(), "seed {seed}, end {end}: events");
    assert_eq!(still.payload, moved.payload, "seed {seed}, end {end}: payload");
    assert!(still.wire == moved.wire, "seed {seed}, end {end}: bytes sent");
    assert!(still.state == moved.state, "seed {seed}, end {end}: state");
}

#[test]
fn an_idle_tunnel_with_one_stream_is_less_than_a_kibibyte() {
    let pair = Pair::new(SessionConfig::client(), SessionConfig::server());
    let (mut client, _) = pair.connections();
    let request = hbone::ConnectRequest::connect("10.0.0.1:80", Vec::new());
    let mut outbox = hbone::Outbox::with_capacity(0);
    let mut sizes = Vec::new();
    for _ in 0..2 {
        client.connect(&request).unwrap();
        client.flush(&mut outbox).unwrap();
        let n = outbox.sealed().len();
        client.written(&mut outbox, n);
        let frozen = client.freeze();
        sizes.push(frozen.snapshot(Time(0)).state.len());
        client = frozen.abort();
    }
    assert!(sizes[0] < 500, "{sizes:?}");
    assert!(sizes[1] - sizes[0] <= 80, "{sizes:?}");
}
