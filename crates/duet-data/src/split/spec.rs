//! What a split is called on the command line.
//!
//! `none | global-time[:0.8|:2024-01-31][,gap=7d] | leave-last-out[:n] | random[:0.3][,seed=1] | given:FILE`

use std::{fmt, path::PathBuf};

use duet_core::{Error, Result};

use crate::import::instant;

/// The forms of a split, for messages and help texts.
pub const FORMS: &str =
    "none | global-time[:0.8|:2024-01-31][,gap=7d] | leave-last-out[:n] | random[:0.3][,seed=1] | given:FILE";

/// Where the held-out period begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TimePoint {
    /// At this quantile of the event times, linear between two events.
    Quantile(f64),
    /// At this instant, milliseconds since 1970-01-01 UTC.
    Instant(i64),
}

/// How the held-out part is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitSpec {
    /// Everything is training data.
    None,
    /// Events at or after an instant are held out.
    GlobalTime {
        /// The instant.
        at: TimePoint,
        /// Events this long before the instant are dropped from training, milliseconds.
        gap_ms: i64,
    },
    /// Each user's last events are held out, in the order (time, source row); the first event always trains.
    LeaveLastOut {
        /// How many events a user.
        n: usize,
    },
    /// Each event is held out with this probability, by seed and source row alone.
    Random {
        /// The probability.
        fraction: f64,
        /// The seed.
        seed: u64,
    },
    /// A file holds the held-out events.
    Given,
}

impl SplitSpec {
    /// Parses the command-line form; the path belongs to `given:FILE`.
    ///
    /// # Errors
    /// [`Error::Input`] saying what is wrong and which forms exist.
    pub fn parse(text: &str) -> Result<(Self, Option<PathBuf>)> {
        let bad = |message: &str| Error::input(format!("split {text:?}: {message}; valid: {FORMS}"));
        if let Some(file) = text.strip_prefix("given:") {
            return if file.is_empty() { Err(bad("names no file")) } else { Ok((Self::Given, Some(file.into()))) };
        }
        let mut parts = text.split(',');
        let (kind, argument) = match parts.next().unwrap_or_default().split_once(':') {
            Some((kind, argument)) => (kind, Some(argument)),
            None => (text.split(',').next().unwrap_or_default(), None),
        };
        let (mut gap_ms, mut seed) = (0, 1);
        for option in parts {
            match (kind, option.split_once('=')) {
                ("global-time", Some(("gap", value))) => {
                    gap_ms = duration_ms(value).ok_or_else(|| bad("gap must be like 7d, 12h, 30m or 10s"))?;
                }
                ("random", Some(("seed", value))) => {
                    seed = value.parse().map_err(|_| bad("seed must be a whole number"))?;
                }
                _ => return Err(bad(&format!("unknown option {option:?}"))),
            }
        }
        let fraction = |value: f64, what: &str| match value > 0.0 && value < 1.0 {
            true => Ok(value),
            false => Err(bad(&format!("the {what} must lie between 0 and 1"))),
        };
        let spec = match kind {
            "none" if argument.is_none() => Self::None,
            "global-time" => {
                let at = match argument {
                    None => TimePoint::Quantile(0.8),
                    Some(value) => match (value.parse::<f64>(), instant::parse_text(value)) {
                        (Ok(quantile), _) => TimePoint::Quantile(fraction(quantile, "quantile")?),
                        (Err(_), Some(at)) => TimePoint::Instant(at),
                        (Err(_), None) => return Err(bad("neither a quantile nor a date")),
                    },
                };
                Self::GlobalTime { at, gap_ms }
            }
            "leave-last-out" => {
                let n = argument.map_or(Ok(1), str::parse).map_err(|_| bad("n must be a whole number"))?;
                if n == 0 {
                    return Err(bad("n must be at least 1"));
                }
                Self::LeaveLastOut { n }
            }
            "random" => {
                let value = argument.map_or(Ok(0.3), str::parse).map_err(|_| bad("the fraction must be a number"))?;
                Self::Random { fraction: fraction(value, "fraction")?, seed }
            }
            "given" => return Err(bad("names no file")),
            _ => return Err(bad("unknown kind")),
        };
        Ok((spec, None))
    }

    /// The kind's name, as in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::GlobalTime { .. } => "global-time",
            Self::LeaveLastOut { .. } => "leave-last-out",
            Self::Random { .. } => "random",
            Self::Given => "given",
        }
    }
}

impl fmt::Display for SplitSpec {
    /// The parameters in words.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("everything is training data"),
            Self::GlobalTime { at, gap_ms } => {
                match at {
                    TimePoint::Quantile(quantile) => write!(formatter, "quantile {quantile}")?,
                    TimePoint::Instant(at) => write!(formatter, "from {at} ms")?,
                }
                write!(formatter, ", gap {} s", *gap_ms as f64 / 1e3)
            }
            Self::LeaveLastOut { n } => write!(formatter, "last {n} of each user"),
            Self::Random { fraction, seed } => write!(formatter, "fraction {fraction}, seed {seed}"),
            Self::Given => formatter.write_str("from a file"),
        }
    }
}

fn duration_ms(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let scale = match unit {
        'd' => 86_400_000.0,
        'h' => 3_600_000.0,
        'm' => 60_000.0,
        's' => 1000.0,
        _ => return None,
    };
    let number: f64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    ((0.0..1e6).contains(&number)).then(|| (number * scale).round() as i64)
}
