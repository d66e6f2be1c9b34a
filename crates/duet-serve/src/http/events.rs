//! `POST /v1/events`: one event or many, acknowledged when they are on the disk.
//!
//! What is wrong with an event is said for that event; the others are taken. The same event posted again is a duplicate,
//! which is no error: a client that got no answer posts again.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, FixedOffset};
use duet_core::event::{Event, EventType, ItemKind};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    auth::Caller,
    error::{ApiError, ErrorBody, ErrorType},
};
use crate::{
    app::AppState,
    journal::{AppendError, MOST_AHEAD_MS},
};

/// Events in one request.
const MAX_EVENTS: usize = 1_000;
/// Bytes of an id or another word.
const MAX_WORD_BYTES: usize = 256;
/// Longest play: a day.
const MAX_PLAYED_MS: u64 = 86_400_000;

/// An event as it is posted; fields that are not listed are dropped. This is what the interface's description says of an [`Event`], which
/// is what is read; a test holds the two together.
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct EventBody {
    /// Unique; the same id again is a duplicate. At most 256 bytes, as all ids.
    #[schema(min_length = 1, max_length = 256)]
    pub event_id: String,
    /// impression, click, listen, follow, unfollow or skip.
    #[schema(rename = "type", value_type = String, example = "click")]
    pub event_type: EventType,
    /// Who did it.
    #[schema(min_length = 1, max_length = 256)]
    pub user_id: String,
    /// artist or song.
    #[schema(value_type = String, example = "artist")]
    pub item_kind: ItemKind,
    /// Which one.
    #[schema(min_length = 1, max_length = 256)]
    pub item_id: String,
    /// When: RFC 3339, any offset; at most a day ahead of the server's clock.
    #[schema(value_type = String, example = "2026-11-25T06:00:00.000Z")]
    pub ts: DateTime<FixedOffset>,
    /// The list it belongs to, as its answer says.
    pub request_id: Option<String>,
    /// Position in that list, from 0.
    pub position: Option<u32>,
    /// Where it was shown.
    pub surface: Option<String>,
    /// Milliseconds played, for listens and skips.
    pub ms_played: Option<u64>,
    /// The visit it belongs to.
    pub session_id: Option<String>,
}

/// Many events at once.
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct EventsBody {
    /// At most 1000.
    #[schema(max_items = 1000)]
    pub events: Vec<EventBody>,
}

/// An event that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RejectedEvent {
    /// Its place in the request, from 0.
    pub index: usize,
    /// What is wrong with it and what would be valid.
    pub error: String,
}

/// What became of the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventsAnswer {
    /// Events that are on the disk now and were not before.
    pub accepted: usize,
    /// Events that were there already.
    pub duplicates: usize,
    /// Events that were not taken.
    pub rejected: Vec<RejectedEvent>,
    /// Where all were rejected: that they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where all were rejected: `bad_request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
}

/// Takes events in: they are on the disk and in the live histories when the answer comes.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    request_body(content = EventsBody, description = "`{\"events\": […]}`, or one event as it is"),
    responses(
        (status = 200, description = "The accepted events are durable", body = EventsAnswer),
        (status = 400, description = "No JSON, too many events, or all of them rejected: then with the fields of a 200 too", body = ErrorBody),
        (status = 403, description = "The key is for other listeners; nothing was taken", body = ErrorBody),
        (status = 404, description = "This server takes no events", body = ErrorBody),
        (status = 503, description = "Too many wait, or the disk refuses: post again, under the same ids", body = ErrorBody),
    )
)]
pub async fn post_events(
    State(app): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, ApiError> {
    if app.journal.is_none() {
        return Err(ApiError::not_found("this server takes no events: events.dir is not configured"));
    }
    let Posted { events, rejected } = read(&body, app.clock.now_ms())?;
    events.iter().try_for_each(|event| caller.check_user(&event.user_id))?;
    // A task of its own: whoever hangs up must not keep journaled events out of the live histories.
    let taken = tokio::spawn(async move { take(&app, events).await });
    let (accepted, duplicates) = taken.await.map_err(ApiError::internal)??;
    Ok(answer(accepted, duplicates, rejected))
}

/// Journals events and notes the new ones; how many are new, and how many were there.
async fn take(app: &AppState, events: Vec<Event>) -> Result<(usize, usize), ApiError> {
    let (Some(journal), false) = (&app.journal, events.is_empty()) else { return Ok((0, 0)) };
    let appended = journal.append(events).await.map_err(|error| match error {
        AppendError::Overloaded => ApiError::overloaded(),
        // The journal's thread has logged why.
        AppendError::Failed(_) => {
            ApiError::unavailable("events can't be written now; post them again, under the same ids")
        }
    })?;
    for event in &appended.accepted {
        app.live.note(app.user_key.as_ref(), event);
        app.stats.event(event.event_type);
    }
    Ok((appended.accepted.len(), appended.duplicates))
}

fn answer(accepted: usize, duplicates: usize, rejected: Vec<RejectedEvent>) -> Response {
    let nothing = accepted + duplicates == 0 && !rejected.is_empty();
    let status = if nothing { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let body = EventsAnswer {
        accepted,
        duplicates,
        rejected,
        error: nothing.then(|| "no event could be taken; see rejected".to_owned()),
        error_type: nothing.then_some(ErrorType::BadRequest),
    };
    (status, Json(body)).into_response()
}

/// A request as it was read.
#[derive(Debug, PartialEq)]
struct Posted {
    events: Vec<Event>,
    rejected: Vec<RejectedEvent>,
}

/// Reads one event or many.
fn read(body: &[u8], now_ms: i64) -> Result<Posted, ApiError> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("the body is no JSON: {error}")))?;
    let values = match body {
        Value::Object(mut fields) => match fields.remove("events") {
            None => vec![Value::Object(fields)],
            Some(Value::Array(values)) => values,
            Some(_) => return Err(ApiError::bad_request("events must be a list of events")),
        },
        _ => return Err(ApiError::bad_request("the body must be an event, or {\"events\": [...]}")),
    };
    if values.len() > MAX_EVENTS {
        let message = format!("{} events in one request; at most {MAX_EVENTS} are taken", values.len());
        return Err(ApiError::bad_request(message));
    }
    let mut posted = Posted { events: Vec::with_capacity(values.len()), rejected: Vec::new() };
    for (index, value) in values.into_iter().enumerate() {
        let event = serde_json::from_value::<Event>(value).map_err(|error| error.to_string());
        match event.and_then(|event| checked(event, now_ms)) {
            Ok(event) => posted.events.push(event),
            Err(error) => posted.rejected.push(RejectedEvent { index, error }),
        }
    }
    Ok(posted)
}

/// The event, if nothing is wrong with it.
fn checked(event: Event, now_ms: i64) -> Result<Event, String> {
    for (name, id) in [("event_id", &event.event_id), ("user_id", &event.user_id), ("item_id", &event.item_id)] {
        if id.is_empty() {
            return Err(format!("{name} is empty"));
        }
    }
    let words = [
        ("event_id", Some(&event.event_id)),
        ("user_id", Some(&event.user_id)),
        ("item_id", Some(&event.item_id)),
        ("request_id", event.request_id.as_ref()),
        ("surface", event.surface.as_ref()),
        ("session_id", event.session_id.as_ref()),
    ];
    for (name, word) in words {
        let bytes = word.map_or(0, String::len);
        if bytes > MAX_WORD_BYTES {
            return Err(format!("{name} has {bytes} bytes; at most {MAX_WORD_BYTES} are taken"));
        }
    }
    let at_ms = event.ts.timestamp_millis();
    if at_ms < 0 || at_ms.saturating_sub(now_ms) > MOST_AHEAD_MS {
        return Err("ts must be between 1970 and tomorrow".to_owned());
    }
    // Others who read the journal may know no 23:59:60.
    if event.ts.timestamp_subsec_nanos() >= 1_000_000_000 {
        return Err("ts is a leap second; give the second before".to_owned());
    }
    if event.ms_played.is_some_and(|played| played > MAX_PLAYED_MS) {
        return Err(format!("ms_played must be at most {MAX_PLAYED_MS}, a day"));
    }
    Ok(event)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;
    use utoipa::PartialSchema;

    use super::*;

    const NOW_MS: i64 = 1_764_050_400_000;

    fn event() -> Value {
        json!({
            "event_id": "e1", "type": "click", "user_id": "u1", "item_kind": "artist", "item_id": "a1",
            "ts": "2025-11-25T07:00:00+01:00", "request_id": "r1", "position": 0, "more": {"not": "kept"},
        })
    }

    fn with(name: &str, value: impl Into<Value>) -> Value {
        let mut event = event();
        event[name] = value.into();
        event
    }

    fn posted(body: &Value) -> Posted {
        read(body.to_string().as_bytes(), NOW_MS).unwrap()
    }

    #[test]
    fn one_event_or_many_are_read() {
        let one = posted(&event());
        assert_eq!((one.events.len(), one.rejected.len()), (1, 0));
        let Event { request_id, position, ts, .. } = &one.events[0];
        assert_eq!((request_id.as_deref(), *position, ts.timestamp_millis()), (Some("r1"), Some(0), NOW_MS));
        let line = serde_json::to_string(&one.events[0]).unwrap();
        assert!(!line.contains("more") && line.contains("\"ts\":\"2025-11-25T07:00:00+01:00\""), "{line}");
        let many = posted(&json!({"events": [event(), with("type", "dance"), with("event_id", "e2")]}));
        let ids: Vec<&str> = many.events.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids, ["e1", "e2"]);
        assert_eq!(many.rejected[0].index, 1);
        assert!(many.rejected[0].error.contains("dance") && many.rejected[0].error.contains("click"));
        assert_eq!(posted(&json!({"events": []})), Posted { events: vec![], rejected: vec![] });
    }

    #[test]
    fn the_description_is_that_of_what_is_read() {
        let schema = serde_json::to_value(EventBody::schema()).unwrap();
        let keys = |object: &Value| -> std::collections::BTreeSet<String> {
            object.as_object().unwrap().keys().cloned().collect()
        };
        let whole = json!({
            "event_id": "e1", "type": "click", "user_id": "u1", "item_kind": "artist", "item_id": "a1", "ts": "2025-11-25T06:00:00Z",
            "request_id": "r1", "position": 0, "surface": "page", "ms_played": 1, "session_id": "s1",
        });
        // What the core's event holds, all of it written.
        let read: Event = serde_json::from_value(whole).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(keys(&schema["properties"]), keys(&written));
        let needed: std::collections::BTreeSet<String> =
            schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        for name in keys(&written) {
            let mut less = written.clone();
            less.as_object_mut().unwrap().remove(&name);
            assert_eq!(serde_json::from_value::<Event>(less).is_err(), needed.contains(&name), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = "x".repeat(MAX_WORD_BYTES + 1);
        let cases = [
            (with("event_id", ""), "event_id is empty"),
            (with("item_id", long.as_str()), "item_id has 257 bytes"),
            (with("session_id", long.as_str()), "session_id has 257 bytes"),
            (with("user_id", 7), "expected a string"),
            (with("ts", "yesterday"), "input contains invalid characters"),
            (with("ts", "2025-11-26T06:00:01Z"), "between 1970 and tomorrow"),
            (with("ts", "1969-12-31T23:59:59Z"), "between 1970 and tomorrow"),
            (with("ts", "2024-12-31T23:59:60Z"), "leap second"),
            (with("position", -1), "expected u32"),
            (with("ms_played", 86_400_001), "at most 86400000"),
            (json!({"event_id": "e1"}), "missing field"),
            (json!(7), "invalid type"),
        ];
        for (event, expected) in cases {
            let Posted { events, rejected } = posted(&json!({ "events": [event] }));
            assert!(events.is_empty());
            assert!(rejected[0].error.contains(expected), "{} is not {expected}", rejected[0].error);
        }
        // The longest and latest that is taken.
        let word = "x".repeat(MAX_WORD_BYTES);
        assert_eq!(posted(&with("user_id", word.as_str())).events[0].user_id, word);
        assert_eq!(posted(&with("ts", "2025-11-26T06:00:00Z")).events.len(), 1);
    }

    #[test]
    fn bodies_that_are_no_events_are_refused() {
        let refused = |body: &str| read(body.as_bytes(), NOW_MS).unwrap_err();
        assert!(refused("{").message().contains("no JSON"));
        assert!(refused("[]").message().contains("must be an event"));
        assert!(refused(r#"{"events": 7}"#).message().contains("list of events"));
        let many = json!({ "events": vec![event(); MAX_EVENTS + 1] });
        assert!(refused(&many.to_string()).message().contains("at most 1000"));
        assert_eq!(refused("\u{0}").status(), StatusCode::BAD_REQUEST);
    }

    async fn body(response: Response) -> (u16, Value) {
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn only_a_request_of_which_nothing_was_taken_failed() {
        let rejected = || vec![RejectedEvent { index: 1, error: "bad".into() }];
        let (status, taken) = body(answer(2, 0, rejected())).await;
        assert_eq!(
            (status, taken),
            (200, json!({"accepted": 2, "duplicates": 0, "rejected": [{"index": 1, "error": "bad"}]}))
        );
        assert_eq!(body(answer(0, 1, rejected())).await.0, 200);
        assert_eq!(body(answer(0, 0, vec![])).await.0, 200);
        let (status, refused) = body(answer(0, 0, rejected())).await;
        assert_eq!((status, &refused["error_type"]), (400, &json!("bad_request")));
        assert!(refused["error"].is_string() && refused["rejected"].is_array());
    }
}
