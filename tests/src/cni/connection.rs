//! One connection of a proxy, from accept to end.
//!
//! ```text
//!  accept ──► counted as the latest ──► hello ──► snapshot ──► updates ◄─┐
//!                                        │           │           │ │     │ each waits for its answer
//!                                        ▼           ▼           ▼ └─────┘
//!                                     any error: closed       closed only if it can't be written to,
//!                                                             or the probe between updates finds an end or a byte
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use prost::Message;
use socket2::Socket;

use super::fault::{Fate, Outgoing, fate};
use super::message::{Add, Hello, Keep, Payload, Request, Response, SnapshotSent};
use super::packet::{self, PacketError};
use super::statistics::Answer;
use super::{Shared, Update};

pub(super) struct Connection {
    number: u64,
    socket: Arc<Socket>,
    shared: Arc<Shared>,
    /// Answers that have not come in time: each will be taken for the answer to a later message.
    owed: u64,
}

impl Connection {
    pub(super) fn new(number: u64, socket: Arc<Socket>, shared: Arc<Shared>) -> Self {
        Self { number, socket, shared, owed: 0 }
    }

    /// Serves the connection until it ends.
    pub(super) fn run(mut self, updates: &Receiver<Update>) {
        let number = self.number;
        if let Err(error) = self.serve(updates)
            && !matches!(error, PacketError::Ended)
        {
            let error = format!("connection {number}: {error}");
            self.shared.count(|statistics| statistics.protocol_errors.push(error));
        }
        self.shared.leave(number);
    }

    fn serve(&mut self, updates: &Receiver<Update>) -> Result<(), PacketError> {
        let deadline = self.shared.timing.deadline;
        self.socket.set_write_timeout(Some(deadline))?;
        Hello::decode(&*self.receive(deadline)?)?;
        self.shared.count(|statistics| statistics.hellos += 1);
        self.snapshot()?;
        self.shared.count(|statistics| statistics.snapshots += 1);
        self.updates(updates)
    }

    fn snapshot(&mut self) -> Result<(), PacketError> {
        for (uid, pod) in self.shared.pods() {
            let payload = match &pod.namespace {
                Some(_) => Payload::Add(Add { uid, workload: Some(pod.workload) }),
                None => Payload::Keep(Keep { uid }),
            };
            // What the answer says is counted; nothing follows from it.
            self.exchange(Request::new(payload), pod.namespace)?;
        }
        self.exchange(Request::new(Payload::SnapshotSent(SnapshotSent {})), None)?;
        Ok(())
    }

    fn updates(&mut self, updates: &Receiver<Update>) -> Result<(), PacketError> {
        let timing = self.shared.timing;
        loop {
            match updates.recv_timeout(timing.keepalive) {
                Ok(Update { request, namespace, answer }) => {
                    let result = self.exchange(request, namespace);
                    let broken = matches!(&result, Err(PacketError::Socket(error))
                        if error.kind() == io::ErrorKind::BrokenPipe);
                    answered(&answer, result);
                    if broken {
                        return Err(PacketError::Ended);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => match self.receive(timing.probe) {
                    Err(PacketError::Late) => {}
                    Ok(_) => return Err(io::Error::other("an unexpected message").into()),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Sends one message and takes what comes next for its answer.
    fn exchange(&mut self, request: Request, namespace: Option<Arc<File>>) -> Result<String, PacketError> {
        let deadline = self.shared.timing.deadline;
        let title = request.title();
        let outgoing = match fate(request, namespace, self.shared.next_fault())? {
            Fate::Sent(outgoing) => outgoing,
            Fate::Hangs => self.hang()?,
            Fate::Closes => {
                // So that an update, too, ends the connection.
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
        };
        let descriptors: Vec<BorrowedFd<'_>> = outgoing.descriptors.iter().map(|file| file.as_fd()).collect();
        let begun = Instant::now();
        packet::send(self.socket.as_fd(), &outgoing.bytes, &descriptors)?;
        let received = match self.receive(deadline) {
            Err(PacketError::Late) => {
                self.owed += 1;
                self.shared.count(|statistics| statistics.late += 1);
                return Err(PacketError::Late);
            }
            received => received?,
        };
        let error = Response::decode(&*received)?.ack.unwrap_or_default().error;
        let (number, mispaired) = (self.number, self.owed > 0);
        self.shared.count(|statistics| {
            statistics.mispaired += u64::from(mispaired);
            let latency = begun.elapsed();
            let answer = Answer { connection: number, to: title, latency, error: error.clone() };
            statistics.answers.push(answer);
        });
        Ok(error)
    }

    /// Does nothing until the connection ends.
    fn hang(&self) -> Result<Outgoing, PacketError> {
        loop {
            match self.receive(self.shared.timing.deadline) {
                Ok(_) | Err(PacketError::Late) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self, within: Duration) -> Result<Vec<u8>, PacketError> {
        self.socket.set_read_timeout(Some(within))?;
        match packet::receive(self.socket.as_fd()) {
            Err(PacketError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(PacketError::Late)
            }
            result => result,
        }
    }
}

fn answered(answer: &mpsc::Sender<Result<String, PacketError>>, result: Result<String, PacketError>) {
    // Whoever asked may have waited long enough.
    answer.send(result).ok();
}
