//! One attempt: a connection, one stream on it, and its end.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::{Code, Request, Status};
use tonic_prost::ProstEncoder;

use crate::connect::Server;
use crate::proto::discovery::DeltaDiscoveryRequest;
use crate::subscription::Ending;

/// A task; ends when it is dropped.
pub(super) struct Attempt {
    task: JoinHandle<()>,
    events: mpsc::Receiver<Event>,
    /// Not limited: what is said is small, and mostly in answer to what the server says.
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
}

/// What an attempt comes to. After `Ended` there is no more.
#[derive(Debug)]
pub(super) enum Event {
    Connected(SocketAddr),
    /// A `DeltaDiscoveryResponse`, undecoded.
    Response(Bytes),
    Ended(Ending),
}

impl Attempt {
    pub(super) fn start(server: Server, avoid: Option<SocketAddr>) -> Self {
        // One response waits at most: more of them wait in the connection's window.
        let (sender, events) = mpsc::channel(1);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let ending = match run(&server, avoid, outgoing, &sender).await {
                Ok(()) => Ending::Complete,
                Err(ending) => ending,
            };
            let _ = sender.send(Event::Ended(ending)).await;
        });
        Self { task, events, requests }
    }

    pub(super) async fn event(&mut self) -> Event {
        let lost = || Ending::Broken { reason: "the task of the stream is gone".to_owned(), usual: false };
        self.events.recv().await.unwrap_or_else(|| Event::Ended(lost()))
    }

    /// To be sent once there is a stream.
    pub(super) fn send(&self, request: DeltaDiscoveryRequest) {
        // If the stream is over its end is on the way to us.
        let _ = self.requests.send(request);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    server: &Server,
    avoid: Option<SocketAddr>,
    outgoing: mpsc::UnboundedReceiver<DeltaDiscoveryRequest>,
    events: &mpsc::Sender<Event>,
) -> Result<(), Ending> {
    let not_connected = |error: &dyn std::error::Error| Ending::NotConnected(error.to_string());
    // Before the connection, which would be for nothing.
    server.metadata().map_err(|error| not_connected(&error))?;
    let (channel, address) = server.connect(avoid).await.map_err(|error| not_connected(&error))?;
    let metadata = server.metadata().map_err(|error| not_connected(&error))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
    grpc.ready().await.map_err(|error| not_connected(&error))?;
    let _ = events.send(Event::Connected(address)).await;

    let mut request = Request::new(UnboundedReceiverStream::new(outgoing));
    *request.metadata_mut() = metadata;
    let path = PathAndQuery::from_static(METHOD);
    let responses = grpc.streaming(request, path, Undecoded).await;
    let mut responses = responses.map_err(|status| broken(&status))?.into_inner();
    while let Some(bytes) = responses.message().await.map_err(|status| broken(&status))? {
        let _ = events.send(Event::Response(bytes)).await;
    }
    Ok(())
}

fn broken(status: &Status) -> Ending {
    let usual = match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => true,
        Code::Unavailable => ["transport is closing", "received prior goaway"]
            .iter()
            .any(|text| status.message().contains(text)),
        _ => false,
    };
    let reason = match broken_by(status) {
        // What the transport was doing changes from attempt to attempt and tells nobody anything; the cause does.
        Some(cause) => format!("the connection broke: {cause}"),
        None if status.code() == Code::Unauthenticated => {
            format!("{}: {} (our token is not accepted)", status.code(), status.message())
        }
        None => format!("{}: {}", status.code(), status.message()),
    };
    Ending::Broken { reason, usual }
}

/// What went wrong below the stream, if that was it. The same cause gives the same words, whichever layer met it.
fn broken_by(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let system = cause.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some());
    let text = system.map_or_else(|| cause.to_string(), |error| error.kind().to_string());
    // rustls adds a link to its manual.
    Some(text.split(": https://").next().unwrap_or_default().to_owned())
}

/// Responses stay bytes: decoding a large one takes too long for this thread.
#[derive(Clone, Copy)]
struct Undecoded;

impl Codec for Undecoded {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Bytes;
    type Encoder = ProstEncoder<DeltaDiscoveryRequest>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        *self
    }
}

impl Decoder for Undecoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Bytes.
const LARGEST_RESPONSE: usize = 200 << 20;
