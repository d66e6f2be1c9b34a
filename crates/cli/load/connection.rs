//! A kept connection: one request, one answer, as plain as HTTP/1.1 allows, since what the client takes of a shared machine is
//! missing in what it measures.

use std::io::{self, ErrorKind};

use duet_core::{Error, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Answers larger than this are not lists.
const LARGEST: usize = 16 << 20;

/// Where the service listens.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// `HOST:PORT`.
    authority: String,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Of the body.
    pub(super) bytes: usize,
    /// Whether the service closes the connection after it.
    pub(super) closes: bool,
}

impl Address {
    /// `http://HOST:PORT`.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let wrong = || Error::input(format!("--url {url:?}: expected http://HOST:PORT"));
        let authority = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains('/') {
            return Err(wrong());
        }
        Ok(Self { authority: format!("{host}:{port}") })
    }

    /// The bytes of a request.
    pub(super) fn get(&self, path: &str, key: Option<&str>) -> Vec<u8> {
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{key}\r\n", self.authority).into_bytes()
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: &Address) -> Result<Self> {
        let authority = &address.authority;
        let failed = |error: io::Error| Error::input(format!("no service at {authority}: {error}"));
        let stream = TcpStream::connect(authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream, received: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads its answer whole.
    pub(super) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed before the answer was complete"));
            }
            if let Some(answer) = complete(&self.received)? {
                return Ok(answer);
            }
        }
    }
}

/// The answer, once all of it is there.
fn complete(received: &[u8]) -> io::Result<Option<Answer>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if received.len() > LARGEST { Err(invalid("a head without end")) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&received[..end]).map_err(|_| invalid("a head that is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| invalid("no HTTP/1.1 status"))?;
    let (mut bytes, mut closes) = (None, false);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            bytes = value.trim().parse::<usize>().ok().filter(|&bytes| bytes <= LARGEST);
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let bytes = bytes.ok_or_else(|| invalid("no content-length below 16 MiB"))?;
    Ok((received.len() >= end + 4 + bytes).then_some(Answer { status, bytes, closes }))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the answer has {what}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert_eq!(complete(&whole[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(complete(whole).unwrap(), Some(Answer { status: 503, bytes: 3, closes: true }));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "SSH\r\n\r\n"] {
            assert!(complete(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(Address::parse("http://localhost:81/").unwrap().authority, "localhost:81");
        assert_eq!(Address::parse("http://localhost").unwrap().authority, "localhost:80");
        for url in ["https://localhost", "localhost:80", "http://", "http://a:b", "http://a/b:80"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
