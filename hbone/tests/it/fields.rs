//! Snapshots with one field wrong. The format has no tags, so a field may begin at any byte: every byte is taken for the
//! beginning of a field of every size, and of a list or bytes with their length.

use hbone::{
    ConnectRequest, ConnectResponse, Connection, ErrorCode, Inbox, Outbox, Prepared, Secrets, Snapshot, Time,
};

use crate::golden::{BODY, commit, envelope, golden};

/// One end of a busy tunnel, and what the other end says to it next.
struct Sample {
    state: Vec<u8>,
    secrets: Vec<u8>,
    next: Vec<u8>,
}

impl Sample {
    fn of(role: &str, other: &str) -> Self {
        let [(state, secrets), (state_there, secrets_there)] = [role, other].map(golden);
        let mut peer = commit(&state_there, &secrets_there);
        let mut next = peer.unsent().to_vec();
        peer.advance(next.len());
        let mut outbox = Outbox::with_capacity(0);
        let streams: Vec<_> = peer.streams().collect();
        for (number, &stream) in streams.iter().enumerate() {
            peer.send(stream, &[7; 300], &mut outbox).unwrap();
            if number == 0 {
                peer.finish(stream);
            }
        }
        let _ = peer.connect(&ConnectRequest::connect("10.0.0.1:80", Vec::new()));
        peer.flush(&mut outbox).unwrap();
        next.extend(outbox.sealed());
        Self { state, secrets, next }
    }

    /// Takes a body for the sample's, and lives with it as a proxy does. True if it was accepted.
    fn try_body(&self, what: &str, body: &[u8]) -> bool {
        let state = envelope(1, body);
        let Ok(prepared) = Prepared::read(&state) else { return false };
        let streams: Vec<_> = prepared.streams().collect();
        assert!(streams.windows(2).all(|pair| pair[0] < pair[1]), "{what}: {streams:?}");
        let mut secrets = self.secrets.clone();
        let checksum = secrets.len() - 4;
        secrets[checksum..].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
        // The suite may be another one, with secrets of another length.
        let Ok(connection) = prepared.commit(Time(0), &Secrets::from_bytes(secrets)) else { return false };
        let again = connection.freeze().snapshot(Time(0));
        let refused = Prepared::read(&again.state).err();
        assert_eq!(refused, None, "{what}: accepted, but not as it froze again");
        let thawed = Prepared::read(&again.state).unwrap().commit(Time(0), &again.secrets);
        self.live(what, thawed.unwrap());
        true
    }

    fn live(&self, what: &str, mut connection: Connection) {
        let mut outbox = Outbox::with_capacity(0);
        let (mut inbox, mut events) = (Inbox::with_capacity(0), Vec::new());
        connection.advance(connection.unsent().len());
        for part in self.next.chunks(self.next.len() / 2 + 1) {
            let space = inbox.space(&connection);
            let n = part.len().min(space.len());
            space[..n].copy_from_slice(&part[..n]);
            // An error ends the connection; it must be as sound as before.
            let _ = connection.receive(Time(1), &mut inbox, n, &mut events);
        }
        let streams: Vec<_> = connection.streams().collect();
        for (number, &stream) in streams.iter().enumerate() {
            connection.respond(stream, &ConnectResponse::status(200), false);
            let _ = connection.send(stream, &[0; 100], &mut outbox);
            connection.consume_pending(stream, connection.pending(stream).len());
            connection.consumed(stream, 300);
            if number % 2 == 0 {
                connection.finish(stream);
            } else {
                connection.reset(stream, ErrorCode::CANCEL);
            }
        }
        let _ = connection.connect(&ConnectRequest::connect("a:1", Vec::new()));
        let _ = connection.flush(&mut outbox);
        connection.written(&mut outbox, usize::MAX);
        if let Some(due) = connection.timeout() {
            let _ = connection.handle_timeout(due);
        }
        let _ = connection.flush(&mut outbox);
        connection.written(&mut outbox, 0);
        let Snapshot { state, .. } = connection.freeze().snapshot(Time(20_000));
        assert_eq!(Prepared::read(&state).err(), None, "{what}: it went on, and can't be moved any more");
    }
}

/// Bodies with one field wrong, and what was done.
fn damaged(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for at in 0..body.len() {
        let (before, field) = body.split_at(at);
        let mut add = |what: String, instead: &[u8], after: &[u8]| {
            all.push((format!("byte {at}: {what}"), [before, instead, after].concat()));
        };
        for width in [1, 2, 4, 8] {
            let Some((old, after)) = field.split_at_checked(width) else { continue };
            for edge in [0, 1, 2, 1 << 31, 1 << 63, u64::MAX] {
                let edge = u64::to_be_bytes(edge);
                // A small number in its low bytes, a large one in its high bytes.
                add(format!("{width} bytes set, low"), &edge[8 - width..], after);
                add(format!("{width} bytes set, high"), &edge[..width], after);
            }
            add(format!("{width} bytes left out"), &[], after);
            add(format!("{width} bytes doubled"), &old.repeat(2), after);
        }
        let Some((length, rest)) = field.split_first_chunk::<4>() else { continue };
        let Some((content, after)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            continue;
        };
        let bytes = |content: &[u8]| [&(content.len() as u32).to_be_bytes()[..], content].concat();
        add("emptied".to_owned(), &bytes(b""), after);
        add("cut".to_owned(), &bytes(&content[..content.len() / 2]), after);
        add("lengthened".to_owned(), &bytes(&[content, &[1]].concat()), after);
        add("repeated inside".to_owned(), &bytes(&content.repeat(2)), after);
    }
    all.retain(|(_, damaged)| damaged != body);
    all
}

#[test]
fn one_wrong_field_is_refused_or_lived_with() {
    for (role, other) in [("server", "client"), ("client", "server")] {
        let sample = Sample::of(role, other);
        let body = &sample.state[BODY..];
        assert!(sample.try_body("unchanged", body));
        let all = damaged(body);
        let accepted = all.iter().filter(|(what, body)| sample.try_body(what, body)).count();
        println!("{role}: {} bodies, {accepted} accepted", all.len());
        // Neither is everything refused unseen, nor everything let in.
        assert!(
            accepted > all.len() / 100 && accepted < all.len() / 2,
            "{role}: {accepted} of {}",
            all.len()
        );
    }
}
