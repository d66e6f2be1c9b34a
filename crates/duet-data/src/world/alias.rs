//! Drawing from a fixed discrete distribution in O(1): the alias method (Walker 1977; set-up after Vose 1991).

use super::draws::Draws;

/// Slots of an alias table; the slots of several tables may lie in one vector, so a table is a slice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slot {
    /// Probability of staying in this slot.
    keep: f32,
    /// Where to go otherwise.
    other: u32,
}

/// The alias table of `weights` (non-negative, not all zero; all zero is taken as uniform).
pub(super) fn build(weights: &[f64]) -> Vec<Slot> {
    let count = weights.len();
    let total: f64 = weights.iter().sum();
    let scale = if total > 0.0 { count as f64 / total } else { 0.0 };
    let mut rest: Vec<f64> = weights.iter().map(|weight| if total > 0.0 { weight * scale } else { 1.0 }).collect();
    let mut slots: Vec<Slot> = (0..count).map(|slot| Slot { keep: 1.0, other: slot as u32 }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|&slot| rest[slot] < 1.0);
    while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
        small.pop();
        slots[low] = Slot { keep: rest[low] as f32, other: high as u32 };
        rest[high] -= 1.0 - rest[low];
        if rest[high] < 1.0 {
            large.pop();
            small.push(high);
        }
    }
    // What is left is 1 up to rounding, except a true zero, which must never be drawn.
    for slot in small {
        if weights[slot] == 0.0
            && let Some(heaviest) = (0..count).max_by(|&a, &b| weights[a].total_cmp(&weights[b]))
            && total > 0.0
        {
            slots[slot] = Slot { keep: 0.0, other: heaviest as u32 };
        }
    }
    slots
}

/// A slot drawn by its weight.
pub(super) fn draw(slots: &[Slot], draws: &mut Draws) -> usize {
    let at = draws.unit() * slots.len() as f64;
    let slot = (at as usize).min(slots.len() - 1);
    if at - (slot as f64) < f64::from(slots[slot].keep) { slot } else { slots[slot].other as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::draws::Stream;

    #[test]
    fn frequencies_follow_the_weights_and_zero_is_never_drawn() {
        let weights = [5.0, 0.0, 1.0, 3.0, 0.0, 11.0];
        let slots = build(&weights);
        let mut draws = Draws::new(7, Stream::User, 0, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..200_000 {
            counts[draw(&slots, &mut draws)] += 1;
        }
        for (weight, count) in weights.iter().zip(counts) {
            let expected = weight / 20.0;
            // Four standard errors at the largest variance: 4 * sqrt(.25 / 200000) = .0045.
            assert!((f64::from(count) / 200_000.0 - expected).abs() < 0.0045, "{weight}: {count}");
        }
        assert_eq!(counts[1] + counts[4], 0);
    }
}
