//! Drives rustls through a handshake without letting it touch a byte behind it.
//!
//! rustls works on a buffer of ours, in place. It is shown one record at a time, and one more only when it asks for more: if it saw
//! the first record of application data it would decrypt it, and lose it when the keys are taken over. A record
//! stays in view as long as a handshake message reaches beyond it.

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, Error as TlsError, ExtractedSecrets};

use super::HandshakeError;
use crate::record::{HEADER, KeyMaterial, Records, Suite};
use crate::role::Role;
use crate::tls::{ALPN, TrafficSecrets, capture};

/// A handshake under way.
pub(super) struct Driver {
    tls: Tls,
    /// Bytes that rustls is not done with, or has not seen.
    input: Vec<u8>,
    /// How many of them, always whole records, it has been shown.
    shown: usize,
    secrets: TrafficSecrets,
}

/// What rustls leaves behind.
pub(super) struct Outcome {
    pub(super) records: Records,
    /// Whether the application protocol is the one we speak.
    pub(super) h2: bool,
    pub(super) peer_certificates: Vec<CertificateDer<'static>>,
    pub(super) carry: Vec<u8>,
}

enum Tls {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What rustls wants after a step.
enum Step {
    /// Nothing but another call.
    Again,
    /// A record more than it was shown, or the end of the handshake.
    Input,
}

impl Driver {
    pub(super) fn client(tls: UnbufferedClientConnection) -> Self {
        Self::new(Tls::Client(tls))
    }

    pub(super) fn server(tls: UnbufferedServerConnection) -> Self {
        Self::new(Tls::Server(tls))
    }

    /// Goes on as far as `bytes` allow and appends what the peer is to get to `output`, alerts included. Returns whether
    /// the handshake is complete.
    pub(super) fn receive(&mut self, bytes: &[u8], output: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        self.input.extend_from_slice(bytes);
        let complete = self.run(output).inspect_err(|_| self.tls.drain(output))?;
        if !complete && self.input.len() > MAX_UNFINISHED {
            return Err(HandshakeError::TooLong);
        }
        Ok(complete)
    }

    /// Takes keys, certificates and leftover bytes over.
    ///
    /// # Errors
    /// What rustls ended with cannot be, or is not, what our record layer would use.
    pub(super) fn finish(self, role: Role) -> Result<Outcome, HandshakeError> {
        let common = self.tls.common();
        let suite = common
            .negotiated_cipher_suite()
            .and_then(|suite| Suite::from_code(suite.suite().into()))
            .ok_or(HandshakeError::TakeOver("cipher suite"))?;
        let h2 = common.alpn_protocol() == Some(ALPN);
        let peer_certificates = common.peer_certificates().unwrap_or_default().to_vec();
        let (Some(client), Some(server)) = (self.secrets.client, self.secrets.server) else {
            return Err(HandshakeError::TakeOver("traffic secrets"));
        };
        let records = Records::new(role, suite, &client, &server)?;
        let extracted = self.tls.extract()?;
        let received = KeyMaterial::from_rustls(&extracted.rx.1);
        let sent = KeyMaterial::from_rustls(&extracted.tx.1);
        let (Some(received), Some(sent)) = (received, sent) else {
            return Err(HandshakeError::TakeOver("cipher suite"));
        };
        if !records.agrees_with((extracted.rx.0, &received), (extracted.tx.0, &sent)) {
            return Err(HandshakeError::TakeOver("keys"));
        }
        Ok(Outcome { records, h2, peer_certificates, carry: self.input })
    }

    fn new(tls: Tls) -> Self {
        Self { tls, input: Vec::new(), shown: 0, secrets: TrafficSecrets::default() }
    }

    /// Calls rustls until it is done or needs bytes that are not there.
    fn run(&mut self, output: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        loop {
            match self.step(self.shown, output)? {
                Step::Again => continue,
                Step::Input if !self.tls.common().is_handshaking() => break,
                Step::Input => {}
            }
            match record_length(&self.input[self.shown..]) {
                Some(length) => self.shown += length,
                // Shows a partial record for once: whose header is no record's shall not be waited for.
                None => return self.step(self.input.len(), output).map(|_| false),
            }
        }
        if self.shown > 0 {
            return Err(HandshakeError::TakeOver("a partial handshake message"));
        }
        Ok(true)
    }

    /// One call with the first `view` bytes of the input.
    fn step(&mut self, view: usize, output: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let view = &mut self.input[..view];
        let ((discard, step), secrets) = capture(|| self.tls.process(view, output));
        self.secrets.merge(secrets);
        self.input.drain(..discard);
        self.shown = self.shown.saturating_sub(discard);
        step
    }
}

impl Tls {
    fn process(&mut self, view: &mut [u8], output: &mut Vec<u8>) -> (usize, Result<Step, HandshakeError>) {
        match self {
            Self::Client(tls) => obey(tls.process_tls_records(view), output),
            Self::Server(tls) => obey(tls.process_tls_records(view), output),
        }
    }

    /// Takes what rustls still wants to say after an error. It is shown no input, which it would look at again.
    fn drain(&mut self, output: &mut Vec<u8>) {
        while self.common().wants_write() {
            if !matches!(self.process(&mut [], output), (_, Ok(Step::Again))) {
                break;
            }
        }
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Client(tls) => tls,
            Self::Server(tls) => tls,
        }
    }

    fn extract(self) -> Result<ExtractedSecrets, TlsError> {
        match self {
            Self::Client(tls) => tls.dangerous_into_kernel_connection().map(|(secrets, _)| secrets),
            Self::Server(tls) => tls.dangerous_into_kernel_connection().map(|(secrets, _)| secrets),
        }
    }
}

/// Does what a call to rustls asks for. Returns how many bytes of input it is done with, too.
fn obey<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Vec<u8>,
) -> (usize, Result<Step, HandshakeError>) {
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, output),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Input),
        // Application data is never shown, early data never accepted, and closing is no handshake.
        Ok(_) => Err(HandshakeError::TakeOver("application data")),
        Err(error) => Err(error.into()),
    };
    (status.discard, step)
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) -> Result<Step, HandshakeError> {
    // An empty buffer asks for the size.
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        let start = output.len();
        output.resize(start + size.required_size, 0);
        if data.encode(&mut output[start..]).is_ok() {
            return Ok(Step::Again);
        }
        output.truncate(start);
    }
    Err(HandshakeError::TakeOver("handshake record"))
}

/// The length of the record at the front of `bytes`, header included; `None` while it is not whole. Whether it is a good
/// one is for rustls to say.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low] = bytes.first_chunk::<HEADER>()?;
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    (bytes.len() >= length).then_some(length)
}

/// Bytes kept while a handshake is not complete: a message of the longest kind that rustls takes.
const MAX_UNFINISHED: usize = 64 << 10;
