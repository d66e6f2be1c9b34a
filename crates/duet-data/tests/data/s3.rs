//! An S3 server in the test process, on loopback, over a directory. Google's store speaks the same XML but for how a client says who it is
//! and that an object must be new: the server understands that, too.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duet_data::store::Location;
use hyper::{
    Request,
    body::Incoming,
    header::{AUTHORIZATION, HeaderValue, IF_NONE_MATCH},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::TokioIo;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

pub(crate) const BUCKET: &str = "zone-bucket";

/// A running server; requests fail while it is down.
pub(crate) struct S3Server {
    address: SocketAddr,
    down: Arc<AtomicBool>,
}

impl S3Server {
    /// Serves buckets that are directories below `root`; [`BUCKET`] is made.
    pub(crate) async fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single("tester", "a secret for tests"));
        let amazon = builder.build();
        let google = S3ServiceBuilder::new(FileSystem::new(root).unwrap()).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let down = Arc::new(AtomicBool::new(false));
        let is_down = Arc::clone(&down);
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                // A connection that closes at once: what a client sees of a server that is gone.
                if is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let (amazon, google, is_down) = (amazon.clone(), google.clone(), Arc::clone(&is_down));
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(&amazon, &google, request));
                    let served = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    let gone = async {
                        while !is_down.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    };
                    tokio::select! { _ = served => {}, () = gone => {} }
                });
            }
        });
        Self { address, down }
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// A place in the bucket.
    pub(crate) fn location(&self, prefix: &str, patience: Duration) -> Location {
        let endpoint = format!("http://{}", self.address);
        let settings = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_allow_http", "true"),
            ("aws_region", "eu-north-1"),
            ("aws_access_key_id", "tester"),
            ("aws_secret_access_key", "a secret for tests"),
        ];
        Location::parse_with(&format!("s3://{BUCKET}/{prefix}"), &settings, patience).unwrap()
    }

    /// The same place as Google's clients name it.
    pub(crate) fn google_location(&self, prefix: &str, patience: Duration) -> Location {
        let account = serde_json::json!({
            "client_email": "tester", "private_key": "", "private_key_id": "", "disable_oauth": true,
            "gcs_base_url": format!("http://{}", self.address),
        });
        let settings = [("google_service_account_key", account.to_string()), ("google_allow_http", "true".to_owned())];
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Location::parse_with(&format!("gs://{BUCKET}/{prefix}"), &settings, patience).unwrap()
    }
}

type Answer = <S3Service as Service<Request<Incoming>>>::Future;

/// Amazon's clients sign their requests; Google's bear a token, or nothing in a test.
fn answer(amazon: &S3Service, google: &S3Service, mut request: Request<Incoming>) -> Answer {
    let headers = request.headers_mut();
    if headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4")) {
        return Service::call(amazon, request);
    }
    headers.remove(AUTHORIZATION);
    if headers.remove("x-goog-if-generation-match").is_some_and(|generation| generation == "0") {
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    Service::call(google, request)
}
