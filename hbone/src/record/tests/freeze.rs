use super::*;
use crate::ThawError;

/// To another process and back into life.
fn moved(records: &Records) -> Records {
    let (state, secrets) = frozen(records);
    let state = RecordsState::read(&mut Reader::new(&state)).unwrap();
    Records::thaw(&state, &mut Reader::new(&secrets)).unwrap()
}

fn frozen(records: &Records) -> (Vec<u8>, Vec<u8>) {
    let (mut state, mut secrets) = (Writer::with_capacity(256), Writer::with_capacity(256));
    records.freeze(&mut state, &mut secrets);
    (state.written().to_vec(), secrets.written().to_vec())
}

/// What the two ends say to each other does not depend on how often they are moved.
#[test]
fn moving_changes_nothing() {
    for suite in SUITES {
        for seed in 0..30 {
            let (client, server) = pair(suite);
            let stay = talk(client, server, seed, |_| {});
            let (client, server) = pair(suite);
            let go = talk(client, server, seed, |records| *records = moved(records));
            assert_eq!(stay, go, "{suite:?}, seed {seed}");
        }
    }
}

/// A random conversation, with `between` called between any two steps. Returns all bytes and all that was opened.
fn talk(
    client: Records,
    server: Records,
    seed: u64,
    mut between: impl FnMut(&mut Records),
) -> (Vec<u8>, Vec<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ends = [client, server];
    let mut wires = [Vec::new(), Vec::new()];
    // Ends of messages whose beginnings are sent.
    let mut tails = [None, None];
    let (mut all, mut log) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let from = random.usize(..2);
        let end = &mut ends[from];
        between(end);
        let mut out = Vec::new();
        match (tails[from].take(), random.u8(..8)) {
            (Some(tail), _) => {
                end.sealer.append(tail, HANDSHAKE, &mut out).unwrap();
                if tail == UPDATE_TAIL {
                    end.sealer.update().unwrap();
                }
            }
            (None, 0) => end.request_key_update(random.bool()),
            (None, 1 | 2) => end.seal_owed(&mut out).unwrap(),
            (None, 3) => out = data(end, b""),
            (None, 4) => {
                let (head, tail) =
                    if from == 0 { (UPDATE_HEAD, UPDATE_TAIL) } else { (TICKETS_HEAD, TICKETS_TAIL) };
                end.sealer.append(head, HANDSHAKE, &mut out).unwrap();
                tails[from] = Some(tail);
            }
            (None, _) => out = data(end, &vec![random.u8(..); random.usize(1..100)]),
        }
        all.extend_from_slice(&out);
        wires[1 - from].extend_from_slice(&out);

        let to = random.usize(..2);
        let (end, wire) = (&mut ends[to], &mut wires[to]);
        for _ in 0..random.usize(..4) {
            between(end);
            let opened = end.open(wire);
            log.push(format!("{to} {opened:?} {}", end.owes()));
            match opened.unwrap() {
                Opened::Incomplete => {}
                Opened::Data { consumed, range } => {
                    log.push(format!("{:?}", &wire[range]));
                    wire.drain(..consumed);
                }
                Opened::Handled { consumed } | Opened::CloseNotify { consumed } => {
                    wire.drain(..consumed);
                }
            }
        }
    }
    (all, log)
}

#[test]
fn a_flood_does_not_start_again_with_each_move() {
    let (mut client, mut server) = pair(Suite::Aes256Gcm);
    for _ in 0..MAX_FRUITLESS {
        let empty = data(&mut client, b"");
        handled(&mut server, empty);
        server = moved(&server);
    }
    let empty = data(&mut client, b"");
    assert_eq!(refused(&mut server, empty), RecordError::Fruitless);
}

const UPDATE_HEAD: &[u8] = &[24, 0, 0];
const UPDATE_TAIL: &[u8] = &[1, 1];
/// One ticket, and the beginning of another.
const TICKETS_HEAD: &[u8] = &[4, 0, 0, 2, 1, 1, 4, 0];
const TICKETS_TAIL: &[u8] = &[0, 1, 7];

#[test]
fn state_holds_no_secret_and_secrets_nothing_else() {
    let (client, _) = pair(Suite::Aes256Gcm);
    let (state, secrets) = frozen(&client);
    assert_eq!(state.len(), 1 + 2 + 8 + 8 + 1 + 2 + 4);
    assert_eq!(secrets.len(), 2 * (4 + 48));
    let secret = [0xc1; 4];
    assert!(!state.windows(4).any(|window| window == secret));
    assert!(secrets.windows(4).any(|window| window == secret));
}

#[test]
fn a_damaged_state_is_refused() {
    let (client, mut server) = pair(Suite::Aes128Gcm);
    let (state, secrets) = frozen(&client);
    let read = |state: &[u8]| RecordsState::read(&mut Reader::new(state)).map(|_| ());
    for length in 0..state.len() {
        assert!(read(&state[..length]).is_err(), "{length}");
    }
    for (position, value) in
        [(0, 2), (1, 0), (2, 0), (3, 1), (11, 1), (19, MAX_FRUITLESS + 1), (20, 2), (21, 2)]
    {
        let mut state = state.clone();
        state[position] = value;
        assert!(read(&state).is_err(), "{position}");
    }
    // A whole message, and the beginning of one that is refused, are no partial messages.
    for partial in [&[24, 0, 0, 1, 0][..], &[1], &[4, 1, 0, 1]] {
        let mut writer = Writer::with_capacity(256);
        writer.bytes(partial);
        let state = [&state[..state.len() - 4], writer.written()].concat();
        assert!(read(&state).is_err(), "{partial:?}");
    }

    let state = RecordsState::read(&mut Reader::new(&state)).unwrap();
    for length in 0..secrets.len() {
        let thawed = Records::thaw(&state, &mut Reader::new(&secrets[..length]));
        assert!(thawed.is_err(), "{length}");
    }
    let (_, other_suite) = frozen(&pair(Suite::Aes256Gcm).0);
    let thawed: Result<_, ThawError> = Records::thaw(&state, &mut Reader::new(&other_suite));
    assert!(thawed.is_err());
    // And the undamaged one lives.
    let mut thawed = Records::thaw(&state, &mut Reader::new(&secrets)).unwrap();
    let record = data(&mut thawed, b"alive");
    assert_eq!(payload(&mut server, record), b"alive");
}
