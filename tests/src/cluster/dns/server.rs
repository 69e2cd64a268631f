//! The name server that proxies ask about what the mesh does not know.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use demo::place::Place;
use socket2::{Domain, Socket, Type};

use super::{INTERNET, Reader, RecordType, Transport};

/// Answers with the one address that it knows of a name, else that there is no such name. Dropping it stops it.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    listener: Arc<Socket>,
}

/// What it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// By whom.
    pub from: IpAddr,
    /// How.
    pub transport: Transport,
    /// For which name.
    pub name: String,
    /// For which type of record.
    pub record: u16,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<BTreeMap<String, IpAddr>>,
    asked: Mutex<Vec<Question>>,
    stopped: AtomicBool,
}

impl NameServer {
    /// Starts it in `place`. It knows nothing.
    ///
    /// # Errors
    /// The address is taken.
    ///
    /// # Panics
    /// The namespace is not there.
    pub fn start(place: &Place, address: SocketAddr) -> io::Result<Self> {
        let bind = || {
            let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            listener.bind(&address.into())?;
            listener.listen(16)?;
            Ok::<_, io::Error>((listener, UdpSocket::bind(address)?))
        };
        let (listener, udp) = place.run(bind).expect("the namespace is there")?;
        udp.set_read_timeout(Some(LOOK_AROUND))?;
        let (listener, shared) = (Arc::new(listener), Arc::new(Shared::default()));
        let by_datagram = Arc::clone(&shared);
        thread::spawn(move || by_datagram.datagrams(&udp));
        let (by_connection, accepting) = (Arc::clone(&shared), Arc::clone(&listener));
        thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((asking, _)) = accepting.accept() {
                let shared = Arc::clone(&by_connection);
                // What becomes of a connection is the business of whoever asks.
                thread::spawn(move || shared.connection(asking.into()).ok());
            }
        });
        Ok(Self { shared, listener })
    }

    /// From now on it knows the address of a name.
    pub fn know(&self, name: &str, address: IpAddr) {
        locked(&self.shared.known).insert(name.to_owned(), address);
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Question> {
        locked(&self.shared.asked).clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // It fails only if nobody listens any more.
        self.listener.shutdown(Shutdown::Both).ok();
    }
}

impl Shared {
    fn datagrams(&self, socket: &UdpSocket) {
        let mut message = [0; 512];
        while !self.stopped.load(Ordering::Relaxed) {
            // An error is that nobody asked for a while, or that somebody did not wait for his answer.
            let Ok((length, from)) = socket.recv_from(&mut message) else { continue };
            if let Some(answer) = self.answer(&message[..length], from.ip(), Transport::Udp) {
                socket.send_to(&answer, from).ok();
            }
        }
    }

    fn connection(&self, mut asking: TcpStream) -> io::Result<()> {
        let from = asking.peer_addr()?.ip();
        loop {
            let mut length = [0; 2];
            asking.read_exact(&mut length)?;
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            asking.read_exact(&mut message)?;
            let Some(answer) = self.answer(&message, from, Transport::Tcp) else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            asking.write_all(&[&length.to_be_bytes(), &*answer].concat())?;
        }
    }

    fn answer(&self, message: &[u8], from: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        const HEAD: usize = 12;
        let mut reader = Reader { message, at: HEAD };
        let name = reader.name()?.to_ascii_lowercase();
        let (record, _class) = (reader.u16()?, reader.u16()?);
        let end_of_question = reader.at;
        let known = locked(&self.known).get(&name).copied();
        locked(&self.asked).push(Question { from, transport, name, record });

        let address = known.filter(|known| record == of_type(*known) as u16);
        let response_code = if known.is_some() { 0 } else { NO_SUCH_NAME };
        let mut answer = message[..2].to_vec();
        // One question, as it came; no more than what is said here.
        for field in [RESPONSE | response_code, 1, u16::from(address.is_some()), 0, 0] {
            answer.extend(field.to_be_bytes());
        }
        answer.extend(&message[HEAD..end_of_question]);
        if let Some(address) = address {
            let address = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let length = u16::try_from(address.len()).ok()?;
            for field in [NAME_OF_QUESTION, record, INTERNET, 0, TTL, length] {
                answer.extend(field.to_be_bytes());
            }
            answer.extend(address);
        }
        Some(answer)
    }
}

fn of_type(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::Aaaa }
}

/// A response; recursion was desired and is available.
const RESPONSE: u16 = 0x8180;
const NO_SUCH_NAME: u16 = 3;
/// Points to the first byte behind the head.
const NAME_OF_QUESTION: u16 = 0xc00c;
/// Another one than proxies give of themselves.
const TTL: u16 = 77;
const LOOK_AROUND: Duration = Duration::from_millis(100);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is a single step: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
