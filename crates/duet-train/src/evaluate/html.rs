//! The report as one HTML page without scripts, fonts or anything else from outside.

use std::fmt::Write;

use duet_retrieval::bootstrap::Interval;

use super::{
    report::{Report, SegmentKind, display_metric},
    table::escape_html,
};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --faint: #6b7480; --rule: #d9dee4; --bar: #9db4d0; --own: #2f6db5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #14181e; --faint: #98a2ae; --rule: #333b46; --bar: #4b6079; --own: #6ba6ee; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: left; white-space: nowrap; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } figure { margin: 0; } figcaption { color: var(--faint); }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } .v { fill: var(--faint); }
rect { fill: var(--bar); } .own { fill: var(--own); } line { stroke: var(--ink); stroke-width: 1.5; }
pre { background: color-mix(in srgb, var(--rule) 35%, transparent); padding: 1rem; overflow-x: auto; font-size: .8rem; }
";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let (first, last) = report.cut_offs();
    let own = report.evaluations.first().map(|evaluation| super::report::display_name(&evaluation.recommender));
    let mut charts = String::new();
    for (metric, segment, who) in [
        (format!("ndcg@{first}"), SegmentKind::All, "all users"),
        (format!("recall@{first}"), SegmentKind::All, "all users"),
        (format!("recall@{last}"), SegmentKind::All, "all users"),
        (format!("ndcg@{first}"), SegmentKind::Cold, "users without training events"),
    ] {
        let rows = report.chart(&metric, segment);
        if !rows.is_empty() {
            charts += &chart(&format!("{}, {who}", display_metric(&metric)), &rows, own.as_deref());
        }
    }
    let differences = match report.differences.is_empty() {
        true => String::new(),
        false => format!(
            "<h2>Differences over the same users</h2>\n<p>* where the 95 % interval leaves zero out.</p>\n\
             <div class=\"scroll\">\n{}</div>\n",
            report.difference_table().to_html()
        ),
    };
    let baselines = match report.baselines.is_empty() {
        true => String::new(),
        false => {
            format!("<h2>Baselines</h2>\n<div class=\"scroll\">\n{}</div>\n", report.baseline_table().to_html())
        }
    };
    let config = report.model.config.to_toml().unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>duet: evaluation</title>\n<style>{STYLE}</style>\n<h1>Evaluation of {run}</h1>\n<p>{headline}</p>\n\
         <div class=\"scroll\">\n{table}</div>\n<p>coverage: share of the catalogue that anyone was recommended; \
         popularity: how many users had a recommended {item} in training, on average (the whole catalogue: {catalogue:.0}); \
         seconds: spent ranking.</p>\n<div class=\"charts\">\n{charts}</div>\n\
         {differences}{baselines}<h2>Data and model</h2>\n<div class=\"facts\">\n{facts}</div>\n\
         <details><summary>Configuration</summary><pre>{config}</pre></details>\n</html>\n",
        run = escape_html(&report.model.run.display().to_string()),
        headline = escape_html(&report.headline()),
        table = report.table().to_html(),
        item = escape_html(&report.dataset.item_kind),
        catalogue = report.evaluations.first().map_or(0.0, |evaluation| evaluation.catalogue_popularity),
        facts = report.facts().to_html(),
        config = escape_html(&config),
    )
}

/// Horizontal bars with their intervals.
fn chart(title: &str, rows: &[(String, Interval)], own: Option<&str>) -> String {
    const LABEL: f64 = 190.0;
    const PLOT: f64 = 230.0;
    const ROW: f64 = 24.0;
    let longest = rows.iter().map(|(_, interval)| interval.high).fold(0.0, f64::max).max(1e-9);
    let x = |value: f64| LABEL + PLOT * (value / longest).clamp(0.0, 1.0);
    let height = ROW * rows.len() as f64;
    let mut text = format!(
        "<figure><figcaption>{title}</figcaption>\n<svg width=\"480\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n",
        title = escape_html(title)
    );
    for (at, (name, interval)) in rows.iter().enumerate() {
        let top = at as f64 * ROW;
        let middle = top + ROW / 2.0;
        let class = if own == Some(name.as_str()) { " class=\"own\"" } else { "" };
        let _ = writeln!(
            text,
            "<text x=\"{label:.0}\" y=\"{base:.0}\" text-anchor=\"end\">{name}</text>\
             <rect{class} x=\"{LABEL}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"14\"/>\
             <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text class=\"v\" x=\"{value:.0}\" y=\"{base:.0}\">{mean:.4}</text>",
            label = LABEL - 8.0,
            base = middle + 4.0,
            name = escape_html(name),
            y = top + 5.0,
            width = x(interval.mean) - LABEL,
            low = x(interval.low),
            high = x(interval.high),
            value = x(interval.high) + 6.0,
            mean = interval.mean,
        );
    }
    text + "</svg></figure>\n"
}
