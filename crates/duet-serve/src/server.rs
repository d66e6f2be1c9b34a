//! A service from its configuration: bound, run, stopped.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use duet_core::{Error, Result};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    app::AppState,
    clock::Clock,
    config::ServeConfig,
    connections,
    engine::{Engine, EngineOptions},
    http::{self, auth::Keys, front::Front, gate::Gate},
    place::Place,
    stats::Stats,
    swap::{self, Opener, SwapLog, Swapper},
    tls::{self, CertificateFiles},
};

/// Connections that wait to be accepted, at most (the system may allow fewer).
const BACKLOG: u32 = 4096;
/// How often measurements are tidied and the lists computed ahead looked at.
const UPKEEP: Duration = Duration::from_secs(5);
/// How often it is looked whether a flag is raised.
const FLAG: Duration = Duration::from_millis(50);
/// Tasks after which a thread looks what has come meanwhile: one of them may have made lists for some milliseconds.
const TASKS: u32 = 16;
/// Time for what still blocks a thread after the end.
const LAST_WORK: Duration = Duration::from_secs(2);

/// A service that has its bundle and its address, and answers once it runs.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    certificate: Option<CertificateFiles>,
    front: Front,
    app: Arc<AppState>,
    swapper: Swapper<Engine>,
}

impl Server {
    /// Takes the address, opens and checks the bundle, and opens everything else the configuration names.
    ///
    /// # Errors
    /// [`Error::Input`] for a setting or an address that can't be; those of the bundle, the keys, the certificate and the journal, each
    /// naming its file.
    pub async fn bind(config: ServeConfig, clock: Clock) -> Result<Self> {
        config.validate()?;
        let (tls, certificate) = tls::acceptor(&config.tls)?.unzip();
        let keys = match config.keys.file.as_str() {
            "" => None,
            path => Some(Keys::from_file(Path::new(path))?),
        };
        // An address that is taken is better known before a bundle is read than after.
        let socket = take(config.address()?)?;
        let stats = Arc::new(Stats::new());
        let place = Place::parse(&config.bundle, &config.swap)?;
        let options = EngineOptions::from(&config);
        let open: Opener<Engine> = Arc::new(move |directory: &Path| {
            let engine = Engine::open(directory, &options)?;
            engine.self_check()?;
            Ok(engine)
        });
        let (serving, engine) = swap::first(&place, &open).await?;
        let log = Arc::new(SwapLog::default());
        log.record(clock.now_text(), serving.to_string(), "serving".to_owned());
        let slot = Arc::new(ArcSwap::new(engine));
        let gate = Gate::new(keys, &config.limits, Arc::clone(&stats));
        let (history, pause) = (place.champion_history(), place.pause(&config.swap));
        let opening = {
            let (clock, slot, log) = (clock.clone(), Arc::clone(&slot), Arc::clone(&log));
            tokio::task::spawn_blocking(move || AppState::open(config, clock, slot, stats, log, history))
        };
        let app = Arc::new(opening.await.map_err(|error| Error::Internal(error.to_string()))??);
        let (recalling, forgetful) = (Arc::clone(&app), Arc::clone(&app.stats));
        let swapper = Swapper {
            place,
            pause,
            open,
            slot,
            serving,
            log,
            clock,
            prepare: Arc::new(move |next: &Engine| {
                if let Err(error) = recalling.recall_for(next) {
                    tracing::error!(%error, "the journal can't be read: what this bundle does not know is missing in live histories");
                }
            }),
            swapped: Box::new(move || forgetful.forget_coverage()),
            refused: None,
            complaint: None,
        };
        let front = http::front(&app, Arc::new(gate), tls.is_some());
        let listener = socket.listen(BACKLOG).map_err(|error| Error::input(format!("can't listen: {error}")))?;
        let address = listener.local_addr().map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Self { listener, address, tls, certificate, front, app, swapper })
    }

    /// The address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The parts of the service.
    pub fn app(&self) -> &Arc<AppState> {
        &self.app
    }

    /// Answers until `stop` comes, then drains: no connection is taken, requests under way end, journal and log are closed.
    ///
    /// # Errors
    /// [`Error::Internal`] if the last work failed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { listener, tls, certificate, front, app, swapper, .. } = self;
        let (end, ended) = watch::channel(false);
        let swapping = tokio::spawn(swapper.run(ended.clone()));
        if let Some(files) = certificate {
            tokio::spawn(files.watch(ended.clone()));
        }
        let upkeep = tokio::spawn(keep_up(Arc::clone(&app), ended));
        let limits = app.config.limits.clone();
        let told = Arc::clone(&app);
        let notice = Duration::from_secs(limits.notice_s);
        let stopped = async move {
            stop.await;
            told.set_ready(false);
            tokio::time::sleep(notice).await;
        };
        app.set_ready(true);
        connections::serve(listener, tls, front, &limits, Arc::clone(&app.stats), stopped).await;
        end.send_replace(true);
        // A bundle that is being opened is not wanted any more.
        swapping.abort();
        upkeep.abort();
        let closing = tokio::task::spawn_blocking(move || app.close());
        closing.await.map_err(|error| Error::Internal(format!("closing: {error}")))
    }
}

/// Binds the address without listening yet: who connects before the bundle is open is refused and goes elsewhere.
fn take(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        // Connections of a process before that are not forgotten yet must not keep this one from starting.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    });
    bound.map_err(|error| Error::input(format!("can't listen on {address}: {error}")))
}

async fn keep_up(app: Arc<AppState>, mut ended: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(UPKEEP) => {}
            _ = ended.changed() => return,
        }
        let app = Arc::clone(&app);
        let work = move || {
            app.stats.upkeep();
            if let Some(precomputed) = &app.precomputed
                && let Err(error) = precomputed.refresh()
            {
                tracing::warn!(%error, "the lists computed ahead stay as they are");
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let built = builder.enable_all().thread_name("http").event_interval(TASKS).build();
    built.map_err(|error| Error::Internal(format!("no runtime: {error}")))
}

/// Runs a service in this thread until `stop` comes; `ready` is told once it answers.
///
/// # Errors
/// Those of [`Server::bind`], [`Server::run`] and `ready`.
pub fn run<E: From<Error>>(
    config: ServeConfig,
    clock: Clock,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&Server) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let server = Server::bind(config, clock).await?;
        ready(&server)?;
        Ok(server.run(stop).await?)
    });
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

/// Waits until a flag is raised, as the handlers of signals do.
pub async fn raised(flag: Arc<AtomicBool>) {
    while !flag.load(Ordering::SeqCst) {
        tokio::time::sleep(FLAG).await;
    }
}

/// A service that runs in threads of its own; dropping it stops it.
pub struct ServerHandle {
    address: SocketAddr,
    app: Arc<AppState>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Starts a service in threads of its own, for tests and simulations; it answers when this returns.
///
/// # Errors
/// Those of [`Server::bind`].
pub fn spawn(config: ServeConfig, clock: Clock) -> Result<ServerHandle> {
    let (ready, is_ready) = mpsc::sync_channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    let work = move || {
        run(config, clock, stopped, |server| {
            // Whoever waits for this is in this very function.
            let _ = ready.send((server.address(), Arc::clone(server.app())));
            Ok::<(), Error>(())
        })
    };
    let thread = std::thread::Builder::new().name("serve".to_owned()).spawn(work);
    let thread = thread.map_err(|error| Error::Internal(format!("no thread: {error}")))?;
    match is_ready.recv() {
        Ok((address, app)) => Ok(ServerHandle { address, app, stop: Some(stop), thread: Some(thread) }),
        // The sender went with the thread's work, which says why.
        Err(_) => Err(joined(thread).err().unwrap_or_else(|| Error::Internal("the service ended at once".to_owned()))),
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(Error::Internal("the service panicked".to_owned())))
}

impl ServerHandle {
    /// The address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The parts of the service.
    pub fn app(&self) -> &Arc<AppState> {
        &self.app
    }

    /// Stops the service and waits until it has drained.
    ///
    /// # Errors
    /// Those of [`Server::run`].
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), joined)
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the service did not end well");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        io::{Read, Write},
        time::Instant,
    };

    use duet_core::ItemIdx;
    use duet_retrieval::Scored;
    use futures::FutureExt;
    use serde_json::Value;

    use super::*;
    use crate::{
        dispatch::Make,
        http::error::ApiError,
        precomputed::{ListsWriter, bundle_id},
        small_bundle::{ITEMS, Which, bundle},
        tls::tests::{Trusting, file},
    };

    fn message(settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let config = ServeConfig::resolve(&[], &settings).unwrap();
        spawn(config, Clock::manual(0)).err().unwrap().to_string()
    }

    /// A service on a bundle of the tests, behind a link that can be turned.
    struct World {
        dir: tempfile::TempDir,
        settings: Vec<String>,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let shown = dir.path().display();
            let settings = [
                "listen=127.0.0.1:0".to_owned(),
                format!("bundle={shown}/champion"),
                format!("events.dir={shown}/events"),
                format!("served_log.dir={shown}/served"),
                "swap.poll_ms=5".to_owned(),
                "engine.workers=2".to_owned(),
                "limits.deadline_ms=5000".to_owned(),
            ];
            Self { dir, settings: settings.to_vec() }
        }

        #[cfg(unix)]
        fn turn(&self, to: &Path) {
            let (link, partial) = (self.dir.path().join("champion"), self.dir.path().join("next"));
            std::os::unix::fs::symlink(to, &partial).unwrap();
            std::fs::rename(partial, link).unwrap();
        }

        fn start(&self) -> ServerHandle {
            self.start_at(Clock::system())
        }

        fn start_at(&self, clock: Clock) -> ServerHandle {
            spawn(ServeConfig::resolve(&[], &self.settings).unwrap(), clock).unwrap()
        }
    }

    fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
        ask_with(address, method, path, "", body)
    }

    fn ask_with(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let headers = format!("{headers}content-length: {}\r\n", body.len());
        let (head, body) = exchange(address, &format!("{method} {path}"), &headers, body);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    /// Head and body of the answer on a connection of its own; `line` is method and path.
    fn exchange(address: SocketAddr, line: &str, headers: &str, body: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn json(address: SocketAddr, path: &str) -> Value {
        let (status, body) = ask(address, "GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn shown(list: &Value) -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["item_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until a condition holds; a test must not hang.
    fn eventually(holds: impl Fn() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < Duration::from_secs(20), "it never held");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[cfg(unix)]
    #[test]
    fn lists_events_and_status_over_http_and_the_events_outlive_the_process() {
        let world = World::new();
        world.turn(&bundle(Which::First));
        let server = world.start();
        let address = server.address();
        assert_eq!(ask(address, "GET", "/healthz", ""), (200, "ok".to_owned()));
        assert_eq!(ask(address, "GET", "/readyz", "").0, 200);
        let list = json(address, "/v1/users/u0/recommendations?k=5&explain=true");
        assert_eq!((&list["source"], shown(&list).len()), (&Value::from("personal"), 5), "{list}");
        let of_nobody = json(address, "/v1/users/nobody/recommendations");
        assert_eq!(of_nobody["source"], "trending", "{of_nobody}");
        // The first of what an unknown listener is shown is clicked: the next list knows.
        let first = shown(&of_nobody)[0].clone();
        let event = serde_json::json!({
            "event_id": "e1", "type": "click", "user_id": "nobody", "item_kind": "artist", "item_id": first,
            "ts": Clock::system().now_text(), "request_id": of_nobody["request_id"], "position": 0
        });
        let (status, body) = ask(address, "POST", "/v1/events", &event.to_string());
        assert!(status == 200 && body.contains("\"accepted\":1"), "{body}");
        let next = json(address, "/v1/users/nobody/recommendations");
        assert!(next["source"] == "personal" && !shown(&next).contains(&first), "{next}");
        let similar = json(address, &format!("/v1/artists/{first}/similar?k=3"));
        assert_eq!(shown(&similar).len(), 3);
        assert_eq!(json(address, "/v1/listeners?query=u24&limit=2")["listeners"], serde_json::json!(["u24", "u240"]));
        let status = json(address, "/v1/status");
        assert_eq!((&status["items"], &status["users"]), (&Value::from(200), &Value::from(242)), "{status}");
        assert_eq!(status["sources"]["personal"], 2, "{status}");
        assert!(
            status["coverage"].as_f64().unwrap() > 0.0 && status["swaps"].as_array().unwrap().len() == 1,
            "{status}"
        );
        let (_, metrics) = ask(address, "GET", "/metrics", "");
        assert!(metrics.contains("duet_lists_total{source=\"personal\"}"), "{metrics}");
        for (method, path, expected) in [
            ("GET", "/v1/users/u0/recommendations?limit=5", 400),
            ("GET", "/v1/users/u0/recommendations?k=0", 400),
            ("GET", "/v1/users/u0/recommendations?kind=song", 400),
            ("GET", "/v1/artists/none/similar", 404),
            ("POST", "/v1/events", 400),
            ("GET", "/v1/events", 405),
            ("GET", "/v1/none", 404),
        ] {
            let (status, body) = ask(address, method, path, "");
            assert_eq!(status, expected, "{path}: {body}");
            assert!(body.contains("error_type"), "{path}: {body}");
        }
        server.stop().unwrap();
        let logged: usize =
            std::fs::read_dir(world.dir.path().join("served")).unwrap().flatten().fold(0, |lines, file| {
                let is_segment = file.file_name().to_string_lossy().ends_with(".jsonl");
                lines + if is_segment { std::fs::read_to_string(file.path()).unwrap().lines().count() } else { 0 }
            });
        assert_eq!(logged, 3, "every list that was served is in the log");
        let again = world.start();
        let list = json(again.address(), "/v1/users/nobody/recommendations");
        assert!(list["source"] == "personal" && !shown(&list).contains(&first), "{list}");
    }

    #[cfg(unix)]
    #[test]
    fn a_list_is_the_same_whichever_way_its_request_goes() {
        for setting in ["engine.short_us=1000000", "engine.short_us=0"] {
            let mut world = World::new();
            world.turn(&bundle(Which::First));
            world.settings.push(setting.to_owned());
            let server = world.start();
            // An escape leaves a request to the router.
            let both = |query: &str| {
                ["u0", "%750"].map(|user| {
                    let line = format!("GET /v1/users/{user}/recommendations?{query}");
                    let (head, body) = exchange(server.address(), &line, "", "");
                    let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
                    // The order of headers means nothing, and a second may have passed.
                    lines.retain(|line| !line.starts_with("date:"));
                    lines.sort_unstable();
                    let mut body: Value = serde_json::from_str(&body).unwrap();
                    body["request_id"] = Value::Null;
                    (lines, body)
                })
            };
            for query in
                ["", "k=5", "k=5&&exclude_seen=false", "explain=true&k=3", "k=0", "k=many", "limit", "filter=genre=x"]
            {
                let [short, routed] = both(query);
                assert_eq!(short, routed, "{query}");
            }
            let status = json(server.address(), "/v1/status");
            assert_eq!(status["requests_total"], 16, "{status}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_queue_of_short_lists_that_is_full_keeps_out_those_alone_and_is_empty_once_their_callers_left() {
        let mut world = World::new();
        world.turn(&bundle(Which::First));
        world.settings.extend(["engine.short_us=1000000", "limits.queue=2"].map(str::to_owned));
        let server = world.start();
        let ask = |query: &str| ask(server.address(), "GET", &format!("/v1/users/u0/recommendations?{query}"), "").0;
        // Put into the queue at the first poll, and made by whoever polls again.
        let short = || {
            let make: Make = Box::new(|_| Err(ApiError::overloaded()));
            let now = Instant::now();
            let mut list = Box::pin(server.app().dispatcher.submit_short(make, now, now + Duration::from_secs(60)));
            assert!(list.as_mut().now_or_never().is_none());
            list
        };
        let waiting = [short(), short()];
        assert_eq!(["", "k=5", "explain=true", "filter=genre=rock"].map(ask), [503, 503, 200, 200]);
        drop(waiting);
        assert_eq!(["", "k=5"].map(ask), [200, 200]);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_with_a_prefix_reaches_no_other_listener_however_a_body_names_it() {
        let mut world = World::new();
        world.turn(&bundle(Which::First));
        let keys = world.dir.path().join("keys.toml");
        let entry = crate::http::auth::tests::entry;
        std::fs::write(&keys, entry("a", "secret", "scopes = [\"lists\", \"events\"]\nuser_prefix = \"u1\"")).unwrap();
        world.settings.push(format!("keys.file={}", keys.display()));
        let server = world.start();
        let status =
            |path: &str, body: String| ask_with(server.address(), "POST", path, "x-api-key: secret\r\n", &body).0;
        let now = Clock::system().now_text();
        for (user, expected) in [("u1", 200), ("u2", 403)] {
            // Lists stand for objects where a program reads them by position.
            for body in [
                format!(r#"{{"requests":[{{"history":["a1"]}},{{"user_id":"{user}"}}]}}"#),
                format!(r#"{{"requests":[["{user}"]]}}"#),
                format!(r#"[[["{user}"]]]"#),
                format!(r#"{{"requests":[{{"\u0075ser_id":"{user}"}}]}}"#),
            ] {
                assert_eq!(status("/v1/recommendations", body.clone()), expected, "{body}");
            }
            let event = |id: u32| {
                format!(
                    r#"{{"event_id":"{id}","type":"click","user_id":"{user}","item_kind":"artist","item_id":"a1","ts":"{now}"}}"#
                )
            };
            for body in [
                event(1),
                format!(r#"{{"events":[{}]}}"#, event(2)),
                format!(r#"{{"events":[["3","click","{user}","artist","a1","{now}"]]}}"#),
            ] {
                assert_eq!(status("/v1/events", body.clone()), expected, "{body}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_later_than_a_listeners_own_history_counts_whatever_others_did() {
        let world = World::new();
        world.turn(&bundle(Which::First));
        let server = world.start();
        // The bundle's last event is of the 27th, that of u0 is 239 ms before it.
        let engine = server.app().slot.load_full();
        let of_u0 = engine.history_until_ms(engine.user_row("u0"));
        assert_eq!((of_u0, engine.data_until_ms()), (26 * 86_400_000, 26 * 86_400_000 + 239));
        assert_eq!(engine.history_until_ms(None), i64::MIN);
        for (user, item, ts) in [
            ("newcomer", "a1", "1970-01-02T00:00:00Z"),
            ("u0", "a150", "1970-01-27T00:00:00.100Z"),
            ("u0", "a151", "1970-01-27T00:00:00Z"),
        ] {
            let event = serde_json::json!({
                "event_id": item, "type": "click", "user_id": user, "item_kind": "artist", "item_id": item, "ts": ts
            });
            assert_eq!(ask(server.address(), "POST", "/v1/events", &event.to_string()).0, 200);
        }
        let check = |server: &ServerHandle| {
            let newcomer = json(server.address(), "/v1/users/newcomer/recommendations");
            assert!(newcomer["source"] == "personal" && !shown(&newcomer).contains(&"a1".to_owned()), "{newcomer}");
            let news: Vec<String> = server.app().live.since("u0", of_u0).iter().map(ToString::to_string).collect();
            assert_eq!(news, ["a150"]);
        };
        check(&server);
        server.stop().unwrap();
        check(&world.start());
    }

    #[cfg(unix)]
    #[test]
    fn after_a_turn_to_an_older_bundle_lists_know_what_happened_between_the_two() {
        let world = World::new();
        let day = |day: i64| day * 86_400_000;
        let click = |server: &ServerHandle, user: &str, item: &str| {
            let event = serde_json::json!({
                "event_id": item, "type": "click", "user_id": user, "item_kind": "artist", "item_id": item,
                "ts": server.app().clock.now_text()
            });
            assert_eq!(ask(server.address(), "POST", "/v1/events", &event.to_string()).0, 200);
        };
        // The older bundle's data ends on day 26, the newer one's on day 46. Each of these servers leaves a segment behind.
        world.turn(&bundle(Which::First));
        for (at, user, item) in [(28, "u0", "a150"), (40, "u1", "a151")] {
            let server = world.start_at(Clock::manual(day(at)));
            click(&server, user, item);
            server.stop().unwrap();
        }
        world.turn(&bundle(Which::Later));
        let server = world.start_at(Clock::manual(day(47)));
        let live = |user: &str| -> Vec<String> {
            server.app().live.since(user, i64::MIN).iter().map(ToString::to_string).collect()
        };
        assert!(live("u0").is_empty(), "the segment was over long before the bundle's data ends: it is not read");
        click(&server, "u2", "a152");
        for which in [Which::First, Which::Later] {
            world.turn(&bundle(which));
            let name = bundle(which).file_name().unwrap().to_string_lossy().into_owned();
            eventually(|| server.app().slot.load().bundle().starts_with(&name));
            for (user, item) in [("u0", "a150"), ("u1", "a151"), ("u2", "a152")] {
                assert_eq!(live(user), [item], "{name}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn searches_for_similar_artists_have_so_many_places() {
        let mut world = World::new();
        world.turn(&bundle(Which::First));
        world.settings.push("limits.deadline_ms=50".to_owned());
        let server = world.start();
        let similar = || ask(server.address(), "GET", "/v1/artists/a1/similar", "").0;
        assert_eq!(similar(), 200);
        let held = server.app().similar.try_acquire_many(2).unwrap();
        assert_eq!(similar(), 503);
        assert_eq!(ask(server.address(), "GET", "/v1/users/u0/recommendations", "").0, 200, "lists are made meanwhile");
        drop(held);
        assert_eq!(similar(), 200);
    }

    #[cfg(unix)]
    #[test]
    fn a_list_made_ahead_is_given_only_where_it_says_what_would_be_made_now() {
        let mut world = World::new();
        world.turn(&bundle(Which::First));
        let file = world.dir.path().join("lists.parquet");
        // Five of one genre come first.
        let items = [1, 5, 9, 13, 17, 2, 3, 6, 10, 11];
        let list: Vec<Scored> =
            items.iter().enumerate().map(|(at, &item)| Scored { item: ItemIdx(item), score: -(at as f32) }).collect();
        let mut writer = ListsWriter::create(&file, &bundle_id(&bundle(Which::First)).unwrap(), ITEMS).unwrap();
        writer.push(&[("u0", &list)]).unwrap();
        writer.finish().unwrap();
        let settings = ["lists.precomputed_first=true", "lists.exclude_seen_artists=false", "lists.max_per_group=2"];
        world.settings.extend(settings.map(str::to_owned));
        world.settings.push(format!("precomputed.file={}", file.display()));
        let server = world.start();
        let list = |query: &str| json(server.address(), &format!("/v1/users/u0/recommendations?{query}"));
        let ahead = list("k=5&exclude_seen=true");
        assert_eq!(
            (&ahead["source"], shown(&ahead)),
            (&Value::from("precomputed"), ["a1", "a5", "a2", "a3", "a6"].map(str::to_owned).to_vec())
        );
        // What is made ahead leaves out what was played: not what is asked for here.
        let others = [
            "k=5",
            "k=5&exclude_seen=true&explain=true",
            "k=5&exclude_seen=true&filter=genre=jazz",
            "k=11&exclude_seen=true",
        ];
        for query in others {
            assert_eq!(list(query)["source"], "personal", "{query}");
        }
        let event = serde_json::json!({
            "event_id": "e1", "type": "click", "user_id": "u0", "item_kind": "artist", "item_id": "a1",
            "ts": Clock::system().now_text()
        });
        assert_eq!(ask(server.address(), "POST", "/v1/events", &event.to_string()).0, 200);
        let news = list("k=5&exclude_seen=true");
        assert!(news["source"] == "personal" && !shown(&news).contains(&"a1".to_owned()), "{news}");
    }

    #[cfg(unix)]
    #[test]
    fn bundles_are_swapped_under_load_without_a_failed_request() {
        let world = World::new();
        let bundles = [bundle(Which::First), bundle(Which::Second)];
        world.turn(&bundles[0]);
        let server = world.start();
        let address = server.address();
        let over = AtomicBool::new(false);
        let serving = || json(address, "/v1/status")["bundle"].as_str().unwrap().to_owned();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let over = &over;
                    scope.spawn(move || {
                        let mut asked = 0;
                        while !over.load(Ordering::SeqCst) {
                            let list = json(address, &format!("/v1/users/u{client}/recommendations"));
                            assert_eq!((shown(&list).len(), &list["degraded"]), (10, &serde_json::json!([])), "{list}");
                            asked += 1;
                        }
                        asked
                    })
                })
                .collect();
            for turn in 1..=6 {
                let target = &bundles[turn % 2];
                world.turn(target);
                let name = target.file_name().unwrap().to_string_lossy().into_owned();
                eventually(|| serving().starts_with(&name));
            }
            let damaged = world.dir.path().join("damaged");
            std::fs::create_dir(&damaged).unwrap();
            std::fs::write(damaged.join("manifest.json"), "{}").unwrap();
            world.turn(&damaged);
            let refused = || {
                let swaps = json(address, "/v1/status")["swaps"].clone();
                swaps.as_array().unwrap().last().unwrap()["outcome"].as_str().unwrap().starts_with("refused: ")
            };
            eventually(refused);
            assert!(serving().starts_with("first-"), "the old one serves on");
            over.store(true, Ordering::SeqCst);
            for client in clients {
                assert!(client.join().unwrap() > 0);
            }
        });
        server.stop().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_certificate_is_renewed_without_a_stop() {
        let mut world = World::new();
        world.turn(&bundle(Which::First));
        let put = |from: &str, to: &str| {
            let to = world.dir.path().join(to);
            std::fs::copy(file(from), &to).unwrap();
            to
        };
        let (certificate, key) = (put("server.pem", "tls.pem"), put("server_key.pem", "key.pem"));
        // An idle connection has this long.
        world.settings.push("limits.header_timeout_s=60".to_owned());
        world.settings.push(format!("tls.certificate={}", certificate.display()));
        world.settings.push(format!("tls.key={}", key.display()));
        let server = world.start();
        let address = server.address();
        let mut before = Trusting::connect(address, "authority.pem");
        assert_eq!(before.health().unwrap(), "200");
        assert!(Trusting::connect(address, "renewed.pem").health().is_err());
        std::fs::copy(file("renewed.pem"), &certificate).unwrap();
        std::fs::copy(file("renewed_key.pem"), &key).unwrap();
        eventually(|| Trusting::connect(address, "renewed.pem").health().is_ok());
        assert!(Trusting::connect(address, "authority.pem").health().is_err(), "the old one is given to nobody");
        assert_eq!(before.health().unwrap(), "200", "a connection that is open stays");
    }

    #[test]
    fn a_service_that_can_not_start_says_why() {
        let bundle = message(&["listen=127.0.0.1:0", "bundle=no/such/bundle"]);
        assert!(bundle.contains("no/such/bundle") && bundle.contains("--bundle"), "{bundle}");
        assert!(message(&["listen=127.0.0.1:0", "keys.file=no/keys.toml"]).contains("no/keys.toml"));
        let tls = ["listen=127.0.0.1:0", "tls.certificate=no/server.pem", "tls.key=no/key.pem"];
        assert!(message(&tls).contains("no/server.pem"));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = format!("listen={}", taken.local_addr().unwrap());
        assert!(message(&[&listen]).contains("can't listen on 127.0.0.1"));
    }
}
