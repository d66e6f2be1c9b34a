//! `duet load`.

mod connection;
mod result;
mod schedule;
mod soak;

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use duet_core::Error;
use tokio::{
    task::JoinSet,
    time::{Sleep, sleep, sleep_until},
};

use self::{
    connection::{Address, Answer, Connection},
    result::{Answers, Summary},
    schedule::Schedule,
    soak::Soak,
};
use crate::{Outcome, recommend::given_ids, values};

/// Send requests to a running service at a set rate, and say how fast and how it answered.
///
/// Requests are due at the times of the rate, whether or not earlier ones were answered (an open loop): the time of an answer counts
/// from when its request was due, so that a service that stalls can't hide it. Refusals (503) are counted apart; any other failure
/// ends with exit code 1.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Where the service listens.
    #[arg(long, value_name = "http://HOST:PORT", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Who logs in: an id (repeatable), or @FILE with one id a line. They come in turn.
    #[arg(long, required = true, value_name = "ID|@FILE")]
    users: Vec<String>,
    /// The path of a request; {id} becomes the id.
    #[arg(long, value_name = "PATH", default_value = "/v1/users/{id}/recommendations?k=10")]
    path: String,
    /// Requests a second, or from one rate to another in a straight line; without it, as many as are answered.
    #[arg(long, value_name = "R|R..R", value_parser = schedule::rates)]
    rate: Option<schedule::Rates>,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    time: Duration,
    /// Connections kept open.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = values::positive)]
    connections: usize,
    /// The service's process, where it is on this machine: its memory is told before, after a tenth of the time and at the end.
    #[arg(long, value_name = "PID", value_parser = soak::process)]
    pid: Option<u32>,
    /// A key for the service.
    #[arg(long, value_name = "KEY", env = "DUET_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Write the figures here, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &LoadArgs, out: &mut dyn Write) -> Result<Outcome> {
    let address = Address::parse(&args.url)?;
    let users = given_ids(&args.users)?;
    let users = users.ok_or_else(|| Error::input("--users all: expected ids, or @FILE with one id a line"))?;
    let requests: Vec<Vec<u8>> =
        users.iter().map(|user| address.get(&args.path.replace("{id}", &escaped(user)), args.key.as_deref())).collect();
    // One thread: what it takes is not there for the service, where both are on one machine.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Internal(format!("no runtime: {error}")))?;
    let schedule = Schedule::new(args.rate, args.time.as_secs_f64());
    let (answers, memory) = runtime.block_on(async {
        let soak = args.pid.map(|pid| Soak::start(pid, args.time)).transpose()?;
        let answers = send(&address, Arc::new(requests), schedule, args.connections).await?;
        // A service that has ended says so by requests without an answer, which are told first.
        let memory = match soak {
            Some(soak) => soak.end().await.inspect_err(|error| tracing::error!(%error, "no memory at the end")).ok(),
            None => None,
        };
        Ok::<_, Error>((answers, memory))
    })?;
    let mut summary = Summary::of(answers);
    summary.memory = memory;
    write!(out, "{}", summary.table())?;
    if let Some(path) = &args.json {
        duet_core::artifact::write_file(path, &serde_json::to_vec_pretty(&summary)?)?;
    }
    if let Some(failures) = summary.failures() {
        return Err(Error::input(format!("{}: {failures}", args.url)).into());
    }
    Ok(Outcome::Done)
}

/// A request without an answer for so long has failed: a service that hangs must not make its client hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// Times that a connection is tried again.
const ATTEMPTS: u32 = 20;

/// All answers of a load. Each connection takes the next request that is due.
async fn send(
    address: &Address,
    requests: Arc<Vec<Vec<u8>>>,
    schedule: Schedule,
    connections: usize,
) -> duet_core::Result<Answers> {
    // Before the clock starts: a service that is not there is a mistake in the command.
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::open(address).await?);
    }
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in opened {
        let (next, requests, address) = (next.clone(), requests.clone(), address.clone());
        tasks.spawn(async move {
            let mut answers = Answers::default();
            let mut alarm = pin!(sleep(PATIENCE));
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(due) = schedule.due(number, started.elapsed()) else { break };
                let due = started + due;
                // A timer is late by up to a millisecond, which is not the service's: an idle connection counts from when it sends.
                let from = if due > Instant::now() {
                    sleep_until(due.into()).await;
                    Instant::now()
                } else {
                    due
                };
                let request = &requests[number as usize % requests.len()];
                match answer(&mut connection, request, alarm.as_mut(), PATIENCE).await {
                    Ok(answer) => {
                        answers.push(answer.status, from.elapsed(), answer.bytes);
                        if answer.closes && !reopen(&mut connection, &address, &mut answers).await {
                            break;
                        }
                    }
                    Err(error) => {
                        answers.fail(error.to_string());
                        if !reopen(&mut connection, &address, &mut answers).await {
                            break;
                        }
                    }
                }
            }
            answers
        });
    }
    let mut all = Answers::default();
    while let Some(answers) = tasks.join_next().await {
        all.merge(answers.map_err(|error| Error::Internal(format!("a connection's task: {error}")))?);
    }
    all.elapsed = started.elapsed();
    Ok(all)
}

/// The answer, if it comes within `patience`. The alarm is the connection's and goes on from request to request: setting one for each would
/// cost the client more than reading the answer.
async fn answer(
    connection: &mut Connection,
    request: &[u8],
    mut alarm: Pin<&mut Sleep>,
    patience: Duration,
) -> std::io::Result<Answer> {
    let until = tokio::time::Instant::now() + patience;
    let mut answer = pin!(connection.ask(request));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = alarm.as_mut() => {
                if tokio::time::Instant::now() >= until {
                    return Err(std::io::Error::new(ErrorKind::TimedOut, format!("no answer in {patience:?}")));
                }
                // It was set for an earlier request.
                alarm.as_mut().reset(until);
            }
        }
    }
}

/// Tries for a while: a service that is being restarted comes back. Attempts are no requests: only giving up is a failure.
async fn reopen(connection: &mut Connection, address: &Address, answers: &mut Answers) -> bool {
    let mut attempt = 0;
    loop {
        match Connection::open(address).await {
            Ok(opened) => {
                *connection = opened;
                return true;
            }
            Err(error) if attempt == ATTEMPTS => {
                answers.fail(error.to_string());
                return false;
            }
            Err(_) => attempt += 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An id as a segment of a path.
fn escaped(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    id.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        io::{Read, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Answers every tenth request of all with 503, closing each connection after 50; requests come one by one.
    fn service(listener: TcpListener) {
        let all = Arc::new(AtomicU64::new(0));
        for stream in listener.incoming() {
            let (mut stream, all) = (stream.unwrap(), all.clone());
            thread::spawn(move || {
                let mut received = Vec::new();
                let mut answered = 0;
                let mut part = [0; 4096];
                loop {
                    let count = stream.read(&mut part).unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    received.extend_from_slice(&part[..count]);
                    if !received.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    received.clear();
                    answered += 1;
                    // Which connection gets how many is the scheduler's; the sum is not.
                    let status =
                        if all.fetch_add(1, Ordering::SeqCst) % 10 == 9 { "503 Service Unavailable" } else { "200 OK" };
                    let close = if answered == 50 { "connection: close\r\n" } else { "" };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n{close}\r\nhello");
                    stream.write_all(answer.as_bytes()).unwrap();
                    if answered == 50 {
                        return;
                    }
                }
            });
        }
    }

    #[test]
    fn requests_come_at_the_rate_and_refusals_are_counted_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        thread::spawn(move || service(listener));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let requests = Arc::new(vec![address.get("/a", None), address.get("/b", Some("key"))]);
        let schedule = Schedule::new(Some(schedule::rates("400").unwrap()), 1.0);
        let answers = runtime.block_on(send(&address, requests, schedule, 2)).unwrap();
        let summary = Summary::of(answers);
        assert_eq!(summary.requests, 400);
        assert_eq!(summary.statuses.get("503"), Some(&40));
        assert_eq!(summary.statuses.get("200"), Some(&360));
        assert!(summary.failures().is_none(), "{summary:?}");
        // Not earlier than at the rate; later, if other tests have the processor.
        assert!(summary.seconds > 0.9, "{summary:?}");
    }

    #[tokio::test]
    async fn a_service_that_says_nothing_has_failed_after_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut connection = Connection::open(&address).await.unwrap();
        let (request, patience) = (address.get("/", None), Duration::from_millis(50));
        let mut alarm = pin!(sleep(patience));
        // The second time, the alarm has rung when the request is sent.
        for _ in 0..2 {
            let asked = Instant::now();
            let error = answer(&mut connection, &request, alarm.as_mut(), patience).await.unwrap_err();
            assert!(error.to_string().contains("no answer in 50ms"), "{error}");
            assert!(asked.elapsed() >= patience, "{:?}", asked.elapsed());
        }
    }

    #[tokio::test]
    async fn attempts_to_connect_are_no_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut connection = Connection::open(&address).await.unwrap();
        drop(listener);
        let mut answers = Answers::default();
        assert!(!reopen(&mut connection, &address, &mut answers).await);
        assert_eq!(Summary::of(answers).requests, 1);
    }

    #[test]
    fn ids_are_escaped() {
        assert_eq!(escaped("a b/ü~9"), "a%20b%2F%C3%BC~9");
    }
}
