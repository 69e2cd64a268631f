//! Takes the traffic secrets out of a handshake.
//!
//! rustls names them to the configuration's key log, synchronously while it processes a record. The configuration is
//! shared by many connections, so what is named goes to a variable of the thread, and [`capture`] brackets the call.

use std::cell::RefCell;

use rustls::KeyLog;
use zeroize::Zeroizing;

/// The first application traffic secrets of a connection (RFC 8446, section 7.1), as far as they are known yet.
#[derive(Default)]
pub(crate) struct TrafficSecrets {
    /// `client_application_traffic_secret_0`
    pub(crate) client: Option<Zeroizing<Vec<u8>>>,
    /// `server_application_traffic_secret_0`
    pub(crate) server: Option<Zeroizing<Vec<u8>>>,
}

impl TrafficSecrets {
    /// Adds what another call has captured.
    pub(crate) fn merge(&mut self, later: Self) {
        self.client = later.client.or(self.client.take());
        self.server = later.server.or(self.server.take());
    }
}

/// Runs `process` and returns beside its result the secrets that were logged on this thread meanwhile.
pub(crate) fn capture<R>(process: impl FnOnce() -> R) -> (R, TrafficSecrets) {
    // What an unwound call may have left behind belongs to another connection.
    CAPTURED.take();
    let result = process();
    (result, CAPTURED.take())
}

/// The key log of every configuration in this crate.
#[derive(Debug)]
pub(super) struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAPTURED.with_borrow_mut(|captured| {
            let secret = Some(Zeroizing::new(secret.to_vec()));
            match label {
                CLIENT => captured.client = secret,
                SERVER => captured.server = secret,
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

thread_local! {
    static CAPTURED: RefCell<TrafficSecrets> = RefCell::default();
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaks_from_one_capture_into_the_next() {
        Capture.log(CLIENT, &[], b"left behind");
        let ((), secrets) = capture(|| Capture.log(SERVER, &[], b"mine"));
        assert!(secrets.client.is_none());
        assert_eq!(secrets.server.as_ref().map(|secret| secret.as_slice()), Some(&b"mine"[..]));
        let ((), secrets) = capture(|| ());
        assert!(secrets.server.is_none());
    }

    #[test]
    fn only_the_application_traffic_secrets_are_taken() {
        assert!(!Capture.will_log("CLIENT_HANDSHAKE_TRAFFIC_SECRET"));
        assert!(!Capture.will_log("EXPORTER_SECRET"));
        assert!(Capture.will_log("CLIENT_TRAFFIC_SECRET_0") && Capture.will_log("SERVER_TRAFFIC_SECRET_0"));
    }
}
