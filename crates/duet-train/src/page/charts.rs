//! Plots as inline SVG: intervals, curves, points. Every plot has a title and a description for readers who do not see it, and takes
//! its colours from the page, so that it follows light and dark.

use std::fmt::Write;

use duet_core::markup::{Figures, escape, grid, shorten, ticks, told};
use duet_retrieval::bootstrap::Interval;

/// A mean with its interval, on a line of its own.
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) interval: Interval,
    /// CSS class with its colour.
    pub(crate) class: &'static str,
}

/// A curve; a point is missing where its value is.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// A point of a plane.
pub(crate) struct Point {
    pub(crate) label: String,
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) class: &'static str,
}

/// Curves beyond the colours share the last.
const COLOURS: usize = 6;
const LETTER: f64 = 6.6;

/// Draws the plots of one page.
#[derive(Debug, Default)]
pub(crate) struct Charts {
    figures: Figures,
}

impl Charts {
    /// Means as points, intervals as lines through them, over an axis that holds zero; a line stands at zero.
    pub(crate) fn intervals(&mut self, title: &str, rows: &[Row], signed: bool) -> String {
        const LABEL: f64 = 230.0;
        const PLOT: f64 = 250.0;
        const ROW: f64 = 22.0;
        let low = rows.iter().map(|row| row.interval.low).fold(0.0, f64::min);
        let high = rows.iter().map(|row| row.interval.high).fold(0.0, f64::max);
        let range = (high - low).max(1e-12);
        let x = |value: f64| LABEL + PLOT * (value - low) / range;
        let say = |value: f64| if signed { format!("{value:+.4}") } else { format!("{value:.4}") };
        let height = ROW * rows.len() as f64;
        let mut body = format!("<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{height}\"/>\n", x(0.0));
        for (at, Row { label, interval, class }) in rows.iter().enumerate() {
            let middle = (at as f64 + 0.5) * ROW;
            let base = middle + 4.0;
            let text = format!("{} [{}, {}]", say(interval.mean), say(interval.low), say(interval.high));
            let _ = writeln!(
                body,
                "<g class=\"{class}\"><title>{full}: {text}</title><text x=\"{label_x}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\
                 <line class=\"w\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
                 <circle cx=\"{mean:.1}\" cy=\"{middle}\" r=\"4\"/>\
                 <text class=\"v\" x=\"{end:.1}\" y=\"{base}\">{value}</text></g>",
                full = escape(label),
                label_x = LABEL - 10.0,
                label = escape(&shorten(label, 34)),
                from = x(interval.low),
                to = x(interval.high),
                mean = x(interval.mean),
                end = LABEL + PLOT + 10.0,
                value = say(interval.mean),
            );
        }
        let drawn: Vec<String> = rows.iter().map(|row| format!("{}: {}", row.label, say(row.interval.mean))).collect();
        self.figures.figure((LABEL + PLOT + 70.0, height + 4.0), title, &told(&drawn), &body)
    }

    /// Curves over named places, values from 0.
    pub(crate) fn curves(&mut self, title: &str, places: &[String], curves: &[Curve], marked: Option<usize>) -> String {
        const LEFT: f64 = 56.0;
        const TOP: f64 = 10.0;
        const WIDTH: f64 = 400.0;
        const HEIGHT: f64 = 190.0;
        let highest = curves.iter().flat_map(|curve| curve.values.iter().flatten()).copied().fold(0.0, f64::max);
        let (step, steps) = ticks(highest);
        let y = |value: f64| TOP + HEIGHT * (1.0 - value / (step * steps));
        let slots = places.len().saturating_sub(1).max(1) as f64;
        let x = |at: usize| LEFT + 12.0 + (WIDTH - 24.0) * at as f64 / slots;
        let mut body = String::new();
        grid(&mut body, (LEFT, LEFT + WIDTH, 6.0), (step, steps), y, tick_name);
        let widest = places.iter().map(|place| place.chars().count()).max().unwrap_or(1) as f64 * LETTER + 10.0;
        let every = (widest * slots / (WIDTH - 24.0)).ceil().max(1.0) as usize;
        for (at, place) in places.iter().enumerate().step_by(every) {
            let _ = writeln!(
                body,
                "<text class=\"v\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x(at),
                TOP + HEIGHT + 18.0,
                escape(place)
            );
        }
        if let Some(at) = marked {
            let _ = writeln!(
                body,
                "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1}\"/>",
                x(at),
                TOP + HEIGHT
            );
        }
        for (number, curve) in curves.iter().enumerate() {
            let colour = number.min(COLOURS - 1);
            let known: Vec<(usize, f64)> =
                curve.values.iter().enumerate().filter_map(|(at, value)| Some((at, (*value)?))).collect();
            let points: Vec<String> =
                known.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
            let _ = write!(body, "<g class=\"c{colour}\"><polyline points=\"{}\"/>", points.join(" "));
            for (at, value) in &known {
                let _ = write!(
                    body,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}, {}: {value:.4}</title></circle>",
                    x(*at),
                    y(*value),
                    escape(&curve.name),
                    escape(&places[*at])
                );
            }
            let row = TOP + HEIGHT + 40.0 + 18.0 * number as f64;
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"11\" height=\"11\"/><text x=\"{}\" y=\"{row}\">{}</text></g>",
                row - 10.0,
                LEFT + 17.0,
                escape(&curve.name)
            );
        }
        let description = format!(
            "{} curves over {} places, from {} to {}; the highest value is {highest:.4}.",
            curves.len(),
            places.len(),
            places.first().map_or("", String::as_str),
            places.last().map_or("", String::as_str)
        );
        let height = TOP + HEIGHT + 34.0 + 18.0 * curves.len() as f64;
        self.figures.figure((LEFT + WIDTH + 12.0, height), title, &description, &body)
    }

    /// Points of a plane whose axes begin at 0.
    pub(crate) fn plane(&mut self, title: &str, points: &[Point], (x_name, y_name): (&str, &str)) -> String {
        const LEFT: f64 = 56.0;
        const TOP: f64 = 24.0;
        const WIDTH: f64 = 520.0;
        const HEIGHT: f64 = 300.0;
        let highest = |of: fn(&Point) -> f64| points.iter().map(of).fold(0.0, f64::max);
        let ((x_step, x_steps), (y_step, y_steps)) = (ticks(highest(|point| point.x)), ticks(highest(|point| point.y)));
        let x = |value: f64| LEFT + WIDTH * value / (x_step * x_steps);
        let y = |value: f64| TOP + HEIGHT * (1.0 - value / (y_step * y_steps));
        let bottom = TOP + HEIGHT;
        let mut body = format!(
            "<text class=\"v\" x=\"{LEFT}\" y=\"12\">{}</text><text class=\"v\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            escape(y_name),
            LEFT + WIDTH,
            bottom + 34.0,
            escape(x_name)
        );
        grid(&mut body, (LEFT, LEFT + WIDTH, 6.0), (y_step, y_steps), y, tick_name);
        for tick in 0..=x_steps as u32 {
            let value = x_step * f64::from(tick);
            let _ = writeln!(
                body,
                "<text class=\"v\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x(value),
                bottom + 18.0,
                tick_name(value)
            );
        }
        let mut taken: Vec<(f64, f64, f64)> = Vec::new();
        for Point { label, x: right, y: up, class } in points {
            let (cx, cy) = (x(*right), y(*up));
            let width = label.chars().count() as f64 * LETTER;
            let is_left = cx + width + 10.0 > LEFT + WIDTH;
            let from = if is_left { cx - width - 8.0 } else { cx + 8.0 };
            // A label that would lie on another goes below it.
            let mut base = cy + 4.0;
            while taken.iter().any(|&(a, b, line)| from < b && a < from + width && (line - base).abs() < 13.0) {
                base += 13.0;
            }
            taken.push((from, from + width, base));
            let _ = writeln!(
                body,
                "<g class=\"{class}\"><title>{text}: {right:.4}, {up:.4}</title><circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"/>\
                 <text x=\"{from:.1}\" y=\"{base:.1}\">{text}</text></g>",
                text = escape(label)
            );
        }
        let told: Vec<String> =
            points.iter().map(|point| format!("{}: {:.3}, {:.4}", point.label, point.x, point.y)).collect();
        let description = format!("{x_name} across, {y_name} up. {}.", told.join("; "));
        self.figures.figure((LEFT + WIDTH + 30.0, bottom + 60.0), title, &description, &body)
    }
}

/// As few digits as tell neighbouring ticks apart.
fn tick_name(value: f64) -> String {
    let text = format!("{value:.4}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(mean: f64) -> Interval {
        Interval { mean, low: mean - 0.1, high: mean + 0.1 }
    }

    #[test]
    fn everything_given_is_drawn_and_escaped() {
        let mut charts = Charts::default();
        let rows = [("<a>", 0.5), ("b", -0.3)].map(|(label, mean)| Row {
            label: label.into(),
            interval: interval(mean),
            class: "own",
        });
        let drawn = charts.intervals("A & B", &rows, true);
        assert_eq!((drawn.matches("<circle").count(), drawn.matches("class=\"w\"").count()), (2, 2));
        assert!(drawn.contains("&lt;a&gt;") && drawn.contains("A &amp; B") && !drawn.contains("<a>"), "{drawn}");
        assert!(drawn.contains("+0.5000 [+0.4000, +0.6000]") && drawn.contains("-0.3000"), "{drawn}");
        let curve = Curve { name: "NDCG".into(), values: vec![Some(0.1), None, Some(0.3)] };
        let places = ["0", "1", "2-5"].map(str::to_owned);
        let drawn = charts.curves("curve", &places, &[curve], Some(2));
        assert_eq!((drawn.matches("<circle").count(), drawn.matches("class=\"mark\"").count()), (2, 1));
        assert!(drawn.contains("NDCG, 2-5: 0.3000") && drawn.contains("t2 d2"), "{drawn}");
        let points = ["x", "y"].map(|label| Point { label: label.into(), x: 0.5, y: 0.2, class: "" });
        let drawn = charts.plane("plane", &points, ("coverage", "NDCG"));
        let lines: Vec<&str> = drawn.lines().filter(|line| line.contains("<circle")).collect();
        let base = |line: &str| line.rsplit("y=\"").next().and_then(|rest| rest.split('"').next()).map(str::to_owned);
        assert!(
            lines.len() == 2 && base(lines[0]) != base(lines[1]),
            "labels of one place must not lie on each other: {drawn}"
        );
    }

    #[test]
    fn nothing_is_no_reason_to_fail() {
        let mut charts = Charts::default();
        assert!(!charts.intervals("x", &[], false).contains("NaN"));
        assert!(!charts.curves("x", &[], &[], None).contains("NaN"));
        assert!(!charts.plane("x", &[], ("a", "b")).contains("NaN"));
        assert_eq!([tick_name(0.0), tick_name(0.25), tick_name(2.0)], ["0", "0.25", "2"]);
    }
}
