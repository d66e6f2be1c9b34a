//! `GET /v1/listeners`: ids of listeners by their beginning, for the log-in of the page.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    error::{ApiError, ErrorBody},
    extract::{QueryPairs, read_pairs, up_to, whole_number},
};
use crate::app::AppState;

/// The keys of the query.
const QUERY_KEYS: [&str; 2] = ["query", "limit"];
const DEFAULT_LIMIT: usize = 10;
const MAX_LIMIT: usize = 100;

/// Some listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenersBody {
    /// Their ids, in the order of the bundle.
    pub listeners: Vec<String>,
}

/// Listeners whose ids begin with a text. Where ids are pseudonyms there are none to be found: nobody logs in with a pseudonym.
#[utoipa::path(
    get,
    path = "/v1/listeners",
    tag = "operation",
    params(
        ("query" = Option<String>, Query, description = "How the ids begin"),
        ("limit" = Option<usize>, Query, description = "How many, at most 100"),
    ),
    responses(
        (status = 200, description = "The listeners", body = ListenersBody),
        (status = 400, description = "Something is wrong with the query", body = ErrorBody),
        (status = 404, description = "The page is off", body = ErrorBody),
    ),
)]
pub async fn get_listeners(
    State(app): State<Arc<AppState>>,
    query: QueryPairs,
) -> Result<Json<ListenersBody>, ApiError> {
    if !app.config.page.enabled {
        return Err(ApiError::not_found("the page and its search are off: page.enabled"));
    }
    let (begin, limit) = read(query)?;
    if app.user_key.is_some() {
        return Ok(Json(ListenersBody { listeners: Vec::new() }));
    }
    // A walk over all ids: nothing for a thread that others wait for.
    let engine = app.slot.load_full();
    let search = move || beginning(engine.user_ids(), &begin, limit);
    let listeners = tokio::task::spawn_blocking(search).await.map_err(ApiError::internal)?;
    Ok(Json(ListenersBody { listeners }))
}

fn read(query: QueryPairs) -> Result<(String, usize), ApiError> {
    let (mut begin, mut limit) = (String::new(), DEFAULT_LIMIT);
    read_pairs(query.0, &QUERY_KEYS, |key, value| {
        match key {
            "query" => begin = value,
            "limit" => limit = up_to(key, whole_number(key, &value)?, MAX_LIMIT)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((begin, limit))
}

fn beginning(ids: &[String], begin: &str, limit: usize) -> Vec<String> {
    ids.iter().filter(|id| id.starts_with(begin)).take(limit).cloned().collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> QueryPairs {
        QueryPairs(vec![(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn ids_are_found_by_their_beginning() {
        let ids = ["u1", "u10", "v1", "u2"].map(str::to_owned);
        assert_eq!(beginning(&ids, "u1", 10), ["u1", "u10"]);
        assert_eq!(beginning(&ids, "", 2), ["u1", "u10"]);
        assert!(beginning(&ids, "x", 10).is_empty());
    }

    #[test]
    fn a_query_says_what_is_wrong_with_it() {
        assert_eq!(read(pair("query", "u1")).unwrap(), ("u1".to_owned(), DEFAULT_LIMIT));
        assert_eq!(read(pair("limit", "100")).unwrap().1, 100);
        for (bad, why) in
            [("0", "from 1 to 100"), ("101", "from 1 to 100"), ("-1", "a whole number"), ("many", "a whole number")]
        {
            let message = read(pair("limit", bad)).unwrap_err().message().to_owned();
            assert!(message.contains("limit") && message.contains(why), "{message}");
        }
        assert!(read(pair("limits", "1")).unwrap_err().message().contains("query, limit"));
    }
}
