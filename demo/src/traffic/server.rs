//! The server application: takes any connection, does what its first byte asks for, checks every byte.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

use super::conversation::{ConversationError, Head, PATIENCE, Pattern, Place, Receiver, Sender};
use super::pattern::{Direction, WINDOW};
use super::tally::Tally;

/// Longest request or answer that the server agrees to, in bytes.
pub const MESSAGE_LIMIT: u32 = 4 << 20;

/// Serves connections of `listener` until the future is dropped. What goes wrong is counted in `tally`.
///
/// # Errors
/// Accepting fails for good (a full descriptor table, for instance).
pub async fn serve(listener: TcpListener, tally: Arc<Tally>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let tally = Arc::clone(&tally);
        tokio::spawn(async move { tally.connection(converse(stream, &tally)).await });
    }
}

async fn converse(mut stream: TcpStream, tally: &Tally) -> Result<(), ConversationError> {
    let head = read_head(&mut stream).await?;
    let connection = head.connection;
    let (reader, writer) = stream.split();
    let receiver = Receiver::new(reader, connection, Direction::Upload, tally);
    let sender = Sender::new(writer, connection, Direction::Download, tally);
    match head.pattern {
        Pattern::Bulk => bulk(receiver, sender).await,
        Pattern::Requests => requests(receiver, sender).await,
        Pattern::HalfCloseClientFirst => client_first(receiver, sender, head.length).await,
        Pattern::HalfCloseServerFirst => server_first(receiver, sender, head.length).await,
    }
}

async fn read_head(stream: &mut TcpStream) -> Result<Head, ConversationError> {
    use tokio::io::AsyncReadExt;
    const UNKNOWN: u64 = 0;
    let place = Place { direction: Direction::Upload, offset: 0 };
    let broke = |source| ConversationError::Broke { connection: UNKNOWN, place, source };
    stream.set_nodelay(true).map_err(broke)?;
    let mut bytes = [0; Head::SIZE];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes))
        .await
        .map_err(|_| ConversationError::Silent { connection: UNKNOWN, place })?
        .map_err(broke)?;
    Head::decode(&bytes).ok_or(ConversationError::Malformed {
        connection: UNKNOWN,
        place,
        what: "the first byte names no pattern",
    })
}

type From<'t, 's> = Receiver<'t, ReadHalf<'s>>;
type To<'t, 's> = Sender<'t, WriteHalf<'s>>;

async fn bulk(mut from: From<'_, '_>, mut to: To<'_, '_>) -> Result<(), ConversationError> {
    let client_ended = AtomicBool::new(false);
    let receive = async {
        while from.block().await? {
            // Requests on the same thread shall not wait for more than one block.
            yield_now().await;
        }
        from.ended().await?;
        client_ended.store(true, Ordering::Relaxed);
        Ok(())
    };
    let send = async {
        while !client_ended.load(Ordering::Relaxed) {
            to.block(WINDOW).await?;
            yield_now().await;
        }
        to.block(0).await?;
        to.finish().await
    };
    tokio::try_join!(receive, send).map(|_| ())
}

async fn requests(mut from: From<'_, '_>, mut to: To<'_, '_>) -> Result<(), ConversationError> {
    while let Some(head) = from.control::<8>().await? {
        let [r0, r1, r2, r3, a0, a1, a2, a3] = head;
        let request = u32::from_be_bytes([r0, r1, r2, r3]);
        let answer = u32::from_be_bytes([a0, a1, a2, a3]);
        if request.max(answer) > MESSAGE_LIMIT {
            return Err(from.malformed("a request or answer is longer than any that is sent"));
        }
        from.payload(u64::from(request)).await?;
        to.message(&[], u64::from(answer)).await?;
    }
    to.finish().await
}

async fn client_first(
    mut from: From<'_, '_>,
    mut to: To<'_, '_>,
    length: u64,
) -> Result<(), ConversationError> {
    from.all_of(length).await?;
    to.all_of(length).await
}

async fn server_first(
    mut from: From<'_, '_>,
    mut to: To<'_, '_>,
    length: u64,
) -> Result<(), ConversationError> {
    to.all_of(length).await?;
    from.all_of(length).await
}
