//! An application with one connection that policy may take away: it says a byte and waits for the same byte.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::traffic::{Dial, socks5};

/// An open connection of the guest.
#[derive(Debug)]
pub struct Guest(TcpStream);

impl Guest {
    /// Connects, and has one byte answered: the way is open to its end.
    ///
    /// # Errors
    /// It is not, or not within a few seconds.
    pub async fn arrive(dial: Dial, server: SocketAddr) -> io::Result<Self> {
        let arrive = async {
            let stream = match dial {
                Dial::Direct => TcpStream::connect(server).await?,
                Dial::Socks5(proxy) => socks5::connect(proxy, server).await.map_err(io::Error::other)?,
            };
            let mut guest = Self(stream);
            guest.ask().await?;
            Ok(guest)
        };
        timeout(PATIENCE, arrive).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Has one byte answered.
    ///
    /// # Errors
    /// The connection is closed, or the answer is wrong.
    pub async fn ask(&mut self) -> io::Result<()> {
        self.0.write_all(b"?").await?;
        let answer = self.0.read_u8().await?;
        if answer == b'?' { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Returns when the connection is closed.
    pub async fn closed(&mut self) {
        let mut byte = [0; 1];
        while self.0.read(&mut byte).await.is_ok_and(|count| count > 0) {}
    }
}

/// Serves guests until the future is dropped.
pub async fn serve(listener: StdListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            // A guest that is cut off is the point of it all.
            tokio::io::copy(&mut reader, &mut writer).await.ok();
        });
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
