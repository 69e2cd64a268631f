//! Applications in pods, and connections to them that a test makes one by one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use demo::place::Place;
use socket2::{Domain, Socket, Type};

use crate::wait::PATIENCE;

/// An application that says who it is and who it sees, and then sends back what it gets. Dropping it stops its listening;
/// connections go on.
#[derive(Debug)]
pub struct Greeter(Arc<Socket>);

impl Greeter {
    /// Starts it on `port` of all addresses in `place`, as `name`.
    ///
    /// # Errors
    /// The port is taken.
    ///
    /// # Panics
    /// The namespace is not there.
    pub fn start(place: &Place, name: &str, port: u16) -> io::Result<Self> {
        let socket = place.run(|| listen(port)).expect("the namespace is there")?;
        let (listener, name) = (Arc::new(socket), name.to_owned());
        let accepting = Arc::clone(&listener);
        thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((visitor, _)) = accepting.accept() {
                let name = name.clone();
                // What becomes of a connection is its visitor's business.
                thread::spawn(move || greet(&name, visitor.into()).ok());
            }
        });
        Ok(Self(listener))
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // It fails only if nobody listens any more.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

fn listen(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into())?;
    socket.listen(128)?;
    Ok(socket)
}

fn greet(name: &str, mut visitor: TcpStream) -> io::Result<()> {
    let seen = visitor.peer_addr()?.ip().to_canonical();
    writeln!(visitor, "{name} {seen}")?;
    let mut from = visitor.try_clone()?;
    io::copy(&mut from, &mut visitor)?;
    visitor.shutdown(Shutdown::Write)
}

/// A connection to a [`Greeter`], whose answers are checked.
#[derive(Debug)]
pub struct Call {
    stream: BufReader<TcpStream>,
    by: String,
    seen: IpAddr,
    exchanges: u64,
}

impl Call {
    /// Connects from `place` to `target`, from the address `source` if there is one, and reads the greeting.
    ///
    /// # Errors
    /// The connection is refused, breaks off, or nothing comes.
    ///
    /// # Panics
    /// The namespace is not there.
    pub fn open(place: &Place, source: Option<IpAddr>, target: SocketAddr) -> io::Result<Self> {
        let connect = || {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            if let Some(source) = source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            socket.connect_timeout(&target.into(), PATIENCE)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        };
        let stream = place.run(connect).expect("the namespace is there")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting)?;
        let parts = greeting.trim_end().split_once(' ');
        let parts = parts.and_then(|(by, seen)| Some((by.to_owned(), seen.parse().ok()?)));
        let (by, seen) = parts.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self { stream, by, seen, exchanges: 0 })
    }

    /// Who answered.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// The address that the application sees.
    pub fn seen(&self) -> IpAddr {
        self.seen
    }

    /// Sends something new and checks that it comes back.
    ///
    /// # Errors
    /// The connection has ended, or something else comes back.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.exchanges += 1;
        let sent = format!("{:032}", self.exchanges).into_bytes();
        self.stream.get_mut().write_all(&sent)?;
        let mut back = vec![0; sent.len()];
        self.stream.read_exact(&mut back)?;
        if back == sent { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Waits for the other side's end. True if it was an orderly one, false if it was a reset.
    ///
    /// # Panics
    /// It does not end, or says something.
    pub fn ended(mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(0) => true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            other => panic!("no end but {other:?}"),
        }
    }
}
