//! A bounded queue of lines and the thread that writes them.
//!
//! A full queue makes the caller wait: a line that was logged is a line that is written. Only this thread writes, and
//! only whole lines, so that lines never interleave.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

const QUEUED_LINES: usize = 10_000;
const LINES_PER_WRITE: usize = 64;
/// Whoever reads our output may have stalled; the process ends nevertheless.
const PATIENCE_AT_EXIT: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Everything before this is to be written; then the sender is dropped, which tells.
    Flush(SyncSender<()>),
}

/// Accepts lines.
#[derive(Clone)]
pub(super) struct Queue(SyncSender<Message>);

/// Writes what is queued when it is dropped, for one second at most.
#[must_use = "dropping it at once gives up the last lines of the process"]
pub struct LogGuard(SyncSender<Message>);

/// Starts the thread; it ends when the queue and the guard are gone.
pub(super) fn start(output: impl Write + Send + 'static) -> (Queue, LogGuard) {
    let (sender, receiver) = sync_channel(QUEUED_LINES);
    std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || write_all(&receiver, output))
        .expect("a process that cannot start its first thread cannot work");
    (Queue(sender.clone()), LogGuard(sender))
}

fn write_all(queue: &Receiver<Message>, mut output: impl Write) {
    let mut batch = Vec::new();
    while let Ok(first) = queue.recv() {
        batch.clear();
        let mut flushed = Vec::new();
        let more = std::iter::from_fn(|| queue.try_recv().ok()).take(LINES_PER_WRITE - 1);
        for message in std::iter::once(first).chain(more) {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => flushed.push(done),
            }
        }
        // A closed output must not stop the process; there is nowhere to tell.
        let _ = output.write_all(&batch).and_then(|()| output.flush());
    }
}

impl Write for Queue {
    /// `line` is a whole line: the formatting layer writes once an event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(Message::Line(line.to_vec())).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl LogGuard {
    /// Waits until everything logged so far is written, for one second at most.
    pub fn flush(&self) {
        let deadline = Instant::now() + PATIENCE_AT_EXIT;
        let (done, written) = sync_channel(0);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(full)) = self.0.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = full;
            std::thread::sleep(Duration::from_millis(1));
        }
        // Both outcomes mean that there is no more to wait for.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    /// An output that waits for a permission for each write.
    struct Gated {
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A dropped gate is open.
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_queue_holds_the_caller_and_loses_nothing() {
        const LINES: usize = QUEUED_LINES + 500;
        let written = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = mpsc::channel();
        let (mut queue, guard) = start(Gated { gate, written: written.clone() });
        let sent = Arc::new(AtomicUsize::new(0));
        let producer = std::thread::spawn({
            let sent = sent.clone();
            move || {
                for number in 0..LINES {
                    queue.write_all(format!("{number}\n").as_bytes()).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        // The output is shut: the producer gets no further than the queue and the batch in hand.
        while sent.load(Ordering::SeqCst) < QUEUED_LINES {
            std::thread::yield_now();
        }
        assert!(!producer.is_finished());
        assert!(sent.load(Ordering::SeqCst) <= QUEUED_LINES + LINES_PER_WRITE);
        assert!(written.lock().unwrap().is_empty());

        drop(open);
        producer.join().unwrap();
        drop(guard);
        let expected: String = (0..LINES).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(written.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = mpsc::channel();
        drop(open);
        let (queue, guard) = start(Gated { gate, written: written.clone() });
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mut queue = queue.clone();
                scope.spawn(move || {
                    for _ in 0..1000 {
                        queue.write_all(format!("{}\n", thread.to_string().repeat(100)).as_bytes()).unwrap();
                    }
                });
            }
        });
        drop(guard);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 4000);
        assert!(
            text.lines().all(|line| line.len() == 100 && line.bytes().all(|byte| byte == line.as_bytes()[0]))
        );
    }
}
