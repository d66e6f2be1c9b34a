//! Connections: accepted up to a number, each with a time for its requests' heads and for taking answers, and ended in order.
//!
//! What is beyond the number is told 503 by a lane of its own and closed. A stop closes idle connections, lets requests under way end
//! within the time to drain, and cuts off what is left then.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    arrival::Noted,
    config::LimitsConfig,
    http::{error::ApiError, front::Front, headers::secured},
    stall::Stall,
    stats::Stats,
};

/// Connections beyond the number that are being told so at once; the next ones wait to be accepted.
const TURNED_AWAY: usize = 128;
/// Open files that are kept for everything else: journal, logs, bundles, stores.
const OTHER_FILES: usize = 128;
/// Time for a connection that is turned away to send its request.
const TURNED_AWAY_TIME: Duration = Duration::from_secs(1);
/// The pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Least buffer of a connection; hyper grows it up to this as a body needs it.
const BUFFER: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Requests under way end, no others begin.
    Draining,
    /// Everything ends.
    Cut,
}

/// What a connection needs.
#[derive(Clone)]
struct Shared {
    tls: Option<TlsAcceptor>,
    front: Arc<Front>,
    builder: http1::Builder,
    head_time: Duration,
    /// How long an answer may wait for somebody to take some of it.
    stall_time: Duration,
    phase: watch::Receiver<Phase>,
}

/// Answers by `front` until `stop` comes, and then until the connections have ended or the time to drain has.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    front: Front,
    limits: &LimitsConfig,
    stats: Arc<Stats>,
    stop: impl Future<Output = ()>,
) {
    let (phase, seen) = watch::channel(Phase::Serving);
    let head_time = Duration::from_secs(limits.header_timeout_s);
    let stall_time = Duration::from_secs(limits.body_timeout_s);
    let shared = Shared { tls, front: Arc::new(front), builder: builder(limits), head_time, stall_time, phase: seen };
    let number = number(limits.connections, open_files());
    let places = Arc::new(Semaphore::new(number));
    let lane = Arc::new(Semaphore::new(TURNED_AWAY));
    let open = metrics::gauge!("duet_connections");
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are written whole: waiting to fill a packet would only cost time.
        let _ = stream.set_nodelay(true);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            open.increment(1.0);
            let (shared, open) = (shared.clone(), open.clone());
            tokio::spawn(async move {
                connection(stream, shared).await;
                open.decrement(1.0);
                drop(place);
            });
            continue;
        }
        stats.count_shed();
        let place = tokio::select! {
            biased;
            () = &mut stop => break,
            place = Arc::clone(&lane).acquire_owned() => place,
        };
        // A handshake costs more than the answer is worth.
        if let (Ok(place), None) = (place, &shared.tls) {
            tokio::spawn(turn_away(stream, place));
        }
    }
    drop(listener);
    phase.send_replace(Phase::Draining);
    let all = u32::try_from(number).unwrap_or(u32::MAX);
    let drained = tokio::time::timeout(Duration::from_secs(limits.drain_s), places.acquire_many(all)).await;
    if drained.is_err() {
        let left = number - places.available_permits();
        tracing::warn!(connections = left, "cut off: they did not end within limits.drain_s");
        phase.send_replace(Phase::Cut);
        let _ = tokio::time::timeout(Duration::from_secs(1), places.acquire_many(all)).await;
    }
}

/// How many connections there may be: as many as configured, unless the process may not open so many files. To be told 503 is better than to
/// wait for a file that somebody else closes.
fn number(configured: usize, open_files: Option<usize>) -> usize {
    let possible = open_files.map_or(usize::MAX, |files| files.saturating_sub(TURNED_AWAY + OTHER_FILES).max(1));
    if possible < configured {
        tracing::warn!(
            configured,
            possible,
            "fewer connections than limits.connections: the process may open too few files (ulimit -n)"
        );
    }
    configured.min(possible)
}

/// How many files this process may have open, where the system says so.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    // Soft limit, hard limit, unit; "unlimited" is no number.
    line.split_whitespace().next()?.parse().ok()
}

fn builder(limits: &LimitsConfig) -> http1::Builder {
    let head = limits.header_kib << 10;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.header_timeout_s))
        .max_header_size(head)
        .max_buf_size(head.max(BUFFER));
    builder
}

/// Errors of the connection that was to be accepted, and not of accepting.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(stream: TcpStream, shared: Shared) {
    let Some(acceptor) = shared.tls.clone() else { return http(stream, shared).await };
    let mut phase = shared.phase.clone();
    let handshake = tokio::time::timeout(shared.head_time, acceptor.accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
    };
    match shaken {
        Ok(Ok(stream)) => http(stream, shared).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
        Err(_) => tracing::debug!("no TLS handshake in time"),
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Shared) {
    let Shared { front, builder, stall_time, mut phase, .. } = shared;
    let stream = Noted::new(Stall::new(stream, stall_time));
    let arrivals = stream.arrivals();
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (front, arrived) = (Arc::clone(&front), arrivals.last());
        async move { Ok::<Response, Infallible>(front.answer(request, arrived).await) }
    });
    let served = builder.serve_connection(TokioIo::new(stream), answer);
    let mut served = pin!(served);
    tokio::select! {
        ended = served.as_mut() => return logged(ended),
        // Seen at once by a connection that was accepted just before the change: the receiver is a clone of the first.
        changed = phase.wait_for(|phase| *phase != Phase::Serving) => {
            if !matches!(changed.map(|phase| *phase), Ok(Phase::Draining)) {
                return;
            }
        }
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        ended = served => logged(ended),
        _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
    }
}

fn logged(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Answers one request with 503 and closes.
async fn turn_away(stream: TcpStream, place: OwnedSemaphorePermit) {
    let answer = service_fn(|_: hyper::Request<Incoming>| async {
        Ok::<Response, Infallible>(secured(ApiError::overloaded().into_response(), false))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(TURNED_AWAY_TIME).keep_alive(false);
    let served = builder.serve_connection(TokioIo::new(stream), answer);
    let _ = tokio::time::timeout(2 * TURNED_AWAY_TIME, served).await;
    drop(place);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    use axum::{
        Router,
        body::Bytes,
        routing::{get, post},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;
    use crate::{
        config::ServeConfig,
        http::{
            auth::tests::{entry, keys},
            finished,
            gate::Gate,
        },
    };

    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        ended: JoinHandle<()>,
        stats: Arc<Stats>,
    }

    /// A few routes behind the gate, on a real socket.
    async fn running(key_file: Option<&str>, change: impl FnOnce(&mut LimitsConfig)) -> Running {
        let mut limits = ServeConfig::resolve(&[], &[]).unwrap().limits;
        change(&mut limits);
        let stats = Arc::new(Stats::new());
        let gate = Gate::new(key_file.map(|text| keys(text).unwrap()), &limits, Arc::clone(&stats));
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/v1/users/{id}/recommendations", get(|| async { "a list" }))
            .route("/v1/artists/{id}/similar", get(slow))
            .route("/v1/events", post(|body: Bytes| async move { format!("{} bytes", body.len()) }))
            .route("/v1/recommendations", post(bug))
            .route("/page/large", get(|| async { vec![0_u8; 64 << 20] }));
        let front = Front::new(finished(routes, Arc::new(gate)), None, false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let counted = Arc::clone(&stats);
        let ended = tokio::spawn(async move {
            serve(listener, None, front, &limits, counted, async {
                // Most tests drop their end without a word: that is no stop.
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
            .await;
        });
        Running { address, stop, ended, stats }
    }

    async fn bug() -> String {
        panic!("a bug")
    }

    /// Sends `request` as it is and reads to the end; the server closes, for every request here asks it to.
    async fn send(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn ask(method: &str, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
    }

    fn status(answer: &str) -> &str {
        answer.split(' ').nth(1).unwrap_or_default()
    }

    #[tokio::test]
    async fn every_error_is_json_and_every_answer_has_the_headers() {
        let Running { address, .. } = running(None, |_| {}).await;
        for (method, path, expected, kind) in [
            ("GET", "/none", "404", "not_found"),
            ("POST", "/healthz", "405", "method_not_allowed"),
            ("DELETE", "/v1/events", "405", "method_not_allowed"),
            ("POST", "/v1/recommendations", "500", "internal"),
        ] {
            let answer = send(address, &ask(method, path, "", "")).await;
            assert_eq!(status(&answer), expected, "{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error_type"], kind, "{answer}");
            assert!(!body["error"].as_str().unwrap().is_empty());
            assert!(head.contains("x-content-type-options: nosniff"), "{head}");
            assert!(head.contains("content-security-policy: default-src 'self'"), "{head}");
            assert!(head.contains("cache-control: no-store"), "{head}");
        }
        let answer = send(address, &ask("GET", "/healthz", "", "")).await;
        assert!(status(&answer) == "200" && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(!answer.contains("access-control"), "CORS is off: {answer}");
    }

    #[tokio::test]
    async fn bodies_have_a_limit_and_a_time() {
        let Running { address, .. } = running(None, |limits| {
            limits.body_kib = 4;
            limits.body_timeout_s = 1;
        })
        .await;
        let fits = "x".repeat(4096);
        let answer = send(address, &ask("POST", "/v1/events", "", &fits)).await;
        assert!(answer.ends_with("4096 bytes"), "{answer}");
        let answer = send(address, &ask("POST", "/v1/events", "", &"x".repeat(4097))).await;
        assert_eq!(status(&answer), "413", "{answer}");
        assert!(answer.contains("too_large") && answer.contains("4 KiB"), "{answer}");
        // In chunks nobody announces the size.
        let chunk = format!("800\r\n{}\r\n", "x".repeat(2048));
        let chunked = "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = send(address, &format!("{chunked}{chunk}{chunk}{chunk}0\r\n\r\n")).await;
        assert_eq!(status(&answer), "413", "{answer}");
        let answer = send(address, &format!("{chunked}{chunk}0\r\n\r\n")).await;
        assert!(answer.contains("2048 bytes"), "{answer}");
        let started = Instant::now();
        let half = "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\nhalf";
        let answer = send(address, half).await;
        assert!(status(&answer) == "400" && answer.contains("within 1 s"), "{answer}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn the_limit_of_bodies_may_be_raised() {
        let Running { address, .. } = running(None, |limits| limits.body_kib = 4096).await;
        let answer = send(address, &ask("POST", "/v1/events", "", &"x".repeat(3 << 20))).await;
        assert!(answer.ends_with(&format!("{} bytes", 3 << 20)), "{answer}");
    }

    #[tokio::test]
    async fn heads_have_a_limit_and_a_time() {
        let Running { address, .. } = running(None, |limits| limits.header_timeout_s = 1).await;
        let answer = send(address, &ask("GET", "/healthz", &format!("x-a: {}\r\n", "a".repeat(20_000)), "")).await;
        assert_eq!(status(&answer), "431", "{answer}");
        let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
        assert_eq!(status(&send(address, &ask("GET", "/healthz", &many, "")).await), "431");
        let answer = send(address, &ask("GET", &format!("/healthz?{}", "a".repeat(20_000)), "", "")).await;
        assert!(["414", "431"].contains(&status(&answer)), "{answer}");
        let started = Instant::now();
        assert_eq!(send(address, "GET /healthz HTTP/1.1\r\nhost:").await, "", "a slow client is dropped");
        let waited = started.elapsed();
        assert!((900..5000).contains(&waited.as_millis()), "{waited:?}");
        assert_eq!(status(&send(address, "nonsense\r\n\r\n").await), "400");
    }

    #[tokio::test]
    async fn keys_are_asked_for_at_the_door() {
        let text =
            entry("a", "secret", "scopes = [\"lists\"]\nuser_prefix = \"a-\"\nrequests_per_second = 0.001\nburst = 4")
                + &entry("feed", "feed", "scopes = [\"events\"]\nuser_prefix = \"a-\"");
        let Running { address, .. } = running(Some(&text), |_| {}).await;
        let list = |user: &str, headers: &str| ask("GET", &format!("/v1/users/{user}/recommendations"), headers, "");
        let answer = send(address, &list("a-1", "")).await;
        assert!(status(&answer) == "401" && answer.contains("www-authenticate: Bearer"), "{answer}");
        assert_eq!(status(&send(address, &list("a-1", "x-api-key: wrong\r\n")).await), "401");
        let key = "authorization: Bearer secret\r\n";
        assert_eq!(status(&send(address, &list("a-1", key)).await), "200");
        assert_eq!(status(&send(address, &list("b-1", key)).await), "403");
        assert_eq!(status(&send(address, &list("%62-1", key)).await), "403");
        assert_eq!(status(&send(address, &list("%61-1", key)).await), "200");
        let answer = send(address, &list("a-1", key)).await;
        assert!(status(&answer) == "429" && answer.contains("retry-after: "), "{answer}");
        let post = |body: &str| ask("POST", "/v1/events", "x-api-key: feed\r\n", body);
        assert_eq!(status(&send(address, &post(r#"{"user_id":"a-1"}"#)).await), "200");
        assert_eq!(status(&send(address, &ask("GET", "/healthz", "", "")).await), "200");
    }

    #[tokio::test]
    async fn pages_of_other_origins_can_not_post() {
        let Running { address, .. } = running(None, |_| {}).await;
        for (site, expected) in [("cross-site", "403"), ("same-site", "403"), ("same-origin", "200"), ("none", "200")] {
            let headers = format!("content-type: text/plain\r\nsec-fetch-site: {site}\r\n");
            assert_eq!(status(&send(address, &ask("POST", "/v1/events", &headers, "{}")).await), expected, "{site}");
        }
    }

    #[tokio::test]
    async fn more_than_there_is_place_for_is_shed() {
        let Running { address, stats, .. } = running(None, |limits| limits.concurrent = 1).await;
        let slow = ask("GET", "/v1/artists/x/similar", "", "");
        let first = tokio::spawn(async move { send(address, &slow).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = send(address, &ask("GET", "/v1/users/x/recommendations", "", "")).await;
        assert!(
            status(&answer) == "503" && answer.contains("retry-after: 1") && answer.contains("overloaded"),
            "{answer}"
        );
        assert_eq!(status(&send(address, &ask("GET", "/healthz", "", "")).await), "200", "probes are answered");
        assert_eq!(status(&first.await.unwrap()), "200");
        assert_eq!(status(&send(address, &ask("GET", "/v1/users/x/recommendations", "", "")).await), "200");
        assert_eq!(stats.shed_total(), 1);
    }

    #[test]
    fn open_files_bound_the_connections() {
        assert_eq!([number(100, None), number(100, Some(10_000))], [100, 100]);
        assert_eq!([number(4096, Some(1024)), number(4096, Some(10))], [1024 - TURNED_AWAY - OTHER_FILES, 1]);
        #[cfg(target_os = "linux")]
        assert!(open_files().is_none_or(|files| files > 0));
    }

    #[tokio::test]
    async fn connections_beyond_the_number_are_told_so() {
        let Running { address, .. } = running(None, |limits| limits.connections = 1).await;
        let idle = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = send(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(status(&answer) == "503" && answer.contains("overloaded"), "{answer}");
        drop(idle);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(status(&send(address, &ask("GET", "/healthz", "", "")).await), "200");
    }

    #[tokio::test]
    async fn who_asks_and_does_not_read_keeps_no_place() {
        let Running { address, .. } = running(None, |limits| {
            limits.connections = 1;
            limits.body_timeout_s = 1;
        })
        .await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"GET /page/large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let health = ask("GET", "/healthz", "", "");
        assert_eq!(status(&send(address, &health).await), "503");
        let started = Instant::now();
        while status(&send(address, &health).await) != "200" {
            assert!(started.elapsed() < Duration::from_secs(10), "the place is not given up");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(silent);
    }

    #[tokio::test]
    async fn a_stop_ends_requests_under_way_and_takes_no_others() {
        let Running { address, stop, ended, .. } = running(None, |_| {}).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let is_closed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_closed);
        tokio::spawn(async move {
            let mut byte = [0];
            assert_eq!(idle.read(&mut byte).await.unwrap_or(0), 0);
            seen.store(true, Ordering::SeqCst);
        });
        // No `connection: close` here: the server must close by itself.
        let slow = "GET /v1/artists/x/similar HTTP/1.1\r\nhost: x\r\n\r\n";
        let under_way = tokio::spawn(async move { send(address, slow).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.send(()).unwrap();
        let answer = under_way.await.unwrap();
        assert!(status(&answer) == "200" && answer.ends_with("slow"), "{answer}");
        tokio::time::timeout(Duration::from_secs(2), ended).await.unwrap().unwrap();
        assert!(is_closed.load(Ordering::SeqCst));
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_drain_has_an_end() {
        let Running { address, stop, ended, .. } = running(None, |limits| limits.drain_s = 0).await;
        let slow = ask("GET", "/v1/artists/x/similar", "", "");
        let under_way = tokio::spawn(async move { send(address, &slow).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(2), ended).await.unwrap().unwrap();
        assert!(started.elapsed() < Duration::from_millis(250));
        assert_eq!(under_way.await.unwrap(), "");
    }
}
