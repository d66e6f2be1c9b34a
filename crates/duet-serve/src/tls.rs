//! TLS from a certificate and its key in PEM files.

use std::{path::Path, sync::Arc};

use duet_core::{Error, Result};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// What accepts TLS connections; nothing where none is configured.
///
/// # Errors
/// [`Error::Data`] naming the file that holds no certificate or key, or two that don't belong together.
pub(crate) fn acceptor(config: &TlsConfig) -> Result<Option<TlsAcceptor>> {
    if config.certificate.is_empty() {
        return Ok(None);
    }
    let (certificate, key) = (Path::new(&config.certificate), Path::new(&config.key));
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| Error::data(certificate, format!("no certificate in PEM: {error}")))?;
    if chain.is_empty() {
        return Err(Error::data(certificate, "no certificate in it; expected -----BEGIN CERTIFICATE-----"));
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| Error::data(key, format!("no private key in PEM: {error}")))?;
    // Named, and not the process's default: another library may have chosen that, or nobody.
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Internal(format!("TLS: {error}")))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| Error::data(certificate, format!("does not go with {}: {error}", key.display())))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The certificates that the tests of `duet-data` use.
    fn file(name: &str) -> String {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../duet-data/tests/data/certificates");
        directory.join(name).display().to_string()
    }

    #[test]
    fn a_certificate_and_its_key_are_needed() {
        let config = |certificate: String, key: String| TlsConfig { certificate, key };
        assert!(acceptor(&config(String::new(), String::new())).unwrap().is_none());
        assert!(acceptor(&config(file("server.pem"), file("server_key.pem"))).unwrap().is_some());
        let message = |certificate, key| acceptor(&config(certificate, key)).err().unwrap().to_string();
        assert!(message(file("server_key.pem"), file("server_key.pem")).contains("no certificate"));
        assert!(message(file("server.pem"), file("server.pem")).contains("no private key"));
        assert!(message(file("none.pem"), file("server_key.pem")).contains("none.pem"));
        assert!(message(file("authority.pem"), file("server_key.pem")).contains("does not go with"));
    }
}
