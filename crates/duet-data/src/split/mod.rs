//! Splits: which events train and which are held out.
//!
//! Every rule works on the stable total order (time, source row) and never looks at features. [`assign`] decides for
//! events in source order; [`validation_split`] applies the same rules inside training. Which ids enter a vocabulary
//! follows from the result and is the importer's business.

mod assign;
mod spec;

use duet_core::{ItemIdx, Result, UserIdx};

pub use assign::{Assignment, Part, assign};
pub use spec::{FORMS, SplitSpec, TimePoint};

use crate::dataset::Timeline;

/// Users with the items that were cut from their events, in time order; users without any are absent.
pub type HeldOut = Vec<(UserIdx, Vec<ItemIdx>)>;

/// Cuts a validation part out of training events: what stays, and per user the items that were cut, in time order.
///
/// Every user keeps its row; one whose events are all cut stays with an empty history. Events inside a gap belong to
/// neither part.
///
/// # Errors
/// As [`assign`].
pub fn validation_split(timeline: &Timeline, spec: &SplitSpec) -> Result<(Timeline, HeldOut)> {
    let users = timeline.offsets.len().saturating_sub(1);
    let mut user_of = Vec::with_capacity(timeline.items.len());
    for user in 0..users {
        user_of.resize(timeline.offsets[user + 1], user as u32);
    }
    let split = assign(spec, &user_of, &timeline.timestamps_ms)?;
    let mut train = Timeline { offsets: vec![0], ..Timeline::default() };
    let mut validation = Vec::new();
    for user in (0..users).map(UserIdx::from) {
        let mut cut = Vec::new();
        for event in timeline.range(user) {
            match split.parts[event] {
                Part::Train => {
                    train.items.push(timeline.items[event]);
                    train.timestamps_ms.extend(timeline.timestamps_ms.get(event));
                    train.weights.extend(timeline.weights.get(event));
                }
                Part::Test => cut.push(timeline.items[event]),
                Part::Gap => {}
            }
        }
        train.offsets.push(train.items.len());
        if !cut.is_empty() {
            validation.push((user, cut));
        }
    }
    Ok((train, validation))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_parse_and_mistakes_name_the_valid_ones() {
        let parse = |text: &str| SplitSpec::parse(text).map(|(spec, _)| spec);
        assert_eq!(parse("none").unwrap(), SplitSpec::None);
        let quantile = |quantile, gap_ms| SplitSpec::GlobalTime { at: TimePoint::Quantile(quantile), gap_ms };
        assert_eq!(parse("global-time").unwrap(), quantile(0.8, 0));
        assert_eq!(parse("global-time:0.9,gap=7d").unwrap(), quantile(0.9, 7 * 86_400_000));
        let at = SplitSpec::GlobalTime { at: TimePoint::Instant(1_706_659_200_000), gap_ms: 0 };
        assert_eq!(parse("global-time:2024-01-31").unwrap(), at);
        assert_eq!(parse("leave-last-out:3").unwrap(), SplitSpec::LeaveLastOut { n: 3 });
        assert_eq!(parse("random:0.2,seed=9").unwrap(), SplitSpec::Random { fraction: 0.2, seed: 9 });
        assert_eq!(SplitSpec::parse("given:a,b:c.csv").unwrap(), (SplitSpec::Given, Some("a,b:c.csv".into())));
        for bad in [
            "",
            "given",
            "given:",
            "sometimes",
            "none:1",
            "random:1",
            "random:x",
            "random,gap=1d",
            "leave-last-out:0",
            "global-time:2",
            "global-time:tomorrow",
            "global-time,gap=7",
            "global-time,seed=1",
        ] {
            assert!(parse(bad).unwrap_err().to_string().contains("leave-last-out[:n]"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn validation_and_training_together_are_the_timeline(
            lengths in prop::collection::vec(0_usize..8, 1..20), seed in 0_u64..100, kind in 0..3,
        ) {
            let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
            for &length in &lengths {
                for at in 0..length {
                    let event = timeline.items.len() as u32;
                    timeline.items.push(ItemIdx(event));
                    timeline.timestamps_ms.push(at as i64 * 10);
                    timeline.weights.push(event as f32 + 1.0);
                }
                timeline.offsets.push(timeline.items.len());
            }
            let spec = match kind {
                0 => SplitSpec::Random { fraction: 0.4, seed },
                1 => SplitSpec::LeaveLastOut { n: 1 + seed as usize % 3 },
                _ => SplitSpec::GlobalTime { at: TimePoint::Quantile(0.6), gap_ms: 0 },
            };
            if let Ok((train, validation)) = validation_split(&timeline, &spec) {
                train.check(lengths.len(), timeline.items.len(), true, true).unwrap();
                for user in (0..lengths.len()).map(UserIdx::from) {
                    let cut = validation.iter().find(|(id, _)| *id == user).map(|(_, cut)| cut.as_slice());
                    let mut all = [train.items_of(user), cut.unwrap_or_default()].concat();
                    all.sort();
                    prop_assert_eq!(all, timeline.items_of(user));
                }
                for (event, item) in train.items.iter().enumerate() {
                    prop_assert_eq!(train.weights[event], item.0 as f32 + 1.0);
                }
            }
        }
    }
}
