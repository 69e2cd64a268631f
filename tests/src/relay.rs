//! A relay of TCP connections, so that a test can cut those of a node without touching either end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// See the module. It ends when it is dropped, and all that goes through it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    cuts: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Takes connections at `address` and leads them to `target`.
    ///
    /// # Errors
    /// `address` is taken.
    pub async fn start(address: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (cuts, cut) = watch::channel(());
        let accepting = tokio::spawn(accept(listener, target, cut));
        Ok(Self { address, cuts, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection of now, on both sides. Those to come are not concerned.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, cut: watch::Receiver<()>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut cut = cut.clone();
        cut.mark_unchanged();
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(target).await else { return };
            let mut near = near;
            let whole = tokio::select! {
                copied = copy_bidirectional(&mut near, &mut far) => copied.is_ok(),
                _ = cut.changed() => false,
            };
            if !whole {
                for end in [near, far] {
                    // Closing it is a reset then. One that is reset already is as it should be.
                    SockRef::from(&end).set_linger(Some(Duration::ZERO)).ok();
                }
            }
        });
    }
}
