//! The usual line of a click stream, read in one pass: a JSON object of plain strings, whole numbers, `null`, `true` and
//! `false`.
//!
//! Whatever else JSON allows (escapes, nested values, fractions, tabs) is left to a parser of all of it: this one says
//! what a line holds only where there is nothing to interpret.

/// A value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain<'a> {
    Text(&'a str),
    Number(u64),
    Null,
    Flag,
}

/// Digits of the largest number that is read: 10^18 - 1 fits into 64 bits.
const MOST_DIGITS: usize = 18;

/// Hands every field of the object to `field`, in order; nothing if the text is not a plain object, or if `field` says so.
pub(super) fn each_field<'a>(text: &'a str, mut field: impl FnMut(&'a str, Plain<'a>) -> Option<()>) -> Option<()> {
    let bytes = text.as_bytes();
    // Without these a string ends at the next quote, and spaces are the only white space.
    if bytes.iter().fold(false, |found, byte| found | (*byte < b' ') | (*byte == b'\\')) {
        return None;
    }
    let string = |start: usize| {
        let end = start + memchr::memchr(b'"', bytes.get(start..)?)?;
        Some((text.get(start..end)?, end + 1))
    };
    let mut at = expect(bytes, 0, b'{')?;
    loop {
        let (key, end) = string(expect(bytes, at, b'"')?)?;
        at = after_spaces(bytes, expect(bytes, end, b':')?);
        let rest = bytes.get(at..)?;
        let (value, length) = match rest.first()? {
            b'"' => {
                let (value, end) = string(at + 1)?;
                (Plain::Text(value), end - at)
            }
            b'0'..=b'9' => number(rest)?,
            b'n' if rest.starts_with(b"null") => (Plain::Null, 4),
            b't' if rest.starts_with(b"true") => (Plain::Flag, 4),
            b'f' if rest.starts_with(b"false") => (Plain::Flag, 5),
            _ => return None,
        };
        field(key, value)?;
        at = after_spaces(bytes, at + length);
        match bytes.get(at)? {
            b',' => at += 1,
            b'}' => return (after_spaces(bytes, at + 1) == bytes.len()).then_some(()),
            _ => return None,
        }
    }
}

fn after_spaces(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at) == Some(&b' ') {
        at += 1;
    }
    at
}

/// The place after `byte`, which spaces may precede.
fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = after_spaces(bytes, at);
    (bytes.get(at) == Some(&byte)).then_some(at + 1)
}

/// A whole number at the start, and its length.
fn number(bytes: &[u8]) -> Option<(Plain<'static>, usize)> {
    let length = bytes.iter().take(MOST_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    let is_plain = length <= MOST_DIGITS
        && (length == 1 || bytes[0] != b'0')
        && !matches!(bytes.get(length), Some(b'.' | b'e' | b'E'));
    let value = bytes[..length].iter().fold(0, |value, digit| 10 * value + u64::from(digit - b'0'));
    is_plain.then_some((Plain::Number(value), length))
}
