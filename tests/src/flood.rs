//! Floods: what one pod can do to the proxy of its node, so that it can be seen what others notice.
//!
//! Generators and proxy share the processors, and the proxy is to have more work than it can do and not less time to do
//! it. So there are few generators, of low priority, which touch no byte: the kernel sends pages of a file and throws away
//! what arrives.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use demo::node::TUNNEL_PORT;
use demo::place::Place;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, SockRef, Socket, Type};

use crate::cluster::Pod;

/// What floods a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Its applications open one connection after the other; the latest 500 stay.
    Fresh,
    /// So many of its connections carry bytes as fast as they can.
    Bulk(usize),
    /// Its applications hold so many connections open.
    Idle(usize),
    /// Somebody begins one TLS handshake after the other with it; the latest 2,000 stay where they are.
    Handshakes,
}

/// A flood that goes on until it is dropped.
#[derive(Debug)]
pub struct Flooding {
    running: Arc<Running>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Running {
    stopped: AtomicBool,
    opened: AtomicUsize,
}

impl Flood {
    /// Floods `busy`, with the help of `outside`, a pod without a proxy.
    ///
    /// # Errors
    /// There are no threads, or no connections.
    ///
    /// # Panics
    /// A namespace is not there.
    pub fn start(self, busy: &Pod, outside: &Pod) -> io::Result<Flooding> {
        let running = Arc::new(Running::default());
        let mut flooding = Flooding { running: Arc::clone(&running), threads: Vec::new() };
        let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, SINK));
        let sink = outside.place().run(listen).expect("the namespace is there")?;
        flooding.spawn(0, outside.place(), move |running| swallow(&sink, running))?;
        let to = outside.at(SINK);
        match self {
            Self::Fresh => {
                for _ in 0..2 {
                    flooding.spawn(LOW, busy.place(), move |running| {
                        one_after_the_other(to, &[], 250, running)
                    })?;
                }
            }
            Self::Handshakes => {
                let to = busy.at(TUNNEL_PORT);
                for _ in 0..2 {
                    let work = move |running: &Running| one_after_the_other(to, RECORD, 1_000, running);
                    flooding.spawn(LOW, outside.place(), work)?;
                }
            }
            // It needs next to no time.
            Self::Bulk(count) => flooding.spawn(0, busy.place(), move |running| pour(to, count, running))?,
            Self::Idle(count) => {
                flooding.spawn(LOW, busy.place(), move |running| hold(to, count, running))?;
            }
        }
        Ok(flooding)
    }
}

impl Flooding {
    /// How many connections were opened so far.
    pub fn opened(&self) -> usize {
        self.running.opened.load(Ordering::Relaxed)
    }

    fn spawn(
        &mut self,
        niceness: i32,
        place: &Place,
        work: impl FnOnce(&Running) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (running, place) = (Arc::clone(&self.running), place.clone());
        let thread = thread::Builder::new().name("flood".to_owned()).spawn(move || {
            // Of this thread alone, on Linux.
            rustix::process::nice(niceness).expect("anybody may be nicer");
            place.enter().expect("the namespace is there");
            work(&running).expect("a flood");
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        self.running.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has said so itself if it panicked.
            thread.join().ok();
        }
    }
}

impl Running {
    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// A connection, unless the other side is too busy to take it soon; it ends by a reset, which leaves nothing behind.
    fn open(&self, to: SocketAddr) -> io::Result<Option<TcpStream>> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if socket.connect_timeout(&to.into(), SOON).is_err() {
            return Ok(None);
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Some(socket.into()))
    }
}

/// Accepts everything, and takes whatever comes.
fn swallow(listener: &TcpListener, running: &Running) -> io::Result<()> {
    // The standard library asks for less.
    SockRef::from(listener).listen(4_096)?;
    listener.set_nonblocking(true)?;
    let (mut visitors, mut buffer) = (Vec::<TcpStream>::new(), vec![0; BLOCK]);
    while running.goes_on() {
        let polled = visitors.iter().map(AsFd::as_fd).chain([listener.as_fd()]);
        let mut polled: Vec<_> = polled.map(|one| PollFd::from_borrowed_fd(one, PollFlags::IN)).collect();
        poll(&mut polled, Some(&SOMETIMES))?;
        let mut ready = polled.iter().map(|one| !one.revents().is_empty()).collect::<Vec<_>>().into_iter();
        drop(polled);
        visitors.retain_mut(|visitor| {
            let ready = ready.next().unwrap_or_default();
            if !ready {
                return true;
            }
            match recv(visitor, &mut buffer, RecvFlags::TRUNC) {
                Ok((_, count)) => count > 0,
                Err(error) => error == Errno::WOULDBLOCK,
            }
        });
        while let Ok((visitor, _)) = listener.accept() {
            visitor.set_nonblocking(true)?;
            visitors.push(visitor);
        }
    }
    Ok(())
}

/// Opens connections and says `first` on each; the latest `kept` stay.
fn one_after_the_other(to: SocketAddr, first: &[u8], kept: usize, running: &Running) -> io::Result<()> {
    let mut latest = VecDeque::new();
    while running.goes_on() {
        let Some(mut stream) = running.open(to)? else { continue };
        // It may have been closed already.
        stream.write_all(first).ok();
        latest.push_back(stream);
        if latest.len() > kept {
            latest.pop_front();
        }
    }
    Ok(())
}

/// Writes on `count` connections whatever they take.
fn pour(to: SocketAddr, count: usize, running: &Running) -> io::Result<()> {
    let (mut streams, block) = (Vec::new(), block()?);
    while streams.len() < count && running.goes_on() {
        let Some(stream) = running.open(to)? else { continue };
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    while running.goes_on() {
        let polled = streams.iter().map(|one| PollFd::new(one, PollFlags::OUT));
        let mut polled: Vec<_> = polled.collect();
        poll(&mut polled, Some(&SOMETIMES))?;
        let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        for (stream, _) in streams.iter().zip(ready).filter(|(_, ready)| *ready) {
            match sendfile(stream, &block, Some(&mut 0), BLOCK) {
                Ok(_) | Err(Errno::WOULDBLOCK) => {}
                // The sink has stopped before us.
                Err(_) if !running.goes_on() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// A file of [`BLOCK`] bytes.
fn block() -> io::Result<OwnedFd> {
    let file = memfd_create("block", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, BLOCK as u64)?;
    Ok(file)
}

/// Opens `count` connections, as far as somebody takes them, and holds them.
fn hold(to: SocketAddr, count: usize, running: &Running) -> io::Result<()> {
    let mut streams = Vec::new();
    while running.goes_on() {
        if streams.len() == count {
            thread::sleep(SOON);
        } else {
            streams.extend(running.open(to)?);
        }
    }
    Ok(())
}

/// The lowest priority.
const LOW: i32 = 19;
const SINK: u16 = 9_000;
/// Of the kernel's socket buffers, some; of the proxy's turns, two.
const BLOCK: usize = 256 << 10;
/// The head of a TLS record that is never whole.
const RECORD: &[u8] = &[22, 3, 1, 2, 0, 1];
const SOON: Duration = Duration::from_millis(100);
const SOMETIMES: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
