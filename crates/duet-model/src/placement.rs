//! Which tables lie on the device and which in host memory (`model.placement`, `model.device_budget`).
//!
//! A device whose memory is the host's has no choice. Elsewhere a step costs the same work on the device either way; for a table
//! in host memory its rows and their gradients are moved in addition, and the host updates them.

use std::cmp::Reverse;

use duet_core::config::{ModelConfig, Placement};

/// Whether each table lies in host memory. `host_device`: the device's memory is the host's; `bytes`: of each table with its
/// optimiser state, 0 for one that the model has not.
pub(crate) fn on_host(config: &ModelConfig, host_device: bool, bytes: &[usize]) -> Vec<bool> {
    if host_device || config.placement == Placement::Host {
        return vec![true; bytes.len()];
    }
    let mut on_host = vec![false; bytes.len()];
    if config.placement == Placement::Auto && config.device_budget > 0 {
        let budget = config.device_budget.saturating_mul(1 << 20);
        let mut on_device: usize = bytes.iter().sum();
        let mut largest_first: Vec<usize> = (0..bytes.len()).collect();
        largest_first.sort_by_key(|&table| Reverse(bytes[table]));
        for table in largest_first {
            if on_device <= budget {
                break;
            }
            on_host[table] = true;
            on_device -= bytes[table];
        }
    }
    on_host
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::config::Config;

    use super::*;

    fn placed(settings: &[&str], host_device: bool) -> Vec<bool> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let config = Config::resolve(&[], &settings).unwrap();
        on_host(&config.model, host_device, &[3 << 20, 0, 5 << 20, 1 << 20])
    }

    #[test]
    fn the_largest_tables_leave_the_device_until_the_rest_fits() {
        assert_eq!(placed(&[], false), [false; 4]);
        for (budget, expected) in [
            ("model.device_budget=9", [false; 4]),
            ("model.device_budget=8", [false, false, true, false]),
            ("model.device_budget=4", [false, false, true, false]),
            ("model.device_budget=3", [true, false, true, false]),
        ] {
            assert_eq!(placed(&[budget], false), expected, "{budget}");
            // Asked for by name, the budget is not.
            assert_eq!(placed(&[budget, "model.placement=device"], false), [false; 4]);
            assert_eq!(placed(&[budget, "model.placement=host"], false), [true; 4]);
            assert_eq!(placed(&[budget, "model.placement=device"], true), [true; 4], "the CPU has no choice");
        }
    }
}
