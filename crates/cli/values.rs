//! Values that several commands take from the command line.

use std::time::Duration;

use duet_core::artifact::IfExists;
pub(crate) use duet_core::number::grouped;

/// `90s`, `2m`, `1.5h`, `1d` or plain seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.trim().char_indices().last() {
        Some((at, 's')) => (&text.trim()[..at], 1.0),
        Some((at, 'm')) => (&text.trim()[..at], 60.0),
        Some((at, 'h')) => (&text.trim()[..at], 3600.0),
        Some((at, 'd')) => (&text.trim()[..at], 86_400.0),
        _ => (text.trim(), 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * scale);
    seconds
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a time like 90s, 2m or 1h".to_owned())
}

/// A cut-off or list length.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// A setting; whether key and value exist is for the configuration to say.
pub(crate) fn setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("expected KEY=VALUE, as in model.dim=128".to_owned()),
    }
}

/// A filter; whether column and value exist is for the catalogue to say.
pub(crate) fn filter(text: &str) -> Result<String, String> {
    let operator = [">=", "<=", "="].iter().find_map(|operator| text.split_once(operator));
    match operator {
        Some((column, value)) if !column.trim().is_empty() && !value.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("expected COLUMN=VALUE, COLUMN>=NUMBER or COLUMN<=NUMBER".to_owned()),
    }
}

/// At most so many items of a group; whether the column exists is for the catalogue to say.
pub(crate) fn group_bound(text: &str) -> Result<(String, usize), String> {
    let bound = text.split_once('=').and_then(|(column, most)| Some((column.trim(), positive(most.trim()).ok()?)));
    match bound {
        Some((column, most)) if !column.is_empty() && !column.ends_with(['>', '<']) => Ok((column.to_owned(), most)),
        _ => Err("expected COLUMN=M with a whole number M of at least 1, as in artist=2".to_owned()),
    }
}

/// A number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// What `--overwrite` says.
pub(crate) fn if_exists(overwrite: bool) -> IfExists {
    if overwrite { IfExists::Replace } else { IfExists::Fail }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_groups_and_shares() {
        assert_eq!(group_bound("artist=2"), Ok(("artist".to_owned(), 2)));
        for bad in ["artist", "=2", "artist=", "artist=0", "artist=x", "artist>=2"] {
            assert!(group_bound(bad).unwrap_err().contains("COLUMN=M"), "{bad}");
        }
        assert_eq!((share("0"), share("0.7"), share("1")), (Ok(0.0), Ok(0.7), Ok(1.0)));
        assert!(["-0.1", "1.1", "NaN", "x"].iter().all(|bad| share(bad).is_err()));
    }

    #[test]
    fn times() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1.5h").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("2").unwrap(), Duration::from_secs(2));
        for bad in ["", "s", "0s", "-1m", "soon", "1w", "NaN", "inf", "1e300d", "5µ"] {
            assert!(duration(bad).unwrap_err().contains("90s"), "{bad}");
        }
    }

    #[test]
    fn pairs() {
        assert!(setting("model.dim=128").is_ok() && setting("a=").is_ok());
        assert!(filter("genre=rock").is_ok() && filter("followers>=10").is_ok());
        for bad in ["", "model.dim", "=3", " =3"] {
            assert!(setting(bad).is_err() && filter(bad).is_err(), "{bad}");
        }
        assert!(filter("genre=").is_err());
    }

    #[test]
    fn thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
