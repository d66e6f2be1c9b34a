//! The HTTP interface: one file a route.

pub mod auth;
pub mod error;
pub mod events;
pub(crate) mod gate;
pub mod headers;
pub mod health;
pub mod openapi;
pub mod page;
pub(crate) mod rate;
pub mod recommendations;
pub mod similar;
pub mod status;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use crate::app::AppState;

/// The routes that answer with lists.
pub fn list_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/v1/users/{id}/recommendations", get(recommendations::get_recommendations))
        .route("/v1/recommendations", post(recommendations::post_recommendations))
        .route("/v1/artists/{id}/similar", get(similar::similar_artists))
}
