//! Columns of a table: what their names and values say.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float64Array, GenericListArray, OffsetSizeTrait,
    },
    datatypes::{DataType, Date32Type, Float32Type, Float64Type},
};
use chrono::NaiveDate;

use super::patterns::{BIRTH, LATITUDE, LONGITUDE, PERSONAL};

/// What a column of this name holds, if it holds anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Latitude,
    Longitude,
    Birth,
    Personal,
    Other,
}

/// Reads a column's name.
pub(super) fn meaning(name: &str) -> Meaning {
    let name = name.trim().to_ascii_lowercase().replace([' ', '-'], "_");
    let is = |names: &[&str]| names.contains(&name.as_str());
    if is(&LATITUDE) {
        Meaning::Latitude
    } else if is(&LONGITUDE) {
        Meaning::Longitude
    } else if is(&BIRTH) {
        Meaning::Birth
    } else if is(&PERSONAL) {
        Meaning::Personal
    } else {
        Meaning::Other
    }
}

/// Whether a table is of users: by its columns or its file's name.
pub(super) fn is_user_table(file: &str, columns: &[&str]) -> bool {
    let file = file.to_ascii_lowercase();
    columns.contains(&"user_id") || (columns.contains(&"id") && (file.contains("user") || file.contains("account")))
}

/// Dates of birth lie between 1900 and 2015.
pub(super) fn birth_like(days: i32) -> bool {
    let day = |year| NaiveDate::from_ymd_opt(year, 1, 1).map_or(0, |date| date.to_epoch_days());
    (day(1900)..day(2015)).contains(&days)
}

/// Calls `each` with the row and the bytes of every text or binary value in a column, those in lists, structures and
/// dictionaries included.
pub(super) fn for_each_value(array: &ArrayRef, first_row: u64, each: &mut dyn FnMut(u64, &[u8])) {
    let rows = 0..array.len();
    let valid = rows.filter(|row| array.is_valid(*row));
    let at = |row: usize| first_row + row as u64;
    match array.data_type() {
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            valid.for_each(|row| each(at(row), values.value(row).as_bytes()));
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            valid.for_each(|row| each(at(row), values.value(row).as_bytes()));
        }
        DataType::Utf8View => {
            let values = array.as_string_view();
            valid.for_each(|row| each(at(row), values.value(row).as_bytes()));
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            valid.for_each(|row| each(at(row), values.value(row)));
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            valid.for_each(|row| each(at(row), values.value(row)));
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            valid.for_each(|row| each(at(row), values.value(row)));
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            valid.for_each(|row| each(at(row), values.value(row)));
        }
        DataType::List(_) => for_each_in_lists(array.as_list::<i32>(), first_row, each),
        DataType::LargeList(_) => for_each_in_lists(array.as_list::<i64>(), first_row, each),
        DataType::FixedSizeList(..) => {
            let lists: &FixedSizeListArray = array.as_fixed_size_list();
            valid.for_each(|row| for_each_value(&lists.value(row), at(row), &mut |_, bytes| each(at(row), bytes)));
        }
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                for_each_value(column, first_row, each);
            }
        }
        DataType::Dictionary(_, value) if !value.is_numeric() => {
            if let Ok(plain) = arrow::compute::cast(array, value) {
                for_each_value(&plain, first_row, each);
            }
        }
        _ => {}
    }
}

fn for_each_in_lists<O: OffsetSizeTrait>(
    lists: &GenericListArray<O>,
    first_row: u64,
    each: &mut dyn FnMut(u64, &[u8]),
) {
    // Numbers have no bytes to look at, and a vector column has many lists of them.
    if lists.value_type().is_numeric() {
        return;
    }
    for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
        let at = first_row + row as u64;
        for_each_value(&lists.value(row), at, &mut |_, bytes| each(at, bytes));
    }
}

/// Calls `each` with the row and value of every number of a floating-point column; a 32-bit one knows seven digits.
pub(super) fn for_each_number(array: &ArrayRef, first_row: u64, mut each: impl FnMut(u64, f64, bool)) {
    match array.data_type() {
        DataType::Float64 => {
            let values: &Float64Array = array.as_primitive::<Float64Type>();
            for (row, value) in values.iter().enumerate().filter_map(|(row, value)| value.map(|value| (row, value))) {
                each(first_row + row as u64, value, true);
            }
        }
        DataType::Float32 => {
            let values: &Float32Array = array.as_primitive::<Float32Type>();
            for (row, value) in values.iter().enumerate().filter_map(|(row, value)| value.map(|value| (row, value))) {
                each(first_row + row as u64, value.into(), false);
            }
        }
        _ => {}
    }
}

/// The first row of a column with a value, and how many have one.
pub(super) fn filled(array: &ArrayRef) -> Option<(usize, usize)> {
    let is_filled = |row: usize| match array.data_type() {
        DataType::Utf8 => array.is_valid(row) && !array.as_string::<i32>().value(row).trim().is_empty(),
        _ => array.is_valid(row),
    };
    let mut rows = (0..array.len()).filter(|row| is_filled(*row));
    let first = rows.next()?;
    Some((first, 1 + rows.count()))
}

/// How many dates of a column can be of birth, and how many there are.
pub(super) fn birth_like_days(array: &ArrayRef) -> (u64, u64) {
    if array.data_type() != &DataType::Date32 {
        return (0, 0);
    }
    let mut counts = (0, 0);
    for days in array.as_primitive::<Date32Type>().iter().flatten() {
        counts.0 += u64::from(birth_like(days));
        counts.1 += 1;
    }
    counts
}
