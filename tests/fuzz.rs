//! The service under requests that nobody meant: bytes that are no HTTP, HTTP that is broken, and questions made up from its own
//! description.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    service::Service,
    workshop::{Random, rounds, text, workshop},
};

/// What one connection sends.
struct Noise {
    bytes: Vec<u8>,
    /// Whole, sound requests that it begins with.
    sound: usize,
    /// Whether it stays for the answers, or hangs up.
    stays: bool,
}

/// A sound question for a list.
fn sound(close: bool) -> Vec<u8> {
    let close = if close { "connection: close\r\n" } else { "" };
    format!("GET /v1/users/u/recommendations?k=3 HTTP/1.1\r\nhost: a\r\n{close}\r\n").into_bytes()
}

/// The same with a few bytes changed.
fn changed(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.below(256) as u8;
    }
    bytes
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// Bodies in chunks that are none.
const CHUNKS: [&[u8]; 9] = [
    b"zz\r\n{}\r\n0\r\n\r\n",
    b"-1\r\n{}\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    b"7fffffffffffffff\r\n{}\r\n",
    b"2\r\n{}too long\r\n0\r\n\r\n",
    b"2{}0",
    b"2;\0=\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n",
    b"\r\n\r\n",
];

/// Heads that say of a body what can't be, or can't be so.
const BODIES: [&str; 6] = [
    "content-length: -1\r\n",
    "content-length: 99999999999999999999\r\n",
    "content-length: 2\r\ncontent-length: 3\r\n",
    "content-length: 2\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: gzip, chunked, gzip\r\n",
    "content-length: 1000\r\n",
];

const LISTS: &str =
    r#"{"requests":[{"user_id":"u","k":3},{"history":["a1","a2"],"k":2,"filter":["followers>=1"],"explain":true}]}"#;
const EVENTS: &str = r#"{"events":[{"event_id":"e","type":"click","user_id":"u","item_kind":"artist","item_id":"a1",
    "ts":"2025-11-25T07:00:00+01:00","request_id":"r","position":0}]}"#;

fn noise(round: usize, random: &mut Random) -> Noise {
    // Who waits for a time-out costs a second.
    let patient = random.below(8) == 0;
    let alone = |bytes: Vec<u8>| Noise { bytes, sound: 0, stays: true };
    match round % 8 {
        0 => alone((0..random.below(600)).map(|_| random.below(256) as u8).chain(*b"\r\n\r\n").collect()),
        1 => alone([changed(sound(true), random), b"\r\n\r\n".to_vec()].concat()),
        2 => {
            let chunks = CHUNKS[random.below(CHUNKS.len() as u64) as usize];
            alone(post("/v1/recommendations", "transfer-encoding: chunked\r\n", chunks))
        }
        3 => {
            let whole = sound(true);
            let part = random.below(whole.len() as u64) as usize;
            Noise { bytes: whole[..part].to_vec(), sound: 0, stays: patient }
        }
        4 => {
            let size = 20_000 + random.below(200_000) as usize;
            alone(match random.below(3) {
                0 => format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(size)).into_bytes(),
                1 => format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(size)).into_bytes(),
                _ => format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(size / 100)).into_bytes(),
            })
        }
        5 => {
            let count = 1 + random.below(20) as usize;
            let mut bytes = sound(false).repeat(count);
            let is_whole = random.below(2) == 0;
            bytes.extend(if is_whole {
                sound(true)
            } else {
                [changed(sound(true), random), b"\r\n\r\n".to_vec()].concat()
            });
            Noise { bytes, sound: count + usize::from(is_whole), stays: true }
        }
        6 => {
            let kind = random.below(BODIES.len() as u64) as usize;
            let bytes = post("/v1/events", BODIES[kind], b"{}");
            // The last one announces more than comes.
            Noise { bytes, sound: 0, stays: patient || kind + 1 < BODIES.len() }
        }
        _ => {
            let (path, body) =
                if random.below(2) == 0 { ("/v1/recommendations", LISTS) } else { ("/v1/events", EVENTS) };
            let body = changed(body.as_bytes().to_vec(), random);
            alone(post(path, &format!("content-length: {}\r\n", body.len()), &body))
        }
    }
}

/// Sends it, and gives the statuses of the answers.
fn exchange(address: SocketAddr, noise: &Noise) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).expect("the service listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    // The service may have enough before it has read all, and close.
    let _ = stream.write_all(&noise.bytes);
    let mut received = Vec::new();
    if noise.stays {
        let read = stream.read_to_end(&mut received);
        let timed_out = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "the connection is not closed: {:?}", String::from_utf8_lossy(&noise.bytes));
    }
    statuses(&received)
}

/// Of answers one behind the other, each as long as it says.
fn statuses(mut received: &[u8]) -> Vec<u16> {
    let mut found = Vec::new();
    while let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        found.push(status.unwrap_or_else(|| panic!("no status line: {head}")));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        received = received.get(end + 4 + length.unwrap_or(0_usize)..).unwrap_or_default();
    }
    found
}

/// `DUET_NOISE=100000` for more rounds.
#[test]
fn noise_on_the_line_breaks_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (bundle, events) = (workshop().path("bundle"), dir.path().join("events"));
    let limits = ["--set", "limits.header_timeout_s=1", "--set", "limits.body_timeout_s=1"];
    let service = Service::start(&[&["--bundle", text(&bundle), "--events", text(&events)], &limits[..]].concat());
    let mut random = Random(5);
    let (count, mut answers) = (rounds("DUET_NOISE", 400), 0);
    for round in 0..count {
        let noise = noise(round, &mut random);
        let statuses = exchange(service.address(), &noise);
        let shown = || format!("round {round}: {statuses:?} to {:?}", String::from_utf8_lossy(&noise.bytes));
        // Not implemented, and another version of HTTP, are what may be said of noise.
        assert!(statuses.iter().all(|status| *status < 500 || [501, 505].contains(status)), "{}", shown());
        let sound = statuses.get(..noise.sound);
        assert!(sound.is_some_and(|sound| sound.iter().all(|status| *status == 200)), "{}", shown());
        answers += statuses.len();
    }
    assert!(answers > count, "only {answers} answers");
    let mut client = service.client();
    client.get("/healthz").expect(200);
    client.get("/v1/users/u/recommendations?k=3").expect(200);
    eprintln!("{count} rounds of noise, {answers} answers");
}

#[test]
fn answers_are_counted_one_behind_the_other() {
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\r\n\r\nxyHTTP/1.1 400 Bad Request\r\n\r\n";
    assert_eq!(statuses(two), [200, 400]);
    assert!(statuses(b"HTTP/1.1 200 OK\r\ncontent").is_empty());
}

/// How long schemathesis may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The program that `DUET_SCHEMATHESIS` names, or the one on the path.
fn schemathesis() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("DUET_SCHEMATHESIS") {
        return Some(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("schemathesis")).find(|program| program.is_file())
}

/// `DUET_EXAMPLES=1000` for more questions of each route.
#[test]
fn every_answer_is_one_that_the_description_names() {
    let Some(program) = schemathesis() else {
        println!("skipped: no schemathesis (pip install 'schemathesis>=4'; DUET_SCHEMATHESIS names the program)");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let (bundle, events, served) = (workshop().path("bundle"), path("events"), path("served"));
    let places = ["--bundle", text(&bundle), "--events", text(&events), "--served-log", text(&served)];
    let service = Service::start(&places);
    // All checks of answers; whether a question is refused that the description forbids is another matter. Shed requests are no failure.
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                  response_schema_conformance";
    let settings = "[checks]\nnot_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", 503]\n";
    fs::write(path("schemathesis.toml"), settings).expect("settings");
    let said = path("said.txt");
    let out = File::create(&said).expect("a file");
    let mut process = Command::new(&program)
        .args(["--config-file", text(&path("schemathesis.toml")), "run"])
        .arg(format!("http://{}/openapi.json", service.address()))
        .args(["--checks", checks, "--phases", "examples,coverage,fuzzing", "--seed", "1"])
        .args(["--max-examples", &rounds("DUET_EXAMPLES", 60).to_string()])
        .args(["--generation-database", "none", "--no-color", "--request-timeout", "30"])
        .current_dir(dir.path())
        .env("NO_PROXY", "127.0.0.1")
        .stderr(out.try_clone().expect("a file"))
        .stdout(out)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = process.try_wait().expect("a process") {
            break Some(ended);
        }
        if began.elapsed() > PATIENCE {
            let _ = process.kill();
            let _ = process.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let said = fs::read_to_string(said).expect("what it said");
    assert!(ended.is_some_and(|ended| ended.success()), "{ended:?} after {:?}\n{said}", began.elapsed());
    let status = service.wait_for("status", |_| true);
    assert!(status["requests_total"].as_u64() > Some(200), "nothing was asked: {status}\n{said}");
    eprintln!("{} requests made up from the description", status["requests_total"]);
}
