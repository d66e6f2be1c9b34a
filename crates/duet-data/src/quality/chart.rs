//! Plots as inline SVG: bars, stacked days, distributions. Every plot has a title and a description for readers who do not see
//! it, and takes its colours from the page, so that it follows light and dark.

use std::fmt::Write;

use duet_core::markup::{Figures, escape, grid, shorten, ticks, told};

use super::summary::Histogram;

/// A horizontal bar.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// What stands behind the bar.
    pub(super) text: String,
    /// The value of the previous run: a mark across the bar.
    pub(super) before: Option<f64>,
}

/// A column of a stacked plot.
pub(super) struct Day {
    pub(super) label: String,
    /// One value per series, from the bottom.
    pub(super) values: Vec<f64>,
    /// What is told about the day when it is pointed at.
    pub(super) text: String,
}

/// A series of a stacked plot.
pub(super) struct Series {
    pub(super) name: &'static str,
    /// CSS class with its colour.
    pub(super) class: &'static str,
}

/// Draws the plots of one page.
#[derive(Debug, Default)]
pub(super) struct Charts {
    figures: Figures,
}

impl Charts {
    /// Horizontal bars, in the order given.
    pub(super) fn bars(&mut self, title: &str, class: &str, bars: &[Bar]) -> String {
        const LABEL: f64 = 200.0;
        const PLOT: f64 = 190.0;
        const ROW: f64 = 22.0;
        let longest = bars.iter().map(|bar| bar.value.max(bar.before.unwrap_or(0.0))).fold(0.0, f64::max).max(1e-12);
        let mut body = String::new();
        for (at, bar) in bars.iter().enumerate() {
            let top = at as f64 * ROW;
            let base = top + ROW / 2.0 + 4.0;
            let width = PLOT * bar.value / longest;
            let _ = write!(
                body,
                "<g><title>{full}: {text}</title><text x=\"{label}\" y=\"{base}\" text-anchor=\"end\">{short}</text>\
                 <rect class=\"{class}\" x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"13\"/>",
                full = escape(&bar.label),
                text = escape(&bar.text),
                label = LABEL - 8.0,
                short = escape(&shorten(&bar.label, 25)),
                y = top + 4.0,
            );
            let mut end = width;
            if let Some(before) = bar.before {
                let place = PLOT * before / longest;
                end = end.max(place);
                let x = LABEL + place;
                let _ = write!(
                    body,
                    "<line class=\"before\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>",
                    top + 1.0,
                    top + 20.0
                );
            }
            let text = escape(&bar.text);
            let _ = writeln!(body, "<text class=\"v\" x=\"{:.1}\" y=\"{base}\">{text}</text></g>", LABEL + end + 7.0);
        }
        let drawn: Vec<String> = bars.iter().map(|bar| format!("{}: {}", bar.label, bar.text)).collect();
        self.figures.figure((490.0, ROW * bars.len() as f64 + 4.0), title, &told(&drawn), &body)
    }

    /// Stacked columns, one a day.
    pub(super) fn days(
        &mut self,
        title: &str,
        description: &str,
        series: &[Series],
        days: &[Day],
        name: impl Fn(f64) -> String,
    ) -> String {
        const LEFT: f64 = 72.0;
        const TOP: f64 = 26.0;
        const WIDTH: f64 = 880.0;
        const HEIGHT: f64 = 150.0;
        let highest = days.iter().map(|day| day.values.iter().sum::<f64>()).fold(0.0, f64::max);
        let (step, steps) = ticks(highest);
        let y = |value: f64| TOP + HEIGHT * (1.0 - value / (step * steps));
        let mut body = String::new();
        let mut x = LEFT;
        for Series { name, class } in series {
            let _ = write!(
                body,
                "<rect class=\"{class}\" x=\"{x}\" y=\"4\" width=\"11\" height=\"11\"/><text x=\"{}\" y=\"14\">{name}</text>",
                x + 16.0
            );
            x += 40.0 + 7.0 * name.len() as f64;
        }
        body.push('\n');
        grid(&mut body, (LEFT, LEFT + WIDTH, 8.0), (step, steps), y, &name);
        let slot = WIDTH / days.len().max(1) as f64;
        let gap = if slot > 4.0 { 1.0 } else { 0.0 };
        // Labels are about 80 wide.
        let every = (90.0 / slot).ceil().max(1.0) as usize;
        for (at, day) in days.iter().enumerate() {
            let left = LEFT + slot * at as f64;
            let _ = write!(body, "<g><title>{}</title>", escape(&day.text));
            let mut sum = 0.0;
            for (value, Series { class, .. }) in day.values.iter().zip(series) {
                if *value > 0.0 {
                    let (bottom, top) = (y(sum), y(sum + value));
                    let _ = write!(
                        body,
                        "<rect class=\"{class}\" x=\"{left:.2}\" y=\"{top:.2}\" width=\"{:.2}\" height=\"{:.2}\"/>",
                        (slot - gap).max(0.3),
                        bottom - top
                    );
                }
                sum += value;
            }
            if at % every == 0 {
                let _ = write!(
                    body,
                    "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{left:.1}\" y1=\"{}\" y2=\"{}\"/><text class=\"v\" x=\"{:.1}\" y=\"{}\">{}</text>",
                    TOP + HEIGHT,
                    TOP + HEIGHT + 6.0,
                    left + 3.0,
                    TOP + HEIGHT + 16.0,
                    escape(&day.label)
                );
            }
            body.push_str("</g>\n");
        }
        self.figures.figure((LEFT + WIDTH + 64.0, TOP + HEIGHT + 24.0), title, description, &body)
    }

    /// The distribution of a column, with the previous run's as an outline; areas are shares of the values.
    pub(super) fn distribution(
        &mut self,
        title: &str,
        description: &str,
        now: &Histogram,
        previous: Option<&Histogram>,
        name: impl Fn(f64) -> String,
    ) -> String {
        const LEFT: f64 = 8.0;
        const TOP: f64 = 6.0;
        const WIDTH: f64 = 284.0;
        const HEIGHT: f64 = 90.0;
        let scale = now.scale;
        let ends = |histogram: &Histogram| Some((*histogram.edges.first()?, *histogram.edges.last()?));
        let both: Vec<(f64, f64)> = [Some(now), previous].into_iter().flatten().filter_map(ends).collect();
        let low = both.iter().map(|ends| ends.0).fold(f64::INFINITY, f64::min);
        let high = both.iter().map(|ends| ends.1).fold(f64::NEG_INFINITY, f64::max);
        // Halves: a whole range may be too large to be a number.
        let place = |value: f64| scale.place(value) / 2.0;
        let (from, to) = (place(low), place(high));
        let range = to - from;
        let x = |value: f64| LEFT + WIDTH * if range > 0.0 { (place(value) - from) / range } else { 0.5 };
        // A column of one value is a bar of this width.
        const NARROWEST: f64 = 10.0;
        let steps = |histogram: &Histogram| -> Vec<(f64, f64, f64)> {
            let all = histogram.counts.iter().sum::<u64>().max(1) as f64;
            let bin = |(edges, count): (&[f64], &u64)| {
                let (mut left, mut right) = (x(edges[0]), x(edges[1]));
                if right - left < 0.01 {
                    left = (left - NARROWEST / 2.0).max(LEFT);
                    right = left + NARROWEST;
                }
                (left, right, *count as f64 / all / (right - left))
            };
            histogram.edges.windows(2).zip(&histogram.counts).map(bin).collect()
        };
        let (now, before) = (steps(now), previous.map(steps).unwrap_or_default());
        let highest = now.iter().chain(&before).map(|step| step.2).fold(1e-12, f64::max);
        let y = |density: f64| TOP + HEIGHT * (1.0 - density / highest);
        let bottom = TOP + HEIGHT;
        let mut body = String::new();
        for (left, right, density) in &now {
            let _ = write!(
                body,
                "<rect class=\"own\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                y(*density),
                (right - left - 0.6).max(0.3),
                bottom - y(*density)
            );
        }
        if let (Some(first), Some(last)) = (before.first(), before.last()) {
            let _ = write!(body, "<path class=\"before\" d=\"M{:.1} {bottom}", first.0);
            for (left, right, density) in &before {
                let _ = write!(body, "L{left:.1} {:.1}L{right:.1} {:.1}", y(*density), y(*density));
            }
            let _ = write!(body, "L{:.1} {bottom}\"/>", last.1);
        }
        let _ = write!(
            body,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"v\" x=\"{LEFT}\" y=\"{base}\">{low}</text>\
             <text class=\"v\" x=\"{right}\" y=\"{base}\" text-anchor=\"end\">{high}</text>",
            right = LEFT + WIDTH,
            base = bottom + 15.0,
            low = escape(&name(low)),
            high = escape(&name(high)),
        );
        if range > 0.0 {
            let _ = write!(
                body,
                "<text class=\"v\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                LEFT + WIDTH / 2.0,
                bottom + 15.0,
                escape(&name(scale.value(from + to)))
            );
        }
        body.push('\n');
        self.figures.figure((WIDTH + 2.0 * LEFT, bottom + 20.0), title, description, &body)
    }
}

/// A bar for a table cell: a PSI with marks where it becomes moderate and large.
pub(super) fn psi_bar(psi: f64, class: &str, moderate: f64, large: f64) -> String {
    const WIDTH: f64 = 140.0;
    let end = 2.0 * large;
    let x = |value: f64| WIDTH * (value / end).min(1.0);
    let mut text = format!(
        "<svg viewBox=\"0 0 {WIDTH} 14\" width=\"{WIDTH}\" height=\"14\" aria-hidden=\"true\">\
         <rect class=\"{class}\" x=\"0\" y=\"2\" width=\"{:.1}\" height=\"10\"/>",
        x(psi)
    );
    for mark in [moderate, large] {
        let _ = write!(text, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"14\"/>", x = x(mark));
    }
    text + "</svg>"
}
