//! The scalar function `parse_event(source, sequence, received_ms, payload)` of the plans over the raw zone: payloads to
//! a struct of typed, pseudonymous fields, or of the reason why not.
//!
//! The raw user id lives as long as one call: what leaves is its pseudonym.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanBuilder, FixedSizeBinaryBuilder, Int64Builder, StringBuilder, StructArray,
        UInt8Builder, UInt32Builder, UInt64Builder,
    },
    datatypes::{DataType, Field, Fields, Int64Type, UInt64Type},
};
use chrono::NaiveDate;
use datafusion::{
    common::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};

use super::line::{self, Reject};
use crate::accounts::UserKey;

const DAY_MS: i64 = 86_400_000;

/// The fields of the struct. Good lines have no `reason`, `field`, `file`, `line`; the others nothing else.
pub(super) fn fields() -> Fields {
    Fields::from(vec![
        Field::new("user", DataType::FixedSizeBinary(16), true),
        Field::new("ts_ms", DataType::Int64, true),
        Field::new("event", DataType::FixedSizeBinary(16), true),
        Field::new("type", DataType::UInt8, true),
        Field::new("item_kind", DataType::UInt8, true),
        Field::new("item", DataType::Utf8, true),
        Field::new("position", DataType::UInt32, true),
        Field::new("request", DataType::UInt64, true),
        Field::new("ms_played", DataType::UInt64, true),
        Field::new("late", DataType::Boolean, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("field", DataType::Utf8, true),
        Field::new("file", DataType::Utf8, true),
        Field::new("line", DataType::UInt64, true),
    ])
}

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
        Ok(DataType::Struct(fields()))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays: Vec<ArrayRef> =
            arguments.args.into_iter().map(|value| value.into_array(rows)).collect::<Result<_>>()?;
        let wrong = |column: usize| {
            DataFusionError::Execution(format!("parse_event: argument {column} is a {}", arrays[column].data_type()))
        };
        let sources = arrays[0].as_string_opt::<i32>().ok_or_else(|| wrong(0))?;
        let sequences = arrays[1].as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong(1))?;
        let received = arrays[2].as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(2))?;
        let payloads = arrays[3].as_binary_opt::<i32>().ok_or_else(|| wrong(3))?;
        let mut out = Columns::new(rows);
        // Rows of a source stand together: its day is worked out once.
        let mut file_day: (Option<&str>, Option<i32>) = (None, None);
        for row in 0..rows {
            let source = sources.value(row);
            if file_day.0 != Some(source) {
                file_day = (Some(source), arrival_day(source));
            }
            let parsed = line::parse(payloads.value(row)).and_then(|event| {
                match self.day == Some(event.ts_ms.div_euclid(DAY_MS) as i32) {
                    true => Ok(event),
                    false => Err(Reject { reason: "filed under another day", field: "ts" }),
                }
            });
            match parsed {
                Ok(event) => {
                    let late = match file_day.1 {
                        Some(day) => event.local_day < day,
                        None if received.is_valid(row) => {
                            event.ts_ms.div_euclid(DAY_MS) < received.value(row).div_euclid(DAY_MS)
                        }
                        None => false,
                    };
                    out.good(&event, &self.user_key.0, late)?;
                }
                Err(reject) => out.bad(reject, source, sequences.value(row))?,
            }
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

/// The day in a path like `date=2025-03-03/part-0000.jsonl`: when the file's events arrived.
fn arrival_day(source: &str) -> Option<i32> {
    let date = source.split('/').find_map(|part| part.strip_prefix("date="))?;
    date.parse::<NaiveDate>().ok().map(|date| date.to_epoch_days())
}

struct Columns {
    user: FixedSizeBinaryBuilder,
    ts_ms: Int64Builder,
    event: FixedSizeBinaryBuilder,
    event_type: UInt8Builder,
    item_kind: UInt8Builder,
    item: StringBuilder,
    position: UInt32Builder,
    request: UInt64Builder,
    ms_played: UInt64Builder,
    late: BooleanBuilder,
    reason: StringBuilder,
    field: StringBuilder,
    file: StringBuilder,
    line: UInt64Builder,
}

impl Columns {
    fn new(rows: usize) -> Self {
        Self {
            user: FixedSizeBinaryBuilder::with_capacity(rows, 16),
            ts_ms: Int64Builder::with_capacity(rows),
            event: FixedSizeBinaryBuilder::with_capacity(rows, 16),
            event_type: UInt8Builder::with_capacity(rows),
            item_kind: UInt8Builder::with_capacity(rows),
            item: StringBuilder::with_capacity(rows, rows * 8),
            position: UInt32Builder::with_capacity(rows),
            request: UInt64Builder::with_capacity(rows),
            ms_played: UInt64Builder::with_capacity(rows),
            late: BooleanBuilder::with_capacity(rows),
            reason: StringBuilder::with_capacity(rows, 0),
            field: StringBuilder::with_capacity(rows, 0),
            file: StringBuilder::with_capacity(rows, 0),
            line: UInt64Builder::with_capacity(rows),
        }
    }

    fn good(&mut self, event: &line::Line<'_>, key: &UserKey, late: bool) -> Result<()> {
        self.user.append_value(key.pseudonym_bytes(&event.user_id).0)?;
        self.ts_ms.append_value(event.ts_ms);
        self.event.append_value(event.event)?;
        self.event_type.append_value(event.event_type as u8);
        self.item_kind.append_value(event.item_kind as u8);
        self.item.append_value(&event.item_id);
        self.position.append_option(event.position);
        self.request.append_option(event.request);
        self.ms_played.append_option(event.ms_played);
        self.late.append_value(late);
        self.reason.append_null();
        self.field.append_null();
        self.file.append_null();
        self.line.append_null();
        Ok(())
    }

    fn bad(&mut self, reject: Reject, file: &str, line: u64) -> Result<()> {
        self.user.append_null();
        self.ts_ms.append_null();
        self.event.append_null();
        self.event_type.append_null();
        self.item_kind.append_null();
        self.item.append_null();
        self.position.append_null();
        self.request.append_null();
        self.ms_played.append_null();
        self.late.append_null();
        self.reason.append_value(reject.reason);
        self.field.append_value(reject.field);
        self.file.append_value(file);
        self.line.append_value(line);
        Ok(())
    }

    fn finish(mut self) -> StructArray {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.user.finish()),
            Arc::new(self.ts_ms.finish()),
            Arc::new(self.event.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.item_kind.finish()),
            Arc::new(self.item.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.request.finish()),
            Arc::new(self.ms_played.finish()),
            Arc::new(self.late.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.field.finish()),
            Arc::new(self.file.finish()),
            Arc::new(self.line.finish()),
        ];
        StructArray::new(fields(), columns, None)
    }
}
