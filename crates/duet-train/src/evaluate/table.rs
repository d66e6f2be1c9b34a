//! A small table that is printed, written as Markdown or put on a page.

use std::fmt::Write;

use duet_core::markup::escape;

/// Rows of text under a header; the first column is left-aligned, the others as told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    header: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a left-aligned column.
    pub fn text(mut self, name: impl Into<String>) -> Self {
        self.header.push((name.into(), false));
        self
    }

    /// Adds a right-aligned column.
    pub fn number(mut self, name: impl Into<String>) -> Self {
        self.header.push((name.into(), true));
        self
    }

    /// Adds a row; missing cells are empty, further ones are dropped.
    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// For a terminal: columns two spaces apart, a rule under the header, a line break at the end.
    pub fn to_text(&self) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| row[at].chars().count());
                cells.chain([self.header[at].0.chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (at, cell) in cells.enumerate() {
                let gap = " ".repeat(widths[at] - cell.chars().count());
                let separator = if at == 0 { "" } else { "  " };
                let (before, after) = if self.header[at].1 { (gap.as_str(), "") } else { ("", gap.as_str()) };
                text.extend([separator, before, cell, after]);
            }
            text.trim_end().to_owned() + "\n"
        };
        let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut text = line(&mut self.header.iter().map(|(name, _)| name.as_str()));
        text += &line(&mut rules.iter().map(String::as_str));
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }

    /// As a Markdown table.
    pub fn to_markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        let escape_bar = |cell: &String| cell.replace('|', "\\|");
        let mut text = line(&mut self.header.iter().map(|(name, _)| escape_bar(name)));
        text += &line(&mut self.header.iter().map(|(_, right)| if *right { "---:" } else { "---" }.to_owned()));
        for row in &self.rows {
            text += &line(&mut row.iter().map(escape_bar));
        }
        text
    }

    /// As an HTML table.
    pub fn to_html(&self) -> String {
        let class = |at: usize| if self.header[at].1 { " class=\"n\"" } else { "" };
        let mut text = "<table>\n<tr>".to_owned();
        for (at, (name, _)) in self.header.iter().enumerate() {
            let _ = write!(text, "<th{}>{}</th>", class(at), escape(name));
        }
        text += "</tr>\n";
        for row in &self.rows {
            text += "<tr>";
            for (at, cell) in row.iter().enumerate() {
                let _ = write!(text, "<td{}>{}</td>", class(at), escape(cell));
            }
            text += "</tr>\n";
        }
        text + "</table>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        let mut table = Table::new().text("name").number("n");
        table.push(["Ångström".to_owned(), "1".to_owned()]);
        table.push(["a|<b>".to_owned(), "10".to_owned()]);
        assert_eq!(table.to_text(), "name       n\n--------  --\nÅngström   1\na|<b>     10\n");
        assert_eq!(table.to_markdown(), "| name | n |\n| --- | ---: |\n| Ångström | 1 |\n| a\\|<b> | 10 |\n");
        assert!(table.to_html().contains("<td>a|&lt;b&gt;</td><td class=\"n\">10</td>"));
    }
}
