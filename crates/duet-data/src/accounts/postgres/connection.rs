//! Where the database is and how to get in: a URL, and the `PG*` variables for what the URL leaves open, as in libpq.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use duet_core::{Error, Result};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode},
};

use super::{
    failure::Failure,
    tls::{self, TlsMode},
};

/// The wait for an answer to a connection, if the URL says no other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for so long is asked whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
const VALID: &str = "valid: postgres://USER@HOST:PORT/DATABASE, with ?sslmode=... and others as libpq has them; \
     what it leaves open comes from PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE and PGSSLROOTCERT";

/// A database and how to get in. Shows host, port and database; never the password.
#[derive(Clone)]
pub struct Connection {
    config: Config,
    tls: TlsMode,
    root_certificates: Option<PathBuf>,
}

impl fmt::Display for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Postgres ")?;
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let port = self.config.get_ports().get(at).or(self.config.get_ports().first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => write!(formatter, "{comma}{name}:{port}")?,
                #[cfg(unix)]
                Host::Unix(path) => write!(formatter, "{comma}{}:{port}", path.display())?,
            }
        }
        write!(formatter, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Connection({self}, sslmode {})", self.tls)
    }
}

impl Connection {
    /// The database of a URL (`postgres://...`), or of the `PG*` variables alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the URL or a variable is not valid; nothing of it is shown, for it may be a password.
    pub fn new(url: Option<&str>) -> Result<Self> {
        Self::with_variables(url, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn with_variables(url: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let (url, parameters) = match url {
            Some(url) => split_tls(url)?,
            None => ("postgres://".to_owned(), [None, None]),
        };
        let [mode, root] = parameters;
        let url = match variable("PGPORT") {
            Some(port) => with_port(&url, port.parse().map_err(|_| Error::input("PGPORT is no port number"))?),
            None => url,
        };
        // The library's error names unknown keys, which in a mistyped URL are parts of anything.
        let mut config = Config::from_str(&url).map_err(|_| Error::input(format!("no valid Postgres URL; {VALID}")))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host(variable("PGHOST").unwrap_or_else(|| "localhost".to_owned()));
        }
        if config.get_ports().is_empty()
            && let Some(port) = variable("PGPORT").and_then(|port| port.parse().ok())
        {
            config.port(port);
        }
        if config.get_user().is_none() {
            config.user(variable("PGUSER").or_else(|| variable("USER")).unwrap_or_else(|| "postgres".to_owned()));
        }
        if config.get_password().is_none()
            && let Some(password) = variable("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_dbname().is_none() {
            let name = variable("PGDATABASE").or_else(|| config.get_user().map(str::to_owned));
            config.dbname(name.unwrap_or_default());
        }
        let tls = match mode.or_else(|| variable("PGSSLMODE")) {
            Some(text) => text.parse()?,
            None => TlsMode::Prefer,
        };
        config.ssl_mode(match tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyFull => SslMode::Require,
        });
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE / 3).keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("duet");
        }
        let root_certificates = root.or_else(|| variable("PGSSLROOTCERT")).map(PathBuf::from);
        Ok(Self { config, tls, root_certificates })
    }

    /// Connects. The session lives in the runtime this is called in.
    pub(crate) async fn open(&self) -> Result<Session, Failure> {
        let place = PathBuf::from(self.to_string());
        let failed = |error| Failure::new(&place, &error);
        if self.tls == TlsMode::Disable {
            let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
            return Ok(Session { client, task: tokio::spawn(async move { drop(connection.await) }) });
        }
        let tls = tls::connector(self.tls, self.root_certificates.as_deref())?;
        let (client, connection) = self.config.connect(tls).await.map_err(failed)?;
        // What ends the connection reaches the client as well.
        Ok(Session { client, task: tokio::spawn(async move { drop(connection.await) }) })
    }
}

/// A client and the task that moves its bytes.
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A small runtime for one reader or writer; the thread that waits for it does the work.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Internal(format!("no runtime for Postgres: {error}")))
}

/// A port for the hosts of a URL that name none; the client library would take 5432.
fn with_port(url: &str, port: u16) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    if hosts.is_empty() {
        return url.to_owned();
    }
    let with_port = |host: &str| {
        // Colons within brackets belong to an IPv6 address.
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        if has_port { host.to_owned() } else { format!("{host}:{port}") }
    };
    let hosts: Vec<String> = hosts.split(',').map(with_port).collect();
    format!("{scheme}://{user}{}{path}", hosts.join(","))
}

/// Takes `sslmode` and `sslrootcert` out of a URL: the client library does not know all of them.
fn split_tls(url: &str) -> Result<(String, [Option<String>; 2])> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::input(format!("no Postgres URL; {VALID}")));
    }
    let mut parameters = [None, None];
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), parameters)) };
    let mut rest = Vec::new();
    for pair in query.split('&') {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        match ["sslmode", "sslrootcert"].iter().position(|known| *known == name) {
            // Percent codes as in any URL.
            Some(at) => {
                parameters[at] =
                    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned());
            }
            None => rest.push(pair),
        }
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    Ok((format!("{base}{query}"), parameters))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "PGHOST" => "db.example.org",
            "PGPORT" => "6000",
            "PGUSER" => "reader",
            "PGPASSWORD" => "hush-hush",
            "PGDATABASE" => "accounts",
            "PGSSLMODE" => "verify-full",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn variables_fill_in_what_the_url_leaves_open() {
        let shown = |url, variables: fn(&str) -> Option<String>| {
            format!("{:?}", Connection::with_variables(url, variables).unwrap())
        };
        assert_eq!(shown(None, variables), "Connection(Postgres db.example.org:6000/accounts, sslmode verify-full)");
        assert_eq!(
            shown(Some("postgres://me:hush-hush@other/d?sslmode=require&connect_timeout=3"), variables),
            "Connection(Postgres other:6000/d, sslmode require)"
        );
        assert_eq!(
            shown(Some("postgres://me@[::1],other:1/d"), variables),
            "Connection(Postgres ::1:6000,other:1/d, sslmode verify-full)"
        );
        assert_eq!(
            shown(Some("postgres://postgres@127.0.0.1:5432/test"), |_| None),
            "Connection(Postgres 127.0.0.1:5432/test, sslmode prefer)"
        );
        let connection =
            Connection::with_variables(Some("postgres://h/d?sslrootcert=%2Fetc%2Fmy%20ca.pem"), |_| None).unwrap();
        assert_eq!(connection.root_certificates, Some("/etc/my ca.pem".into()));
    }

    #[test]
    fn a_bad_url_is_not_quoted() {
        for url in [
            "postgres://me:hush-hush@host:port/d",
            "me:hush-hush@host",
            "postgres://host/d?hush-hush=1",
            "postgres://host/d?sslmode=hush-hush",
        ] {
            let error = Connection::with_variables(Some(url), |_| None).unwrap_err().to_string();
            assert!(!error.contains("hush") && error.contains("valid"), "{error}");
        }
    }
}
