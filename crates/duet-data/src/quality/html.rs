//! The report as one HTML page without scripts, fonts or anything else from outside.
//!
//! Whatever comes from data is escaped where it enters the page ([`Cell::Text`], [`escape`]); a content security policy forbids
//! scripts and requests besides.

use std::fmt::Write;

use duet_core::{
    markup::{escape, shorten},
    number::grouped,
};

use super::{
    books::{Books, DayBooks, Reasons},
    chart::{Bar, Charts, Day, Series, psi_bar},
    check::{Verdict, percent},
    drift::{CATEGORY_BINS, Drift, DriftLevel, LARGE_PSI, MISSING, MODERATE_PSI, OTHER},
    report::Report,
    summary::{CategorySummary, ColumnSummary, NumberSummary, Values},
};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --faint: #5d6672; --rule: #d9dee4; --own: #2f6db5;
  --duplicate: #9aa5b1; --filtered: #d9a441; --quarantined: #c2452d; --good: #2a7d46; --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #14181e; --faint: #98a2ae; --rule: #333b46; --own: #6ba6ee;
    --duplicate: #6d7885; --filtered: #e0b45c; --quarantined: #ef7d66; --good: #6cc48a; --bad: #ff8a80; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
caption, figcaption, .note { color: var(--faint); text-align: left; } caption { white-space: nowrap; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: left; white-space: nowrap; vertical-align: top; unicode-bidi: isolate; }
td.wide { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; } .part { padding-left: 2rem; color: var(--faint); }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0; } figure { margin: 0; max-width: 100%; break-inside: avoid; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .v { fill: var(--faint); }
.own { fill: var(--own); } .duplicate { fill: var(--duplicate); } .filtered { fill: var(--filtered); } .quarantined { fill: var(--quarantined); }
.grid { stroke: var(--rule); } .before { stroke: var(--ink); stroke-width: 1.5; fill: none; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--faint); }
@media print { :root { color-scheme: light; } body { max-width: none; margin: 0; } svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  tr { break-inside: avoid; } h2, h3 { break-after: avoid; } .scroll { overflow: visible; } }
";

/// Bars of one plot at most.
const MOST_BARS: usize = 15;
/// Columns of a plot of days at most; more days are put together by weeks.
const MOST_DAYS: usize = 200;

/// A cell of a table.
enum Cell {
    /// Escaped when written.
    Text(String),
    /// A number: aligned to the right.
    Number(String),
    /// Text that may be long and breaks.
    Wide(String),
    /// Text with a CSS class.
    Styled(String, &'static str),
    /// Markup of this module.
    Markup(String),
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

fn count(count: u64) -> Cell {
    Cell::Number(grouped(count))
}

fn table(caption: &str, header: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut markup = format!("<div class=\"scroll\"><table>\n<caption>{}</caption>\n<thead><tr>", escape(caption));
    for (at, name) in header.iter().enumerate() {
        let is_number = rows.first().is_some_and(|row| matches!(row.get(at), Some(Cell::Number(_))));
        let class = if is_number { " class=\"n\"" } else { "" };
        let _ = write!(markup, "<th scope=\"col\"{class}>{}</th>", escape(name));
    }
    markup += "</tr></thead>\n<tbody>\n";
    for row in rows {
        markup += "<tr>";
        for cell in row {
            let _ = match cell {
                Cell::Text(text) => write!(markup, "<td>{}</td>", escape(text)),
                Cell::Number(text) => write!(markup, "<td class=\"n\">{}</td>", escape(text)),
                Cell::Wide(text) => write!(markup, "<td class=\"wide\">{}</td>", escape(text)),
                Cell::Styled(text, class) => write!(markup, "<td class=\"{class}\">{}</td>", escape(text)),
                Cell::Markup(cell) => write!(markup, "<td>{cell}</td>"),
            };
        }
        markup += "</tr>\n";
    }
    markup + "</tbody></table></div>\n"
}

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut charts = Charts::default();
    let mut body = headline(report);
    body += &checks(report);
    body += &lines(report, &mut charts);
    body += &days(report, &mut charts);
    body += &drift_table(report);
    for (name, columns) in &report.tables {
        body += &table_section(report, name, columns, &mut charts);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>duet: data quality</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>Data quality</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn headline(report: &Report) -> String {
    let failed = report.failures().len();
    let verdict = match (report.checks.len(), failed) {
        (0, _) => "<p>No limits were checked.</p>".to_owned(),
        (1, 0) => "<p class=\"good\">The one check passed.</p>".to_owned(),
        (all, 0) => format!("<p class=\"good\">All {all} checks passed.</p>"),
        (all, failed) => format!("<p class=\"bad\">{failed} of {all} checks failed.</p>"),
    };
    let window = match &report.window {
        Some(window) if window.from == window.to => format!("Events of {} (UTC). ", window.from),
        Some(window) => format!("Events from {} to {} (UTC). ", window.from, window.to),
        None => String::new(),
    };
    let previous = match &report.previous {
        Some(fingerprint) => {
            format!(" Compared with the dataset {}.", fingerprint.chars().take(12).collect::<String>())
        }
        None => " There is no previous run to compare with.".to_owned(),
    };
    format!("{verdict}\n<p class=\"note\">{window}{}</p>\n", escape(&previous))
}

fn checks(report: &Report) -> String {
    if report.checks.is_empty() {
        return String::new();
    }
    let row = |check: &super::Check| {
        let verdict = match check.verdict {
            Verdict::Passed => Cell::Styled("✓ passed".into(), "good"),
            Verdict::Failed => Cell::Styled("✗ failed".into(), "bad"),
        };
        vec![verdict, text(&check.name), text(&check.subject), Cell::Wide(check.detail.clone())]
    };
    let header = ["verdict", "limit on", "of", "found"];
    // Failures come first; many kept limits are folded away.
    let (failed, passed): (Vec<_>, Vec<_>) = report.checks.iter().partition(|check| !check.passed());
    let mut section = "<h2>Checks</h2>\n".to_owned();
    let passed: Vec<_> = passed.into_iter().map(row).collect();
    if failed.is_empty() && passed.len() <= 12 {
        return section + &table("Limits and what was found", &header, &passed);
    }
    if !failed.is_empty() {
        section += &table("Limits that are not kept", &header, &failed.into_iter().map(row).collect::<Vec<_>>());
    }
    if !passed.is_empty() {
        let kept = table("Limits that are kept", &header, &passed);
        let _ = write!(section, "<details><summary>{} limits are kept</summary>\n{kept}</details>\n", passed.len());
    }
    section
}

fn lines(report: &Report, charts: &mut Charts) -> String {
    let books = &report.books;
    let share = |lines: u64| Cell::Number(percent(lines as f64 / books.lines.max(1) as f64));
    let mut rows = vec![vec![text("lines read"), count(books.lines), share(books.lines)]];
    let mut fate = |name: &str, lines: u64, parts: &Reasons| {
        rows.push(vec![text(name), count(lines), share(lines)]);
        for (reason, lines) in sorted(parts) {
            rows.push(vec![Cell::Styled(reason.to_owned(), "part"), count(lines), share(lines)]);
        }
    };
    fate("= kept", books.kept, &books.kept_by_type);
    fate("+ duplicates", books.duplicates, &Reasons::new());
    fate("+ quarantined", books.quarantined_lines(), &books.quarantined);
    fate("+ filtered", books.filtered_lines(), &books.filtered);
    let mut section = "<h2>Lines</h2>\n".to_owned();
    section += &table("Every line read is kept, a duplicate, quarantined or filtered", &["", "lines", "share"], &rows);
    let _ = write!(
        section,
        "<p class=\"note\">{} of the valid events ({}) came after their day.</p>\n<div class=\"charts\">\n",
        grouped(books.late),
        percent(books.late as f64 / books.valid_events().max(1) as f64)
    );
    for (title, class, reasons) in [
        ("Quarantined lines by reason", "quarantined", &books.quarantined),
        ("Filtered lines by reason", "filtered", &books.filtered),
    ] {
        if reasons.is_empty() {
            continue;
        }
        let all = sorted(reasons);
        let mut bars: Vec<Bar> = all.iter().take(MOST_BARS).map(|(reason, lines)| bar(reason, *lines)).collect();
        let rest: u64 = all.iter().skip(MOST_BARS).map(|(_, lines)| lines).sum();
        if rest > 0 {
            bars.push(bar("all other reasons", rest));
        }
        section += &charts.bars(title, class, &bars);
    }
    section + "</div>\n"
}

fn bar(label: &str, lines: u64) -> Bar {
    Bar { label: label.to_owned(), value: lines as f64, text: grouped(lines), before: None }
}

/// Most lines first, then by name.
fn sorted(reasons: &Reasons) -> Vec<(&str, u64)> {
    let mut reasons: Vec<(&str, u64)> = reasons.iter().map(|(reason, lines)| (reason.as_str(), *lines)).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.1));
    reasons
}

const FATES: [Series; 4] = [
    Series { name: "kept", class: "own" },
    Series { name: "duplicates", class: "duplicate" },
    Series { name: "filtered", class: "filtered" },
    Series { name: "quarantined", class: "quarantined" },
];

fn fates(books: &Books) -> [u64; 4] {
    [books.kept, books.duplicates, books.filtered_lines(), books.quarantined_lines()]
}

fn days(report: &Report, charts: &mut Charts) -> String {
    if report.days.is_empty() {
        return String::new();
    }
    let inside = |day: &&DayBooks| report.window.is_none_or(|window| window.contains(&day.day));
    let (inside, outside): (Vec<&DayBooks>, Vec<&DayBooks>) =
        report.days.iter().filter(|day| day.day != super::UNKNOWN_DAY).partition(inside);
    let mut section = "<h2>Days</h2>\n".to_owned();
    // Whole weeks, named by their first day, where days would be thinner than a line.
    let together = if inside.len() > MOST_DAYS { 7 } else { 1 };
    let period = if together == 1 { "day" } else { "seven days" };
    let periods: Vec<(&str, Books)> = inside
        .chunks(together)
        .map(|days| (days[0].day.as_str(), days.iter().map(|day| &day.books).sum::<Books>()))
        .collect();
    if !periods.is_empty() {
        let column = |(day, books): &(&str, Books), values: Vec<f64>| Day {
            label: (*day).to_owned(),
            values,
            text: format!("{day}: {books}"),
        };
        let all: Vec<Day> =
            periods.iter().map(|period| column(period, fates(&period.1).map(|lines| lines as f64).to_vec())).collect();
        let (least, most) = (periods.iter().map(|p| p.1.lines).min(), periods.iter().map(|p| p.1.lines).max());
        let description = format!(
            "Lines read each {period} from {} to {}, by what became of them: {} at least, {} at most. The table below has every day.",
            periods[0].0,
            inside[inside.len() - 1].day,
            grouped(least.unwrap_or(0)),
            grouped(most.unwrap_or(0)),
        );
        let title = format!("Lines each {period}, by what became of them");
        section += &charts.days(&title, &description, &FATES, &all, |value| grouped(value as u64));
        let lost: Vec<Day> = periods
            .iter()
            .map(|period| {
                let all = period.1.lines.max(1) as f64;
                column(period, fates(&period.1)[1..].iter().map(|lines| *lines as f64 / all).collect())
            })
            .collect();
        let title = format!("Share of the lines each {period} that is not kept");
        section +=
            &charts.days(&title, "The same as shares of the lines, without those kept.", &FATES[1..], &lost, percent);
    }
    if !outside.is_empty() {
        let lines: u64 = outside.iter().map(|day| day.books.lines).sum();
        let _ = writeln!(
            section,
            "<p class=\"note\">Lines outside of the window: {}, on {} days.</p>",
            grouped(lines),
            outside.len()
        );
    }
    let row = |day: &DayBooks| {
        let [kept, duplicates, filtered, quarantined] = fates(&day.books).map(count);
        vec![text(&day.day), count(day.books.lines), kept, duplicates, filtered, quarantined, count(day.books.late)]
    };
    let header = ["day (UTC)", "lines", "kept", "duplicates", "filtered", "quarantined", "late"];
    let rows: Vec<Vec<Cell>> = report.days.iter().map(row).collect();
    let all = table("Lines by the day they happened on", &header, &rows);
    let _ = write!(section, "<details><summary>All {} days</summary>\n{all}</details>\n", report.days.len());
    section
}

fn drift_table(report: &Report) -> String {
    if report.drift.is_empty() {
        return String::new();
    }
    let mut drifts: Vec<&Drift> = report.drift.iter().collect();
    // What can't be compared, then the largest first.
    drifts.sort_by(|a, b| b.psi.unwrap_or(f64::MAX).total_cmp(&a.psi.unwrap_or(f64::MAX)));
    let row = |drift: &&Drift| {
        let (class, bar) = match drift.level {
            DriftLevel::Large => ("bad", "quarantined"),
            DriftLevel::Moderate => ("", "filtered"),
            DriftLevel::Gone | DriftLevel::KindChanged => ("bad", "quarantined"),
            _ => ("", "own"),
        };
        vec![
            text(format!("{}.{}", drift.table, drift.column)),
            Cell::Number(drift.psi.map_or_else(|| "–".into(), |psi| format!("{psi:.3}"))),
            Cell::Markup(drift.psi.map_or_else(String::new, |psi| psi_bar(psi, bar, MODERATE_PSI, LARGE_PSI))),
            Cell::Styled(drift.level.as_str().to_owned(), class),
            Cell::Number(drift.psi.map_or_else(|| "–".into(), |_| format!("{:.3}", drift.chance))),
            Cell::Wide(what_moved(drift)),
        ]
    };
    let rows: Vec<Vec<Cell>> = drifts.iter().map(row).collect();
    format!(
        "<h2>Drift against the previous run</h2>\n{}<p class=\"note\">PSI: the population stability index, \
         Σ (now − then) ln(now ⁄ then) over the previous run's bins, with half a row added to each; marks at {MODERATE_PSI} and \
         {LARGE_PSI}. Chance: what two samples of one distribution stay below in 99 of 100 cases; a PSI below it counts as stable.</p>\n",
        table("Columns, the largest shift first", &["column", "PSI", "", "verdict", "chance", "what moved"], &rows)
    )
}

/// The bin that moved most, and categories that came and went.
fn what_moved(drift: &Drift) -> String {
    let mut parts = Vec::new();
    let moved = |bin: &super::DriftBin| (bin.now - bin.before).abs();
    if let Some(bin) = drift.bins.iter().max_by(|a, b| moved(a).total_cmp(&moved(b)))
        && moved(bin) >= 0.01
    {
        let label = shorten(&bin.label, 40);
        parts.push(format!("{label}: {} → {}", percent(bin.before), percent(bin.now)));
    }
    for (what, categories) in [("new", &drift.new_categories), ("vanished", &drift.vanished_categories)] {
        if !categories.is_empty() {
            let names: Vec<String> = categories.iter().take(3).map(|category| shorten(&category.value, 40)).collect();
            let more = if categories.len() > 3 { ", …" } else { "" };
            parts.push(format!("{} {what} ({}{more})", categories.len(), names.join(", ")));
        }
    }
    parts.join("; ")
}

fn table_section(report: &Report, name: &str, columns: &[ColumnSummary], charts: &mut Charts) -> String {
    let rows: Vec<Vec<Cell>> = columns.iter().map(column_row).collect();
    let header = ["column", "kind", "rows", "missing", "", "distinct", "min", "median", "mean", "max"];
    let mut section = format!("<h2>Columns of {}</h2>\n", escape(name));
    section += &table("Counts, nulls and ranges", &header, &rows);
    let compared = report.drift.iter().any(|drift| drift.table == name);
    if compared {
        section += "<p class=\"note\">Filled: this run. Outline, or mark across a bar: the previous run.</p>\n";
    }
    // Plots of numbers are low, those of categories tall: each kind in rows of its own.
    let (mut low, mut tall) = (String::new(), String::new());
    for column in columns {
        let drift = report.drift.iter().find(|drift| drift.table == name && drift.column == column.name);
        match &column.values {
            Values::Numeric(summary) => low += &numbers(column, summary, drift, charts, number_name),
            Values::Date(summary) => low += &numbers(column, summary, drift, charts, day_name),
            Values::Categorical(summary) | Values::MultiCategorical(summary) => {
                tall += &categories(column, summary, drift, charts);
            }
        }
    }
    for plots in [low, tall].iter().filter(|plots| !plots.is_empty()) {
        let _ = write!(section, "<div class=\"charts\">\n{plots}</div>\n");
    }
    section
}

fn column_row(column: &ColumnSummary) -> Vec<Cell> {
    let missing = Cell::Number(percent(column.null_share()));
    let mut cells =
        vec![text(&column.name), text(column.values.kind()), count(column.rows), count(column.nulls), missing];
    let figures = |summary: &NumberSummary, name: fn(f64) -> String| {
        let median = summary.quantiles.iter().find(|quantile| quantile.at == 0.5).map(|quantile| quantile.value);
        [summary.min, median, summary.mean, summary.max]
            .map(|figure| Cell::Number(figure.map_or_else(|| "–".into(), name)))
    };
    match &column.values {
        Values::Numeric(summary) => {
            cells.push(count(summary.distinct));
            cells.extend(figures(summary, number_name));
        }
        Values::Date(summary) => {
            cells.push(count(summary.distinct));
            cells.extend(figures(summary, day_name));
        }
        Values::Categorical(summary) | Values::MultiCategorical(summary) => {
            cells.push(count(summary.distinct));
            cells.extend((0..4).map(|_| Cell::Number(String::new())));
        }
    }
    cells
}

fn numbers(
    column: &ColumnSummary,
    summary: &NumberSummary,
    drift: Option<&Drift>,
    charts: &mut Charts,
    name: fn(f64) -> String,
) -> String {
    let (Some(min), Some(max)) = (summary.min, summary.max) else { return String::new() };
    let median = summary.quantiles.iter().find(|quantile| quantile.at == 0.5).map_or(min, |quantile| quantile.value);
    let logarithmic = if summary.histogram.scale == super::Scale::Log { ", logarithmic scale" } else { "" };
    let title = format!("{}{logarithmic}", column.name);
    let description = format!(
        "Distribution over {} rows from {} to {}, median {}{logarithmic}.",
        grouped(column.rows - column.nulls),
        name(min),
        name(max),
        name(median)
    );
    let previous = drift.and_then(|drift| drift.previous_histogram.as_ref()).filter(|before| !before.edges.is_empty());
    charts.distribution(&title, &description, &summary.histogram, previous, name)
}

fn categories(column: &ColumnSummary, summary: &CategorySummary, drift: Option<&Drift>, charts: &mut Charts) -> String {
    let all = (summary.listed.iter().map(|category| category.rows).sum::<u64>() + summary.other + column.nulls).max(1);
    let before = |label: &str| {
        drift.and_then(|drift| {
            let bin = drift.bins.iter().find(|bin| bin.label == label);
            bin.map(|bin| bin.before)
        })
    };
    let (own, shared) = summary.listed.split_at(CATEGORY_BINS.min(summary.listed.len()));
    let other = summary.other + shared.iter().map(|category| category.rows).sum::<u64>();
    let bar = |label: &str, rows: u64, before: Option<f64>| {
        let value = rows as f64 / all as f64;
        Bar { label: label.to_owned(), value, text: percent(value), before }
    };
    let mut bars: Vec<Bar> =
        own.iter().map(|category| bar(&category.value, category.rows, before(&category.value))).collect();
    // The previous run's "other" is of other categories where the largest ones changed: no mark then.
    let same = own.iter().all(|category| drift.is_none() || before(&category.value).is_some());
    for (label, rows) in [(OTHER, other), (MISSING, column.nulls)] {
        if rows > 0 {
            bars.push(bar(label, rows, before(label).filter(|_| same || label == MISSING)));
        }
    }
    if bars.is_empty() { String::new() } else { charts.bars(&column.name, "own", &bars) }
}

/// Four significant digits; whole numbers in full.
fn number_name(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (value.fract() == 0.0 && size < 1e9) {
        let sign = if value < 0.0 { "−" } else { "" };
        return format!("{sign}{}", grouped(size as u64));
    }
    match size {
        size if !(1e-4..1e9).contains(&size) => format!("{value:.3e}"),
        size if size >= 1_000.0 => number_name(value.round()),
        size => format!("{value:.*}", (3 - size.log10().floor() as i32).clamp(0, 7) as usize),
    }
}

fn day_name(day: f64) -> String {
    chrono::NaiveDate::from_epoch_days(day.round() as i32).map_or_else(|| number_name(day), |date| date.to_string())
}
