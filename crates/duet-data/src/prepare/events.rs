//! The one pass over the events: parsed in parallel, counted in order.
//!
//! What stays in memory: 16 bytes per distinct event id, one row per (user, artist, day) with a positive event, and
//! daily counts. All of it is the same whatever the number of threads, for blocks are merged in reading order, and a
//! row keeps its earliest event (ties by the hash of the event id) and its largest strength.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    io::Write,
    path::Path,
};

use chrono::NaiveDate;
use duet_core::{
    Error, Result,
    event::{EventType, ItemKind},
    progress,
};
use rayon::prelude::*;

use super::{
    lines::{Block, Blocks},
    options::Strengths,
    parse::{Known, Parsed, Reject},
    quality::Quality,
};

const DAY_MS: i64 = 86_400_000;
/// An event this long before its user's sign-up comes from a wrong clock; less is a matter of time zones.
const SIGN_UP_SLACK_MS: i64 = DAY_MS;

/// A hash set's hasher for keys that are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// One (user, artist, UTC day) with a positive event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    pub(super) at_ms: i64,
    pub(super) id: u128,
    pub(super) strength: f32,
}

/// Row of the accounts, row of the catalogue, UTC day.
pub(super) type RowKey = (u32, u32, i32);

/// What the pass found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) rows: HashMap<RowKey, Row>,
    /// Clicks and impressions by user and UTC day.
    pub(super) shown: HashMap<(u32, i32), (u32, u32)>,
    /// Heard songs by artist and UTC day.
    pub(super) plays: HashMap<(u32, i32), u32>,
    pub(super) quality: Quality,
}

/// Reads all events; `sign_up_ms` has one entry per account, `quarantine` receives a JSON line per line put aside.
pub(super) fn collect(
    blocks: &mut Blocks,
    known: &Known,
    sign_up_ms: &[Option<i64>],
    strengths: Strengths,
    quarantine: &mut impl Write,
    quarantine_path: &Path,
) -> Result<Collected> {
    let mut collected = Collected::default();
    let mut seen: HashSet<u128, BuildHasherDefault<Hashed>> = HashSet::default();
    let file_days: Vec<Option<i32>> = (0..blocks.files().len()).map(|file| file_day(&blocks.name(file))).collect();
    let bar = progress::bar("prepare", "bytes", blocks.total_bytes);
    loop {
        let mut wave: Vec<Block> = Vec::new();
        while wave.len() < 2 * rayon::current_num_threads()
            && let Some(block) = blocks.next()?
        {
            wave.push(block);
        }
        if wave.is_empty() {
            break;
        }
        let parsed: Vec<Vec<Result<Parsed, Reject>>> =
            wave.par_iter().map(|block| lines(&block.bytes).map(|line| known.parse(line)).collect()).collect();
        for (block, events) in wave.iter().zip(parsed) {
            bar.inc(block.bytes.len() as u64);
            for (line, event) in (block.first_line..).zip(events) {
                collected.quality.lines += 1;
                match event {
                    Err(reject) => {
                        Quality::add(&mut collected.quality.quarantined, reject.reason, reject.field);
                        let entry = serde_json::json!({
                            "file": blocks.name(block.file), "line": line, "reason": reject.reason, "field": reject.field,
                        });
                        writeln!(quarantine, "{entry}").map_err(Error::io(quarantine_path))?;
                    }
                    Ok(event) if !seen.insert(event.id) => collected.quality.duplicates += 1,
                    Ok(event) if too_early(&event, sign_up_ms) => {
                        Quality::add(&mut collected.quality.filtered, "before sign-up", "");
                    }
                    Ok(event) => {
                        if file_days[block.file].is_some_and(|day| event.local_day < day) {
                            collected.quality.late += 1;
                        }
                        collected.add(&event, strengths);
                    }
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(collected)
}

/// The lines of a block; a line end at the very end starts no further line.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n')
}

fn too_early(event: &Parsed, sign_up_ms: &[Option<i64>]) -> bool {
    sign_up_ms[event.user as usize].is_some_and(|at| event.at_ms < at - SIGN_UP_SLACK_MS)
}

/// The day in a path like `date=2025-03-03/part-0000.jsonl`.
fn file_day(name: &str) -> Option<i32> {
    let date = name.split('/').find_map(|part| part.strip_prefix("date="))?;
    date.parse::<NaiveDate>().ok().map(|date| date.to_epoch_days())
}

impl Collected {
    fn add(&mut self, event: &Parsed, strengths: Strengths) {
        self.quality.keep(event.event_type);
        let day = event.at_ms.div_euclid(DAY_MS) as i32;
        let strength = match (event.event_type, event.item_kind) {
            (EventType::Impression, _) => {
                self.shown.entry((event.user, day)).or_default().1 += 1;
                None
            }
            (EventType::Click, kind) => {
                self.shown.entry((event.user, day)).or_default().0 += 1;
                (kind == ItemKind::Artist).then_some(strengths.click)
            }
            (EventType::Listen, _) if event.heard => {
                *self.plays.entry((event.artist, day)).or_default() += 1;
                Some(strengths.listen)
            }
            (EventType::Follow, ItemKind::Artist) => Some(strengths.follow),
            _ => None,
        };
        let Some(strength) = strength else { return };
        self.quality.rows.positive_events += 1;
        let new = Row { at_ms: event.at_ms, id: event.id, strength };
        match self.rows.entry((event.user, event.artist, day)) {
            Entry::Vacant(place) => {
                place.insert(new);
            }
            Entry::Occupied(mut place) => {
                let row = place.get_mut();
                if (new.at_ms, new.id) < (row.at_ms, row.id) {
                    (row.at_ms, row.id) = (new.at_ms, new.id);
                }
                row.strength = row.strength.max(new.strength);
            }
        }
    }
}
