//! Lines as a broken or hostile source could send them: events of the contract, whole or mutated.
//!
//! Deterministic: line `n` of a seed is the same in every run, whatever comes before it. A line is never empty and never holds
//! a line end. Ids are those of a world of 200 users, 50 artists and 300 songs (`u00000042`, `a000042`, `s0000042`); an event
//! id may come twice.

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub(crate) const USERS: u32 = 200;
pub(crate) const ARTISTS: u32 = 50;
pub(crate) const SONGS: u32 = 300;

/// Deepest nesting, in brackets.
const DEEPEST: usize = 100_000;
/// Longest text, in bytes.
const LONGEST: usize = 1 << 20;

/// What is done to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    /// Nothing: a valid event.
    Nothing,
    /// Some bits of some bytes.
    FlipBits,
    /// The line ends early.
    Truncate,
    /// A piece is missing, or stands somewhere else.
    Splice,
    /// A value becomes arrays in arrays, or objects in objects, closed or not.
    Nest,
    /// A value becomes a text of up to a megabyte.
    LongText,
    /// A value becomes 1e400, a hundred thousand digits, -0, ...
    OddNumber,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// NULs and other control characters, raw or escaped.
    Control,
    /// A value of another JSON type.
    WrongType,
    /// A text of the right type that means nothing.
    WrongText,
    /// A key occurs twice, with the same value or another.
    RepeatKey,
    /// A key or a value written with escapes: the same event in other bytes.
    Escape,
    /// `\ud800` without its other half.
    LoneSurrogate,
    /// A byte order mark before the line.
    ByteOrderMark,
    /// A field is missing.
    DropField,
    /// Fields that nobody knows, with any JSON in them.
    UnknownField,
    /// White space where JSON allows it, and where it does not.
    WhiteSpace,
    /// Not an object: a bare value, two objects, nothing but a bracket.
    NotAnObject,
}

impl Mutation {
    /// With how often each is drawn; the costly ones are rare.
    const WEIGHTED: [(Self, u32); 19] = [
        (Self::Nothing, 5_000),
        (Self::FlipBits, 800),
        (Self::Truncate, 600),
        (Self::Splice, 400),
        (Self::Nest, 10),
        (Self::LongText, 4),
        (Self::OddNumber, 300),
        (Self::NotUtf8, 300),
        (Self::Control, 300),
        (Self::WrongType, 500),
        (Self::WrongText, 500),
        (Self::RepeatKey, 200),
        (Self::Escape, 300),
        (Self::LoneSurrogate, 200),
        (Self::ByteOrderMark, 100),
        (Self::DropField, 300),
        (Self::UnknownField, 200),
        (Self::WhiteSpace, 200),
        (Self::NotAnObject, 200),
    ];

    fn draw(random: &mut Pcg64Mcg) -> Self {
        let all: u32 = Self::WEIGHTED.iter().map(|(_, weight)| weight).sum();
        let mut ticket = random.random_range(0..all);
        for (mutation, weight) in Self::WEIGHTED {
            if ticket < weight {
                return mutation;
            }
            ticket -= weight;
        }
        Self::Nothing
    }
}

/// `count` lines, about half of them valid events.
pub(crate) fn mutated_lines(seed: u64, count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |number| line(seed, number as u64).1)
}

fn line(seed: u64, number: u64) -> (Mutation, Vec<u8>) {
    // Two words of state from one: odd multipliers keep neighbouring lines apart.
    let mut random =
        Pcg64Mcg::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let mutation = Mutation::draw(&mut random);
    let mut fields = event(&mut random, number);
    mutate_fields(mutation, &mut fields, &mut random);
    let mut bytes = render(&fields);
    mutate_bytes(mutation, &mut bytes, &mut random);
    for byte in bytes.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b'\r';
    }
    if bytes.is_empty() {
        bytes.push(b' ');
    }
    (mutation, bytes)
}

/// Keys and values as they stand in the line, quotes included.
type Fields = Vec<(String, String)>;

fn quoted(text: impl std::fmt::Display) -> String {
    format!("\"{text}\"")
}

fn event(random: &mut Pcg64Mcg, number: u64) -> Fields {
    let kind = random.random_range(0..6);
    let name = ["impression", "click", "listen", "follow", "unfollow", "skip"][kind];
    let is_song = match name {
        "listen" | "skip" => true,
        "follow" | "unfollow" => false,
        _ => random.random_bool(0.3),
    };
    let item = if is_song {
        format!("s{:07}", random.random_range(0..SONGS))
    } else {
        format!("a{:06}", random.random_range(0..ARTISTS))
    };
    // One in a hundred has the id of an earlier line.
    let id = if number > 0 && random.random_bool(0.01) { random.random_range(0..number) } else { number };
    let mut fields: Fields = [
        ("event_id", quoted(format!("{id:016x}"))),
        ("type", quoted(name)),
        ("user_id", quoted(format!("u{:08}", random.random_range(0..USERS)))),
        ("item_kind", quoted(if is_song { "song" } else { "artist" })),
        ("item_id", quoted(item)),
        ("ts", quoted(time(random))),
    ]
    .map(|(key, value)| (quoted(key), value))
    .into();
    if name == "impression" || name == "click" {
        fields.push((quoted("request_id"), quoted(format!("{:016x}", random.random::<u64>()))));
        fields.push((quoted("position"), random.random_range(0..20).to_string()));
        fields.push((quoted("surface"), quoted("home")));
    }
    if is_song && kind != 0 {
        fields.push((quoted("ms_played"), random.random_range(0..400_000).to_string()));
    }
    fields.push((quoted("session_id"), quoted(format!("{:016x}", random.random::<u64>()))));
    if random.random_bool(0.1) {
        let from = random.random_range(0..fields.len());
        fields.rotate_left(from);
    }
    fields
}

/// A valid time within 30 days, with any offset that RFC 3339 allows and any number of decimals.
fn time(random: &mut Pcg64Mcg) -> String {
    let (day, hour, minute, second) = (
        random.random_range(1..=30),
        random.random_range(0..24),
        random.random_range(0..60),
        random.random_range(0..60),
    );
    let decimals = match random.random_range(0..4) {
        0 => String::new(),
        1 => format!(".{}", random.random_range(0..10)),
        2 => format!(".{:09}", random.random_range(0..1_000_000_000)),
        _ => format!(".{:03}", random.random_range(0..1_000)),
    };
    let offset = match random.random_range(0..4) {
        0 => "Z".to_owned(),
        1 => "-00:00".to_owned(),
        _ => {
            let sign = if random.random_bool(0.5) { '+' } else { '-' };
            format!("{sign}{:02}:{:02}", random.random_range(0..15), [0, 15, 30, 45][random.random_range(0..4)])
        }
    };
    format!("2025-03-{day:02}T{hour:02}:{minute:02}:{second:02}{decimals}{offset}")
}

fn render(fields: &Fields) -> Vec<u8> {
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", pairs.join(",")).into_bytes()
}

fn pick<'a, T: ?Sized>(from: &[&'a T], random: &mut Pcg64Mcg) -> &'a T {
    from[random.random_range(0..from.len())]
}

fn mutate_fields(mutation: Mutation, fields: &mut Fields, random: &mut Pcg64Mcg) {
    let at = random.random_range(0..fields.len());
    match mutation {
        Mutation::Nest => {
            let depth = 10_usize.pow(random.random_range(1..=5)).min(DEEPEST);
            let (open, close) = if random.random_bool(0.5) { ("[", "]") } else { ("{\"a\":", "}") };
            let closed = if random.random_bool(0.5) { depth } else { random.random_range(0..depth) };
            fields[at].1 = format!("{}1{}", open.repeat(depth), close.repeat(closed));
        }
        Mutation::LongText => {
            let unit = pick(&["x", "é", "\\u0041", "\\\\", "<script>"], random);
            let text = quoted(unit.repeat(random.random_range(LONGEST / 2..=LONGEST) / unit.len()));
            if random.random_bool(0.2) { fields[at].0 = text } else { fields[at].1 = text }
        }
        Mutation::OddNumber => {
            let digits = 10_usize.pow(random.random_range(1..=5));
            let odd = [
                "1e400".to_owned(),
                "-1e400".to_owned(),
                "1e-400".to_owned(),
                "-0".to_owned(),
                "0.1".to_owned(),
                "-1".to_owned(),
                "007".to_owned(),
                "18446744073709551615".to_owned(),
                "18446744073709551616".to_owned(),
                "NaN".to_owned(),
                "Infinity".to_owned(),
                "0x10".to_owned(),
                format!("1{}", "0".repeat(300)),
                "9".repeat(digits),
                format!("0.{}1", "0".repeat(digits)),
                format!("1e{}", "9".repeat(digits.min(1_000))),
            ];
            let number = odd[random.random_range(0..odd.len())].clone();
            match fields.iter_mut().find(|(key, _)| key == "\"ms_played\"" || key == "\"position\"") {
                Some(field) if random.random_bool(0.7) => field.1 = number,
                _ => fields[at].1 = number,
            }
        }
        Mutation::WrongType => {
            let other = ["null", "true", "7", "7.5", "[]", "{}", "[\"a\"]", "{\"a\":null}", "\"7\""];
            fields[at].1 = pick(&other, random).to_owned();
        }
        Mutation::WrongText => {
            let other = [
                "",
                " ",
                "2025-13-45T99:00",
                "2025-03-03",
                "2025-03-03T10:00:00",
                "2025-02-30T10:00:00Z",
                "2025-03-03T24:00:00Z",
                "2025-03-03T23:59:60Z",
                "2025-03-03t10:00:00z",
                "2025-03-03 10:00:00Z",
                "0000-01-01T00:00:00Z",
                "9999-12-31T23:59:59-12:00",
                "1969-12-31T23:59:59Z",
                "10000-01-01T00:00:00Z",
                "+2025-03-03T10:00:00Z",
                "2025-03-03T10:00:00+25:00",
                "LISTEN",
                "listen ",
                "u00000001x",
                "a999999",
                "../../etc/passwd",
                "<script>alert(1)</script>",
                "'; drop table accounts; --",
            ];
            fields[at].1 = quoted(pick(&other, random));
        }
        Mutation::RepeatKey => {
            let mut again = fields[at].clone();
            if random.random_bool(0.5) {
                again.1 = fields[random.random_range(0..fields.len())].1.clone();
            }
            fields.insert(random.random_range(0..=fields.len()), again);
        }
        Mutation::Escape => {
            let field = &mut fields[at];
            let target = if random.random_bool(0.5) { &mut field.0 } else { &mut field.1 };
            if target.starts_with('"') {
                let inner = target[1..target.len() - 1].to_owned();
                let mut escaped = String::new();
                for character in inner.chars() {
                    match random.random_bool(0.5) {
                        true => escaped += &format!("\\u{:04x}", character as u32),
                        false => escaped.push(character),
                    }
                }
                *target = quoted(escaped);
            }
        }
        Mutation::LoneSurrogate => {
            let half = ["\\ud800", "\\udc00", "\\ud83d", "\\ud800\\ud800", "\\udc00\\ud800", "\\ud800x", "\\ud8"];
            let text = quoted(pick(&half, random));
            if random.random_bool(0.2) { fields[at].0 = text } else { fields[at].1 = text }
        }
        Mutation::Control => {
            let control = ["\0", "\u{1}", "\u{1b}[2J", "\u{7f}", "\\u0000", "\\u001f", "\t", "\\n", "\u{2028}"];
            fields[at].1 = quoted(format!("a{}b", pick(&control, random)));
        }
        Mutation::DropField => {
            fields.remove(at);
        }
        Mutation::UnknownField => {
            for number in 0..random.random_range(1..50) {
                let value = pick(
                    &["null", "[[],{}]", "1.5e3", "\"\\u00e9\"", "{\"ts\":\"2001-01-01T00:00:00Z\"}", "false"],
                    random,
                );
                let at = random.random_range(0..=fields.len());
                fields.insert(at, (quoted(format!("extra_{number}")), value.to_owned()));
            }
        }
        _ => {}
    }
}

fn mutate_bytes(mutation: Mutation, bytes: &mut Vec<u8>, random: &mut Pcg64Mcg) {
    let length = bytes.len();
    match mutation {
        Mutation::FlipBits => {
            for _ in 0..random.random_range(1..8) {
                bytes[random.random_range(0..length)] ^= 1 << random.random_range(0..8);
            }
        }
        Mutation::Truncate => bytes.truncate(random.random_range(1..length)),
        Mutation::Splice => {
            let from = random.random_range(0..length);
            let to = random.random_range(from..length.min(from + 60));
            let piece: Vec<u8> = bytes.drain(from..to).collect();
            if random.random_bool(0.5) {
                let at = random.random_range(0..=bytes.len());
                bytes.splice(at..at, piece);
            }
        }
        Mutation::NotUtf8 => {
            let bad: [&[u8]; 7] =
                [b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe9", b"\x80", b"\xf0\x9f\x98"];
            let bad = pick(&bad, random);
            let at = random.random_range(0..=length);
            bytes.splice(at..at, bad.iter().copied());
        }
        Mutation::Control if random.random_bool(0.3) => {
            let at = random.random_range(0..=length);
            bytes.insert(at, random.random_range(0..32));
        }
        Mutation::ByteOrderMark => {
            bytes.splice(0..0, *b"\xef\xbb\xbf");
        }
        Mutation::WhiteSpace => {
            for _ in 0..random.random_range(1..10) {
                let at = random.random_range(0..=bytes.len());
                bytes.insert(at, *pick(&[&b' ', &b'\t', &b'\r', &0x0b, &0xa0], random));
            }
        }
        Mutation::NotAnObject => {
            let whole = bytes.clone();
            *bytes = match random.random_range(0..8) {
                0 => [&whole[..], &whole[..]].concat(),
                1 => [&whole[..], b",", &whole[..]].concat(),
                2 => [b"[", &whole[..], b"]"].concat(),
                3 => b"{".to_vec(),
                4 => b"null".to_vec(),
                5 => b"\"{}\"".to_vec(),
                6 => vec![b' '; random.random_range(1..100)],
                _ => {
                    let mut noise = vec![0; random.random_range(1..500)];
                    random.fill_bytes(&mut noise);
                    noise
                }
            };
        }
        _ => {}
    }
}

#[test]
fn the_generator_makes_what_it_says() {
    const COUNT: usize = 40_000;
    let lines: Vec<Vec<u8>> = mutated_lines(1, COUNT).collect();
    assert_eq!(lines.len(), COUNT);
    assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(&b'\n')));
    assert!(lines.iter().eq(mutated_lines(1, COUNT).collect::<Vec<_>>().iter()), "not the same twice");
    assert_ne!(lines[..100], mutated_lines(2, 100).collect::<Vec<_>>()[..]);
    assert_eq!(lines[..100], mutated_lines(1, 100).collect::<Vec<_>>()[..], "the count changes nothing");

    let is_event = |line: &[u8]| serde_json::from_slice::<duet_core::event::Event>(line).is_ok();
    let mut by_kind = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for number in 0..COUNT as u64 {
        let (mutation, bytes) = line(1, number);
        let counts = by_kind.entry(format!("{mutation:?}")).or_default();
        counts.0 += 1;
        counts.1 += usize::from(is_event(&bytes));
    }
    println!("lines and valid events by mutation: {by_kind:?}");
    assert_eq!(by_kind.len(), Mutation::WEIGHTED.len(), "every mutation occurs");
    let (all, valid) = by_kind["Nothing"];
    assert_eq!(all, valid, "an event without a mutation is valid");
    let (all, valid) = by_kind["Escape"];
    assert_eq!(all, valid, "an escaped event is the same event");
    for never in ["Truncate", "LoneSurrogate", "ByteOrderMark", "NotAnObject"] {
        let (all, valid) = by_kind[never];
        // A lone surrogate in a field that is not read is nobody's business.
        assert!(valid * 2 < all, "{never}: {valid} of {all}");
    }
    let valid: usize = by_kind.values().map(|counts| counts.1).sum();
    assert!((COUNT / 2..COUNT * 3 / 4).contains(&valid), "{valid} valid events");

    assert!(lines.iter().any(|line| line.len() > LONGEST / 2), "no long text");
    assert!(lines.iter().any(|line| line.iter().filter(|byte| **byte == b'[').count() >= DEEPEST), "no deep nesting");
    assert!(lines.iter().any(|line| std::str::from_utf8(line).is_err()), "all is UTF-8");
    assert!(lines.iter().any(|line| line.contains(&0)), "no NUL");
    let bytes: usize = lines.iter().map(Vec::len).sum();
    assert!(bytes < COUNT * 2_000, "{bytes} bytes: a million lines would not be cheap");
}
