//! Telling another service of an alarm: one POST of JSON, over http or https.

use std::time::Duration;

use duet_core::{Error, Result};

/// Sends `body` to `url`; any answer of 200 to 299 is success.
///
/// # Errors
/// [`Error::Input`] saying what went wrong, without the URL's user, password or query, which may be secrets.
pub(super) fn post(url: &str, body: String, timeout: Duration) -> Result<()> {
    let shown = shown(url)?;
    let failed = |why: String| Error::input(format!("webhook {shown}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Internal(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(timeout).build();
        let client = client.map_err(|error| failed(error.without_url().to_string()))?;
        let request = client.post(url).header("content-type", "application/json").body(body);
        let answer = request.send().await.map_err(|error| failed(reason(error)))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(failed(format!("answered {status}"))) }
    })
}

/// The URL as it may be shown.
///
/// # Errors
/// [`Error::Input`] unless it is one of http or https.
pub(super) fn shown(url: &str) -> Result<String> {
    let parsed = reqwest::Url::parse(url).map_err(|error| Error::input(format!("--webhook: {error}")))?;
    match (parsed.scheme(), parsed.host_str()) {
        ("http" | "https", Some(host)) => Ok(format!("{}://{host}", parsed.scheme())),
        (scheme, _) => Err(Error::unknown("scheme of --webhook", scheme, ["http", "https"])),
    }
}

/// The error with its causes, the URL left out.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A server for one request: answers with `status`, gives the head's first line and the body.
    fn server(status: &'static str) -> (String, thread::JoinHandle<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook?secret=1", listener.local_addr().unwrap());
        let handle = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            (first.trim_end().to_owned(), String::from_utf8(body).unwrap())
        });
        (url, handle)
    }

    #[test]
    fn an_alarm_is_posted() {
        let (url, server) = server("204 No Content");
        post(&url, "{\"alarms\":[]}".to_owned(), Duration::from_secs(5)).unwrap();
        let (first, body) = server.join().unwrap();
        assert_eq!((first.as_str(), body.as_str()), ("POST /hook?secret=1 HTTP/1.1", "{\"alarms\":[]}"));
    }

    #[test]
    fn failures_say_why_without_secrets() {
        let (url, server) = server("500 Internal Server Error");
        let error = post(&url, String::new(), Duration::from_secs(5)).unwrap_err().to_string();
        server.join().unwrap();
        assert!(error.contains("500") && !error.contains("secret"), "{error}");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error =
            post(&format!("http://{closed}/?secret=1"), String::new(), Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("webhook http://127.0.0.1") && !error.contains("secret"), "{error}");
        assert!(shown("ftp://x/").unwrap_err().to_string().contains("http, https"));
        assert!(shown("no url").is_err());
    }
}
