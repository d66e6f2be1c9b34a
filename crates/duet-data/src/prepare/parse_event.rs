//! The scalar function `parse_event(source, sequence, received_ms, payload)` of the plans over the raw zone: payloads to
//! pseudonymous [`super::event_row`]s, or to the reason why not.
//!
//! The raw user id lives as long as one call: what leaves is its pseudonym.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray},
    buffer::{Buffer, OffsetBuffer},
    datatypes::{DataType, Int64Type, UInt64Type},
};
use chrono::NaiveDate;
use datafusion::{
    common::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    event_row::{AsideRow, EventRow},
    line::{self, Reject},
};
use crate::accounts::UserKey;

const DAY_MS: i64 = 86_400_000;
/// Bytes of a usual row.
const ROW_BYTES: usize = 80;

/// The name of the function in plans.
const NAME: &str = "parse_event";

/// The function for a user key and the day whose parts are read; `None` for the parts without a readable time.
pub(super) fn parse_event(user_key: &UserKey, day: Option<i32>) -> ScalarUDF {
    function(Call { key_check: user_key.check(), day }, Some(Arc::new(user_key.clone())))
}

fn function(call: Call, user_key: Option<Arc<UserKey>>) -> ScalarUDF {
    ScalarUDF::from(ParseEvent { call, user_key: Key(user_key), signature: Signature::any(4, Volatility::Stable) })
}

/// Appends to `out` what another process needs to make `function` again, if it is `parse_event`; tells whether it is. The
/// user key is not in it, only [`UserKey::check`].
///
/// # Errors
/// Those of the serialisation.
pub fn encode_function(function: &ScalarUDF, out: &mut Vec<u8>) -> Result<bool> {
    let Some(parse) = function.inner().downcast_ref::<ParseEvent>() else { return Ok(false) };
    serde_json::to_writer(out, &parse.call).map_err(|error| DataFusionError::External(Box::new(error)))?;
    Ok(true)
}

/// The function of [`encode_function`], with the key of this process; nothing for another name.
///
/// Without a key, or with another one than the plan was made with, a plan can be made with it but not run: the call fails
/// and not the decoding, so that it is the failure of a task and reported as such.
///
/// # Errors
/// [`DataFusionError::Plan`] for bytes that no [`encode_function`] of this version wrote.
pub fn decode_function(name: &str, bytes: &[u8], user_key: Option<Arc<UserKey>>) -> Result<Option<ScalarUDF>> {
    if name != NAME {
        return Ok(None);
    }
    let call = serde_json::from_slice(bytes).map_err(|error| {
        DataFusionError::Plan(format!(
            "{NAME}: not what this version writes ({error}): use one version of duet everywhere"
        ))
    })?;
    Ok(Some(function(call, user_key)))
}

/// What makes two functions the same, and travels with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    key_check: String,
    day: Option<i32>,
}

/// The key of this process, if it has one. Keys are compared by the check in [`Call`].
#[derive(Debug)]
struct Key(Option<Arc<UserKey>>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_some() == other.0.is_some()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.is_some().hash(state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ParseEvent {
    call: Call,
    user_key: Key,
    signature: Signature,
}

impl ParseEvent {
    fn user_key(&self) -> Result<&UserKey> {
        let refused = |why: &str| DataFusionError::Execution(format!("{NAME}: {why}"));
        let key = self.user_key.0.as_ref().ok_or_else(|| refused("this process has no user key"))?;
        if key.check() != self.call.key_check {
            return Err(refused(
                "this executor has another user key than the plan was made with: give all of them the same key",
            ));
        }
        Ok(key)
    }
}

impl ScalarUDFImpl for ParseEvent {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let user_key = self.user_key()?;
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
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let mut bytes = Vec::with_capacity(rows * ROW_BYTES);
        let mut parser = Parser::new(user_key);
        // Rows of a source stand together: its day is worked out once.
        let mut file_day: (Option<&str>, Option<i32>) = (None, None);
        for row in 0..rows {
            let source = sources.value(row);
            if file_day.0 != Some(source) {
                file_day = (Some(source), arrival_day(source));
            }
            match parser.parse(payloads.value(row), self.call.day) {
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
            let end = i32::try_from(bytes.len());
            offsets.push(end.map_err(|_| DataFusionError::Execution("parse_event: rows of more than 2 GiB".into()))?);
        }
        // No views: every sorted batch would count for all buffers below its views, 33 MB for 305, until no memory is left; and a
        // shuffle would send them with each batch.
        let offsets = OffsetBuffer::new(offsets.into());
        Ok(ColumnarValue::Array(Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(bytes), None)?)))
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_function_travels_without_its_key() {
        let key = UserKey::new(b"0123456789abcdef").unwrap();
        let sent = parse_event(&key, Some(20_090));
        let mut bytes = Vec::new();
        assert!(encode_function(&sent, &mut bytes).unwrap());
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(&key.check()) && !text.contains("0123456789abcdef"), "{text}");
        let decode = |key: Option<&UserKey>| {
            decode_function(NAME, &bytes, key.map(|key| Arc::new(key.clone()))).unwrap().unwrap()
        };
        assert_eq!(decode(Some(&key)), sent);
        let parse = |function: &ScalarUDF| {
            function.inner().downcast_ref::<ParseEvent>().unwrap().user_key().map(|_| ()).map_err(|e| e.to_string())
        };
        assert!(parse(&decode(Some(&key))).is_ok());
        assert!(parse(&decode(None)).unwrap_err().contains("no user key"));
        let other = UserKey::new(b"fedcba9876543210").unwrap();
        assert!(parse(&decode(Some(&other))).unwrap_err().contains("another user key"));
        assert!(decode_function("abs", &bytes, None).unwrap().is_none());
        assert!(decode_function(NAME, b"{}", None).is_err());
    }
}
