//! Headers that every answer has.

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
        },
    },
    response::Response,
};

/// The page loads what the service has, and nothing else; nobody frames it.
const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'";
/// Swagger UI sets styles in its elements and has its icons as data.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; \
                           base-uri 'none'; form-action 'self'; object-src 'none'";

/// What all answers get that have not said it themselves.
const ALWAYS: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CONTENT_SECURITY_POLICY, POLICY),
    // A list is of one listener at one moment.
    (CACHE_CONTROL, "no-store"),
];

/// Adds the headers to an answer; `tls` tells browsers to stay with it.
pub(crate) fn secured(mut response: Response, tls: bool) -> Response {
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        add(headers, name, value);
    }
    if tls {
        add(headers, STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    response
}

/// The policy of /docs in place of everybody's.
pub(crate) async fn docs_policy(mut response: Response) -> Response {
    add(response.headers_mut(), CONTENT_SECURITY_POLICY, DOCS_POLICY);
    response
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.entry(name).or_insert(HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn what_an_answer_says_itself_stands() {
        let mut own = Response::new(Body::empty());
        own.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let answer = secured(own, false);
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-cache");
        assert_eq!(answer.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(answer.headers()[X_FRAME_OPTIONS], "DENY");
        assert_eq!(answer.headers()[REFERRER_POLICY], "no-referrer");
        assert!(answer.headers().get(STRICT_TRANSPORT_SECURITY).is_none());
        assert!(secured(Response::new(Body::empty()), true).headers().contains_key(STRICT_TRANSPORT_SECURITY));
    }

    #[tokio::test]
    async fn docs_have_a_policy_of_their_own() {
        let docs = secured(docs_policy(Response::new(Body::empty())).await, false);
        assert_eq!(docs.headers()[CONTENT_SECURITY_POLICY], DOCS_POLICY);
        assert!(!POLICY.contains("unsafe") && !DOCS_POLICY.contains("script-src"));
    }
}
