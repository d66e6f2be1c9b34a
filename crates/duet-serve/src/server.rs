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
use axum::Router;
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
    http::{self, auth::Keys, gate::Gate},
    place::Place,
    stats::Stats,
    swap::{self, Opener, SwapLog, Swapper},
    tls,
};

/// Connections that wait to be accepted, at most (the system may allow fewer).
const BACKLOG: u32 = 4096;
/// How often measurements are tidied and the lists computed ahead looked at.
const UPKEEP: Duration = Duration::from_secs(5);
/// How often it is looked whether a flag is raised.
const FLAG: Duration = Duration::from_millis(50);
/// Time for what still blocks a thread after the end.
const LAST_WORK: Duration = Duration::from_secs(2);

/// A service that has its bundle and its address, and answers once it runs.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
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
        let tls = tls::acceptor(&config.tls)?;
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
        let forgetful = Arc::clone(&stats);
        let swapper = Swapper {
            pause: place.pause(&config.swap),
            open,
            slot: Arc::clone(&slot),
            serving,
            log: Arc::clone(&log),
            clock: clock.clone(),
            swapped: Box::new(move || forgetful.forget_coverage()),
            refused: None,
            complaint: None,
            place,
        };
        let gate = Gate::new(keys, &config.limits, Arc::clone(&stats));
        let history = swapper.place.champion_history();
        let opening = tokio::task::spawn_blocking(move || AppState::open(config, clock, slot, stats, log, history));
        let app = Arc::new(opening.await.map_err(|error| Error::Internal(error.to_string()))??);
        let router = http::router(&app, Arc::new(gate), tls.is_some());
        let listener = socket.listen(BACKLOG).map_err(|error| Error::input(format!("can't listen: {error}")))?;
        let address = listener.local_addr().map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Self { listener, address, tls, router, app, swapper })
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
        let Self { listener, tls, router, app, swapper, .. } = self;
        let (end, ended) = watch::channel(false);
        let swapping = tokio::spawn(swapper.run(ended.clone()));
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
        connections::serve(listener, tls, router, &limits, Arc::clone(&app.stats), stopped).await;
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
    let built = Builder::new_multi_thread().enable_all().thread_name("http").build();
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
    let stopped = async move { drop(stopped.await) };
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
    use super::*;

    fn message(settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let config = ServeConfig::resolve(&[], &settings).unwrap();
        spawn(config, Clock::manual(0)).err().unwrap().to_string()
    }

    #[test]
    fn a_service_that_can_not_start_says_why() {
        assert!(message(&["listen=127.0.0.1:0", "bundle=no/such/bundle"]).contains("no/such/bundle"));
        assert!(message(&["listen=127.0.0.1:0", "keys.file=no/keys.toml"]).contains("no/keys.toml"));
        let tls = ["listen=127.0.0.1:0", "tls.certificate=no/server.pem", "tls.key=no/key.pem"];
        assert!(message(&tls).contains("no/server.pem"));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = format!("listen={}", taken.local_addr().unwrap());
        assert!(message(&[&listen]).contains("can't listen on 127.0.0.1"));
    }
}
