//! The server application: a process of its own, so that its processor time and descriptors are its own too. It is as
//! cheap as can be and checks nothing but counts; correctness is the tests' matter.
//!
//! A connection's first byte says what it wants, and is sent back when the server is ready for it. A connection is thus
//! known to be open from end to end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;

use crate::error::{LoadError, during};

/// The first argument that makes the `load` binary this application; the second is the address.
pub const ROLE: &str = "application";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Service {
    /// Reads to the end, then answers with the number of bytes (64 bits, big endian).
    Sink = b'S',
    /// Sends back what it reads.
    Echo = b'E',
    /// Nothing more than the one byte that every connection is answered with.
    Answer = b'A',
}

/// The running application. Dropping it ends the process.
#[derive(Debug)]
pub struct Application {
    child: Child,
    address: SocketAddr,
    // The process ends when this does, even if we are killed.
    _alive: ChildStdin,
}

impl Application {
    /// Starts this very program again as the application, on any port of `ip`.
    ///
    /// # Errors
    /// The process cannot be started, or cannot listen.
    pub fn start(ip: IpAddr) -> Result<Self, LoadError> {
        let what = "the application cannot be started";
        let mut child = Command::new(std::env::current_exe().map_err(during(what))?)
            .args([ROLE, &ip.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(during(what))?;
        let (Some(alive), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(during(what)(io::ErrorKind::BrokenPipe.into()));
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map_err(during(what))?;
        let address =
            line.trim().parse().map_err(|_| during(what)(io::Error::other("it named no address")))?;
        Ok(Self { child, address, _alive: alive })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The application itself: serves until standard input ends.
///
/// # Errors
/// It cannot listen.
pub fn run(ip: IpAddr) -> io::Result<()> {
    let listener = TcpListener::bind((ip, 0))?;
    println!("{}", listener.local_addr()?);
    let listener = Arc::new(listener);
    for _ in 0..ACCEPTORS {
        let listener = Arc::clone(&listener);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks is the client's to report.
                accept(stream).ok();
            }
        });
    }
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

/// Short connections are served at once: a thread for each would cost more than the connection.
fn accept(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut service = [0];
    stream.read_exact(&mut service)?;
    stream.write_all(&service)?;
    let serve = match service {
        [service] if service == Service::Sink as u8 => sink,
        [service] if service == Service::Echo as u8 => echo,
        // The client closes first, as most do.
        _ => return stream.read_exact(&mut service),
    };
    // One that gets no thread is closed, which the client sees.
    thread::Builder::new().stack_size(STACK).spawn(move || serve(stream).ok()).map(drop)
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BULK_READ];
    let mut count: u64 = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&count.to_be_bytes()),
            length => count += length as u64,
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// More than there are clients that open short connections at a time.
const ACCEPTORS: usize = 32;
/// Threads of thousands of idle connections must be small.
const STACK: usize = 64 << 10;
const BULK_READ: usize = 256 << 10;
