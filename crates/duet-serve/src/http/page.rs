//! The web page at `/`: a listener's and an operator's view, compiled in.
//!
//! Its files are plain and name each other by relative addresses, so a proxy may put the service under a prefix. They hold no inline
//! script or style and ask nobody but the service: `default-src 'self'` is enough for them. A browser keeps them and asks each time
//! whether they are still the same, so a new binary is seen at once.

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

macro_rules! asset {
    ($path:literal, $content_type:expr, $file:literal) => {
        Asset { path: $path, content_type: $content_type, body: include_bytes!(concat!("../page/", $file)) }
    };
}

static ASSETS: [Asset; 15] = [
    asset!("/", HTML, "index.html"),
    asset!("/page/style.css", STYLE, "style.css"),
    asset!("/page/icon.svg", ICON, "icon.svg"),
    asset!("/page/app.js", SCRIPT, "app.js"),
    asset!("/page/api.js", SCRIPT, "api.js"),
    asset!("/page/elements.js", SCRIPT, "elements.js"),
    asset!("/page/listener.js", SCRIPT, "listener.js"),
    asset!("/page/monitor.js", SCRIPT, "monitor.js"),
    asset!("/page/notice.js", SCRIPT, "notice.js"),
    asset!("/page/operator.js", SCRIPT, "operator.js"),
    asset!("/page/outbox.js", SCRIPT, "outbox.js"),
    asset!("/page/search.js", SCRIPT, "search.js"),
    asset!("/page/shelf.js", SCRIPT, "shelf.js"),
    asset!("/page/tabs.js", SCRIPT, "tabs.js"),
    asset!("/page/words.js", SCRIPT, "words.js"),
];

/// The routes of the page, for a router of any state; none unless `enabled`.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(enabled: bool) -> Router<S> {
    let assets = if enabled { &ASSETS[..] } else { &[] };
    assets.iter().fold(Router::new(), |router, asset| {
        let tag = tag(asset.body);
        router.route(asset.path, get(move |headers: HeaderMap| async move { answer(asset, &tag, &headers) }))
    })
}

fn answer(asset: &'static Asset, tag: &str, headers: &HeaderMap) -> Response {
    let mut response = if holds(headers, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type))], asset.body).into_response()
    };
    let kept = response.headers_mut();
    kept.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        kept.insert(header::ETAG, tag);
    }
    response
}

/// Whether the browser has this very content (RFC 9110, 13.1.2: the weak comparison).
fn holds(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// A tag of the content: FNV-1a of 64 bits, which only has to tell builds apart.
fn tag(body: &[u8]) -> String {
    let hash = body
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    format!("\"{hash:016x}\"")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::Request,
    };
    use tower::ServiceExt;

    use super::*;

    async fn ask(enabled: bool, path: &str, have: Option<&str>) -> Response {
        let mut request = Request::builder().uri(path);
        if let Some(have) = have {
            request = request.header(header::IF_NONE_MATCH, have);
        }
        routes::<()>(enabled).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn every_file_is_served_whole_and_named_once() {
        for asset in &ASSETS {
            let response = ask(true, asset.path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
            assert_eq!(response.headers()[header::CONTENT_TYPE], asset.content_type);
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
            assert_eq!(to_bytes(response.into_body(), usize::MAX).await.unwrap(), asset.body);
            assert_eq!(ask(false, asset.path, None).await.status(), StatusCode::NOT_FOUND, "{}", asset.path);
        }
        assert_eq!(ask(true, "/page/none.js", None).await.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn what_the_browser_has_is_not_sent_again() {
        let tag = tag(ASSETS[0].body);
        for have in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let response = ask(true, "/", Some(&have)).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{have}");
            assert_eq!(response.headers()[header::ETAG], *tag);
            assert!(to_bytes(response.into_body(), usize::MAX).await.unwrap().is_empty());
        }
        assert_eq!(ask(true, "/", Some("\"other\"")).await.status(), StatusCode::OK);
    }

    #[test]
    fn files_name_only_each_other_and_nothing_inline() {
        let addresses: Vec<&str> = ASSETS.iter().map(|asset| asset.path).collect();
        let place = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page");
        assert_eq!(std::fs::read_dir(place).unwrap().count(), ASSETS.len(), "a file is not served");
        for asset in &ASSETS {
            let text = std::str::from_utf8(asset.body).unwrap();
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("http://") && !outside.contains("https://"), "{}", asset.path);
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let module = line.split('"').nth(1).and_then(|module| module.strip_prefix("./")).unwrap();
                assert!(addresses.contains(&format!("/page/{module}").as_str()), "{}: {line}", asset.path);
            }
        }
        let html = std::str::from_utf8(ASSETS[0].body).unwrap();
        for inline in ["style=", "<style", " onclick", "javascript:"] {
            assert!(!html.contains(inline), "{inline}");
        }
        let named: Vec<&str> = html.split('"').filter(|part| part.starts_with("page/")).collect();
        assert_eq!(named.len(), 3);
        assert!(named.iter().all(|path| addresses.contains(&format!("/{path}").as_str())), "{named:?}");
        assert_eq!(html.matches("<script").count(), 1);
    }
}
