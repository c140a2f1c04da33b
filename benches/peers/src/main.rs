//! Measures deaddrop beside other logs and databases: the same work, in turns, each peer as its own
//! documentation recommends. `run` measures and writes JSON, `table` makes tables and plots from it.

#[path = "../../support/child.rs"]
#[allow(dead_code, reason = "shared with the benchmarks, which use more of it")]
mod child;
mod echoes;
mod plot;
mod report;
mod row;
mod rows;
mod subject;
mod subjects;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Parser;

use report::Report;
use row::{Row, Scale};

/// Measure deaddrop beside its peers.
#[derive(Parser)]
enum Arguments {
    /// Measure, and write the report after each pass. Passes that the report has are not repeated.
    Run(Run),
    /// Print the report's tables as Markdown; the winner of each column is bold.
    Table {
        /// The report.
        report: PathBuf,
        /// Write the tables into this file, between the two lines with `<!-- peers`.
        #[arg(long)]
        into: Option<PathBuf>,
        /// Write a plot of each table into this directory, as SVG.
        #[arg(long)]
        plots: Option<PathBuf>,
    },
    /// List the rows.
    Rows,
    #[command(hide = true)]
    Pass { row: String, subject: String, dir: PathBuf, bytes: u64, seconds: f64 },
}

#[derive(clap::Args)]
struct Run {
    /// The report.
    report: PathBuf,
    /// Measure the rows whose names contain one of these words only.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Measure the subjects with these names only.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Rounds; in each of them all subjects take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// MiB that a pass appends; reading and reopening use a quarter of it.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Seconds after which a pass of a slow subject ends; durable rows measure for a fifth of it.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Where the files are written. It has to be on a disk.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target"))]
    dir: PathBuf,
    /// Run everything once with next to no data: shows that it works, measures nothing.
    #[arg(long)]
    smoke: bool,
}

fn main() {
    if let Some((role, arguments)) = child::role() {
        return rows::assist(&role, &arguments);
    }
    match Arguments::parse() {
        Arguments::Run(run) => measure(run),
        Arguments::Table { report, into, plots } => {
            let report = Report::load(&report).expect("a report");
            if let Some(dir) = &plots {
                plot::write(&report, dir);
            }
            table::write(&report, into.as_deref(), plots.as_deref());
        }
        Arguments::Rows => Row::all().iter().for_each(|row| println!("{}", row.name)),
        Arguments::Pass { row, subject, dir, bytes, seconds } => {
            let row = Row::all().into_iter().find(|one| one.name == row).expect("a row");
            let values = rows::pass(&row, &subject, &dir, Scale { bytes, seconds });
            println!("{}", serde_json::to_string(&values).expect("numbers"));
        }
    }
}

fn measure(mut run: Run) {
    if run.smoke {
        (run.mib, run.seconds, run.rounds) = (1, 0.1, 1);
    }
    let scale = Scale { bytes: run.mib << 20, seconds: run.seconds };
    std::fs::create_dir_all(&run.dir).expect("the directory for the files");
    let mut report = Report::continued(&run.report, scale, &run.dir);
    for row in Row::all() {
        if !run.rows.is_empty() && !run.rows.iter().any(|word| row.name.contains(word.as_str())) {
            continue;
        }
        let contenders = report.begin(&row);
        for round in 0..run.rounds {
            for turn in 0..contenders.len() {
                // Another subject begins each round.
                let name = contenders[(turn + round) % contenders.len()];
                let is_wanted = run.subjects.is_empty() || run.subjects.iter().any(|n| n == name);
                if !is_wanted || report.has(&row, name, round) {
                    continue;
                }
                let measured = pass(&row, name, &run.dir, scale);
                eprintln!("{}, round {}, {name}: {measured:?}", row.name, round + 1);
                report.add(&row, name, measured);
                report.store(&run.report);
            }
        }
    }
}

/// Measures one subject once, in a process of its own and an empty directory: no subject inherits
/// memory, threads or dirty pages of another, and one that panics ends its own pass only.
fn pass(row: &Row, subject: &str, dir: &Path, scale: Scale) -> Result<Vec<f64>, String> {
    let dir = tempfile::Builder::new().prefix("peer-").tempdir_in(dir).expect("a directory");
    // SAFETY: no arguments, no memory.
    unsafe { libc::sync() };
    std::thread::sleep(Duration::from_millis(20));
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["pass", &row.name, subject])
        .arg(dir.path())
        .args([scale.bytes.to_string(), scale.seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("starting a pass");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Some peers print: the figures are in the last line.
    let values = out.lines().last().and_then(|line| serde_json::from_str(line).ok());
    values.filter(|_| output.status.success()).ok_or_else(|| {
        let reason = err.lines().find(|line| !line.is_empty() && !line.starts_with("thread"));
        reason.map_or_else(|| output.status.to_string(), str::to_owned)
    })
}
