//! Questions as they came, and what is sent back.
//!
//! Only the head and the question are judged. A message that is forwarded goes on with every byte that it came with, so that
//! no type of record and no option is lost on its way through us.

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode,
};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::telemetry::DnsTransport;

/// What an answer in a datagram may be long if the client says nothing else (RFC 1035, 4.2.1).
const LEAST_PAYLOAD: u16 = 512;

/// A message with one question.
#[derive(Clone, Debug)]
pub(super) struct Query {
    bytes: Vec<u8>,
    metadata: Metadata,
    question: Question,
    /// None also if what follows the question can't be read: that is its receiver's matter.
    edns: Option<Edns>,
    transport: DnsTransport,
}

/// A message that is no question for us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Nothing is sent back. An answer to an answer could go round for ever between two servers.
    Ignored,
    /// This is sent back.
    Refused(Vec<u8>),
}

impl Query {
    pub(super) fn read(bytes: &[u8], transport: DnsTransport) -> Result<Self, Unusable> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts, .. } = Header::read(&mut decoder).map_err(|_| Unusable::Ignored)?;
        if metadata.message_type == MessageType::Response {
            return Err(Unusable::Ignored);
        }
        if metadata.op_code != OpCode::Query {
            return Err(Unusable::Refused(bare(&metadata, ResponseCode::NotImp)));
        }
        let malformed = || Unusable::Refused(bare(&metadata, ResponseCode::FormErr));
        if counts.queries != 1 {
            return Err(malformed());
        }
        let question = Question::read(&mut decoder).map_err(|_| malformed())?;
        // A question brings no other records than additional ones.
        let additional = if counts.answers == 0 && counts.authorities == 0 { counts.additionals } else { 0 };
        let records = Message::read_records(&mut decoder, additional.into(), true, metadata.op_code);
        let edns = records.map_or(None, |(_, edns, _)| edns);
        Ok(Self { bytes: bytes.to_vec(), metadata, question, edns, transport })
    }

    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    pub(super) fn transport(&self) -> DnsTransport {
        self.transport
    }

    /// The same message under another id, as it is forwarded.
    pub(super) fn forwarded_as(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.clone(), id)
    }

    /// Reads what a nameserver says to the message that was forwarded under `id`: what it means, if it is an answer to
    /// it at all.
    pub(super) fn is_answered_by(&self, id: u16, bytes: &[u8]) -> Option<ResponseCode> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts, .. } = Header::read(&mut decoder).ok()?;
        let is_answer = metadata.message_type == MessageType::Response
            && metadata.op_code == OpCode::Query
            && metadata.id == id
            && counts.queries == 1;
        // Names are compared in any case: some servers answer in lower case.
        let is_ours = is_answer && Question::read(&mut decoder).ok()? == self.question;
        is_ours.then_some(metadata.response_code)
    }

    /// A nameserver's answer as the client gets it: as it is, or if the client can't take that much, a hint to ask again
    /// over a connection.
    pub(super) fn passed_on(&self, answer: Vec<u8>, code: ResponseCode) -> Vec<u8> {
        if answer.len() <= usize::from(self.limit()) {
            return with_id(answer, self.metadata.id);
        }
        let mut message = self.reply(code);
        message.metadata.truncation = true;
        self.encode(&message)
    }

    /// An answer of our own without records.
    pub(super) fn failed(&self, code: ResponseCode) -> Vec<u8> {
        self.encode(&self.reply(code))
    }

    /// An answer of our own, of which we are the authority. Records that the client can't take are left out, and it is
    /// told so.
    pub(super) fn answered(&self, records: Vec<Record>) -> Vec<u8> {
        let mut message = self.reply(ResponseCode::NoError);
        message.metadata.authoritative = true;
        message.answers = records;
        let limit = usize::from(self.limit());
        let mut bytes = self.encode(&message);
        while bytes.len() > limit && !message.answers.is_empty() {
            let share = message.answers.len() * limit / bytes.len();
            message.answers.truncate(share);
            message.metadata.truncation = true;
            bytes = self.encode(&message);
        }
        bytes
    }

    /// Head, question and EDNS of an answer.
    fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::new(self.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.question.clone());
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload());
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    fn encode(&self, message: &Message) -> Vec<u8> {
        message.to_vec().unwrap_or_else(|_| bare(&self.metadata, ResponseCode::ServFail))
    }

    /// How long an answer may be, in bytes.
    fn limit(&self) -> u16 {
        match self.transport {
            DnsTransport::Tcp => u16::MAX,
            DnsTransport::Udp => {
                self.edns.as_ref().map_or(LEAST_PAYLOAD, |edns| edns.max_payload().max(LEAST_PAYLOAD))
            }
        }
    }
}

/// The head of an answer alone.
fn bare(asked: &Metadata, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::new(asked.id, MessageType::Response, asked.op_code);
    message.metadata = Metadata::response_from_request(asked);
    message.metadata.response_code = code;
    message.to_vec().expect("a head of twelve bytes can be written")
}

fn with_id(mut bytes: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(place) = bytes.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests;
