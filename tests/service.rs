//! A running `duet serve`, and a client that speaks HTTP/1.1 as plainly as it can be spoken: what is sent is what the test wrote.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::workshop::command;

/// The process, ended when it is dropped.
pub(crate) struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    /// Starts `duet serve` on a free port of this machine and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        let all = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        let mut process =
            command("duet", &all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut lines = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("listening on http://") {
            line.clear();
            if lines.read_line(&mut line).expect("readable") == 0 {
                let mut errors = String::new();
                let _ = process.stderr.take().expect("piped").read_to_string(&mut errors);
                panic!("duet {all:?} did not listen: {errors}");
            }
        }
        // Whoever writes to a closed pipe stops.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let mut errors = process.stderr.take().expect("piped");
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        let address = line.rsplit("http://").next().expect("split gives one").trim().parse().expect("an address");
        Self { process, address }
    }

    /// The number of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Asks it to end, and gives its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let process = self.process.id().to_string();
        std::process::Command::new("kill").args(["-TERM", &process]).status().expect("kill runs");
        let asked = Instant::now();
        loop {
            if let Some(ended) = self.process.try_wait().expect("a process") {
                return ended.code();
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "the service did not end in 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Peak memory in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Waits until `/v1/status` satisfies a condition.
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = self.client().get("/v1/status").json();
            if condition(&status) {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "no {what} after 30 s: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// Insists on a status.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A connection that is kept.
pub(crate) struct Client {
    stream: TcpStream,
    /// As requests name it: some servers answer to no other name.
    host: SocketAddr,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the service listens")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream, host: address })
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.try_get(path).expect("an answer")
    }

    pub(crate) fn try_get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host).as_bytes())
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).expect("an answer")
    }

    pub(crate) fn try_post(&mut self, path: &str, body: &Value) -> std::io::Result<Answer> {
        let body = body.to_string();
        let head = format!("host: {}\r\ncontent-type: application/json", self.host);
        self.ask(format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    /// Sends bytes and reads one answer; an error where the service closes without one.
    pub(crate) fn ask(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        self.stream.write_all(request)?;
        self.answer()
    }

    fn answer(&mut self) -> std::io::Result<Answer> {
        let mut received = Vec::new();
        let head = loop {
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.more(&mut received)?;
        };
        let text = String::from_utf8_lossy(&received[..head]).into_owned();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let mut answer = Answer { status, head: text, body: received[head + 4..].to_vec() };
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        // Pages of the documentation come in chunks; no test reads their text.
        let length: usize = length.unwrap_or(0);
        while answer.body.len() < length {
            self.more(&mut answer.body)?;
        }
        Ok(answer)
    }

    fn more(&mut self, received: &mut Vec<u8>) -> std::io::Result<()> {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                received.extend_from_slice(&part[..count]);
                Ok(())
            }
        }
    }
}
