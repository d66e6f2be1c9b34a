//! Popularity: where item biases start, and how they follow the present.

use duet_data::dataset::Timeline;

const DAY_MS: f64 = 86_400_000.0;

/// Training events of each item.
pub fn item_counts(timeline: &Timeline, items: usize) -> Vec<u32> {
    let mut counts = vec![0; items];
    for item in &timeline.items {
        counts[item.index()] += 1;
    }
    counts
}

/// Initial biases: `strength * ln((count + 1) / mean(count + 1))`.
///
/// A softmax over all items without any other knowledge ends at strength 1; half of it leaves the vectors room to explain
/// popularity as taste.
pub fn initial_biases(counts: &[u32], strength: f64) -> Vec<f32> {
    let mean = counts.iter().map(|&count| f64::from(count) + 1.0).sum::<f64>() / counts.len().max(1) as f64;
    counts.iter().map(|&count| (strength * ((f64::from(count) + 1.0) / mean).ln()) as f32).collect()
}

/// What is added to every item's bias when vectors are exported: `weight * ln(recent share / overall share)`.
///
/// Taste is learned over the whole window, popularity is that of the present: the correction of a softmax for a shifted prior
/// (Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", 2002, with an exponent). Shares
/// get `1e-4` added, so that one recent event of a rare item is no fashion.
pub fn trend_shift(timeline: &Timeline, items: usize, weight: f64, half_life_days: f64) -> Vec<f32> {
    let Some(&last) = timeline.timestamps_ms.iter().max() else { return vec![0.0; items] };
    if weight == 0.0 {
        return vec![0.0; items];
    }
    let mut recent = vec![0.0_f64; items];
    let mut overall = vec![0.0_f64; items];
    for (item, &timestamp) in timeline.items.iter().zip(&timeline.timestamps_ms) {
        recent[item.index()] += (-((last - timestamp) as f64 / DAY_MS) / half_life_days).exp2();
        overall[item.index()] += 1.0;
    }
    let recent_total: f64 = recent.iter().sum();
    let overall_total: f64 = overall.iter().sum();
    let floor = SMOOTHING;
    let shift = |(recent, overall): (&f64, &f64)| {
        (weight * ((recent / recent_total + floor) / (overall / overall_total + floor)).ln()) as f32
    };
    recent.iter().zip(&overall).map(shift).collect()
}

/// Added to both shares.
const SMOOTHING: f64 = 1e-4;

#[cfg(test)]
mod tests {
    use duet_core::ItemIdx;

    use super::*;

    #[test]
    fn what_rises_gains_and_what_fell_loses() {
        let day = DAY_MS as i64;
        let timeline = Timeline {
            offsets: vec![0, 4],
            items: [0, 0, 1, 1].map(ItemIdx).to_vec(),
            timestamps_ms: vec![0, 0, 100 * day, 100 * day],
            weights: Vec::new(),
        };
        let shift = trend_shift(&timeline, 3, 1.0, 10.0);
        assert!(shift[0] < -5.0 && (shift[1] - 2.0_f32.ln()).abs() < 5e-3 && shift[2] == 0.0, "{shift:?}");
        assert_eq!(trend_shift(&timeline, 3, 0.0, 10.0), [0.0; 3]);
    }

    #[test]
    fn biases_start_at_half_the_log_popularity() {
        let biases = initial_biases(&[0, 3, 7], 0.5);
        let mean = 13.0_f64 / 3.0;
        for (bias, count) in biases.iter().zip([1.0_f64, 4.0, 8.0]) {
            assert!((f64::from(*bias) - 0.5 * (count / mean).ln()).abs() < 1e-6);
        }
    }
}
