//! HTML pages without scripts, fonts or anything else from outside: the frame, the style and the plots that reports share.
//!
//! Whatever comes from data or names is escaped where it enters a page; a content security policy forbids scripts and requests
//! besides.

mod charts;
mod style;

pub(crate) use self::charts::{Charts, Curve, Point, Row};

use duet_core::markup::escape;

use crate::evaluate::Table;

/// A whole page; `title` is text, `body` is HTML.
pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>{}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        style::STYLE
    )
}

/// Text of several lines: [`escape`] takes line breaks for what has no place in a value.
pub(crate) fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// A table that may be wider than the page.
pub(crate) fn scroll(table: &Table) -> String {
    format!("<div class=\"scroll\">\n{}</div>\n", table.to_html())
}

/// Plots side by side.
pub(crate) fn row(plots: &[String]) -> String {
    let plots: String = plots.iter().map(String::as_str).collect();
    if plots.is_empty() { plots } else { format!("<div class=\"charts\">\n{plots}</div>\n") }
}
