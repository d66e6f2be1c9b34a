//! TLS from a certificate and its key in PEM files, which are read again when they change.
//!
//! Whoever connects gets the pair of the last look; connections that are open stay as they are. Two files are not written at once: two that
//! don't belong together, or can't be read, change nothing, and are said once.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use duet_core::{Error, Result};
use fs_err as fs;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// The pause between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// What accepts TLS connections, and the files to [watch](CertificateFiles::watch) for it; nothing where none are configured.
///
/// # Errors
/// [`Error::Io`] naming the file that can't be read; [`Error::Data`] naming the one that holds no certificate or key, or two that don't
/// belong together.
pub(crate) fn acceptor(config: &TlsConfig) -> Result<Option<(TlsAcceptor, CertificateFiles)>> {
    if config.certificate.is_empty() {
        return Ok(None);
    }
    let contents = Contents::read(config)?;
    let current = Arc::new(Current(ArcSwap::from_pointee(contents.pair(config)?)));
    // Named, and not the process's default: another library may have chosen that, or nobody.
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Internal(format!("TLS: {error}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let files = CertificateFiles { config: config.clone(), serving: contents.digests(), current, complaint: None };
    Ok(Some((TlsAcceptor::from(Arc::new(server)), files)))
}

/// The pair that new connections get.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// What the files hold, whatever it is.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    fn read(config: &TlsConfig) -> Result<Self> {
        let read = |path: &str| fs::read(path).map_err(Error::io(path));
        Ok(Self { certificate: read(&config.certificate)?, key: read(&config.key)? })
    }

    fn digests(&self) -> [[u8; 32]; 2] {
        [&self.certificate, &self.key].map(|content| Sha256::digest(content).into())
    }

    fn pair(&self, config: &TlsConfig) -> Result<CertifiedKey> {
        let (certificate, key) = (Path::new(&config.certificate), Path::new(&config.key));
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| Error::data(certificate, format!("no certificate in PEM: {error}")))?;
        if chain.is_empty() {
            return Err(Error::data(certificate, "no certificate in it; expected -----BEGIN CERTIFICATE-----"));
        }
        let secret = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| Error::data(key, format!("no private key in PEM: {error}")))?;
        CertifiedKey::from_der(chain, secret, &ring::default_provider())
            .map_err(|error| Error::data(certificate, format!("does not go with {}: {error}", key.display())))
    }
}

/// The files of a certificate and its key, and what is taken from them.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    config: TlsConfig,
    current: Arc<Current>,
    /// SHA-256 of the files that `current` was made from.
    serving: [[u8; 32]; 2],
    /// Why the last look changed nothing, so that it is logged once.
    complaint: Option<String>,
}

impl CertificateFiles {
    /// Looks again and again until `stop` changes.
    pub(crate) async fn watch(self, mut stop: watch::Receiver<bool>) {
        let mut files = self;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => return,
            }
            let looking = tokio::task::spawn_blocking(move || {
                files.look();
                files
            });
            match looking.await {
                Ok(looked) => files = looked,
                Err(error) => return tracing::error!(%error, "certificate and key are not looked at any more"),
            }
        }
    }

    /// One look: takes what the files hold if that is new and a pair.
    fn look(&mut self) {
        let contents = match Contents::read(&self.config) {
            Ok(contents) => contents,
            Err(error) => return self.complain(&error),
        };
        let digests = contents.digests();
        if digests == self.serving {
            self.complaint = None;
            return;
        }
        match contents.pair(&self.config) {
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                (self.serving, self.complaint) = (digests, None);
                metrics::counter!("duet_certificates_total", "outcome" => "serving").increment(1);
                tracing::info!(certificate = %self.config.certificate, "new connections get the new certificate");
            }
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&mut self, error: &Error) {
        let error = error.to_string();
        if self.complaint.as_ref() != Some(&error) {
            metrics::counter!("duet_certificates_total", "outcome" => "refused").increment(1);
            tracing::error!(%error, "the new certificate is refused; connections get the old one on");
            self.complaint = Some(error);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use std::{
        io::{self, Read, Write},
        net::{SocketAddr, TcpStream},
    };

    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

    use super::*;

    /// The certificates that the tests of `duet-data` use: `server` is signed by `authority`, `renewed` by itself.
    pub(crate) fn file(name: &str) -> String {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../duet-data/tests/data/certificates");
        directory.join(name).display().to_string()
    }

    fn config(certificate: String, key: String) -> TlsConfig {
        TlsConfig { certificate, key }
    }

    /// A connection to `localhost` that trusts what one of our certificates has signed, and nothing else.
    pub(crate) struct Trusting(StreamOwned<ClientConnection, TcpStream>);

    impl Trusting {
        pub(crate) fn connect(address: SocketAddr, root: &str) -> Self {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(file(root)).unwrap()).unwrap();
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").unwrap();
            let connection = ClientConnection::new(Arc::new(config), name).unwrap();
            Self(StreamOwned::new(connection, TcpStream::connect(address).unwrap()))
        }

        /// The status of `/healthz`; the connection is kept. An error where the certificate is not trusted.
        pub(crate) fn health(&mut self) -> io::Result<String> {
            self.0.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
            let mut answer = Vec::new();
            // The body is the end of it.
            while !answer.ends_with(b"\r\n\r\nok") {
                let mut byte = [0];
                self.0.read_exact(&mut byte)?;
                answer.push(byte[0]);
            }
            Ok(String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned())
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_needed() {
        assert!(acceptor(&config(String::new(), String::new())).unwrap().is_none());
        assert!(acceptor(&config(file("server.pem"), file("server_key.pem"))).unwrap().is_some());
        let message = |certificate, key| acceptor(&config(certificate, key)).err().unwrap().to_string();
        assert!(message(file("server_key.pem"), file("server_key.pem")).contains("no certificate"));
        assert!(message(file("server.pem"), file("server.pem")).contains("no private key"));
        assert!(message(file("none.pem"), file("server_key.pem")).contains("none.pem"));
        assert!(message(file("authority.pem"), file("server_key.pem")).contains("does not go with"));
    }

    #[test]
    fn a_new_pair_is_taken_and_a_broken_one_is_told_once_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let put = |from: &str, to: &str| std::fs::write(path(to), std::fs::read(file(from)).unwrap()).unwrap();
        put("server.pem", "tls.pem");
        put("server_key.pem", "key.pem");
        let (_, mut files) = acceptor(&config(path("tls.pem"), path("key.pem"))).unwrap().unwrap();
        let serves = |files: &CertificateFiles, name: &str| {
            files.current.0.load().cert[0] == CertificateDer::from_pem_file(file(name)).unwrap()
        };
        files.look();
        assert!(serves(&files, "server.pem") && files.complaint.is_none());
        // The certificate is there and its key is not yet.
        put("renewed.pem", "tls.pem");
        files.look();
        let complaint = files.complaint.clone().unwrap();
        assert!(complaint.contains("tls.pem") && complaint.contains("does not go with"), "{complaint}");
        assert!(serves(&files, "server.pem"));
        // The key is half written, then gone for a moment.
        let key = std::fs::read_to_string(file("renewed_key.pem")).unwrap();
        std::fs::write(path("key.pem"), &key[..key.len() / 2]).unwrap();
        files.look();
        assert!(files.complaint.as_ref().unwrap().contains("no private key"), "{:?}", files.complaint);
        std::fs::remove_file(path("key.pem")).unwrap();
        files.look();
        assert!(files.complaint.as_ref().unwrap().contains("key.pem") && serves(&files, "server.pem"));
        put("renewed_key.pem", "key.pem");
        files.look();
        assert!(serves(&files, "renewed.pem") && files.complaint.is_none());
        // What is mended without being another is complained of no more.
        put("server.pem", "tls.pem");
        files.look();
        assert!(files.complaint.is_some());
        put("renewed.pem", "tls.pem");
        files.look();
        assert!(serves(&files, "renewed.pem") && files.complaint.is_none());
    }
}
