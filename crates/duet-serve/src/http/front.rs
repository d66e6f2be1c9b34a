//! What answers a request: a list at log-in by a short way, everything else by the router.
//!
//! Nearly all requests are `GET /v1/users/{id}/recommendations`. The router wraps and boxes one for every layer, copies its id and its query,
//! and so a refusal costs there about as much as an answer made ahead. The short way makes the same checks in the same order on the
//! request as it came. It reads the query, and refuses a list that may be short by it, where there is no room for short lists, before
//! anything else is made of the request; what is long by it waits in another queue. A request with anything unusual about it, such as
//! an escape in its path or a body, is left to the router, where the route stands too: both ways end in [`recommendations::list`].

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    http::{HeaderMap, Method, request::Parts},
    response::Response,
};
use futures::FutureExt;
use hyper::body::{Body, Incoming};
use tower::ServiceExt;

use super::{
    error::ApiError,
    extract::plain_pairs,
    gate::{self, Gate},
    headers, panicked,
    recommendations::{self, BatchEntry, LIST_ROUTE},
    worded,
};
use crate::{app::AppState, arrival::Arrived};

/// What answers all requests of all connections.
pub(crate) struct Front {
    router: Router,
    short_way: Option<ShortWay>,
    tls: bool,
}

impl Front {
    /// `tls`: whether browsers are told to stay with it.
    pub(crate) fn new(router: Router, short_way: Option<ShortWay>, tls: bool) -> Self {
        Self { router, short_way, tls }
    }

    /// Answers a request whose bytes had come at that time; whatever happens there is an answer.
    pub(crate) async fn answer(&self, request: hyper::Request<Incoming>, arrived: Instant) -> Response {
        let (mut parts, body) = request.into_parts();
        let response = match (&self.short_way, Plain::of(&parts)) {
            (Some(way), Some(plain)) if body.is_end_stream() => way.answer(&parts, plain, arrived).await,
            _ => {
                parts.extensions.insert(Arrived(arrived));
                let request = hyper::Request::from_parts(parts, body);
                let answered: Result<Response, Infallible> = self.router.clone().oneshot(request).await;
                match answered {
                    Ok(response) => worded(response).await,
                    Err(never) => match never {},
                }
            }
        };
        headers::secured(response, self.tls)
    }
}

/// The way of a list at log-in.
pub(crate) struct ShortWay {
    app: Arc<AppState>,
    gate: Arc<Gate>,
}

impl ShortWay {
    pub(crate) fn new(app: Arc<AppState>, gate: Arc<Gate>) -> Self {
        Self { app, gate }
    }

    async fn answer(&self, parts: &Parts, plain: Plain<'_>, arrived: Instant) -> Response {
        let answered = AssertUnwindSafe(self.list(&parts.headers, plain, arrived)).catch_unwind().await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => gate::refusal(error),
            Err(panic) => panicked(panic),
        };
        self.gate.answered(&parts.method, LIST_ROUTE, response.status(), arrived);
        response
    }

    async fn list(&self, headers: &HeaderMap, plain: Plain<'_>, arrived: Instant) -> Result<Response, ApiError> {
        let Plain { user_id, query } = plain;
        let _place = self.gate.admit_list(headers, user_id)?;
        let entry = recommendations::from_query(plain_pairs(query))?;
        let lists = &self.app.config.lists;
        // A list made ahead takes no place in a queue, and who gets one is not known yet.
        if !lists.precomputed_first && entry.may_be_short(lists) && !self.app.dispatcher.has_room(arrived) {
            return Err(ApiError::overloaded());
        }
        let entry = BatchEntry { user_id: Some(user_id.to_owned()), ..entry };
        recommendations::list(&self.app, entry, arrived).await
    }
}

/// A request for a list in which nothing is escaped.
#[derive(Debug, Clone, Copy)]
struct Plain<'a> {
    user_id: &'a str,
    query: &'a str,
}

impl<'a> Plain<'a> {
    fn of(parts: &'a Parts) -> Option<Self> {
        let user_id = parts.uri.path().strip_prefix("/v1/users/")?.strip_suffix("/recommendations")?;
        let query = parts.uri.query().unwrap_or_default();
        let is_plain = parts.method == Method::GET
            && !user_id.is_empty()
            && user_id.bytes().all(|byte| byte.is_ascii() && byte != b'/' && byte != b'%')
            && query.bytes().all(|byte| byte.is_ascii() && byte != b'+' && byte != b'%');
        is_plain.then_some(Self { user_id, query })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn of(method: &str, uri: &str) -> Option<(String, String)> {
        let request = hyper::Request::builder().method(method).uri(uri).body(()).unwrap();
        let (parts, ()) = request.into_parts();
        Plain::of(&parts).map(|plain| (plain.user_id.to_owned(), plain.query.to_owned()))
    }

    #[test]
    fn a_plain_request_is_read_and_anything_else_is_left_to_the_router() {
        let some = |user_id: &str, query: &str| Some((user_id.to_owned(), query.to_owned()));
        assert_eq!(of("GET", "/v1/users/u1/recommendations"), some("u1", ""));
        assert_eq!(of("GET", "/v1/users/a:b~c/recommendations?k=5&explain=true"), some("a:b~c", "k=5&explain=true"));
        assert_eq!(of("GET", "http://host/v1/users/u1/recommendations?"), some("u1", ""));
        for uri in [
            "/v1/users//recommendations",
            "/v1/users/recommendations",
            "/v1/users/a/b/recommendations",
            "/v1/users/a%20b/recommendations",
            "/v1/users/a/recommendations/",
            "/v1/users/a/recommendations?filter=genre%3Drock",
            "/v1/users/a/recommendations?filter=a+b",
            "/v1/artists/a/similar",
            "/",
        ] {
            assert_eq!(of("GET", uri), None, "{uri}");
        }
        for method in ["HEAD", "POST", "OPTIONS"] {
            assert_eq!(of(method, "/v1/users/u1/recommendations"), None);
        }
    }
}
