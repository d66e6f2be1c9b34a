//! `GET /v1/artists/{id}/similar`: the nearest artists by the directions of their vectors.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    error::{ApiError, ErrorBody},
    extract::{PathId, QueryPairs, read_pairs, up_to, whole_number},
    list_body::ListedItem,
};
use crate::app::AppState;

/// Artists like one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SimilarBody {
    /// The artist's id.
    pub item_id: String,
    /// The artist's name, or the id where there is none.
    pub name: String,
    /// The bundle that answered.
    pub bundle: String,
    /// The nearest first; the score is the cosine.
    pub items: Vec<ListedItem>,
}

/// Artists like one.
#[utoipa::path(
    get,
    path = "/v1/artists/{id}/similar",
    tag = "lists",
    params(
        ("id" = String, Path, description = "The artist"),
        ("k" = Option<usize>, Query, description = "How many artists"),
    ),
    responses(
        (status = 200, description = "The nearest artists", body = SimilarBody),
        (status = 400, description = "Something is wrong with the request", body = ErrorBody),
        (status = 404, description = "No such artist", body = ErrorBody),
        (status = 503, description = "More searches than can be done in time; see Retry-After", body = ErrorBody),
    ),
)]
pub async fn similar_artists(
    State(app): State<Arc<AppState>>,
    PathId(id): PathId,
    QueryPairs(pairs): QueryPairs,
) -> Result<Json<SimilarBody>, ApiError> {
    let lists = &app.config.lists;
    let mut k = lists.default_k;
    read_pairs(pairs, &["k"], |key, value| {
        let known = key == "k";
        if known {
            k = whole_number(key, &value)?;
        }
        Ok(known)
    })?;
    let k = up_to("k", k, lists.max_k)?;
    let engine = app.slot.load_full();
    let item = engine.item_row(&id).ok_or_else(|| ApiError::not_found(format!("no artist has the id {id:?}")))?;
    let wait = Duration::from_millis(app.config.limits.deadline_ms);
    let place = tokio::time::timeout(wait, Arc::clone(&app.similar).acquire_owned()).await;
    let place = place.map_err(|_| ApiError::overloaded())?.map_err(ApiError::internal)?;
    // The first call makes the directions, and every call scans them: not among the connections.
    let search = tokio::task::spawn_blocking(move || {
        // Kept to the end of the search, also where whoever asked has gone.
        let _place = place;
        engine.similar(item, k).map(|list| (engine, list))
    });
    let (engine, list) = search.await.map_err(ApiError::internal)??;
    let items = engine.items();
    let listed = |(position, entry): (usize, duet_retrieval::Scored)| ListedItem {
        position,
        item_id: items.ids.id(entry.item.index()).to_owned(),
        name: items.name(entry.item.index()).to_owned(),
        score: entry.score,
        reasons: None,
    };
    Ok(Json(SimilarBody {
        item_id: id,
        name: items.name(item.index()).to_owned(),
        bundle: engine.bundle().to_owned(),
        items: list.into_iter().enumerate().map(listed).collect(),
    }))
}
