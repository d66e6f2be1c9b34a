//! What goes wrong on the way: applied to events as they are written, from draws of its own, so that the behaviour
//! below the dirt stays the same at every rate.

use super::{
    draws::Draws,
    generate::Stats,
    json::{Flaw, RawEvent, push_event},
    options::Dirt,
};

const DAY_MS: i64 = 86_400_000;
/// 2000-01-01: where a device clock stands after its battery died.
const RESET_CLOCK_MS: i64 = 946_684_800_000;

/// Writes `event` with whatever befalls it. `days_known` is how many days ago the user was already being watched:
/// a late event never predates that.
pub(super) fn write(
    out: &mut Vec<u8>,
    event: &RawEvent,
    days_known: i32,
    dirt: &Dirt,
    draws: &mut Draws,
    stats: &mut Stats,
) {
    let mut event = *event;
    let start = out.len();
    if draws.chance(dirt.late) && days_known > 0 {
        let by = 1 + draws.below(3.min(days_known as usize)) as i64;
        event.at_ms -= by * DAY_MS;
        stats.late += 1;
    }
    if draws.chance(dirt.clock_skew) {
        event.at_ms = if draws.chance(0.2) {
            RESET_CLOCK_MS + event.at_ms.rem_euclid(DAY_MS)
        } else {
            event.at_ms + (draws.normal() * 3_600_000.0) as i64
        };
        stats.clock_skew += 1;
    }
    let mut flaw = Flaw::None;
    let mut cut = false;
    if draws.chance(dirt.malformed) {
        stats.malformed += 1;
        match draws.below(4) {
            0 => cut = true,
            1 => flaw = Flaw::WrongType,
            2 => flaw = Flaw::BadTime,
            _ => flaw = Flaw::MissingItem,
        }
    } else if draws.chance(dirt.unknown_id) {
        stats.unknown_id += 1;
        flaw = if draws.chance(0.5) { Flaw::UnknownUser } else { Flaw::UnknownItem };
    }
    push_event(out, &event, flaw);
    if cut {
        // At least one byte stays, and the closing brace never does: such a line can't be valid JSON.
        let length = out.len() - start;
        out.truncate(start + 1 + draws.below(length - 3));
        out.push(b'\n');
    }
    stats.lines += 1;
    stats.by_type[event.event_type as usize] += 1;
    if draws.chance(dirt.duplicate) && flaw == Flaw::None && !cut {
        out.extend_from_within(start..);
        stats.lines += 1;
        stats.duplicate += 1;
    }
}
