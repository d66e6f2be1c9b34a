//! Strings that were planted upstream, to be found wherever they come through.

use std::path::Path;

use duet_core::{Error, Result};
use fs_err as fs;

/// Shorter ones would be found everywhere.
const MIN_BYTES: usize = 4;

/// Strings to look for, byte for byte.
#[derive(Debug, Clone, Default)]
pub struct Planted {
    /// In the order of their bytes.
    strings: Vec<Text>,
    /// Those of the strings that are numbers with at least four decimals: coordinates, which may lie in number columns.
    pub(super) numbers: Vec<(usize, f64)>,
    /// Whether a string starts with two bytes, 65,536 of them: most places are dismissed by this.
    starts: Vec<bool>,
    longest: usize,
}

#[derive(Debug, Clone)]
struct Text {
    line: usize,
    bytes: Vec<u8>,
    /// The longest other string that this one starts with.
    within: Option<usize>,
}

impl Planted {
    /// Strings from a list.
    ///
    /// # Errors
    /// [`Error::Input`] for a string of fewer than four bytes.
    pub fn new<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut planted = Self::default();
        for (index, text) in strings.into_iter().enumerate() {
            planted.add(index + 1, text)?;
        }
        Ok(planted.indexed())
    }

    /// Strings from a file, one a line; empty lines do not count.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::Data`] for a line of fewer than four bytes or a file without any.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let mut planted = Self::default();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            planted.add(index + 1, line).map_err(|error| Error::data_row(path, index as u64 + 1, error.to_string()))?;
        }
        match planted.strings.is_empty() {
            true => Err(Error::data(path, "holds no string to look for")),
            false => Ok(planted.indexed()),
        }
    }

    fn add(&mut self, line: usize, text: &str) -> Result<()> {
        if text.len() < MIN_BYTES {
            return Err(Error::input(format!("a planted string has {} bytes; at least {MIN_BYTES}", text.len())));
        }
        let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        if let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite() && decimals >= 4) {
            self.numbers.push((line, number));
        }
        self.strings.push(Text { line, bytes: text.as_bytes().to_vec(), within: None });
        Ok(())
    }

    fn indexed(mut self) -> Self {
        self.strings.sort_by(|a, b| (&a.bytes, a.line).cmp(&(&b.bytes, b.line)));
        self.strings.dedup_by(|b, a| a.bytes == b.bytes);
        self.longest = self.strings.iter().map(|text| text.bytes.len()).max().unwrap_or(0);
        self.starts = vec![false; 1 << 16];
        for index in 0..self.strings.len() {
            let text = &self.strings[index].bytes;
            self.starts[pair(text)] = true;
            let mut before = index.checked_sub(1);
            while let Some(other) = before.filter(|other| !text.starts_with(&self.strings[*other].bytes)) {
                before = self.strings[other].within;
            }
            self.strings[index].within = before;
        }
        self
    }

    /// The longest string, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Calls `found` with the line and the place of every planted string in `bytes`.
    pub(super) fn search(&self, bytes: &[u8], mut found: impl FnMut(usize, std::ops::Range<usize>)) {
        if self.strings.is_empty() {
            return;
        }
        for (at, window) in bytes.windows(2).enumerate() {
            if !self.starts[pair(window)] {
                continue;
            }
            // Every string that `rest` starts with is the last one that is not behind it, or a start of that one.
            let rest = &bytes[at..bytes.len().min(at + self.longest)];
            let mut candidate = self.strings.partition_point(|text| &text.bytes[..] <= rest).checked_sub(1);
            while let Some(index) = candidate {
                let text = &self.strings[index];
                if rest.starts_with(&text.bytes) {
                    found(text.line, at..at + text.bytes.len());
                }
                candidate = text.within;
            }
        }
    }
}

/// The first two bytes as an index.
fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_found_by_looking_for_each(
            strings in prop::collection::vec("[ab]{4,7}", 1..12),
            text in "[abc]{0,60}",
        ) {
            let planted = Planted::new(strings.iter().map(String::as_str)).unwrap();
            let mut found = Vec::new();
            planted.search(text.as_bytes(), |line, range| found.push((range.start, strings[line - 1].clone())));
            let mut expected: Vec<(usize, String)> = (0..text.len())
                .flat_map(|at| strings.iter().filter(|string| text[at..].starts_with(*string)).map(|string| (at, string.clone())).collect::<Vec<_>>())
                .collect();
            found.sort();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn every_occurrence_is_found_with_its_line() {
        let planted = Planted::new(["Ada Lovelace", "59.91387", "Adam"]).unwrap();
        assert_eq!(planted.numbers, [(2, 59.91387)]);
        let mut all = Vec::new();
        planted.search(b"\0Ada Lovelace Adam59.91387\xff", |line, range| all.push((line, range)));
        assert_eq!(all, [(1, 1..13), (3, 14..18), (2, 18..26)]);
        assert!(Planted::new(["abc"]).is_err());
        Planted::default().search(b"anything", |_, _| panic!("nothing was planted"));
    }
}
