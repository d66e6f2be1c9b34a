//! An S3 server in the test process, on loopback, over a directory.

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
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
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
        let service = builder.build();
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
                let (service, is_down) = (service.clone(), Arc::clone(&is_down));
                tokio::spawn(async move {
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
}
