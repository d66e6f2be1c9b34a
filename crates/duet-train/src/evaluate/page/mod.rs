//! The report as one HTML page (see [`crate::page`] for what it shares with others).

mod plots;

use std::fmt::Write;

use duet_core::markup::escape;

use super::{
    report::{ExampleList, Report, Topic},
    table::Table,
};
use crate::page::{Charts, document, escape_lines, row, scroll};

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut charts = Charts::default();
    let mut body = format!(
        "<h1>Evaluation of {}</h1>\n<p>{}</p>\n{}",
        escape(&report.model.run.display().to_string()),
        escape(&report.headline()),
        scroll(&report.table())
    );
    body += &verdicts(report);
    body += &row(&plots::metrics(report, &mut charts));
    body += &row(&[plots::plane(report, &mut charts)]);
    body += &row(&plots::differences(report, &mut charts));
    for section in report.sections() {
        let _ = write!(body, "<section>\n<h2>{}</h2>\n", escape(section.topic.title()));
        if !section.note.is_empty() {
            let _ = writeln!(body, "<p class=\"note\">{}</p>", escape(&section.note));
        }
        body += &section.table.as_ref().map_or_else(String::new, scroll);
        body += &row(&match section.topic {
            Topic::NewUsers => vec![plots::cold_start(report, &report.findings.cold_start.users, &mut charts)],
            Topic::NewItems => vec![plots::cold_start(report, &report.findings.cold_start.items, &mut charts)],
            Topic::OverFitting => plots::fit(report, &mut charts),
            Topic::Calibration => vec![plots::calibration(report, &mut charts)],
            Topic::Exposure => vec![plots::exposure(report, &mut charts)],
            Topic::Differences | Topic::BeyondAccuracy | Topic::Baselines => Vec::new(),
        });
        body += "</section>\n";
    }
    body += &learning(report, &mut charts);
    body += &segments(report, &mut charts);
    body += &examples(&report.findings.examples);
    let config = report.model.config.to_toml().unwrap_or_default();
    let _ = write!(
        body,
        "<section>\n<h2>Data and model</h2>\n<div class=\"facts\">\n{}</div>\n{}</section>\n\
         <details><summary>Configuration</summary><pre>{}</pre></details>\n",
        report.facts().to_html(),
        card(report),
        escape_lines(&config)
    );
    document("duet: evaluation", &body)
}

fn verdicts(report: &Report) -> String {
    let lines = report.verdict_lines();
    if lines.is_empty() {
        String::new()
    } else {
        format!("<pre class=\"verdicts\">{}</pre>\n", escape_lines(&lines.join("\n")))
    }
}

fn learning(report: &Report, charts: &mut Charts) -> String {
    let plots = plots::learning(report, charts);
    if plots.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>Learning</h2>\n<p class=\"note\">By epoch, from the log of the training. The line marks the best epoch: training \
         stopped there, or went back to it.</p>\n{}</section>\n",
        row(&plots)
    )
}

fn segments(report: &Report, charts: &mut Charts) -> String {
    let mut section = "<section>\n<h2>Segments</h2>\n".to_owned();
    section += &row(&plots::segments(report, charts));
    for note in report.fold_notes() {
        let _ = writeln!(section, "<p class=\"note\">{}</p>", escape(&note));
    }
    let _ =
        write!(section, "<details><summary>All segments</summary>\n{}</details>\n", scroll(&report.segment_table()));
    section + "</section>\n"
}

fn examples(examples: &[ExampleList]) -> String {
    if examples.is_empty() {
        return String::new();
    }
    let longest = examples.iter().map(|example| example.list.len()).max().unwrap_or(0);
    let header = examples.iter().fold(Table::new().number("rank"), |table, example| table.text(example.title.clone()));
    let mut table = header;
    for rank in 0..longest {
        let cell = |example: &ExampleList| match example.list.get(rank) {
            Some((name, true)) => format!("{name} *"),
            Some((name, false)) => name.clone(),
            None => String::new(),
        };
        table.push(std::iter::once((rank + 1).to_string()).chain(examples.iter().map(cell)));
    }
    let about: String = examples
        .iter()
        .filter(|example| !example.lately.is_empty())
        .map(|example| {
            let lately = example.lately.join("; ");
            format!(
                "<p class=\"note\">{}: {} events, lately {}</p>\n",
                escape(&example.title),
                example.events,
                escape(&lately)
            )
        })
        .collect();
    format!(
        "<section>\n<h2>Examples</h2>\n<p class=\"note\">Lists of some users; * was found by the user in the test part.</p>\n{about}{}</section>\n",
        scroll(&table)
    )
}

/// What a reader must know before trusting the model with anything else than these figures.
fn card(report: &Report) -> String {
    let personal = match report.dataset.kind {
        duet_data::dataset::DatasetKind::Events => {
            "User ids are keyed hashes, ages are buckets, places are shared by many; no name, address or coordinate is in the data."
        }
        _ => "User ids and columns are those of the imported tables, as they were.",
    };
    let limits = [
        personal.to_owned(),
        "Figures are of logged behaviour: what was never shown could not be found by anyone, and what was shown was found more.".to_owned(),
        format!(
            "The baseline compared with by segment was chosen by its NDCG on these very users, out of {}.",
            report.baselines.len()
        ),
        "Item features are those of the last training day.".to_owned(),
    ];
    let items: String = limits.iter().map(|limit| format!("<li>{}</li>\n", escape(limit))).collect();
    format!("<h3>Limits</h3>\n<ul>\n{items}</ul>\n")
}
