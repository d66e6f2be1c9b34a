//! What personal data looks like in text. Each pattern starts at a byte that text without it rarely has.
//!
//! The patterns are made for few false alarms: clocks, versions, metrics and lists of numbers are not findings.

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `somebody@example.org`.
    Email,
    /// `+` and 8 to 15 digits, separators allowed.
    Phone,
    /// Two numbers of at least four decimals (11 m) that can be degrees: in a pair, or after `lat` and `lon`. Pairs
    /// up to 1 are shares and metrics, not places in the Gulf of Guinea.
    Coordinates,
    /// A date after `birth...` or `dob`, or a column of dates of birth.
    BirthDate,
    /// An account number with the right check digits (ISO 13616).
    Iban,
    /// A card number of a known issuer with the right check digit (ISO/IEC 7812).
    CreditCard,
    /// An IPv4 address that is not one of a machine itself.
    Ipv4,
    /// A filled column that is called like a name, an address or one of the above.
    PersonalColumn,
    /// One of the strings that were planted, by its line in the file of them.
    Planted(usize),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Email => formatter.write_str("e-mail address"),
            Self::Phone => formatter.write_str("phone number"),
            Self::Coordinates => formatter.write_str("coordinates"),
            Self::BirthDate => formatter.write_str("birth date"),
            Self::Iban => formatter.write_str("IBAN"),
            Self::CreditCard => formatter.write_str("card number"),
            Self::Ipv4 => formatter.write_str("IP address"),
            Self::PersonalColumn => formatter.write_str("personal column"),
            Self::Planted(line) => write!(formatter, "planted string {line}"),
        }
    }
}

/// Calls `found` with the kind and the range of everything that looks personal in `text`.
pub(super) fn search(text: &[u8], mut found: impl FnMut(Kind, std::ops::Range<usize>)) {
    // The end of the last number that was looked at as one of a pair, so that a list of numbers is not many pairs.
    let mut numbers_until = 0;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        match byte {
            b'@' => {
                if let Some(range) = email(text, at) {
                    at = range.end;
                    found(Kind::Email, range);
                    continue;
                }
            }
            b'+' => {
                if let Some(end) = phone(text, at) {
                    found(Kind::Phone, at..end);
                    at = end;
                    continue;
                }
            }
            b'0'..=b'9' if at == 0 || !is_word(text[at - 1]) => {
                if let Some(end) = ipv4(text, at) {
                    found(Kind::Ipv4, at..end);
                    at = end;
                    continue;
                }
                if let Some(end) = card(text, at) {
                    found(Kind::CreditCard, at..end);
                    at = end;
                    continue;
                }
                if at >= numbers_until {
                    let (end, pair) = numbers(text, at);
                    numbers_until = end;
                    if pair {
                        found(Kind::Coordinates, at..end);
                    }
                }
                // To the end of this run of digits: nothing else starts inside it.
                while at < text.len() && text[at].is_ascii_digit() {
                    at += 1;
                }
                continue;
            }
            b'A'..=b'Z' if at == 0 || !is_word(text[at - 1]) => {
                if let Some(end) = iban(text, at) {
                    found(Kind::Iban, at..end);
                    at = end;
                    continue;
                }
                at = named(text, at, &mut found);
                continue;
            }
            b'a'..=b'z' if at == 0 || !is_word(text[at - 1]) => {
                at = named(text, at, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

/// Part of a word or number: letters, digits, bytes of other alphabets.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// The address around an `@`.
fn email(text: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let is_local = |byte: u8| is_word(byte) || b"._%+-".contains(&byte);
    let mut start = at;
    while start > 0 && is_local(text[start - 1]) && at - start < 64 {
        start -= 1;
    }
    if start == at || !is_word(text[at - 1]) {
        return None;
    }
    let mut end = at + 1;
    while end < text.len() && (is_word(text[end]) || text[end] == b'-' || text[end] == b'.') && end - at < 255 {
        end += 1;
    }
    let domain = text[at + 1..end].strip_suffix(b".").unwrap_or(&text[at + 1..end]);
    let mut labels = domain.rsplit(|byte| *byte == b'.');
    let top = labels.next()?;
    let valid = (2..=24).contains(&top.len())
        && top.iter().all(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80)
        && labels.clone().count() > 0
        && labels.all(|label| !label.is_empty());
    valid.then_some(start..at + 1 + domain.len())
}

/// The end of a phone number in international form that starts at a `+`.
fn phone(text: &[u8], at: usize) -> Option<usize> {
    if at > 0 && (is_word(text[at - 1]) || text[at - 1] == b'+') {
        return None;
    }
    let (mut digits, mut end, mut separators) = (0, at + 1, 0);
    if !matches!(text.get(end), Some(b'1'..=b'9')) {
        return None;
    }
    let mut points = 0;
    let mut last = end;
    while end < text.len() {
        match text[end] {
            b'0'..=b'9' => {
                digits += 1;
                last = end + 1;
            }
            b' ' | b'-' | b'(' | b')' | b'/' if end - last < 2 => separators += 1,
            b'.' if end == last => points += 1,
            _ => break,
        }
        end += 1;
    }
    // "+12345678.5" is a number.
    let is_number = separators == 0 && points == 1;
    let bounded = text.get(last).is_none_or(|byte| !is_word(*byte));
    ((8..=15).contains(&digits) && !is_number && bounded).then_some(last)
}

/// The end of an IPv4 address.
fn ipv4(text: &[u8], at: usize) -> Option<usize> {
    if at > 0 && b".-+".contains(&text[at - 1]) {
        return None;
    }
    let mut end = at;
    let mut parts = [0_u16; 4];
    for (number, part) in parts.iter_mut().enumerate() {
        if number > 0 {
            if text.get(end) != Some(&b'.') {
                return None;
            }
            end += 1;
        }
        let start = end;
        while end < text.len() && text[end].is_ascii_digit() && end - start < 3 {
            *part = *part * 10 + u16::from(text[end] - b'0');
            end += 1;
        }
        if end == start || *part > 255 || (end - start > 1 && text[start] == b'0') {
            return None;
        }
    }
    let bounded = match text.get(end) {
        Some(b'.') => !text.get(end + 1).is_some_and(u8::is_ascii_digit),
        Some(byte) => !is_word(*byte),
        None => true,
    };
    (bounded && ![0, 127, 255].contains(&parts[0])).then_some(end)
}

/// The end of a card number: 13, 15 or 16 digits, in one piece or in groups of four.
fn card(text: &[u8], at: usize) -> Option<usize> {
    if at > 0 && b".-+_".contains(&text[at - 1]) {
        return None;
    }
    // One in a hundred ids of sixteen digits has the prefix and the check digit by chance.
    let before = text[at.saturating_sub(8)..at].iter().rposition(|byte| !b"\"': =\t".contains(byte));
    if before.is_some_and(|end| is_id_name(&text[at.saturating_sub(8)..][..=end])) {
        return None;
    }
    let mut digits = [0_u8; 16];
    let (mut count, mut end) = (0, at);
    while end < text.len() {
        match text[end] {
            byte @ b'0'..=b'9' if count < 16 => {
                digits[count] = byte - b'0';
                count += 1;
            }
            b' ' | b'-' if count.is_multiple_of(4) && text.get(end + 1).is_some_and(u8::is_ascii_digit) => {}
            _ => break,
        }
        end += 1;
    }
    if text.get(end).is_some_and(|byte| is_word(*byte) || b"_.".contains(byte)) {
        return None;
    }
    let digits = &digits[..count];
    let prefix = digits.iter().take(4).fold(0, |number, digit| number * 10 + u32::from(*digit));
    let known = match count {
        13 => prefix / 1_000 == 4,
        15 => matches!(prefix / 100, 34 | 37),
        16 => prefix / 1_000 == 4 || matches!(prefix / 100, 51..=55 | 65) || matches!(prefix, 2_221..=2_720 | 6_011),
        _ => false,
    };
    // Luhn: every second digit from the right doubled.
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) => 2 * digit / 10 + 2 * digit % 10,
        })
        .sum();
    (known && sum.is_multiple_of(10)).then_some(end)
}

/// Whether a column or key is called `id`, or something that ends so.
pub(super) fn is_id_name(name: &[u8]) -> bool {
    name.len() >= 2 && name[name.len() - 2..].eq_ignore_ascii_case(b"id")
}

/// Lengths of account numbers by country.
const IBAN_LENGTHS: [(&[u8; 2], usize); 36] = [
    (b"AT", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BR", 29),
    (b"CH", 21),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"EE", 20),
    (b"ES", 24),
    (b"FI", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GR", 27),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"MT", 31),
    (b"NL", 18),
    (b"NO", 15),
    (b"PL", 28),
    (b"PT", 25),
    (b"RO", 24),
    (b"SA", 24),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"TR", 26),
    (b"UA", 29),
];

/// The end of an IBAN, in one piece or in groups of four.
fn iban(text: &[u8], at: usize) -> Option<usize> {
    let country = text.get(at..at + 2)?;
    let (_, length) = IBAN_LENGTHS.iter().find(|(known, _)| known[..] == *country)?;
    let mut characters = Vec::with_capacity(*length);
    let mut end = at;
    while characters.len() < *length {
        match *text.get(end)? {
            byte @ (b'A'..=b'Z' | b'0'..=b'9') => characters.push(byte),
            b' ' if characters.len().is_multiple_of(4) => {}
            _ => return None,
        }
        end += 1;
    }
    if text.get(end).is_some_and(|byte| is_word(*byte)) || !characters[2..4].iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Country and check digits to the end, letters as 10 to 35: the number leaves 1 when divided by 97.
    characters.rotate_left(4);
    let rest = characters.iter().fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    (rest == 1).then_some(end)
}

/// A decimal number: its end, its decimals and its size.
fn decimal(text: &[u8], at: usize) -> Option<(usize, usize, f64)> {
    let mut end = at;
    while end < text.len() && text[end].is_ascii_digit() && end - at < 4 {
        end += 1;
    }
    if end == at || end - at > 3 || text.get(end) != Some(&b'.') {
        return None;
    }
    let point = end;
    end += 1;
    while end < text.len() && text[end].is_ascii_digit() {
        end += 1;
    }
    if text.get(end).is_some_and(|byte| is_word(*byte)) {
        return None;
    }
    let size = std::str::from_utf8(&text[at..end]).ok()?.parse().ok()?;
    Some((end, end - point - 1, size))
}

/// A run of decimal numbers with nothing but a separator between them: its end, and whether it is two coordinates.
fn numbers(text: &[u8], at: usize) -> (usize, bool) {
    let mut run: Vec<(usize, f64)> = Vec::new();
    let (mut start, mut end) = (at, at);
    while let Some((after, decimals, size)) = decimal(text, start) {
        run.push((decimals, size));
        end = after;
        // Up to three bytes of separator and a sign.
        start = after;
        while start < text.len() && start - after < 3 && b",;|/ \t".contains(&text[start]) {
            start += 1;
        }
        if start == after {
            break;
        }
        if matches!(text.get(start), Some(b'-' | b'+')) {
            start += 1;
        }
    }
    let exact = |decimals: usize| (4..=8).contains(&decimals);
    let pair = match run[..] {
        [(first, north), (second, east)] => {
            let in_range = north <= 90.0 && east <= 180.0 && (north > 1.0 || east > 1.0);
            exact(first) && exact(second) && in_range
        }
        _ => false,
    };
    (end.max(at + 1), pair)
}

/// Values after names that say what they are: `"lat": 59.91387`, `birth_date=1990-12-10`. Returns the end of the word.
fn named(text: &[u8], at: usize, found: &mut impl FnMut(Kind, std::ops::Range<usize>)) -> usize {
    let mut end = at;
    while end < text.len() && (is_word(text[end]) || text[end] == b'_') {
        end += 1;
    }
    let word = &text[at..end];
    let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    let value = || {
        let mut start = end;
        while start < text.len() && start - end < 6 && b"\"': =\t".contains(&text[start]) {
            start += 1;
        }
        (start > end).then_some(start)
    };
    if is(&LATITUDE) || is(&LONGITUDE) {
        if let Some(start) = value() {
            let start = start + usize::from(text.get(start) == Some(&b'-'));
            if let Some((after, decimals, size)) = decimal(text, start)
                && decimals >= 4
                && size <= 180.0
            {
                found(Kind::Coordinates, start..after);
                return after;
            }
        }
    } else if is(&BIRTH)
        && let Some(start) = value()
        && let Some(date) = text.get(start..start + 10)
        && date.iter().enumerate().all(|(place, byte)| match place {
            4 | 7 => b"-/.".contains(byte),
            _ => byte.is_ascii_digit(),
        })
    {
        found(Kind::BirthDate, start..start + 10);
        return start + 10;
    }
    end
}

/// Names of columns and keys, in lower case.
pub(super) const LATITUDE: [&str; 4] = ["lat", "latitude", "home_lat", "geo_lat"];
pub(super) const LONGITUDE: [&str; 6] = ["lon", "lng", "longitude", "long", "home_lon", "geo_lon"];
pub(super) const BIRTH: [&str; 8] =
    ["birth_date", "birthdate", "birthday", "date_of_birth", "dob", "born", "birth", "birth_day"];
/// Names of columns that are personal whatever they hold.
pub(super) const PERSONAL: [&str; 20] = [
    "email",
    "e_mail",
    "mail",
    "email_address",
    "phone",
    "phone_number",
    "telephone",
    "mobile",
    "full_name",
    "first_name",
    "last_name",
    "given_name",
    "family_name",
    "surname",
    "street",
    "postal_address",
    "iban",
    "credit_card",
    "ip_address",
    "passport",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        let mut all = Vec::new();
        search(text.as_bytes(), |kind, range| all.push((kind, &text[range])));
        all
    }

    #[test]
    fn what_is_personal_is_found() {
        for (text, kind, part) in [
            ("mail to ada.lovelace+x@mail.example.org.", Kind::Email, "ada.lovelace+x@mail.example.org"),
            ("{\"email\":\"jörg@exämple.de\"}", Kind::Email, "jörg@exämple.de"),
            ("u1,+990123456789,x", Kind::Phone, "+990123456789"),
            ("call +49 (30) 1234-5678 now", Kind::Phone, "+49 (30) 1234-5678"),
            ("male,59.91387,10.75225,NO", Kind::Coordinates, "59.91387,10.75225"),
            ("at -23.5505, -46.6333.", Kind::Coordinates, "23.5505, -46.6333"),
            ("{\"lat\": 59.913868841, \"x\": 1}", Kind::Coordinates, "59.913868841"),
            ("Longitude=-10.7522", Kind::Coordinates, "10.7522"),
            ("\"birth_date\":\"1990-12-10\"", Kind::BirthDate, "1990-12-10"),
            ("DOB: 1990/12/10", Kind::BirthDate, "1990/12/10"),
            ("pay to DE89 3704 0044 0532 0130 00 today", Kind::Iban, "DE89 3704 0044 0532 0130 00"),
            ("GB29NWBK60161331926819", Kind::Iban, "GB29NWBK60161331926819"),
            ("card 4111111111111111", Kind::CreditCard, "4111111111111111"),
            ("3782 822463 10005 or 5500-0000-0000-0004", Kind::CreditCard, "5500-0000-0000-0004"),
            ("from 203.0.113.77:443", Kind::Ipv4, "203.0.113.77"),
        ] {
            assert_eq!(kinds(text), [(kind, part)], "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for text in [
            "2025-03-03T07:15:00+14:00 2024-01-05 00:00:00.000+00",
            "1e+12345678, +12345678.5, 3+123456789",
            "version 1.2.3.4.5, 1.2.3, v10.20.30.40, 256.1.1.1, 127.0.0.1:5432, 0.0.0.0",
            "{\"loss\":2.34123,\"ndcg\":0.13121}",
            "[0.12345, 0.54321, 0.99999, 1.00001]",
            "59.91,10.75 59.91387 0.1312000001,0.1386000001 0.1312 [0.1272, 0.1352] random: 1.0000, 0.0498",
            "path d=\"M10.1234,20.5678 30.1234,40.5678\"",
            "@media screen, a@b, user@host, name@2x, @example.org",
            "{\"event_id\": \"4111111111111111\"} id=4111111111111111 4111111111111112 1741000000123456 0.4111111111111111 4111111111111111a",
            "DE89370400440532013001 DE8937040044053201300",
            "lat: 59.9, long 5.1234e3, flat: 12.34567, birth_date is a date, born in 1990, stubborn=1990-12-10",
            "b0344c61d8db38535ca8afceaf0bf12b 9f86d081884c7d65",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }
}
