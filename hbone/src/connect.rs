//! CONNECT requests and their answers (RFC 9113 sections 8.3 and 8.5), and the rules that make a header list well-formed.

use crate::hpack;

/// A request's method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// CONNECT, the one that a tunnel serves.
    Connect,
    /// Any other; well-formed, to be answered 400.
    Other(String),
}

/// The header list of a request that opens a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// CONNECT, or what else a peer asked for.
    pub method: Method,
    /// Where to: `host:port` for CONNECT. Empty if another method came without.
    pub authority: String,
    /// Regular fields in order, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl ConnectRequest {
    /// A CONNECT to `host:port`.
    #[must_use]
    pub fn connect(authority: impl Into<String>, headers: Vec<(String, Vec<u8>)>) -> Self {
        Self { method: Method::Connect, authority: authority.into(), headers }
    }

    /// Appends the HPACK block.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let method = match &self.method {
            Method::Connect => "CONNECT",
            Method::Other(method) => method,
        };
        hpack::encode(b":method", method.as_bytes(), out);
        if self.method != Method::Connect {
            hpack::encode(b":scheme", b"http", out);
            hpack::encode(b":path", b"/", out);
        }
        hpack::encode(b":authority", self.authority.as_bytes(), out);
        encode_regular(&self.headers, out);
    }
}

/// The header list of a final response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 200 to 599 in practice; any three digits from 200 are passed on.
    pub status: u16,
    /// Regular fields in order, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl ConnectResponse {
    /// A response without further fields.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new() }
    }

    /// Appends the HPACK block.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        hpack::encode(b":status", self.status.to_string().as_bytes(), out);
        encode_regular(&self.headers, out);
    }
}

fn encode_regular(headers: &[(String, Vec<u8>)], out: &mut Vec<u8>) {
    for (name, value) in headers {
        hpack::encode(name.to_ascii_lowercase().as_bytes(), value, out);
    }
}

/// What a client makes of a response header list.
pub(crate) enum Answer {
    /// 1xx: the real one is still to come.
    Interim,
    /// The response.
    Final(ConnectResponse),
}

/// Why a header list is malformed (RFC 9113 section 8.1.1): a stream error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A decoded header list, checked field by field as it comes.
#[derive(Default)]
pub(crate) struct HeaderList {
    method: Option<String>,
    scheme: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    status: Option<String>,
    regular: Vec<(String, Vec<u8>)>,
    malformed: Option<Malformed>,
}

impl HeaderList {
    /// Takes the next field.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        if let Err(malformed) = self.try_push(name, value) {
            self.malformed.get_or_insert(malformed);
        }
    }

    /// Reads it as a request. CONNECT has an authority and neither scheme nor path (section 8.5); all others have
    /// scheme and path (section 8.3.1).
    pub(crate) fn into_request(self) -> Result<ConnectRequest, Malformed> {
        self.verdict()?;
        if self.status.is_some() {
            return Err(Malformed("a request with :status"));
        }
        let method = self.method.ok_or(Malformed("a request without :method"))?;
        let (method, authority) = match (method.as_str(), self.authority, self.scheme, self.path) {
            ("CONNECT", Some(authority), None, None) => (Method::Connect, authority),
            ("CONNECT", _, _, _) => {
                return Err(Malformed("CONNECT needs :authority, and neither :scheme nor :path"));
            }
            ("", _, _, _) => return Err(Malformed("an empty :method")),
            (_, authority, Some(_), Some(path)) if !path.is_empty() => {
                (Method::Other(method), authority.unwrap_or_default())
            }
            _ => return Err(Malformed("a request without :scheme or :path")),
        };
        Ok(ConnectRequest { method, authority, headers: self.regular })
    }

    /// Reads it as a response.
    pub(crate) fn into_answer(self) -> Result<Answer, Malformed> {
        self.verdict()?;
        if [&self.method, &self.scheme, &self.authority, &self.path].iter().any(|field| field.is_some()) {
            return Err(Malformed("a response with a request's pseudo-header"));
        }
        let status = self.status.ok_or(Malformed("a response without :status"))?;
        let three_digits = status.len() == 3 && status.bytes().all(|digit| digit.is_ascii_digit());
        match status.parse() {
            // Upgrades don't exist in HTTP/2 (section 8.6).
            Ok(101) => Err(Malformed("status 101")),
            Ok(100..=199) if three_digits => Ok(Answer::Interim),
            Ok(status @ 200..) if three_digits => {
                Ok(Answer::Final(ConnectResponse { status, headers: self.regular }))
            }
            _ => Err(Malformed("a :status that isn't one")),
        }
    }

    /// Reads it as trailers, which have no pseudo-headers (section 8.1) and are dropped.
    pub(crate) fn into_trailers(self) -> Result<(), Malformed> {
        self.verdict()?;
        let pseudo = [&self.method, &self.scheme, &self.authority, &self.path, &self.status];
        if pseudo.iter().any(|field| field.is_some()) {
            return Err(Malformed("a pseudo-header in trailers"));
        }
        Ok(())
    }

    fn verdict(&self) -> Result<(), Malformed> {
        self.malformed.map_or(Ok(()), Err)
    }

    fn try_push(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        check_value(value)?;
        if let Some(pseudo) = name.strip_prefix(b":") {
            return self.push_pseudo(pseudo, value);
        }
        check_name(name, value)?;
        let name =
            String::from_utf8(name.to_vec()).map_err(|_| Malformed("a field name that isn't a token"))?;
        self.regular.push((name, value.to_vec()));
        Ok(())
    }

    fn push_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if !self.regular.is_empty() {
            return Err(Malformed("a pseudo-header behind a regular field"));
        }
        let slot = match name {
            b"method" => &mut self.method,
            b"scheme" => &mut self.scheme,
            b"authority" => &mut self.authority,
            b"path" => &mut self.path,
            b"status" => &mut self.status,
            // Among them :protocol (RFC 8441), which we don't offer.
            _ => return Err(Malformed("an unknown pseudo-header")),
        };
        if slot.is_some() {
            return Err(Malformed("a pseudo-header twice"));
        }
        let value =
            String::from_utf8(value.to_vec()).map_err(|_| Malformed("a pseudo-header that isn't UTF-8"))?;
        *slot = Some(value);
        Ok(())
    }
}

/// RFC 9113 section 8.2.1: no NUL, CR or LF, no blank at either end.
fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
        || blank(value.first())
        || blank(value.last())
    {
        return Err(Malformed("a field value with forbidden characters"));
    }
    Ok(())
}

/// RFC 9113 sections 8.2.1 and 8.2.2: a lower-case token, and none of HTTP/1.1's connection-specific fields.
fn check_name(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let token =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(token) {
        return Err(Malformed("a field name that isn't a lower-case token"));
    }
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            Err(Malformed("a connection-specific field"))
        }
        b"te" if value != b"trailers" => Err(Malformed("a te other than trailers")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(fields: &[(&str, &str)]) -> HeaderList {
        let mut list = HeaderList::default();
        for (name, value) in fields {
            list.push(name.as_bytes(), value.as_bytes());
        }
        list
    }

    #[test]
    fn connect_has_an_authority_and_neither_scheme_nor_path() {
        let connect = (":method", "CONNECT");
        let authority = (":authority", "10.0.0.1:80");
        let request = list(&[connect, authority, ("baggage", "a=b")]).into_request().unwrap();
        let headers = vec![("baggage".to_owned(), b"a=b".to_vec())];
        assert_eq!(request, ConnectRequest::connect("10.0.0.1:80", headers));
        assert!(list(&[connect]).into_request().is_err());
        assert!(list(&[connect, authority, (":path", "/")]).into_request().is_err());
        assert!(list(&[connect, authority, (":scheme", "http")]).into_request().is_err());
        assert!(list(&[connect, authority, (":protocol", "websocket")]).into_request().is_err());
    }

    #[test]
    fn other_methods_need_scheme_and_path() {
        let get = (":method", "GET");
        let (scheme, path) = ((":scheme", "http"), (":path", "/"));
        assert_eq!(
            list(&[get, scheme, path]).into_request().unwrap().method,
            Method::Other("GET".to_owned())
        );
        assert!(list(&[get, scheme]).into_request().is_err());
        assert!(list(&[get, path]).into_request().is_err());
        assert!(list(&[get, scheme, (":path", "")]).into_request().is_err());
        assert!(list(&[scheme, path]).into_request().is_err());
        assert!(list(&[get, scheme, path, (":status", "200")]).into_request().is_err());
    }

    #[test]
    fn malformed_fields_are_found() {
        let start = [(":method", "CONNECT"), (":authority", "a:1")];
        for bad in [
            ("Upper", "x"),
            ("", "x"),
            ("sp ace", "x"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("x", "a\r\nb"),
            ("x", "a\0"),
            ("x", " a"),
            ("x", "a\t"),
            (":authority", "b:2"),
            (":unknown", "x"),
        ] {
            let fields: Vec<_> = start.into_iter().chain([bad]).collect();
            assert!(list(&fields).into_request().is_err(), "{bad:?}");
        }
        let fields = [start[0], ("te", "trailers"), start[1]];
        assert!(list(&fields).into_request().is_err(), "pseudo-header behind a regular field");
        assert!(list(&[start[0], start[1], ("te", "trailers")]).into_request().is_ok());
    }

    #[test]
    fn responses() {
        assert!(matches!(list(&[(":status", "103")]).into_answer(), Ok(Answer::Interim)));
        let Ok(Answer::Final(response)) = list(&[(":status", "503"), ("server", "x")]).into_answer() else {
            panic!("a final response");
        };
        assert_eq!(response.status, 503);
        for bad in ["", "20", "+20", "0200", "abc", "099", "101", "2000"] {
            assert!(list(&[(":status", bad)]).into_answer().is_err(), "{bad:?}");
        }
        assert!(list(&[("server", "x")]).into_answer().is_err());
        assert!(list(&[(":status", "200"), (":path", "/")]).into_answer().is_err());
    }

    #[test]
    fn trailers_have_no_pseudo_headers() {
        assert!(list(&[("grpc-status", "0")]).into_trailers().is_ok());
        assert!(list(&[(":status", "200")]).into_trailers().is_err());
    }
}
