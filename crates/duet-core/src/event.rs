//! The JSON event contract: one object a line, as a click stream writes it.
//!
//! `ts` is RFC 3339 with any offset. Fields that are not listed here are ignored by readers.

use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum EventType {
    /// An item was shown.
    Impression = 0,
    /// A shown item was clicked.
    Click = 1,
    /// A song was played; `ms_played` says for how long.
    Listen = 2,
    /// An artist was followed.
    Follow = 3,
    /// An artist was unfollowed.
    Unfollow = 4,
    /// A song was skipped.
    Skip = 5,
}

impl EventType {
    /// Every type, in code order.
    pub const ALL: [Self; 6] = [Self::Impression, Self::Click, Self::Listen, Self::Follow, Self::Unfollow, Self::Skip];

    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Impression => "impression",
            Self::Click => "click",
            Self::Listen => "listen",
            Self::Follow => "follow",
            Self::Unfollow => "unfollow",
            Self::Skip => "skip",
        }
    }
}

/// What the event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ItemKind {
    /// An artist.
    Artist = 0,
    /// A song.
    Song = 1,
}

impl ItemKind {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Artist => "artist",
            Self::Song => "song",
        }
    }
}

/// One line of the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique; a second event with the same id is a duplicate.
    pub event_id: String,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Who did it, in the source system's id.
    pub user_id: String,
    /// Artist or song.
    pub item_kind: ItemKind,
    /// Which one.
    pub item_id: String,
    /// When: RFC 3339, any offset.
    pub ts: chrono::DateTime<chrono::FixedOffset>,
    /// The served list this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Position in the served list, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Where it was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surface: Option<String>,
    /// Milliseconds played, for listens and skips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms_played: Option<u64>,
    /// The visit this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}
