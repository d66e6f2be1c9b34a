//! What a list looks like to its reader, and how it is written.
//!
//! The bodies with texts of their own ([`ListBody`] and what it holds) are for whoever reads an answer, and for the schema. An answer is
//! written in one pass from what it is made of (`ListText`): ids and names are those of the bundle, and none is copied on the way.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use duet_core::ItemIdx;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;
use uuid::{Builder, fmt::Hyphenated};

use super::error::ApiError;
use crate::{
    engine::Engine,
    request::{AnswerItem, Reason, Source},
};

/// Room for a list without its items, and for an item.
const LIST_BYTES: usize = 256;
const ITEM_BYTES: usize = 96;

/// A list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListBody {
    /// Names this list in later events.
    pub request_id: String,
    /// The listener's id as it was given; null for a history without a name.
    pub user_id: Option<String>,
    /// What the items are.
    pub kind: String,
    /// The bundle that answered.
    pub bundle: String,
    /// The variant by which the listener is served.
    pub variant: String,
    /// Where the list comes from: personal, precomputed, segment_trending, trending or baseline.
    #[schema(value_type = String)]
    pub source: Source,
    /// What fell away on the way; empty when all went as meant.
    pub degraded: Vec<String>,
    /// Best first.
    pub items: Vec<ListedItem>,
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedItem {
    /// Its place, from 0.
    pub position: usize,
    /// Its id.
    pub item_id: String,
    /// Its name, or its id where it has none.
    pub name: String,
    /// Larger is better; comparable within a list.
    pub score: f32,
    /// The history items that moved the score most; only where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<ReasonBody>>,
}

/// "Because you listened to ..."
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReasonBody {
    /// The id of an item of the history.
    pub item_id: String,
    /// Its name, or its id where it has none.
    pub name: String,
    /// Its share of all that spoke for the listed item.
    pub share: f32,
}

/// Several lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListsBody {
    /// In the order of the requests.
    pub lists: Vec<ListBody>,
}

/// A [`ListBody`] as it is written.
#[derive(Serialize)]
pub(crate) struct ListText<'a> {
    pub(crate) request_id: RequestId,
    pub(crate) user_id: Option<&'a str>,
    pub(crate) kind: &'static str,
    pub(crate) bundle: &'a str,
    pub(crate) variant: &'a str,
    pub(crate) source: Source,
    pub(crate) degraded: Vec<&'static str>,
    pub(crate) items: ItemTexts<'a>,
}

/// A [`ListsBody`] as it is written.
#[derive(Serialize)]
pub(crate) struct ListTexts<'a> {
    pub(crate) lists: Vec<ListText<'a>>,
}

/// What names a list: a UUID of version 7 (RFC 9562), so that ids of one server ascend with the milliseconds.
///
/// Its random bits are of the thread's generator: the crate's own way asks the kernel for them each time, under a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId([u8; Hyphenated::LENGTH]);

impl RequestId {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut text = [0; Hyphenated::LENGTH];
        Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid().hyphenated().encode_lower(&mut text);
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        // Hex digits and hyphens are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The items of a list as they are written.
pub(crate) struct ItemTexts<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) items: Vec<AnswerItem>,
    /// Whether reasons were asked for.
    pub(crate) explain: bool,
}

#[derive(Serialize)]
struct ItemText<'a> {
    position: usize,
    item_id: &'a str,
    name: &'a str,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<ReasonTexts<'a>>,
}

struct ReasonTexts<'a> {
    engine: &'a Engine,
    reasons: &'a [Reason],
}

#[derive(Serialize)]
struct ReasonText<'a> {
    item_id: &'a str,
    name: &'a str,
    share: f32,
}

fn item_id(engine: &Engine, item: ItemIdx) -> &str {
    engine.items().ids.id(item.index())
}

fn name(engine: &Engine, item: ItemIdx) -> &str {
    engine.items().name(item.index())
}

impl Serialize for ItemTexts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Self { engine, ref items, explain } = self;
        serializer.collect_seq(items.iter().enumerate().map(|(position, entry)| ItemText {
            position,
            item_id: item_id(engine, entry.item),
            name: name(engine, entry.item),
            score: entry.score,
            reasons: explain.then_some(ReasonTexts { engine, reasons: &entry.reasons }),
        }))
    }
}

impl Serialize for ReasonTexts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Self { engine, reasons } = self;
        serializer.collect_seq(reasons.iter().map(|reason| ReasonText {
            item_id: item_id(engine, reason.item),
            name: name(engine, reason.item),
            share: reason.share,
        }))
    }
}

impl<'a> ItemTexts<'a> {
    /// The items' ids, best first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &'a str> {
        self.items.iter().map(|entry| item_id(self.engine, entry.item))
    }
}

impl ListText<'_> {
    /// A list as the answer to a request.
    pub(crate) fn response(&self) -> Result<Response, ApiError> {
        json(self, LIST_BYTES + self.items.items.len() * ITEM_BYTES)
    }
}

impl ListTexts<'_> {
    /// Lists as the answer to a request.
    pub(crate) fn response(&self) -> Result<Response, ApiError> {
        let bytes = self.lists.iter().map(|list| LIST_BYTES + list.items.items.len() * ITEM_BYTES);
        json(self, bytes.sum())
    }
}

/// `room`: about how many bytes it will be.
fn json(body: &impl Serialize, room: usize) -> Result<Response, ApiError> {
    let mut text = Vec::with_capacity(room);
    serde_json::to_writer(&mut text, body).map_err(ApiError::internal)?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        engine::EngineOptions,
        small_bundle::{Which, bundle},
    };

    #[tokio::test]
    async fn what_is_written_is_the_body_it_stands_for() {
        let engine = Engine::open(&bundle(Which::First), &EngineOptions::default()).unwrap();
        let reason = Reason { item: ItemIdx(7), share: 0.1 };
        let item = |row: u32, score: f32, reasons: &[Reason]| AnswerItem {
            item: ItemIdx(row),
            score,
            reasons: reasons.to_vec(),
        };
        let list = |user_id, explain| ListText {
            request_id: RequestId::new(),
            user_id,
            kind: "artist",
            bundle: "b\"1",
            variant: "control",
            source: Source::SegmentTrending,
            degraded: vec!["deadline"],
            items: ItemTexts { engine: &engine, items: vec![item(3, 0.3, &[reason]), item(0, -1e-9, &[])], explain },
        };
        for (user_id, explain) in [(Some("ü\n"), true), (None, false)] {
            let response = list(user_id, explain).response().unwrap();
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            let written = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body: ListBody = serde_json::from_slice(&written).unwrap();
            // To the byte, and so in the order of the schema, too.
            assert_eq!(serde_json::to_vec(&body).unwrap(), written);
            assert_eq!((body.user_id.as_deref(), body.degraded.as_slice()), (user_id, &["deadline".to_owned()][..]));
            let shown: Vec<(usize, &str, f32)> =
                body.items.iter().map(|item| (item.position, item.item_id.as_str(), item.score)).collect();
            assert_eq!(shown, [(0, "a3", 0.3), (1, "a0", -1e-9)]);
            let reasons: Vec<Option<usize>> =
                body.items.iter().map(|item| item.reasons.as_ref().map(Vec::len)).collect();
            assert_eq!(reasons, if explain { [Some(1), Some(0)] } else { [None, None] });
        }
        let response = ListTexts { lists: vec![list(None, false), list(None, true)] }.response().unwrap();
        let written = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: ListsBody = serde_json::from_slice(&written).unwrap();
        assert_eq!((body.lists.len(), serde_json::to_vec(&body).unwrap()), (2, written.to_vec()));
    }

    #[test]
    fn request_ids_are_uuids_that_ascend_with_the_time() {
        let first = RequestId::new();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = RequestId::new();
        let uuid = Uuid::parse_str(second.as_str()).unwrap();
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        assert!(first.as_str() < second.as_str());
        assert_ne!(RequestId::new(), RequestId::new());
    }
}
