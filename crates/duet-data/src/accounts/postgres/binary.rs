//! The binary form of `COPY`: a header, rows of length-prefixed fields (big-endian), a trailer.
//!
//! Dates and times count from 2000-01-01. See "COPY", section "Binary Format", in the PostgreSQL manual.

use std::{fmt::Write, path::Path};

use chrono::{DateTime, NaiveDate};
use duet_core::{Error, Result};

use super::{
    super::{
        Account,
        age::{Age, MAX_YEARS},
        reduce::{Reducer, Row},
    },
    columns::quoted,
};

/// Signature, no flags, no extension: 19 bytes.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands where a row would say how many fields it has.
pub(super) const TRAILER: &[u8] = &(-1_i16).to_be_bytes();

/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
const DAY_MS: i64 = 86_400_000;

/// What a column says about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    UserId,
    Age,
    BirthDate,
    Gender,
    Lat,
    Lon,
    Country,
    CreatedAt,
}

impl Role {
    pub(super) fn valid_types(self) -> &'static str {
        match self {
            Self::UserId => "text, varchar, char, uuid, smallint, integer, bigint",
            Self::Age => "smallint, integer, bigint",
            Self::BirthDate | Self::CreatedAt => "date, timestamp, timestamptz",
            Self::Gender | Self::Country => "text, varchar, char, an enum",
            Self::Lat | Self::Lon => "double precision, real, numeric",
        }
    }
}

/// How a value lies in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Text,
    /// `char(n)`: filled up with spaces.
    PaddedText,
    Uuid,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Date,
    Timestamp,
}

/// A column that is read.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) wire: Wire,
}

/// The fields of a row, in order.
#[derive(Debug)]
pub(super) struct Layout {
    fields: Vec<Field>,
}

impl Layout {
    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self { fields }
    }

    /// The columns for a `SELECT`.
    pub(super) fn select_list(&self) -> String {
        let names: Vec<String> = self.fields.iter().map(|field| quoted(&field.name)).collect();
        names.join(", ")
    }
}

/// What follows the header in the first message.
pub(super) fn after_header(message: &[u8]) -> Option<&[u8]> {
    message.strip_prefix(HEADER)
}

pub(super) fn malformed(place: &Path, row: u64) -> Error {
    Error::data_row(place, row, "the server's COPY data is not in the binary form this program knows (version 1)")
}

/// Some rows, one after the other, as the server sent them.
pub(super) struct Block {
    /// Rows are counted from 1.
    first_row: u64,
    bytes: Vec<u8>,
    full: usize,
}

impl Block {
    pub(super) fn new(first_row: u64, full: usize) -> Self {
        Self { first_row, bytes: Vec::with_capacity(full + 4_096), full }
    }

    pub(super) fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.full
    }

    /// The rows as accounts.
    pub(super) fn reduce(
        &self,
        place: &Path,
        layout: &Layout,
        reducer: &mut Reducer<'_>,
        accounts: &mut Vec<Account>,
    ) -> Result<()> {
        let mut rest = &self.bytes[..];
        let mut row = self.first_row;
        let mut id = String::new();
        while !rest.is_empty() {
            let damaged = || malformed(place, row);
            let count = i16::from_be_bytes(take(&mut rest).ok_or_else(damaged)?);
            if usize::try_from(count) != Ok(layout.fields.len()) {
                return Err(damaged());
            }
            let mut account = Row::default();
            let (mut lat, mut lon, mut years, mut born) = (None, None, None, None);
            id.clear();
            for field in &layout.fields {
                let length = i32::from_be_bytes(take(&mut rest).ok_or_else(damaged)?);
                // -1 is null.
                let Ok(length) = usize::try_from(length) else { continue };
                let (value, after) = rest.split_at_checked(length).ok_or_else(damaged)?;
                rest = after;
                let bad =
                    |valid: &str| Error::data_row(place, row, format!("column {:?}: expected {valid}", field.name));
                match field.role {
                    Role::UserId => {
                        field.wire.write_id(value, &mut id).ok_or_else(|| bad("text in UTF-8, or an id"))?;
                    }
                    Role::Gender => account.gender = text(value).ok_or_else(|| bad("text in UTF-8"))?,
                    Role::Country => account.country = text(value).ok_or_else(|| bad("text in UTF-8"))?,
                    Role::Age => {
                        let valid = field.wire.integer(value).and_then(|years| u32::try_from(years).ok());
                        let valid = valid.filter(|years| *years <= MAX_YEARS);
                        years = Some(valid.ok_or_else(|| bad("whole years from 0 to 130"))?);
                    }
                    Role::BirthDate => {
                        born = Some(field.wire.date(value).ok_or_else(|| bad("a date like 1990-12-31"))?);
                    }
                    Role::Lat => {
                        lat = Some(field.wire.degrees(value, 90.0).ok_or_else(|| bad("degrees from -90 to 90"))?);
                    }
                    Role::Lon => {
                        lon = Some(field.wire.degrees(value, 180.0).ok_or_else(|| bad("degrees from -180 to 180"))?);
                    }
                    Role::CreatedAt => {
                        account.created_ms =
                            Some(field.wire.instant_ms(value).ok_or_else(|| bad("a time, and not infinity"))?);
                    }
                }
            }
            if id.is_empty() {
                let name = &layout.fields[0].name;
                return Err(Error::data_row(place, row, format!("column {name:?}: expected a value")));
            }
            account.user_id = &id;
            account.age = years.map(Age::Years).or(born.map(Age::Born));
            account.coordinates = lat.zip(lon);
            accounts.push(reducer.reduce(&account));
            row += 1;
        }
        Ok(())
    }
}

/// Takes `N` bytes off the front.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*front)
}

/// A text without the white space around it; within it nothing, if nothing is left. None if it is not UTF-8.
fn text(value: &[u8]) -> Option<Option<&str>> {
    let text = std::str::from_utf8(value).ok()?.trim();
    Some(Some(text).filter(|text| !text.is_empty()))
}

impl Wire {
    /// Appends an id in the form in which events carry it. Texts are taken as they are: spaces may be part of an id.
    fn write_id(self, value: &[u8], id: &mut String) -> Option<()> {
        match self {
            Self::Text => id.push_str(std::str::from_utf8(value).ok()?),
            Self::PaddedText => id.push_str(std::str::from_utf8(value).ok()?.trim_end_matches(' ')),
            Self::Uuid => {
                let bytes: &[u8; 16] = value.try_into().ok()?;
                for (at, byte) in bytes.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        id.push('-');
                    }
                    write!(id, "{byte:02x}").ok()?;
                }
            }
            _ => write!(id, "{}", self.integer(value)?).ok()?,
        }
        Some(())
    }

    fn integer(self, value: &[u8]) -> Option<i64> {
        match self {
            Self::Int2 => Some(i16::from_be_bytes(value.try_into().ok()?).into()),
            Self::Int4 => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
            Self::Int8 => Some(i64::from_be_bytes(value.try_into().ok()?)),
            _ => None,
        }
    }

    fn degrees(self, value: &[u8], limit: f64) -> Option<f64> {
        let degrees = match self {
            Self::Float4 => f32::from_be_bytes(value.try_into().ok()?).into(),
            Self::Float8 => f64::from_be_bytes(value.try_into().ok()?),
            Self::Numeric => numeric(value)?,
            _ => return None,
        };
        (degrees.abs() <= limit).then_some(degrees)
    }

    fn date(self, value: &[u8]) -> Option<NaiveDate> {
        match self {
            Self::Date => NaiveDate::from_epoch_days(days(value)?),
            Self::Timestamp => Some(DateTime::from_timestamp_millis(milliseconds(value)?)?.date_naive()),
            _ => None,
        }
    }

    fn instant_ms(self, value: &[u8]) -> Option<i64> {
        match self {
            Self::Date => Some(i64::from(days(value)?) * DAY_MS),
            Self::Timestamp => milliseconds(value),
            _ => None,
        }
    }
}

/// Days since 1970-01-01; none for infinity, which is the largest or smallest number.
fn days(value: &[u8]) -> Option<i32> {
    let days = i32::from_be_bytes(value.try_into().ok()?);
    if days == i32::MAX || days == i32::MIN { None } else { days.checked_add(EPOCH_DAYS) }
}

/// Milliseconds since 1970-01-01; none for infinity.
fn milliseconds(value: &[u8]) -> Option<i64> {
    let microseconds = i64::from_be_bytes(value.try_into().ok()?);
    if microseconds == i64::MAX || microseconds == i64::MIN {
        return None;
    }
    Some(microseconds.div_euclid(1_000) + i64::from(EPOCH_DAYS) * DAY_MS)
}

/// `numeric`: the number of digits (base 10,000), the weight of the first, the sign, the digits shown, the digits.
fn numeric(mut value: &[u8]) -> Option<f64> {
    let rest = &mut value;
    let count = usize::from(u16::from_be_bytes(take(rest)?));
    let weight = i16::from_be_bytes(take(rest)?);
    let sign = u16::from_be_bytes(take(rest)?);
    let _shown: [u8; 2] = take(rest)?;
    if rest.len() != 2 * count {
        return None;
    }
    // Through text: sums of powers of ten would be off by a rounding error.
    let mut text = String::with_capacity(4 * count + 8);
    match sign {
        0x0000 => {}
        0x4000 => text.push('-'),
        // NaN and the infinities.
        _ => return None,
    }
    text.push('0');
    while !rest.is_empty() {
        let digit = u16::from_be_bytes(take(rest)?);
        write!(text, "{digit:04}").ok()?;
    }
    let exponent = 4 * (i32::from(weight) + 1 - count as i32);
    write!(text, "e{exponent}").ok()?;
    text.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::super::{AccountRules, UserKey, reduce::in_parallel},
        *,
    };

    /// A row of an id, an age and a latitude.
    fn row(id: &[u8], age: i16, lat: f64) -> Vec<u8> {
        let mut bytes = 3_i16.to_be_bytes().to_vec();
        for value in [id, &age.to_be_bytes(), &lat.to_be_bytes()] {
            bytes.extend((value.len() as i32).to_be_bytes());
            bytes.extend(value);
        }
        bytes
    }

    fn reduce(bytes: &[u8]) -> Result<Vec<Account>> {
        let field = |role, wire| Field { role, name: "x".to_owned(), wire };
        let layout = Layout::new(vec![
            field(Role::UserId, Wire::Text),
            field(Role::Age, Wire::Int2),
            field(Role::Lat, Wire::Float8),
        ]);
        let key = UserKey::new(b"0123456789abcdef")?;
        let rules = AccountRules { user_key: &key, age_edges: &[18], reference_day: NaiveDate::default() };
        let mut block = Block::new(1, bytes.len());
        block.push(bytes);
        in_parallel(
            &rules,
            |sink| {
                sink(block);
                Ok::<_, Error>(())
            },
            |block: Block, reducer, accounts| block.reduce(Path::new("table"), &layout, reducer, accounts),
        )
    }

    #[test]
    fn whole_rows_are_read_and_cut_ones_are_named() {
        let rows = [row(b"one", 17, 1.5), row(b"two", 18, -90.0)].concat();
        let accounts = reduce(&rows).unwrap();
        let buckets: Vec<_> = accounts.iter().map(|account| account.age_bucket.as_deref().unwrap()).collect();
        assert_eq!(buckets, ["<18", "18+"]);
        for end in 1..rows.len() {
            let result = reduce(&rows[..end]);
            match end == rows.len() / 2 {
                true => assert_eq!(result.unwrap().len(), 1),
                false => {
                    let row = 1 + 2 * end / rows.len();
                    let error = result.unwrap_err().to_string();
                    assert!(error.starts_with(&format!("table, row {row}: the server's COPY data")), "{end}: {error}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn damage_is_an_error_or_another_value_and_never_a_panic(
            changes in prop::collection::vec((0_usize..60, any::<u8>()), 1..4),
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut rows = [row(b"one", 17, 1.5), row(b"two", 18, -90.0)].concat();
            for (at, byte) in changes {
                let at = at % rows.len();
                rows[at] = byte;
            }
            let _ = reduce(&rows);
            let _ = reduce(&noise);
            let _ = numeric(&noise);
        }
    }

    #[test]
    fn numeric_is_read_to_the_last_digit() {
        // As sent by the server for 59.91387, -0.00042, 12345678 and 0.
        let send = |weight: i16, sign: u16, digits: &[u16]| {
            let mut bytes = (digits.len() as u16).to_be_bytes().to_vec();
            bytes.extend(weight.to_be_bytes());
            bytes.extend(sign.to_be_bytes());
            bytes.extend([0, 5]);
            digits.iter().for_each(|digit| bytes.extend(digit.to_be_bytes()));
            numeric(&bytes)
        };
        assert_eq!(send(0, 0, &[59, 9138, 7000]), Some(59.91387));
        assert_eq!(send(-1, 0x4000, &[4, 2000]), Some(-0.00042));
        assert_eq!(send(1, 0, &[1234, 5678]), Some(12_345_678.0));
        assert_eq!(send(0, 0, &[]), Some(0.0));
        assert_eq!(send(0, 0xc000, &[]), None);
        assert_eq!(numeric(&[0, 9, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn dates_and_times_count_from_2000() {
        assert_eq!(Wire::Date.date(&0_i32.to_be_bytes()), NaiveDate::from_ymd_opt(2000, 1, 1));
        assert_eq!(Wire::Date.date(&(-1_i32).to_be_bytes()), NaiveDate::from_ymd_opt(1999, 12, 31));
        assert_eq!(Wire::Timestamp.date(&(-1_i64).to_be_bytes()), NaiveDate::from_ymd_opt(1999, 12, 31));
        assert_eq!(Wire::Timestamp.instant_ms(&0_i64.to_be_bytes()), Some(946_684_800_000));
        assert_eq!(Wire::Timestamp.instant_ms(&(-1_i64).to_be_bytes()), Some(946_684_799_999));
        for infinity in [i64::MAX, i64::MIN] {
            assert_eq!(Wire::Timestamp.instant_ms(&infinity.to_be_bytes()), None);
        }
        for infinity in [i32::MAX, i32::MIN] {
            assert_eq!(Wire::Date.date(&infinity.to_be_bytes()), None);
        }
    }

    #[test]
    fn ids_have_the_form_of_events() {
        let id = |wire: Wire, value: &[u8]| {
            let mut id = String::new();
            wire.write_id(value, &mut id).map(|()| id)
        };
        assert_eq!(id(Wire::Int8, &(-7_i64).to_be_bytes()).unwrap(), "-7");
        assert_eq!(id(Wire::PaddedText, b"ab  ").unwrap(), "ab");
        assert_eq!(id(Wire::Uuid, &(0..16).collect::<Vec<u8>>()).unwrap(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(id(Wire::Text, &[0xff]), None);
        assert_eq!(id(Wire::Int4, &[0; 3]), None);
    }
}
