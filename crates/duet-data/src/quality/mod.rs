//! The quality report of a dataset: what became of every line, what the feature columns hold, how far they moved since
//! the previous run, and whether all that is within limits.
//!
//! * [`Books`], [`DayBooks`]: every line is kept, a duplicate, quarantined or filtered, in all and by day.
//! * [`summarise`]: counts, nulls, ranges, quantiles and histograms of a table's columns.
//! * [`drift`]: the population stability index of each column against the previous run's summary.
//! * [`Thresholds`] and [`check`]: limits that turn a report into a verdict.
//! * [`Report`]: all of it, as JSON and as one HTML page without anything from outside.
//!
//! It computes from what it is given and knows nothing of where that comes from. **Personal data**: a report holds values
//! of feature columns alone, which are coarse already, and of those only the ones that at least [`LEAST_ROWS`] rows share
//! (or what the caller gives instead); the rest is counted together.

mod books;
mod chart;
mod check;
mod drift;
mod html;
mod report;
mod summary;
mod thresholds;

pub use books::{Books, DayBooks, Reasons, UNKNOWN_DAY};
pub use check::{Check, Verdict, check, missing_days};
pub use drift::{Drift, DriftBin, DriftLevel, LARGE_PSI, MODERATE_PSI, drift};
pub use report::{HTML_FILE, JSON_FILE, Report, VERSION, Window};
pub use summary::{
    Category, CategorySummary, ColumnSummary, Histogram, LEAST_ROWS, NumberSummary, Quantile, QuantileBins, Scale,
    Values, summarise,
};
pub use thresholds::{NullShares, Thresholds};
