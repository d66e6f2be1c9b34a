//! Scores against clicks: how well a score, turned into a probability, says how often people click.
//!
//! A score is no probability. A logistic curve in it (Platt 1999) is fitted on one half of the impressions, and the expected
//! calibration error is taken on the other half, over bins of equally many impressions (Naeini, Cooper & Hauskrecht 2015; equal
//! mass as in Nixon et al. 2019): `ECE = sum over bins (n_b / n) |mean probability - share clicked|`.

use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Bins of the calibration error.
pub const BINS: usize = 10;
/// Fewest clicks, and fewest impressions without one, in each half: below, the curve says nothing.
pub const MIN_EACH: usize = 50;

/// An item that was shown, and whether it was clicked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// The recommender's score of the item for the user.
    pub score: f32,
    /// Whether the user clicked.
    pub clicked: bool,
    /// Whether it belongs to the half that the curve is fitted on. All impressions of a user belong to one half.
    pub fits: bool,
}

/// Impressions of neighbouring probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Mean probability by the curve.
    pub probability: f64,
    /// Share that was clicked.
    pub clicked: f64,
    /// How many.
    pub impressions: usize,
}

/// How well calibrated a score is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error on the second half.
    pub ece: f64,
    /// The same of the click rate of the first half, told for every impression: what knowing nothing reaches.
    pub constant_ece: f64,
    /// Probability that a clicked impression has a higher score than one that was not (ties half): the score's power to tell.
    pub auc: f64,
    /// Probability = 1 / (1 + exp(-(slope * score + intercept))).
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
    /// Impressions measured: the second half.
    pub impressions: usize,
    /// Share of them clicked.
    pub click_rate: f64,
    /// From the least to the most probable.
    pub bins: Vec<Bin>,
}

/// Fits the curve on one half and measures it on the other.
///
/// # Errors
/// [`Error::Input`] if a half has fewer than [`MIN_EACH`] impressions with, or without, a click; or a score is not finite.
pub fn calibrate(shown: &[Shown]) -> Result<Calibration> {
    if shown.iter().any(|shown| !shown.score.is_finite()) {
        return Err(Error::input("calibration: a score is not finite"));
    }
    let (fit, mut measured): (Vec<Shown>, Vec<Shown>) = shown.iter().copied().partition(|shown| shown.fits);
    for half in [&fit, &measured] {
        let clicks = half.iter().filter(|shown| shown.clicked).count();
        if clicks < MIN_EACH || half.len() - clicks < MIN_EACH {
            return Err(Error::input(format!(
                "calibration: a half of the impressions has {clicks} with a click and {} without; {MIN_EACH} of each are needed",
                half.len() - clicks
            )));
        }
    }
    let (slope, intercept) = logistic_curve(&fit);
    measured.sort_by(|a, b| a.score.total_cmp(&b.score));
    // Which of equal scores come into which bin must not matter: each counts as the mean of them.
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(measured.len());
    for equal in measured.chunk_by(|a, b| a.score == b.score) {
        let probability = sigmoid(slope * f64::from(equal[0].score) + intercept);
        points.extend(std::iter::repeat_n((probability, click_rate(equal)), equal.len()));
    }
    if slope < 0.0 {
        points.reverse();
    }
    let bin = |part: &[(f64, f64)]| {
        let mean = |of: fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
        Bin { probability: mean(|point| point.0), clicked: mean(|point| point.1), impressions: part.len() }
    };
    let bins: Vec<Bin> = equal_parts(&points, BINS).map(bin).collect();
    let all = measured.len() as f64;
    let ece = bins.iter().map(|bin| bin.impressions as f64 / all * (bin.probability - bin.clicked).abs()).sum();
    Ok(Calibration {
        ece,
        constant_ece: (click_rate(&fit) - click_rate(&measured)).abs(),
        auc: auc(&measured),
        slope,
        intercept,
        impressions: measured.len(),
        click_rate: click_rate(&measured),
        bins,
    })
}

fn click_rate(shown: &[Shown]) -> f64 {
    shown.iter().filter(|shown| shown.clicked).count() as f64 / shown.len().max(1) as f64
}

/// Neighbouring parts whose lengths differ by at most one.
fn equal_parts<T>(values: &[T], parts: usize) -> impl Iterator<Item = &[T]> {
    (0..parts).map(move |part| &values[part * values.len() / parts..(part + 1) * values.len() / parts])
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// Slope and intercept of the largest likelihood, by Newton's method on standardised scores. A tiny ridge keeps the slope finite
/// where the scores tell clicks apart without error.
fn logistic_curve(shown: &[Shown]) -> (f64, f64) {
    const STEPS: usize = 50;
    const RIDGE: f64 = 1e-6;
    let n = shown.len() as f64;
    let mean = shown.iter().map(|shown| f64::from(shown.score)).sum::<f64>() / n;
    let variance = shown.iter().map(|shown| (f64::from(shown.score) - mean).powi(2)).sum::<f64>() / n;
    let rate = click_rate(shown);
    let (mut slope, mut intercept) = (0.0, (rate / (1.0 - rate)).ln());
    let deviation = variance.sqrt();
    if deviation <= f64::EPSILON * mean.abs() {
        return (0.0, intercept);
    }
    for _ in 0..STEPS {
        let (mut slope_gradient, mut intercept_gradient) = (RIDGE * n * slope, 0.0);
        let (mut ss, mut si, mut ii) = (RIDGE * n, 0.0, 0.0);
        for shown in shown {
            let x = (f64::from(shown.score) - mean) / deviation;
            let p = sigmoid(slope * x + intercept);
            let error = p - f64::from(u8::from(shown.clicked));
            let weight = p * (1.0 - p);
            slope_gradient += error * x;
            intercept_gradient += error;
            ss += weight * x * x;
            si += weight * x;
            ii += weight;
        }
        let determinant = ss * ii - si * si;
        if determinant <= 0.0 {
            break;
        }
        // Far from the optimum a whole step may lead further away.
        let step = |value: f64| value.clamp(-2.0, 2.0);
        let slope_step = step((ii * slope_gradient - si * intercept_gradient) / determinant);
        let intercept_step = step((ss * intercept_gradient - si * slope_gradient) / determinant);
        slope -= slope_step;
        intercept -= intercept_step;
        if slope_step.abs().max(intercept_step.abs()) < 1e-10 {
            break;
        }
    }
    (slope / deviation, intercept - slope * mean / deviation)
}

/// By ranks (Mann & Whitney), equal scores at their mean rank.
fn auc(shown: &[Shown]) -> f64 {
    let mut sorted: Vec<&Shown> = shown.iter().collect();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
    let (mut rank, mut clicked_ranks, mut clicks) = (0.0, 0.0, 0.0);
    for equal in sorted.chunk_by(|a, b| a.score == b.score) {
        let mean_rank = rank + (equal.len() as f64 + 1.0) / 2.0;
        let clicked = equal.iter().filter(|shown| shown.clicked).count() as f64;
        clicked_ranks += clicked * mean_rank;
        clicks += clicked;
        rank += equal.len() as f64;
    }
    (clicked_ranks - clicks * (clicks + 1.0) / 2.0) / (clicks * (rank - clicks))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// For each score as many impressions as told, of which some were clicked; the same in both halves.
    fn shown(parts: &[(f32, usize, usize)]) -> Vec<Shown> {
        let mut all = Vec::new();
        for &(score, clicks, impressions) in parts {
            for at in 0..impressions {
                all.extend([true, false].map(|fits| Shown { score, clicked: at < clicks, fits }));
            }
        }
        all
    }

    #[test]
    fn a_logistic_score_is_found_to_be_one() {
        // Click rates .2 and .8 at scores 1 and 2: logits -ln 4 and ln 4, so slope 2 ln 4 and intercept -3 ln 4.
        let found = calibrate(&shown(&[(1.0, 200, 1000), (2.0, 800, 1000)])).unwrap();
        let ln4 = 4.0_f64.ln();
        assert!((found.slope - 2.0 * ln4).abs() < 1e-3 && (found.intercept + 3.0 * ln4).abs() < 2e-3, "{found:?}");
        assert!(found.ece < 1e-3, "{found:?}");
        assert_eq!((found.impressions, found.bins.len(), found.click_rate), (2000, 10, 0.5));
        // Of all pairs: .8 * .8 right ones, .2 * .8 * 2 of equal scores at half.
        assert!((found.auc - 0.8).abs() < 1e-9, "{}", found.auc);
        assert_eq!(found.constant_ece, 0.0);
    }

    #[test]
    fn calibration_error_by_hand() {
        // Ten scores of 100 impressions each, one a bin, no trend: the curve is flat at .5, the bins are .4 and .6 in turn.
        let parts: Vec<(f32, usize, usize)> = (0..10).map(|at| (at as f32, [40, 60, 60, 40][at % 4], 100)).collect();
        let found = calibrate(&shown(&parts)).unwrap();
        let by_hand: f64 = found.bins.iter().map(|bin| (bin.probability - bin.clicked).abs()).sum::<f64>() / 10.0;
        assert!((found.ece - by_hand).abs() < 1e-12 && (found.ece - 0.1).abs() < 0.01, "{found:?}");
        assert_eq!(found.bins.iter().map(|bin| bin.impressions).collect::<Vec<_>>(), [100; 10]);
    }

    #[test]
    fn scores_of_one_value_and_perfect_ones_have_a_curve() {
        let flat = calibrate(&shown(&[(3.0, 100, 400)])).unwrap();
        assert!(flat.slope == 0.0 && (flat.intercept + 3.0_f64.ln()).abs() < 1e-9 && flat.auc == 0.5, "{flat:?}");
        let perfect = calibrate(&shown(&[(-1.0, 0, 100), (1.0, 100, 100)])).unwrap();
        assert!(perfect.ece < 0.01 && perfect.auc == 1.0 && perfect.slope.is_finite(), "{perfect:?}");
        let error = calibrate(&shown(&[(1.0, 20, 400)])).unwrap_err().to_string();
        assert!(error.contains("20 with a click"), "{error}");
        assert!(calibrate(&[Shown { score: f32::NAN, clicked: true, fits: true }]).is_err());
    }
}
