//! The client side of SOCKS5 (RFC 1928), as far as it is needed: no authentication, CONNECT to an IP address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Why a connection through a SOCKS5 proxy was not made.
#[derive(Debug, thiserror::Error)]
pub enum Socks5Error {
    /// The proxy could not be reached, or broke off.
    #[error("the SOCKS5 proxy at {proxy} does not answer: {source}")]
    Io {
        /// Where the proxy should be.
        proxy: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy does not speak SOCKS5 without authentication.
    #[error("what listens at {proxy} does not offer SOCKS5 without authentication")]
    Method {
        /// Where the proxy should be.
        proxy: SocketAddr,
    },
    /// The proxy refused the destination (RFC 1928 section 6).
    #[error("the SOCKS5 proxy refused {destination} with code {code}")]
    Refused {
        /// Where the connection should go.
        destination: SocketAddr,
        /// The reply field.
        code: u8,
    },
}

/// Opens a connection to `destination` through the SOCKS5 server at `proxy`.
///
/// A node proxy says yes before it connects (so does Istio's): a destination that cannot be reached shows as an early
/// end of the connection, not as an error here.
///
/// # Errors
/// See [`Socks5Error`].
pub async fn connect(proxy: SocketAddr, destination: SocketAddr) -> Result<TcpStream, Socks5Error> {
    let broken = |source| Socks5Error::Io { proxy, source };
    let mut stream = TcpStream::connect(proxy).await.map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;

    stream.write_all(&[VERSION, 1, NO_AUTHENTICATION]).await.map_err(broken)?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await.map_err(broken)?;
    if choice != [VERSION, NO_AUTHENTICATION] {
        return Err(Socks5Error::Method { proxy });
    }

    stream.write_all(&request(destination)).await.map_err(broken)?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await.map_err(broken)?;
    let [version, code, _, address_type] = reply;
    if version != VERSION {
        return Err(Socks5Error::Method { proxy });
    }
    if code != 0 {
        return Err(Socks5Error::Refused { destination, code });
    }
    let mut bound = [0; 18];
    let length = if address_type == IPV6 { 18 } else { 6 };
    stream.read_exact(&mut bound[..length]).await.map_err(broken)?;
    Ok(stream)
}

fn request(destination: SocketAddr) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    match destination.ip() {
        IpAddr::V4(ip) => {
            request.push(IPV4);
            request.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(IPV6);
            request.extend_from_slice(&ip.octets());
        }
    }
    request.extend_from_slice(&destination.port().to_be_bytes());
    request
}

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const IPV6: u8 = 4;
