//! The report as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use deaddrop_bench::units;

use crate::report::{Contender, Report, RowReport};
use crate::row::Unit;

const BEGIN: &str = "<!-- peers: made by `deaddrop-peers table` -->";
const END: &str = "<!-- peers: end -->";

/// Prints the tables, or writes them into a file between the two marks.
pub(crate) fn write(report: &Report, into: Option<&Path>, plots: Option<&Path>) {
    let text = text(report, into.zip(plots));
    let Some(path) = into else { return println!("{text}") };
    let document = fs::read_to_string(path).expect("the document");
    let (before, rest) = document.split_once(BEGIN).expect("the mark at which the tables begin");
    let (_, after) = rest.split_once(END).expect("the mark at which the tables end");
    let document = format!("{before}{BEGIN}\n\n{text}\n{END}{after}");
    fs::write(path, document).expect("writing the document");
}

fn text(report: &Report, images: Option<(&Path, &Path)>) -> String {
    let mut text = machine(report);
    let mut headings: Vec<&str> = report.rows.iter().map(|row| row.heading.as_str()).collect();
    headings.dedup();
    for heading in headings {
        let rows: Vec<&RowReport> =
            report.rows.iter().filter(|row| row.heading == heading).collect();
        write!(text, "\n### {heading}\n\n{}\n\n{}", rows[0].about, table(&rows)).expect("a string");
        text.push_str(&notes(&rows));
        if let Some((document, plots)) = images {
            let name = crate::plot::file_name(heading);
            let link = relative(document, &plots.join(name));
            write!(text, "\n![{heading}]({link})\n").expect("a string");
        }
    }
    text + "\n### How each is used\n\n" + &usages(report)
}

/// The path of `file` as seen from a document. Both are below the directory of the document.
fn relative(document: &Path, file: &Path) -> String {
    let dir = document.parent().expect("a file in a directory");
    file.strip_prefix(dir).unwrap_or(file).display().to_string()
}

fn machine(report: &Report) -> String {
    let facts = report.machine.facts();
    let facts: Vec<String> = facts.iter().map(|(name, fact)| format!("{name}: {fact}")).collect();
    let rounds = report.rows.iter().flat_map(|row| &row.contenders).map(|one| one.passes.len());
    format!(
        "{}.\n\n{} MiB in each pass (a quarter of it for reading and reopening), at most {} seconds; up to \
         {} rounds, in which all take turns. Each cell is the median of the rounds, then the lowest and the \
         highest. **Bold** is the best of its column; lines that begin with `bare` are not logs and do not compete. \
         *Italic* is the best of those whose records survive as much as deaddrop's, where the records of \
         the best survive less.\n",
        facts.join("; "),
        report.scale.bytes >> 20,
        report.scale.seconds,
        rounds.max().unwrap_or(0),
    )
}

/// One line for each contender, one column for each figure of each row.
fn table(rows: &[&RowReport]) -> String {
    let columns: Vec<(&RowReport, usize)> = rows
        .iter()
        .flat_map(|&row| (0..row.figures.len()).map(move |figure| (row, figure)))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for contender in rows.iter().flat_map(|row| &row.contenders) {
        if !names.contains(&contender.name.as_str()) {
            names.push(&contender.name);
        }
    }
    let titles = columns.iter().map(|(row, figure)| {
        let figure = &row.figures[*figure];
        let space = if figure.name.is_empty() { "" } else { " " };
        format!("{}{space}{}", row.name, figure.name)
    });
    let mut text = format!("| | survives | {} |\n", titles.collect::<Vec<_>>().join(" | "));
    text += &format!("|---|---|{}\n", "---|".repeat(columns.len()));
    for name in names {
        let of = |row: &'_ RowReport| row.contenders.iter().position(|one| one.name == name);
        let first = rows.iter().find_map(|row| of(row).map(|at| &row.contenders[at]));
        let first = first.expect("a name from these rows");
        let cells = columns.iter().map(|(row, figure)| {
            of(row).map_or_else(String::new, |at| cell(row, *figure, &row.contenders[at]))
        });
        let cells: Vec<String> = cells.collect();
        text += &format!("| {} | {} | {} |\n", first.title(), first.kept(), cells.join(" | "));
    }
    text
}

fn cell(row: &RowReport, figure: usize, contender: &Contender) -> String {
    let Some((low, median, high)) = contender.spread(figure) else {
        return if contender.failures.is_empty() { "".into() } else { "failed".into() };
    };
    let unit = row.figures[figure].unit;
    let shown = match contender.passes.len() {
        _ if unit == Unit::Records => return number(median, unit),
        1 => number(median, unit),
        _ => {
            format!("{} ({} to {})", number(median, unit), number(low, unit), number(high, unit))
        }
    };
    if row.is_best(figure, contender, |_| true) {
        format!("**{shown}**")
    } else if row.is_best_of_equals(figure, contender) {
        format!("*{shown}*")
    } else {
        shown
    }
}

/// A value with its unit.
pub(crate) fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond if value >= 1e4 => units::grouped((value / 1e3).round() as u64) + "k",
        Unit::PerSecond | Unit::Records => units::grouped(value.round() as u64),
        Unit::Nanoseconds => units::nanos(value.round() as u64),
    }
}

impl Contender {
    fn title(&self) -> String {
        match &self.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }

    fn kept(&self) -> String {
        match self.verifies {
            Some(true) => "checked".to_owned(),
            Some(false) => "not checked".to_owned(),
            None => self.promise.text(),
        }
    }

    pub(crate) fn is_bare(&self) -> bool {
        self.name.starts_with("bare")
    }

    /// Lowest, median and highest value of the passes.
    pub(crate) fn spread(&self, figure: usize) -> Option<(f64, f64, f64)> {
        let mut values: Vec<f64> = self.passes.iter().map(|pass| pass[figure]).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        Some((low, values[values.len() / 2], high))
    }
}

impl RowReport {
    /// Whether no competitor for which `counts` holds has a better median.
    fn is_best(&self, figure: usize, one: &Contender, counts: impl Fn(&Contender) -> bool) -> bool {
        let more = self.figures[figure].unit.more_is_better();
        let median = |contender: &Contender| contender.spread(figure).map(|(_, median, _)| median);
        let Some(mine) = median(one) else { return false };
        let mut others = self.contenders.iter().filter(|other| !other.is_bare() && counts(other));
        let beaten = others.any(|other| {
            median(other).is_some_and(|value| if more { value > mine } else { value < mine })
        });
        counts(one) && !one.is_bare() && !beaten
    }

    /// Whether it is the best of those that keep as much as deaddrop, and others of these exist.
    fn is_best_of_equals(&self, figure: usize, one: &Contender) -> bool {
        let is_ours = |other: &&Contender| other.name.starts_with("deaddrop");
        let Some(ours) = self.contenders.iter().find(is_ours) else { return false };
        let equals = |other: &Contender| {
            let (other, ours) = (other.promise, ours.promise);
            other.survives_kill >= ours.survives_kill
                && other.survives_power_loss >= ours.survives_power_loss
        };
        let has_rivals = self
            .contenders
            .iter()
            .any(|other| equals(other) && !is_ours(&other) && !other.is_bare());
        has_rivals && self.is_best(figure, one, equals)
    }
}

/// The subjects that do not take part, and those whose passes failed, each once.
fn notes(rows: &[&RowReport]) -> String {
    let absent = rows.iter().flat_map(|row| &row.absent);
    let absent: BTreeSet<String> =
        absent.map(|one| format!("{} ({})", one.name, one.reason)).collect();
    let failed = rows.iter().flat_map(|row| row.contenders.iter().map(move |one| (row, one)));
    let failed: BTreeSet<String> = failed
        .filter_map(|(row, one)| {
            let reason = one.failures.first()?;
            Some(format!(
                "{} in `{}`: {} times, `{reason}`",
                one.name,
                row.name,
                one.failures.len()
            ))
        })
        .collect();
    let mut text = String::new();
    for (title, notes) in [("Not in this table", absent), ("Failed", failed)] {
        if !notes.is_empty() {
            let notes: Vec<String> = notes.into_iter().collect();
            text += &format!("\n{title}: {}.\n", notes.join("; "));
        }
    }
    text
}

fn usages(report: &Report) -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for contender in report.rows.iter().flat_map(|row| &row.contenders) {
        if seen.insert(&contender.name) {
            text += &format!("- {}: {}.\n", contender.title(), contender.usage);
        }
    }
    text
}
