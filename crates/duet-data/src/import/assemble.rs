//! From events in source order to the parts of a dataset: split, vocabularies, events by user.

use std::cmp::Ordering;

use duet_core::{ItemIdx, Result, UserIdx, table::FeatureTable};

use super::{Inputs, instant::DAY_MS, interactions::Events};
use crate::{
    dataset::{Counts, DatasetInfo, DatasetKind, DatasetParts, SplitInfo, TestUser, Timeline},
    split::{Part, SplitSpec, assign},
};

/// The parts, and what went on the way.
pub(super) struct Assembled {
    pub(super) parts: DatasetParts,
    pub(super) merged: u64,
    pub(super) dropped: u64,
}

pub(super) fn assemble(inputs: Inputs, split: &SplitSpec) -> Result<Assembled> {
    let Inputs { mut events, test: given, mut users, mut items, schema, item_kind, sources, .. } = inputs;
    let has_time = !events.times_ms.is_empty();
    let has_weight = !events.weights.is_empty();
    let merged = if has_time { 0 } else { events.merge_repeats() };
    let assignment = assign(split, &events.users, &events.times_ms)?;
    let rows_in = |part: Part| -> Vec<u32> {
        (0..events.users.len() as u32).filter(|&row| assignment.parts[row as usize] == part).collect()
    };
    let (mut train, test_rows) = (rows_in(Part::Train), rows_in(Part::Test));

    let user_rows = extend(&mut users, events.user_ids.ids(), train.iter().map(|&row| events.users[row as usize]));
    let item_rows = extend(&mut items, events.item_ids.ids(), train.iter().map(|&row| events.items[row as usize]));
    let time = |events: &Events, row: u32| events.times_ms.get(row as usize).copied().unwrap_or(0);
    let user = |row: u32| user_rows[events.users[row as usize] as usize];
    train.sort_unstable_by_key(|&row| (user(row), time(&events, row), row));
    let mut timeline = Timeline { offsets: vec![0; users.len() + 1], ..Timeline::default() };
    for &row in &train {
        timeline.offsets[user(row) as usize + 1] += 1;
    }
    for at in 1..timeline.offsets.len() {
        timeline.offsets[at] += timeline.offsets[at - 1];
    }
    timeline.items = train.iter().map(|&row| ItemIdx(item_rows[events.items[row as usize] as usize])).collect();
    if has_time {
        timeline.timestamps_ms = train.iter().map(|&row| events.times_ms[row as usize]).collect();
    }
    if has_weight {
        timeline.weights = train.iter().map(|&row| events.weights[row as usize]).collect();
    }

    let test = match &given {
        Some(given) => held_out(given, (0..given.users.len() as u32).collect(), &users),
        None => held_out(&events, test_rows, &users),
    };
    let reference_day = timeline.timestamps_ms.iter().max().map(|time| time.div_euclid(DAY_MS) as i32);
    let info = DatasetInfo {
        kind: if has_time { DatasetKind::Sequences } else { DatasetKind::Sets },
        item_kind,
        schema,
        counts: Counts::default(),
        split: SplitInfo {
            kind: split.kind().to_owned(),
            parameters: split.to_string(),
            cutoff_ms: assignment.cutoff_ms,
            hash: String::new(),
        },
        has_time,
        has_weight,
        reference_day,
        sources,
    };
    let parts = DatasetParts { info, users, items, timeline, test, oracle: None };
    Ok(Assembled { parts, merged, dropped: assignment.dropped })
}

/// Adds the ids that `used` names to the table, ascending; returns each id's row (`u32::MAX` for those not used).
fn extend(table: &mut FeatureTable, ids: &[String], used: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut is_used = vec![false; ids.len()];
    used.for_each(|id| is_used[id as usize] = true);
    let mut order: Vec<usize> = (0..ids.len()).filter(|&id| is_used[id]).collect();
    order.sort_unstable_by(|&left, &right| by_id(&ids[left], &ids[right]));
    let mut rows = vec![u32::MAX; ids.len()];
    for id in order {
        rows[id] = table.get_or_insert(&ids[id]);
    }
    rows
}

/// Whole numbers by value and before every other text, texts by their bytes.
fn by_id(left: &str, right: &str) -> Ordering {
    let number = |id: &str| id.parse::<u64>().unwrap_or(u64::MAX);
    number(left).cmp(&number(right)).then_with(|| left.cmp(right))
}

/// The held-out events `rows` by user, ascending by id, each in the order (time, row).
fn held_out(events: &Events, mut rows: Vec<u32>, users: &FeatureTable) -> Vec<TestUser> {
    let time = |row: u32| events.times_ms.get(row as usize).copied().unwrap_or(0);
    rows.sort_unstable_by_key(|&row| (events.users[row as usize], time(row), row));
    let item = |row: &u32| events.item_ids.id(events.items[*row as usize] as usize).to_owned();
    let mut test: Vec<TestUser> = rows
        .chunk_by(|&left, &right| events.users[left as usize] == events.users[right as usize])
        .map(|rows| {
            let id = events.user_ids.id(events.users[rows[0] as usize] as usize);
            TestUser { id: id.to_owned(), user: users.ids.get(id).map(UserIdx), items: rows.iter().map(item).collect() }
        })
        .collect();
    test.sort_unstable_by(|left, right| by_id(&left.id, &right.id));
    test
}
