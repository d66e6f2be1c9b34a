//! `GET /v1/users/{id}/recommendations` and `POST /v1/recommendations`: from a request to rows of a bundle, and from an answer to JSON.
//!
//! The work is the dispatcher's. What is found wrong before a bundle is needed is refused here, so that it takes no place in the queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Extension, body::Bytes, extract::State, response::Response};
use duet_retrieval::Scored;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    auth::Caller,
    error::{ApiError, ErrorBody},
    extract::{PathId, QueryPairs, read_pairs, up_to, whole_number},
    list_body::{ItemTexts, ListBody, ListText, ListTexts, ListsBody, RequestId},
};
use crate::{
    app::AppState,
    arrival::Arrived,
    config::{ListsConfig, ServeConfig},
    dispatch::{DispatchError, Make},
    engine::Engine,
    request::{Answer, AnswerItem, ListRequest, Listener, RerankTime, Source},
    served_log::{ServedList, ServedUser},
    stages::diversity,
    variants::{Arm, Variant},
};

/// The route of a list, as it is found and counted.
pub(crate) const LIST_ROUTE: &str = "/v1/users/{id}/recommendations";
/// The keys of the query.
const QUERY_KEYS: [&str; 5] = ["k", "kind", "exclude_seen", "filter", "explain"];
/// The kind of item that a bundle's model knows.
const ARTIST: &str = "artist";
/// The longest list that is short in the making: the index is tuned for no more.
const SHORT_K: usize = 100;
/// The longest id of a user or an artist.
const MOST_ID_BYTES: usize = 512;

/// Several requests.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchBody {
    /// What is asked for.
    pub requests: Vec<BatchEntry>,
}

/// A request of several.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// The listener, or else `history`.
    #[serde(default)]
    pub user_id: Option<String>,
    /// What somebody without an id played, oldest first.
    #[serde(default)]
    pub history: Option<Vec<String>>,
    /// How many items.
    #[serde(default)]
    pub k: Option<usize>,
    /// Only "artist".
    #[serde(default)]
    pub kind: Option<String>,
    /// Whether to leave out what was played.
    #[serde(default)]
    pub exclude_seen: Option<bool>,
    /// All must hold.
    #[serde(default)]
    pub filter: Vec<String>,
    /// Whether to give reasons.
    #[serde(default)]
    pub explain: bool,
}

impl BatchEntry {
    /// Whether the list may be made among the connections, as far as the request itself decides: nothing about it takes longer than about
    /// all lists.
    pub(super) fn may_be_short(&self, lists: &ListsConfig) -> bool {
        self.k.unwrap_or(lists.default_k) <= SHORT_K && self.filter.is_empty() && !self.explain
    }
}

/// A request that was checked as far as it can be without a bundle.
#[derive(Debug)]
struct Asked {
    who: Who,
    k: usize,
    exclude_seen: bool,
    filter: Vec<String>,
    explain: bool,
    may_be_short: bool,
    variant: Arc<Variant>,
    now_ms: i64,
}

#[derive(Debug)]
enum Who {
    User { given: String, model_id: String },
    History(Vec<String>),
}

/// Recommendations for a listener.
#[utoipa::path(
    get,
    path = "/v1/users/{id}/recommendations",
    tag = "lists",
    params(
        ("id" = String, Path, description = "The listener"),
        ("k" = Option<usize>, Query, description = "How many items"),
        ("kind" = Option<String>, Query, description = "Only \"artist\""),
        ("exclude_seen" = Option<bool>, Query, description = "Whether to leave out what the listener played"),
        ("filter" = Option<Vec<String>>, Query, description = "column=value, column>=number or column<=number; repeatable, all must hold"),
        ("explain" = Option<bool>, Query, description = "Whether to give reasons"),
    ),
    responses(
        (status = 200, description = "The list", body = ListBody),
        (status = 400, description = "Something is wrong with the request", body = ErrorBody),
        (status = 503, description = "More requests than can be answered in time; see Retry-After", body = ErrorBody),
    ),
)]
pub async fn get_recommendations(
    State(app): State<Arc<AppState>>,
    arrived: Option<Extension<Arrived>>,
    PathId(user_id): PathId,
    QueryPairs(pairs): QueryPairs,
) -> Result<Response, ApiError> {
    let entry = BatchEntry { user_id: Some(user_id), ..from_query(pairs)? };
    list(&app, entry, arrived.map_or_else(Instant::now, |Extension(arrived)| arrived.0)).await
}

/// The list that a request asks for whose bytes had come at that time.
pub(super) async fn list(app: &Arc<AppState>, entry: BatchEntry, arrived: Instant) -> Result<Response, ApiError> {
    let asked = Arc::new(checked(app, entry)?);
    if app.config.lists.precomputed_first {
        let engine = app.slot.load_full();
        if let Some(answer) = precomputed(app, &engine, &asked).await {
            return told(app, &engine, &asked, answer).response();
        }
    }
    let (make, deadline) = (make(app, &asked), deadline(app, 1));
    let made = if is_short(app, &asked) {
        app.dispatcher.submit_short(make, arrived, deadline).await
    } else {
        app.dispatcher.submit(make, arrived, deadline).await
    };
    let (engine, answer) = match made {
        Ok((engine, answer)) => {
            let answer = instead(app, &engine, &asked, answer).await;
            (engine, answer)
        }
        Err(DispatchError::Expired) => {
            let engine = app.slot.load_full();
            let answer = late(app, &engine, &asked).await?;
            (engine, answer)
        }
        Err(error) => return Err(refused(error)),
    };
    told(app, &engine, &asked, answer).response()
}

/// Whether a list is made among the connections: its request, the variant and the bundle that serves now leave it short.
fn is_short(app: &AppState, asked: &Asked) -> bool {
    let Asked { may_be_short, variant, .. } = asked;
    *may_be_short && variant.recommender == Arm::TwoTower && !variant.rerank && app.dispatcher.makes_short_lists()
}

/// Recommendations for several listeners, or for histories without a name. All lists come from one bundle.
#[utoipa::path(
    post,
    path = "/v1/recommendations",
    tag = "lists",
    request_body = BatchBody,
    responses(
        (status = 200, description = "The lists, in the order of the requests", body = ListsBody),
        (status = 400, description = "Something is wrong with a request; none is answered", body = ErrorBody),
        (status = 403, description = "The key is for other listeners", body = ErrorBody),
        (status = 404, description = "A history names an artist that is not in the bundle", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 503, description = "More requests than can be answered in time; see Retry-After", body = ErrorBody),
    ),
)]
pub async fn post_recommendations(
    State(app): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, ApiError> {
    // The caller may have been slow to send the body: what it waits for us begins here.
    let arrived = Instant::now();
    let body: BatchBody =
        serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(format!("the body: {error}")))?;
    let most = app.config.limits.batch;
    if body.requests.is_empty() || body.requests.len() > most {
        let count = body.requests.len();
        return Err(ApiError::bad_request(format!("requests: {count} of them; there must be 1 to {most}")));
    }
    body.requests.iter().filter_map(|entry| entry.user_id.as_deref()).try_for_each(|id| caller.check_user(id))?;
    let numbered = |(at, entry)| checked(&app, entry).map(Arc::new).map_err(|error| at_index(at, &error));
    let asked: Vec<Arc<Asked>> = body.requests.into_iter().enumerate().map(numbered).collect::<Result<_, _>>()?;
    let makes = asked.iter().map(|asked| make(&app, asked)).collect();
    let (engine, answers) = match app.dispatcher.submit_all(makes, arrived, deadline(&app, asked.len())).await {
        Ok((engine, made)) => {
            let mut answers = Vec::with_capacity(asked.len());
            for (asked, answer) in asked.iter().zip(made) {
                answers.push(instead(&app, &engine, asked, answer).await);
            }
            (engine, answers)
        }
        Err(DispatchError::Expired) => {
            let engine = app.slot.load_full();
            let mut answers = Vec::with_capacity(asked.len());
            for asked in &asked {
                answers.push(late(&app, &engine, asked).await?);
            }
            (engine, answers)
        }
        Err(error) => return Err(refused(error)),
    };
    let lists = asked.iter().zip(answers).map(|(asked, answer)| told(&app, &engine, asked, answer)).collect();
    ListTexts { lists }.response()
}

/// What is told of a list that came too late.
const DEADLINE: &str = "deadline";

/// Until when so many lists must be there: as many as are made together have the time of one.
fn deadline(app: &AppState, lists: usize) -> Instant {
    let turns = lists.div_ceil(app.config.engine.max_batch) as u64;
    Instant::now() + Duration::from_millis(app.config.limits.deadline_ms.saturating_mul(turns))
}

fn refused(error: DispatchError) -> ApiError {
    match error {
        DispatchError::Bad(error) => error,
        DispatchError::Closed => ApiError::unavailable("the service is being stopped"),
        DispatchError::Full | DispatchError::Expired => ApiError::overloaded(),
    }
}

fn at_index(at: usize, error: &ApiError) -> ApiError {
    ApiError::bad_request(format!("requests[{at}]: {}", error.message()))
}

/// What a query says, as an entry of a batch would.
pub(super) fn from_query<Text>(pairs: impl IntoIterator<Item = (Text, Text)>) -> Result<BatchEntry, ApiError>
where
    Text: AsRef<str> + Into<String>,
{
    let mut entry = BatchEntry::default();
    read_pairs(pairs, &QUERY_KEYS, |key, text| {
        let value = text.as_ref();
        let boolean = || match value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ApiError::bad_request(format!("{key}: {value:?} is neither true nor false"))),
        };
        match key {
            "k" => entry.k = Some(whole_number(key, value)?),
            "kind" => entry.kind = Some(text.into()),
            "exclude_seen" => entry.exclude_seen = Some(boolean()?),
            "filter" => entry.filter.push(text.into()),
            "explain" => entry.explain = boolean()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(entry)
}

/// Everything that can be said of a request without a bundle.
fn checked(app: &AppState, entry: BatchEntry) -> Result<Asked, ApiError> {
    let settings = checked_settings(&app.config, &entry)?;
    let may_be_short = entry.may_be_short(&app.config.lists);
    let (who, variant) = match (entry.user_id, entry.history) {
        (Some(given), None) => {
            let model_id = match &app.user_key {
                Some(key) => key.pseudonym(&given)?,
                None => given.clone(),
            };
            let variant = app.variants.of(&model_id);
            (Who::User { given, model_id }, variant)
        }
        // Nobody to stay in a variant: the first stands for all.
        (None, Some(history)) => {
            let first = app.variants.all().first().map(Arc::clone);
            (Who::History(history), first.unwrap_or_else(|| app.variants.of("")))
        }
        _ => return Err(ApiError::bad_request("give either user_id or history")),
    };
    let Settings { k, exclude_seen } = settings;
    Ok(Asked {
        who,
        k,
        exclude_seen,
        filter: entry.filter,
        explain: entry.explain,
        may_be_short,
        variant,
        now_ms: app.clock.now_ms(),
    })
}

struct Settings {
    k: usize,
    exclude_seen: bool,
}

fn checked_settings(config: &ServeConfig, entry: &BatchEntry) -> Result<Settings, ApiError> {
    let ServeConfig { lists, limits, .. } = config;
    let bad = |message: String| Err(ApiError::bad_request(message));
    match entry.kind.as_deref() {
        None | Some(ARTIST) => {}
        Some("song") => {
            return bad("kind: there is no song model in this bundle; only \"artist\" can be asked for".into());
        }
        Some(other) => return bad(format!("kind: {other:?} is unknown; valid: artist")),
    }
    let k = up_to("k", entry.k.unwrap_or(lists.default_k), lists.max_k)?;
    if entry.filter.len() > limits.filters {
        return bad(format!("filter: {} of them; at most {} may be given", entry.filter.len(), limits.filters));
    }
    if let Some(long) = entry.filter.iter().map(String::len).find(|&bytes| bytes > limits.filter_bytes) {
        return bad(format!("filter: {long} bytes; at most {} are read", limits.filter_bytes));
    }
    if entry.user_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MOST_ID_BYTES) {
        return bad(format!("user_id: it must have 1 to {MOST_ID_BYTES} bytes"));
    }
    if let Some(history) = entry.history.as_ref().filter(|history| history.len() > limits.history) {
        return bad(format!("history: {} items; at most {} are read", history.len(), limits.history));
    }
    Ok(Settings { k, exclude_seen: entry.exclude_seen.unwrap_or(lists.exclude_seen_artists) })
}

fn make(app: &Arc<AppState>, asked: &Arc<Asked>) -> Make {
    let (app, asked) = (Arc::clone(app), Arc::clone(asked));
    Box::new(move |engine| request(&app, engine, &asked))
}

/// The request on a bundle: ids become rows.
fn request(app: &AppState, engine: &Engine, asked: &Asked) -> Result<ListRequest, ApiError> {
    let listener = match &asked.who {
        Who::User { model_id, .. } => {
            let row = engine.user_row(model_id);
            let news = app.live.since(model_id, engine.history_until_ms(row));
            // What is in no bundle's catalogue can't be told to it.
            let live = news.iter().filter_map(|item| engine.item_row(item)).collect();
            Listener::Known { id: model_id.clone(), row, live }
        }
        Who::History(history) => {
            let row = |id: &String| {
                engine.item_row(id).ok_or_else(|| ApiError::not_found(format!("history: no artist has the id {id:?}")))
            };
            Listener::Anonymous { history: history.iter().map(row).collect::<Result<_, _>>()? }
        }
    };
    Ok(ListRequest {
        listener,
        k: asked.k,
        exclude_seen: asked.exclude_seen,
        filter: engine.filter(&asked.filter)?,
        conditions: engine.conditions(&asked.filter)?,
        explain: asked.explain,
        variant: Arc::clone(&asked.variant),
        rerank_time: RerankTime::default(),
        now_ms: asked.now_ms,
    })
}

/// The list made before, where it says what would be made now: for a listener of the two-tower who did nothing since, asked for as lists
/// are made ahead, without what was played.
async fn precomputed(app: &AppState, engine: &Engine, asked: &Asked) -> Option<Answer> {
    let lists = app.precomputed.as_ref()?;
    let Who::User { model_id, .. } = &asked.who else { return None };
    let is_usual = asked.variant.recommender == Arm::TwoTower
        && !asked.variant.rerank
        && asked.filter.is_empty()
        && !asked.explain
        && asked.exclude_seen;
    if !is_usual {
        return None;
    }
    let until_ms = engine.history_until_ms(engine.user_row(model_id));
    if app.live.is_active_since(model_id, until_ms) {
        return None;
    }
    let mut list = lists.get(model_id, engine.bundle()).await?;
    // Rows of a shared store are not checked by it.
    list.retain(|entry| entry.item.index() < engine.items().len() && entry.score.is_finite());
    diversity::choose(engine, &mut list, asked.k);
    let item = |entry: Scored| AnswerItem { item: entry.item, score: entry.score, reasons: Vec::new() };
    let is_whole = list.len() == asked.k;
    is_whole.then(|| Answer {
        source: Source::Precomputed,
        degraded: Vec::new(),
        items: list.into_iter().map(item).collect(),
    })
}

/// A list made before is better than what is played now, where the listener's own could not be made.
async fn instead(app: &AppState, engine: &Engine, asked: &Asked, answer: Answer) -> Answer {
    if answer.degraded.is_empty() || !matches!(answer.source, Source::Trending | Source::SegmentTrending) {
        return answer;
    }
    match precomputed(app, engine, asked).await {
        Some(before) => Answer { degraded: answer.degraded, ..before },
        None => answer,
    }
}

/// What a listener gets whose deadline passed: the list made before, else what is played now.
async fn late(app: &Arc<AppState>, engine: &Arc<Engine>, asked: &Arc<Asked>) -> Result<Answer, ApiError> {
    if let Some(mut answer) = precomputed(app, engine, asked).await {
        answer.degraded.push(DEADLINE);
        return Ok(answer);
    }
    if asked.filter.is_empty() {
        return Ok(engine.fallback(&request(app, engine, asked)?, DEADLINE));
    }
    // A new filter reads the whole catalogue: nothing for a thread that others wait for.
    let (app, engine, asked) = (Arc::clone(app), Arc::clone(engine), Arc::clone(asked));
    let making = move || Ok(engine.fallback(&request(&app, &engine, &asked)?, DEADLINE));
    tokio::task::spawn_blocking(making).await.map_err(ApiError::internal)?
}

/// Counts and logs an answer, and puts it in the words of the interface.
fn told<'a>(app: &AppState, engine: &'a Engine, asked: &'a Asked, answer: Answer) -> ListText<'a> {
    app.stats.list(&answer);
    let Answer { source, degraded, items } = answer;
    let list = ListText {
        request_id: RequestId::new(),
        user_id: match &asked.who {
            Who::User { given, .. } => Some(given),
            Who::History(_) => None,
        },
        kind: ARTIST,
        bundle: engine.bundle(),
        variant: &asked.variant.name,
        source,
        degraded,
        items: ItemTexts { engine, items, explain: asked.explain },
    };
    if let Some(log) = &app.served_log {
        let user = match &asked.who {
            Who::User { model_id, .. } if app.user_key.is_some() => ServedUser::Pseudonym(model_id),
            Who::User { model_id, .. } => ServedUser::Given(model_id),
            Who::History(_) => ServedUser::Anonymous,
        };
        log.record(&ServedList {
            ts_ms: asked.now_ms,
            request_id: list.request_id.as_str(),
            user,
            variant: list.variant,
            bundle: list.bundle,
            kind: list.kind,
            source: source.as_str(),
            degraded: &list.degraded,
            k: asked.k,
            items: list.items.ids().collect(),
            scores: list.items.items.iter().map(|entry| entry.score).collect(),
        });
    }
    list
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn entry(query: &[(&str, &str)]) -> Result<BatchEntry, ApiError> {
        from_query(query.iter().copied())
    }

    #[test]
    fn queries_say_what_they_may_hold() {
        let read = entry(&[("k", "5"), ("filter", "genre=rock"), ("filter", "followers>=100"), ("explain", "true")]);
        let read = read.unwrap();
        assert_eq!(
            (read.k, read.filter.as_slice()),
            (Some(5), &["genre=rock".to_owned(), "followers>=100".to_owned()][..])
        );
        assert!(read.explain && read.exclude_seen.is_none());
        let message = |query| entry(query).unwrap_err().message().to_owned();
        assert!(message(&[("limit", "5")]).contains("exclude_seen, filter, explain"));
        assert!(message(&[("k", "-5")]).contains("whole number"));
        assert!(message(&[("explain", "yes")]).contains("true nor false"));
    }

    #[test]
    fn a_long_list_or_one_with_a_filter_or_reasons_is_not_short() {
        let ServeConfig { lists, .. } = ServeConfig::resolve(&[], &[]).unwrap();
        let is_short = |query: &[(&str, &str)]| entry(query).unwrap().may_be_short(&lists);
        for query in [&[][..], &[("k", "100")], &[("exclude_seen", "false"), ("explain", "false")]] {
            assert!(is_short(query), "{query:?}");
        }
        for query in [("k", "101"), ("filter", "genre=rock"), ("explain", "true")] {
            assert!(!is_short(&[query]), "{query:?}");
        }
        let lists = ListsConfig { default_k: 101, ..lists };
        assert!(!BatchEntry::default().may_be_short(&lists));
    }

    #[test]
    fn limits_are_told() {
        let config = ServeConfig::resolve(&[], &[]).unwrap();
        let message = |entry: BatchEntry| checked_settings(&config, &entry).err().unwrap().message().to_owned();
        let some = BatchEntry::default;
        assert!(message(BatchEntry { k: Some(0), ..some() }).contains("from 1 to 100"));
        assert!(message(BatchEntry { k: Some(101), ..some() }).contains("from 1 to 100"));
        assert!(message(BatchEntry { kind: Some("song".into()), ..some() }).contains("song model"));
        assert!(message(BatchEntry { filter: vec!["a=b".into(); 9], ..some() }).contains("at most 8"));
        assert!(message(BatchEntry { filter: vec!["a".repeat(257)], ..some() }).contains("257 bytes"));
        assert!(message(BatchEntry { user_id: Some("u".repeat(513)), ..some() }).contains("512"));
        let settings = checked_settings(&config, &some()).unwrap();
        assert_eq!((settings.k, settings.exclude_seen), (10, true));
    }
}
