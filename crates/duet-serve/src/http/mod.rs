//! The HTTP interface: one file a route, and what all routes share.

pub mod auth;
pub mod error;
pub mod events;
pub mod extract;
pub(crate) mod front;
pub(crate) mod gate;
pub(crate) mod headers;
pub mod health;
pub mod list_body;
pub mod listeners;
pub mod openapi;
pub(crate) mod page;
pub(crate) mod rate;
pub mod recommendations;
pub mod similar;
pub mod status;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{
        StatusCode,
        header::{ALLOW, CONTENT_TYPE},
    },
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use self::{
    error::ApiError,
    front::{Front, ShortWay},
    gate::Gate,
};
use crate::app::AppState;

/// The longest sentence of a library that is passed on.
const SENTENCE_BYTES: usize = 4096;

/// The routes that answer with lists.
pub fn list_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route(recommendations::LIST_ROUTE, get(recommendations::get_recommendations))
        .route("/v1/recommendations", post(recommendations::post_recommendations))
        .route("/v1/artists/{id}/similar", get(similar::similar_artists))
}

/// Every route of the service, behind the gate.
pub(crate) fn front(app: &Arc<AppState>, gate: Arc<Gate>, tls: bool) -> Front {
    let routes = list_routes()
        .route("/v1/events", post(events::post_events))
        .route("/v1/status", get(status::get_status))
        .route("/v1/listeners", get(listeners::get_listeners))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .merge(page::routes(app.config.page.enabled))
        .with_state(Arc::clone(app))
        .merge(openapi::routes());
    let short_way = ShortWay::new(Arc::clone(app), Arc::clone(&gate));
    Front::new(finished(routes, gate), Some(short_way), tls)
}

/// Puts the gate before the routes, and what makes an answer of a bug around them.
pub(crate) fn finished(routes: Router, gate: Arc<Gate>) -> Router {
    routes
        // The gate has the limit of bodies; that of the library would cut it down to 2 MB.
        .route_layer(DefaultBodyLimit::disable())
        .route_layer(CatchPanicLayer::custom(panicked))
        .route_layer(middleware::from_fn_with_state(gate, gate::pass))
        .fallback(|| async { ApiError::not_found("there is no such route; /openapi.json lists them") })
}

/// A bug is an answer too, and the connection and all others go on.
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(format!("a panic: {}", text.unwrap_or("without a word"))).into_response()
}

/// Errors of the libraries (a wrong method, a query that can't be read) in the form of ours.
async fn worded(response: Response) -> Response {
    let status = response.status();
    let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json");
    // A probe that is not ready says so in text of its own.
    if !(status.is_client_error() || status.is_server_error()) || is_ours {
        return response;
    }
    let (parts, body) = response.into_parts();
    let allow = parts.headers.get(ALLOW).cloned();
    let text = axum::body::to_bytes(body, SENTENCE_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let message = match (status, &allow) {
        (StatusCode::METHOD_NOT_ALLOWED, Some(allow)) => {
            format!("this route takes {}", String::from_utf8_lossy(allow.as_bytes()))
        }
        _ if text.is_empty() => status.canonical_reason().unwrap_or("the request failed").to_lowercase(),
        _ => text,
    };
    let mut answer = ApiError::of_status(status, message).into_response();
    *answer.status_mut() = status;
    if let Some(allow) = allow {
        answer.headers_mut().insert(ALLOW, allow);
    }
    answer
}
