//! Names (RFC 1035), written down anew: a resolver as an application has it, and a server outside of the mesh.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use demo::place::Place;

use crate::wait::PATIENCE;

mod server;

pub use server::{NameServer, Question};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    /// IPv4 addresses.
    A = 1,
    /// A mail server: nothing that a mesh knows.
    Mx = 15,
    /// IPv6 addresses.
    Aaaa = 28,
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The response code: 0 is well, 3 is "no such name".
    pub code: u8,
    /// Whoever answers knows it of itself.
    pub authoritative: bool,
    /// It did not fit.
    pub truncated: bool,
    /// The answer section.
    pub records: Vec<Record>,
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of which name.
    pub name: String,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// Another name.
    Alias(String),
    /// Something else, of this type.
    Other(u16),
}

impl Answer {
    /// The addresses in it.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let data = self.records.iter().map(|record| &record.data);
        data.filter_map(|data| if let Data::Address(ip) = data { Some(*ip) } else { None }).collect()
    }
}

/// Asks `server` from `place` for the records of `name`, which is taken as it is (no search list).
///
/// # Errors
/// There is no answer, or it makes no sense.
///
/// # Panics
/// The namespace is not there, or `name` cannot be one.
pub fn ask(
    place: &Place,
    server: SocketAddr,
    transport: Transport,
    name: &str,
    record: RecordType,
) -> io::Result<Answer> {
    let id = fastrand::u16(..);
    let question = question(id, name, record);
    let asked = place.run(|| match transport {
        Transport::Udp => by_datagram(server, &question),
        Transport::Tcp => by_connection(server, &question),
    });
    let answer = asked.expect("the namespace is there")?;
    Reader { message: &answer, at: 0 }.answer(id).ok_or(io::ErrorKind::InvalidData.into())
}

fn by_datagram(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Connected: an answer from another address than was asked is none.
    socket.connect(server)?;
    socket.send(question)?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn by_connection(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len()).expect("a short question");
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn question(id: u16, name: &str, record: RecordType) -> Vec<u8> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut message = Vec::new();
    for field in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend((record as u16).to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    message
}

/// The port of name servers.
pub const PORT: u16 = 53;

const INTERNET: u16 = 1;

/// Reads a message; `None` if it ends too early or makes no sense.
struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn answer(mut self, id: u16) -> Option<Answer> {
        let is_ours = self.u16()? == id;
        let flags = self.u16()?;
        let (questions, records) = (self.u16()?, self.u16()?);
        let _ = (self.u16()?, self.u16()?);
        for _ in 0..questions {
            let _ = (self.name()?, self.u16()?, self.u16()?);
        }
        let records = (0..records).map(|_| self.record()).collect::<Option<_>>()?;
        let is_answer = flags & 0x8000 != 0;
        (is_ours && is_answer).then_some(Answer {
            code: (flags & 0xf) as u8,
            authoritative: flags & 0x0400 != 0,
            truncated: flags & 0x0200 != 0,
            records,
        })
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let (record, _class) = (self.u16()?, self.u16()?);
        let ttl = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
        let length = usize::from(self.u16()?);
        let end = self.at + length;
        let data = match record {
            1 => Data::Address(IpAddr::from(<[u8; 4]>::try_from(self.message.get(self.at..end)?).ok()?)),
            28 => Data::Address(IpAddr::from(<[u8; 16]>::try_from(self.message.get(self.at..end)?).ok()?)),
            5 => Data::Alias(self.name()?),
            other => Data::Other(other),
        };
        self.at = end;
        Some(Record { name, ttl, data })
    }

    /// Labels up to the root, or up to where the rest has stood before.
    fn name(&mut self) -> Option<String> {
        let mut labels = Vec::new();
        let mut end = None;
        // No name has more labels than this; a message whose names point in circles is none.
        for _ in 0..128 {
            let length = usize::from(*self.message.get(self.at)?);
            if length >= 0xc0 {
                let pointer = usize::from(self.u16()? & 0x3fff);
                end.get_or_insert(self.at);
                self.at = pointer;
                continue;
            }
            let label = self.message.get(self.at + 1..self.at + 1 + length)?;
            self.at += 1 + length;
            if length == 0 {
                self.at = end.unwrap_or(self.at);
                return Some(labels.join("."));
            }
            labels.push(String::from_utf8_lossy(label).into_owned());
        }
        None
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.message.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_the_rfc_has_it() {
        let expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04demo\x00\x00\x1c\x00\x01";
        assert_eq!(question(0x1234, "web.demo.", RecordType::Aaaa), expected);
    }

    #[test]
    fn an_answer_with_pointers_is_read() {
        let mut message =
            b"\x12\x34\x85\x80\x00\x01\x00\x02\x00\x00\x00\x00\x03web\x04demo\x00\x00\x01\x00\x01".to_vec();
        // web.demo is an alias of db.demo, whose end is that of the question's name.
        message.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x1e\x00\x05\x02db\xc0\x10");
        message.extend(b"\xc0\x26\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x60\x00\x01");
        let answer = Reader { message: &message, at: 0 }.answer(0x1234).expect("an answer");
        assert_eq!((answer.code, answer.authoritative, answer.truncated), (0, true, false));
        let alias = Record { name: "web.demo".to_owned(), ttl: 30, data: Data::Alias("db.demo".to_owned()) };
        assert_eq!(answer.records[0], alias);
        assert_eq!(answer.records[1].name, "db.demo");
        assert_eq!(answer.addresses(), [IpAddr::from([10, 96, 0, 1])]);
        assert_eq!(Reader { message: &message, at: 0 }.answer(0x1235), None, "to another question");
        let shorter = |end| Reader { message: &message[..end], at: 0 }.answer(0x1234);
        assert!((0..message.len()).all(|end| shorter(end).is_none()));
        let mut circle = message.clone();
        circle[0x2a] = 0x26;
        let at = 0x26;
        assert_eq!(Reader { message: &circle, at }.name(), None);
    }
}
