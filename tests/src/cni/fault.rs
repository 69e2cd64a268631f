//! What an istio-cni can do wrong.

use std::fs::File;
use std::io;
use std::sync::Arc;

use prost::Message;

use super::message::{Payload, Request};
use super::packet::LARGEST;

/// What happens to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is sent as bytes that are no message.
    Garbage,
    /// Only the first half of it is sent.
    Half,
    /// It is longer than the proxy has room for.
    Oversized,
    /// The network namespace does not come along.
    NoDescriptor,
    /// The network namespace comes along twice.
    TwoDescriptors,
    /// A file comes along that does not belong to it.
    StrayDescriptor,
    /// A pod is added without saying which workload it is.
    NoWorkload,
    /// It is not sent, nor anything after it; the connection stays open.
    Hang,
    /// The connection is closed in its place.
    Close,
}

/// A message as it goes out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<Arc<File>>,
}

/// What comes of a message.
#[derive(Debug)]
pub(super) enum Fate {
    Sent(Outgoing),
    Hangs,
    Closes,
}

/// The message as it goes out, spoilt if `fault` says so.
///
/// # Errors
/// There is no file to send along.
pub(super) fn fate(
    mut request: Request,
    namespace: Option<Arc<File>>,
    fault: Option<Fault>,
) -> io::Result<Fate> {
    if fault == Some(Fault::NoWorkload)
        && let Some(Payload::Add(add)) = &mut request.payload
    {
        add.workload = None;
    }
    let mut outgoing =
        Outgoing { bytes: request.encode_to_vec(), descriptors: namespace.into_iter().collect() };
    match fault {
        None | Some(Fault::NoWorkload) => {}
        Some(Fault::Garbage) => outgoing.bytes = vec![0xff; 16],
        Some(Fault::Half) => outgoing.bytes.truncate(outgoing.bytes.len().div_ceil(2)),
        Some(Fault::Oversized) => outgoing.bytes.resize(LARGEST + 1, 0),
        Some(Fault::NoDescriptor) => outgoing.descriptors.clear(),
        Some(Fault::TwoDescriptors) => outgoing.descriptors.extend_from_within(..),
        Some(Fault::StrayDescriptor) => outgoing.descriptors.push(Arc::new(File::open("/dev/null")?)),
        Some(Fault::Hang) => return Ok(Fate::Hangs),
        Some(Fault::Close) => return Ok(Fate::Closes),
    }
    Ok(Fate::Sent(outgoing))
}
