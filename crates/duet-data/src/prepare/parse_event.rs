//! The scalar function `parse_event(source, sequence, received_ms, payload)` of the plans over the raw zone: payloads to
//! pseudonymous [`super::event_row`]s, or to the reason why not.
//!
//! The raw user id lives as long as one call: what leaves is its pseudonym.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryViewBuilder},
    buffer::Buffer,
    datatypes::{DataType, Int64Type, UInt64Type},
};
use chrono::NaiveDate;
use datafusion::{
    common::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use super::{
    event_row::{AsideRow, EventRow},
    line::{self, Reject},
};
use crate::accounts::UserKey;

const DAY_MS: i64 = 86_400_000;
/// Bytes of a usual row.
const ROW_BYTES: usize = 80;

/// The function for a user key and the day whose parts are read; `None` for the parts without a readable time.
pub(super) fn parse_event(user_key: &UserKey, day: Option<i32>) -> ScalarUDF {
    ScalarUDF::from(ParseEvent {
        user_key: Key(Arc::new(user_key.clone())),
        day,
        signature: Signature::any(4, Volatility::Stable),
    })
}

/// Compared by identity: DataFusion wants to know whether two calls are the same.
#[derive(Debug)]
struct Key(Arc<UserKey>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ParseEvent {
    user_key: Key,
    day: Option<i32>,
    signature: Signature,
}

impl ScalarUDFImpl for ParseEvent {
    fn name(&self) -> &str {
        "parse_event"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::BinaryView)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays: Vec<ArrayRef> =
            arguments.args.into_iter().map(|value| value.into_array(rows)).collect::<Result<_>>()?;
        let wrong = |column: usize| {
            DataFusionError::Execution(format!("parse_event: argument {column} is a {}", arrays[column].data_type()))
        };
        let sources = arrays[0].as_string_view_opt().ok_or_else(|| wrong(0))?;
        let sequences = arrays[1].as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong(1))?;
        let received = arrays[2].as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(2))?;
        let payloads = arrays[3].as_binary_view_opt().ok_or_else(|| wrong(3))?;
        let mut ends = Vec::with_capacity(rows);
        let mut bytes = Vec::with_capacity(rows * ROW_BYTES);
        let mut parser = Parser::new(&self.user_key.0);
        // Rows of a source stand together: its day is worked out once.
        let mut file_day: (Option<&str>, Option<i32>) = (None, None);
        for row in 0..rows {
            let source = sources.value(row);
            if file_day.0 != Some(source) {
                file_day = (Some(source), arrival_day(source));
            }
            match parser.parse(payloads.value(row), self.day) {
                Ok((mut event, local_day)) => {
                    event.late = match file_day.1 {
                        Some(day) => local_day < day,
                        None if received.is_valid(row) => {
                            event.ts_ms.div_euclid(DAY_MS) < received.value(row).div_euclid(DAY_MS)
                        }
                        None => false,
                    };
                    event.encode(&mut bytes);
                }
                Err(Reject { reason, field }) => {
                    AsideRow { file: source, line: sequences.value(row), reason, field }.encode(&mut bytes);
                }
            }
            let end = u32::try_from(bytes.len());
            ends.push(end.map_err(|_| DataFusionError::Execution("parse_event: rows of more than 4 GiB".into()))?);
        }
        // Views: a sort moves 16 bytes a row, and mostly compares the first bytes of the users in them.
        let mut views = BinaryViewBuilder::with_capacity(rows);
        let (block, mut start) = (views.append_block(Buffer::from_vec(bytes)), 0);
        for end in ends {
            views.try_append_view(block, start, end - start)?;
            start = end;
        }
        Ok(ColumnarValue::Array(Arc::new(views.finish())))
    }
}

/// The day in a path like `date=2025-03-03/part-0000.jsonl`: when the file's events arrived.
fn arrival_day(source: &str) -> Option<i32> {
    let date = source.split('/').find_map(|part| part.strip_prefix("date="))?;
    date.parse::<NaiveDate>().ok().map(|date| date.to_epoch_days())
}

/// Parses lines; ids that come again within one call are hashed once.
struct Parser<'a> {
    user_key: &'a UserKey,
    users: HashMap<String, [u8; 16]>,
    request: Option<(String, u64)>,
    item: String,
}

impl<'a> Parser<'a> {
    fn new(user_key: &'a UserKey) -> Self {
        Self { user_key, users: HashMap::new(), request: None, item: String::new() }
    }

    /// The event of a line, and its day by the local calendar.
    fn parse(&mut self, line: &[u8], day: Option<i32>) -> std::result::Result<(EventRow<'_>, i32), Reject> {
        let line = line::parse(line)?;
        if day != Some(line.ts_ms.div_euclid(DAY_MS) as i32) {
            return Err(Reject { reason: "filed under another day", field: "ts" });
        }
        let user = match self.users.get(line.user_id.as_ref()) {
            Some(user) => *user,
            None => {
                let user = self.user_key.pseudonym_bytes(&line.user_id).0;
                self.users.insert(line.user_id.into_owned(), user);
                user
            }
        };
        // The impressions of a page follow one another.
        let request = line.request_id.map(|id| match &self.request {
            Some((last, hash)) if *last == id => *hash,
            _ => {
                let hash = u64::from_be_bytes(digest(&id));
                self.request = Some((id.into_owned(), hash));
                hash
            }
        });
        self.item.clear();
        self.item.push_str(&line.item_id);
        let event = EventRow {
            user,
            ts_ms: line.ts_ms,
            event: digest(&line.event_id),
            event_type: line.event_type as u8,
            item_kind: line.item_kind as u8,
            late: false,
            position: line.position,
            request,
            ms_played: line.ms_played,
            item: &self.item,
        };
        Ok((event, line.local_day))
    }
}

/// The first bytes of SHA-256 of an id.
fn digest<const N: usize>(id: &str) -> [u8; N] {
    let digest = Sha256::digest(id.as_bytes());
    let mut first = [0; N];
    first.copy_from_slice(&digest[..N]);
    first
}
