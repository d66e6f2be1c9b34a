//! The learning-rate schedule: linear warm-up, then a cosine (Loshchilov and Hutter, 2017) down to 2 %.

/// What is left of the rate at the end.
const FLOOR: f64 = 0.02;

/// The factor of both learning rates at `step` of `total` (from 0).
pub fn factor(step: u64, total: u64, warmup: usize) -> f64 {
    let warm = if warmup == 0 { 1.0 } else { ((step + 1) as f64 / warmup as f64).min(1.0) };
    let done = (step as f64 / total.max(1) as f64).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    warm * (FLOOR + (1.0 - FLOOR) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_the_floor() {
        assert_eq!(factor(0, 1000, 10), 0.1);
        assert!(factor(9, 1000, 10) > 0.999);
        assert!((factor(500, 1000, 10) - 0.51).abs() < 1e-9);
        assert!((factor(1000, 1000, 10) - FLOOR).abs() < 1e-12);
        assert_eq!(factor(0, 1000, 0), 1.0);
    }
}
