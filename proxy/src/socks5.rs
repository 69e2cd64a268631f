//! SOCKS5 (RFC 1928) as far as stock ztunnel speaks it: no authentication, CONNECT only. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version 5, one method, "no authentication required".
pub const METHOD: [u8; 2] = [5, 0];

/// What the bytes of a client amount to so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The message isn't whole yet.
    Incomplete,
    /// The method negotiation is whole and took this many bytes; [`METHOD`] is the answer.
    Method(usize),
    /// The request is whole and took this many bytes.
    Request(usize, Target),
}

/// Where the client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name and a port.
    Name(String, u16),
}

/// The client broke the protocol or asked for what isn't served; [`reply`] with its code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("socks5: {0}")]
pub struct Refusal(pub &'static str);

/// RFC 1928, section 6: "command not supported", which stock answers to every protocol error.
pub const NOT_SUPPORTED: u8 = 7;
/// RFC 1928, section 6: "host unreachable", for names that can't be resolved.
pub const HOST_UNREACHABLE: u8 = 4;

/// Reads the method negotiation (section 3).
///
/// # Errors
/// If it isn't SOCKS5, or "no authentication" isn't offered.
pub fn method(bytes: &[u8]) -> Result<Greeting, Refusal> {
    let (version, rest) = match bytes {
        [] => return Ok(Greeting::Incomplete),
        [version, rest @ ..] => (*version, rest),
    };
    if version != 5 {
        return Err(Refusal("the client doesn't speak version 5"));
    }
    let Some((&count, methods)) = rest.split_first() else { return Ok(Greeting::Incomplete) };
    let Some(methods) = methods.get(..usize::from(count)) else { return Ok(Greeting::Incomplete) };
    if methods.contains(&0) {
        Ok(Greeting::Method(2 + usize::from(count)))
    } else {
        Err(Refusal("the client insists on authentication"))
    }
}

/// Reads the request (section 4).
///
/// # Errors
/// If it isn't CONNECT to an address or a name.
pub fn request(bytes: &[u8]) -> Result<Greeting, Refusal> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(Greeting::Incomplete) };
    match head {
        [5, 1, _, _] => {}
        [5, ..] => return Err(Refusal("only CONNECT is served")),
        _ => return Err(Refusal("the client doesn't speak version 5")),
    }
    let rest = &bytes[4..];
    let address_length = match head[3] {
        1 => 4,
        4 => 16,
        3 => match rest.first() {
            Some(&length) => 1 + usize::from(length),
            None => return Ok(Greeting::Incomplete),
        },
        _ => return Err(Refusal("unknown kind of address")),
    };
    let (Some(address), Some(port)) =
        (rest.get(..address_length), rest.get(address_length..).and_then(|rest| rest.first_chunk::<2>()))
    else {
        return Ok(Greeting::Incomplete);
    };
    let port = u16::from_be_bytes(*port);
    let ip = <[u8; 4]>::try_from(address)
        .map(|v4| IpAddr::V4(Ipv4Addr::from(v4)))
        .or_else(|_| <[u8; 16]>::try_from(address).map(|v6| IpAddr::V6(Ipv6Addr::from(v6))));
    let target = match (head[3], ip) {
        (1 | 4, Ok(ip)) => Target::Address(SocketAddr::new(ip, port)),
        _ => match std::str::from_utf8(&address[1..]) {
            Ok(name) if !name.is_empty() => Target::Name(name.to_owned(), port),
            _ => return Err(Refusal("the name isn't text")),
        },
    };
    Ok(Greeting::Request(4 + address_length + 2, target))
}

/// The reply (section 6): 0 is success. The bound address is left zero, as in stock.
pub fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_good_exchange_is_incomplete_until_it_is_whole() {
        let negotiation = [5, 2, 1, 0];
        for cut in 0..negotiation.len() {
            assert_eq!(method(&negotiation[..cut]), Ok(Greeting::Incomplete));
        }
        assert_eq!(method(&negotiation), Ok(Greeting::Method(4)));

        let v6 = [&[5, 1, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[0, 80]].concat();
        let cases = [
            (vec![5, 1, 0, 1, 127, 0, 0, 9, 0x1f, 0x90], Target::Address("127.0.0.9:8080".parse().unwrap())),
            (v6, Target::Address("[::1]:80".parse().unwrap())),
            (vec![5, 1, 0, 3, 2, b'd', b'b', 0x15, 0x38], Target::Name("db".into(), 5432)),
            // A name of four bytes is a name, not an IPv4 address.
            (vec![5, 1, 0, 3, 3, b'w', b'e', b'b', 0, 1], Target::Name("web".into(), 1)),
        ];
        for (bytes, target) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(request(&bytes[..cut]), Ok(Greeting::Incomplete), "{bytes:?} cut at {cut}");
            }
            assert_eq!(request(&bytes), Ok(Greeting::Request(bytes.len(), target)));
        }
    }

    #[test]
    fn what_is_not_served_is_refused() {
        assert!(method(&[4, 1]).is_err());
        assert!(method(&[5, 1, 2]).is_err(), "no authentication wasn't offered");
        assert!(request(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).is_err(), "BIND");
        assert!(request(&[5, 1, 0, 9, 0]).is_err(), "address kind");
        assert!(request(&[5, 1, 0, 3, 0, 0, 0]).is_err(), "empty name");
    }
}
