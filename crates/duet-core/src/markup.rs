//! Text, figures and axes of HTML pages with inline SVG: what the reports of different crates share.

use std::fmt::Write;

/// Text as HTML text or attribute value. Control characters, those that turn the direction of writing included, are replaced:
/// they are not allowed in HTML, or would let a value rearrange the page.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// At most so many characters, the last of them an ellipsis where some are left out.
pub fn shorten(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters - 1).chain(['…']).collect(),
    }
}

/// The marks of an axis from 0: a round step, and how many of them reach `highest`.
pub fn ticks(highest: f64) -> (f64, f64) {
    if highest <= 0.0 {
        return (1.0, 1.0);
    }
    let power = 10_f64.powf((highest / 4.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| step * 4.0 >= highest)
        .unwrap_or(10.0 * power);
    (step, (highest / step).ceil().max(1.0))
}

/// The figures of one page; counts them, for ids.
#[derive(Debug, Default)]
pub struct Figures {
    drawn: u32,
}

impl Figures {
    /// A plot of this width and height, with a title and a description for readers who do not see it. `body` is SVG, the rest text.
    pub fn figure(&mut self, (width, height): (f64, f64), title: &str, description: &str, body: &str) -> String {
        self.drawn += 1;
        format!(
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" role=\"img\" aria-labelledby=\"t{id} d{id}\">\n<title id=\"t{id}\">{title}</title>\
             <desc id=\"d{id}\">{description}</desc>\n{body}</svg></figure>\n",
            title = escape(title),
            description = escape(description),
            id = self.drawn,
        )
    }
}

/// A description by the first few of what is drawn, and how many there are besides.
pub fn told(drawn: &[String]) -> String {
    const FIRST: usize = 5;
    let rest = if drawn.len() > FIRST { format!("; and {} more", drawn.len() - FIRST) } else { String::new() };
    format!("{}{rest}.", drawn[..drawn.len().min(FIRST)].join("; "))
}

/// Lines across a plot from `left` to `right` at the [`ticks`] of its upward axis, each named `gap` before the line.
pub fn grid(
    body: &mut String,
    (left, right, gap): (f64, f64, f64),
    (step, steps): (f64, f64),
    y: impl Fn(f64) -> f64,
    name: impl Fn(f64) -> String,
) {
    for tick in 0..=steps as u32 {
        let value = step * f64::from(tick);
        let _ = writeln!(
            body,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"v\" x=\"{label}\" y=\"{base:.1}\" text-anchor=\"end\">{text}</text>",
            y = y(value),
            label = left - gap,
            base = y(value) + 4.0,
            text = escape(&name(value)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_value_becomes_markup() {
        assert_eq!(escape("<script>\"a\" & 'b'"), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;");
        assert_eq!(escape("a\0b\u{1b}c\u{202e}d\u{85}"), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(escape("Ångström 東京 שלום"), "Ångström 東京 שלום");
    }

    #[test]
    fn long_labels_are_cut_at_characters() {
        assert_eq!((shorten("日本語", 3), shorten("日本語の", 3)), ("日本語".to_owned(), "日本…".to_owned()));
    }

    #[test]
    fn ticks_reach_the_top_in_round_steps() {
        assert_eq!((ticks(22_650.0), ticks(0.0), ticks(1.0)), ((10_000.0, 3.0), (1.0, 1.0), (0.25, 4.0)));
        for highest in [1e-9, 0.013, 3.0, 7.7, 99.0, 1e12] {
            let (step, steps) = ticks(highest);
            assert!(step * steps >= highest * (1.0 - 1e-12) && steps <= 5.0, "{highest}: {step} {steps}");
        }
    }
}
