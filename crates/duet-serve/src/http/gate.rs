//! What every request passes before its route: origin, key, rate, a place among those under way, and the whole body within size and time.
//!
//! The order is that of cost: a request that is refused has cost as little as can be. Nothing of a body is read for a caller without a
//! key, or while there are as many requests under way as there may be.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::WWW_AUTHENTICATE},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    auth::{Caller, Keys, Scope},
    error::{ApiError, ErrorType},
};
use crate::{arrival::Arrived, config::LimitsConfig, stats::Stats};

/// Bytes beyond the limit that are read and thrown away, so that a caller who sends first and reads then gets to see the answer.
const LINGER: usize = 1 << 20;

/// What decides who gets through.
pub(crate) struct Gate {
    keys: Option<Keys>,
    requests: Semaphore,
    bodies: Semaphore,
    body_bytes: usize,
    body_timeout: Duration,
    stats: Arc<Stats>,
}

impl Gate {
    /// A gate for the limits; without keys everybody may do everything.
    pub(crate) fn new(keys: Option<Keys>, limits: &LimitsConfig, stats: Arc<Stats>) -> Self {
        Self {
            keys,
            requests: Semaphore::new(limits.concurrent),
            bodies: Semaphore::new(limits.concurrent_bodies),
            body_bytes: limits.body_kib << 10,
            body_timeout: Duration::from_secs(limits.body_timeout_s),
            stats,
        }
    }

    fn place(&self, has_body: bool) -> Result<SemaphorePermit<'_>, ApiError> {
        let places = if has_body { &self.bodies } else { &self.requests };
        places.try_acquire().map_err(|_| ApiError::overloaded())
    }

    /// Who asks for `scope`, if they may.
    fn caller(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, ApiError> {
        if is_of_another_site(headers) {
            return Err(ApiError::forbidden("a page of another origin can't ask this service"));
        }
        match &self.keys {
            Some(keys) => keys.admit(headers, scope),
            None => Ok(Caller::default()),
        }
    }

    /// A place among those under way for whoever asks for the list of a listener, if they may.
    pub(crate) fn admit_list(&self, headers: &HeaderMap, user_id: &str) -> Result<SemaphorePermit<'_>, ApiError> {
        self.caller(headers, Scope::Lists)?.check_user(user_id)?;
        self.place(false)
    }

    /// Counts an answer to a request that came at that time.
    pub(crate) fn answered(&self, method: &Method, route: &str, status: StatusCode, arrived: Instant) {
        let elapsed = arrived.elapsed();
        self.stats.request(route, status, elapsed);
        // The pattern of the path and not the path: that would name the listener.
        tracing::debug!(%method, route, status = status.as_u16(), micros = elapsed.as_micros() as u64, "answered");
    }

    /// The request with its whole body, and its place among those under way.
    async fn admit(&self, route: &str, request: Request) -> Result<(Request, Option<SemaphorePermit<'_>>), ApiError> {
        // What everybody may see is answered at any load: a balancer that asks must be told.
        let Some(scope) = Scope::of_route(route) else { return Ok((request, None)) };
        let (mut parts, body) = request.into_parts();
        let caller = self.caller(&parts.headers, scope)?;
        if route.starts_with("/v1/users/") {
            let parameters = RawPathParams::from_request_parts(&mut parts, &()).await;
            let parameters = parameters.map_err(|error| ApiError::bad_request(error.to_string()))?;
            for (_, user_id) in &parameters {
                caller.check_user(user_id)?;
            }
        }
        let has_body = parts.method != Method::GET && !body.is_end_stream();
        let place = match scope {
            Scope::Operate => None,
            Scope::Lists | Scope::Events => Some(self.place(has_body)?),
        };
        let body = if has_body { self.read(body).await? } else { Bytes::new() };
        parts.extensions.insert(caller);
        Ok((Request::from_parts(parts, Body::from(body)), place))
    }

    async fn read(&self, body: Body) -> Result<Bytes, ApiError> {
        let limit = self.body_bytes;
        let whole = async {
            let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
            let mut kept = Vec::with_capacity(if announced > limit { 0 } else { announced });
            let mut seen = 0_usize;
            let mut chunks = body.into_data_stream();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|_| ApiError::bad_request("the body could not be read to its end"))?;
                seen = seen.saturating_add(chunk.len());
                if seen > limit.saturating_add(LINGER) {
                    break;
                }
                if seen.max(announced) <= limit {
                    kept.extend_from_slice(&chunk);
                }
            }
            if seen > limit {
                return Err(ApiError::too_large(format!("the body is longer than {} KiB", limit >> 10)));
            }
            Ok(Bytes::from(kept))
        };
        match tokio::time::timeout(self.body_timeout, whole).await {
            Ok(read) => read,
            Err(_) => {
                let seconds = self.body_timeout.as_secs();
                Err(ApiError::bad_request(format!("the body was not there within {seconds} s")))
            }
        }
    }
}

/// Whether a browser says that a page of another origin asks. Such a page can't read the answer, but without this what it posts would
/// count: the browser asks the service for leave only where a body says that it is JSON.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// The gate as a layer of matched routes.
pub(crate) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let arrived = request.extensions().get::<Arrived>().map_or_else(Instant::now, |arrived| arrived.0);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    let method = request.method().clone();
    let response = match gate.admit(route, request).await {
        Ok((request, _place)) => next.run(request).await,
        Err(error) => refusal(error),
    };
    gate.answered(&method, route, response.status(), arrived);
    response
}

/// What a request is told that is not let in.
pub(crate) fn refusal(error: ApiError) -> Response {
    let is_challenge = error.error_type() == ErrorType::Unauthorized;
    let mut response = error.into_response();
    if is_challenge {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
