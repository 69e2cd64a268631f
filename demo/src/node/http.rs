//! A GET request to a node's own pages: HTTP/1.1, one request a connection, bounded in time and size.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The content; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nothing listens there, or the exchange broke off.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is not HTTP/1.
    #[error("the answer is not HTTP: {0}")]
    Malformed(&'static str),
}

/// Fetches `path` from `address`.
///
/// # Errors
/// See [`HttpError`]; a status other than 200 is no error.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer, HttpError> {
    get_within(TIMEOUT, address, path)
}

/// As [`get`], but without patience for more than `limit` of silence.
///
/// # Errors
/// As [`get`].
pub fn get_within(limit: Duration, address: SocketAddr, path: &str) -> Result<Answer, HttpError> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // In one piece: a server that answers after the first would close on the second.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Answer, HttpError> {
    let end = find(answer, b"\r\n\r\n").ok_or(HttpError::Malformed("its head does not end"))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or(HttpError::Malformed("it has no status line"))?;
    let header = |name: &str| {
        lines.clone().filter_map(|line| line.split_once(':')).find_map(|(key, value)| {
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let body = if header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        join_chunks(body)?
    } else {
        let expected = header("content-length").and_then(|length| length.parse::<usize>().ok());
        if expected.is_some_and(|expected| body.len() < expected) {
            return Err(HttpError::Malformed("it ends too early"));
        }
        body.to_vec()
    };
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// RFC 9112 section 7.1.
fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>, HttpError> {
    const BROKEN: HttpError = HttpError::Malformed("its chunks are broken");
    let mut body = Vec::new();
    loop {
        let line = find(rest, b"\r\n").ok_or(BROKEN)?;
        let size = std::str::from_utf8(&rest[..line]).ok().and_then(|line| line.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok()).ok_or(BROKEN)?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = rest[line + 2..].get(..size).ok_or(BROKEN)?;
        body.extend_from_slice(chunk);
        rest = rest[line + 2 + size..].strip_prefix(b"\r\n").ok_or(BROKEN)?;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
const LARGEST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: &str) -> Result<String, String> {
        parse(answer.as_bytes()).map(|answer| answer.body).map_err(|error| error.to_string())
    }

    #[test]
    fn content_comes_by_length_by_chunks_and_by_the_end() {
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").as_deref(), Ok("ready\n"));
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nall of it").as_deref(), Ok("all of it"));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(body(chunks).as_deref(), Ok("Wiki0123456789"));
        let status =
            parse(b"HTTP/1.1 500 Internal Server Error\r\n\r\nnot ready").map(|answer| answer.status);
        assert_eq!(status.ok(), Some(500));
    }

    #[test]
    fn half_an_answer_is_an_error() {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nrea",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nshort\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nWiki\r\n",
        ] {
            assert!(body(answer).is_err(), "{answer:?}");
        }
    }
}
