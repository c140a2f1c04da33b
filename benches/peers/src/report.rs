//! The report: the figures of all passes, and the machine. Stored as JSON after each pass.

use std::fs;
use std::path::Path;

use deaddrop_bench::Machine;
use serde::{Deserialize, Serialize};

use crate::echoes;
use crate::row::{Figure, Kind, Row, Scale};
use crate::subject::{Promise, Work};
use crate::subjects;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The time of the last pass, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) scale: Scale,
    pub(crate) rows: Vec<RowReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowReport {
    pub(crate) name: String,
    pub(crate) heading: String,
    pub(crate) about: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) absent: Vec<Absent>,
}

/// A subject of a row, or an echo.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) usage: String,
    pub(crate) promise: Promise,
    /// For reading: whether checksums are checked.
    pub(crate) verifies: Option<bool>,
    /// Values of the figures, for each pass.
    pub(crate) passes: Vec<Vec<f64>>,
    /// Why passes have failed.
    pub(crate) failures: Vec<String>,
}

/// What does not take part in a row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Absent {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Report {
    pub(crate) fn load(path: &Path) -> std::io::Result<Report> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// The report in `path`, which is to be continued, or an empty one if there is none.
    pub(crate) fn continued(path: &Path, scale: Scale, dir: &Path) -> Report {
        if !path.exists() {
            let machine = Machine::look(dir).expect("facts about this machine");
            return Report { machine, at: 0, scale, rows: Vec::new() };
        }
        let report = Report::load(path).expect("a report that can be continued");
        assert_eq!(report.scale, scale, "{path:?} has passes of another scale: use another file");
        report
    }

    pub(crate) fn store(&mut self, path: &Path) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.at = now.expect("a clock after 1970").as_secs();
        let order: Vec<String> = Row::all().into_iter().map(|row| row.name).collect();
        self.rows.sort_by_key(|row| order.iter().position(|name| *name == row.name));
        let json = serde_json::to_vec_pretty(self).expect("a report is JSON");
        let new = path.with_extension("new");
        fs::write(&new, json).and_then(|()| fs::rename(&new, path)).expect("storing the report");
    }

    /// Adds a row that the report does not have, and returns the names of those that take part.
    pub(crate) fn begin(&mut self, row: &Row) -> Vec<&'static str> {
        let all = contenders(row);
        if !self.rows.iter().any(|one| one.name == row.name) {
            let (mut taking_part, mut absent) = (Vec::new(), Vec::new());
            for contender in &all {
                match contender.promise {
                    Ok(promise) => taking_part.push(contender.begun(promise)),
                    Err(reason) => {
                        absent.push(Absent { name: contender.name.into(), reason: reason.into() })
                    }
                }
            }
            self.rows.push(RowReport {
                name: row.name.clone(),
                heading: row.heading().0.to_owned(),
                about: row.heading().1.to_owned(),
                figures: row.figures(),
                contenders: taking_part,
                absent,
            });
        }
        all.iter().filter(|one| one.promise.is_ok()).map(|one| one.name).collect()
    }

    fn contender(&mut self, row: &Row, name: &str) -> &mut Contender {
        let row = self.rows.iter_mut().find(|one| one.name == row.name).expect("a row that began");
        row.contenders.iter_mut().find(|one| one.name == name).expect("a contender of the row")
    }

    /// Whether the pass of this round has been made.
    pub(crate) fn has(&mut self, row: &Row, name: &str, round: usize) -> bool {
        let contender = self.contender(row, name);
        contender.passes.len() + contender.failures.len() > round
    }

    pub(crate) fn add(&mut self, row: &Row, name: &str, measured: Result<Vec<f64>, String>) {
        let contender = self.contender(row, name);
        match measured {
            Ok(values) => contender.passes.push(values),
            Err(reason) => contender.failures.push(reason),
        }
    }
}

/// One that could take part in a row.
struct Candidate {
    name: &'static str,
    usage: &'static str,
    promise: Result<Promise, &'static str>,
    verifies: Option<bool>,
}

impl Candidate {
    fn begun(&self, promise: Promise) -> Contender {
        // `LMDB (heed)` and `iceoryx2, events` have the names of the packages in them.
        let package = self.name.split(['(', ')']).nth(1).unwrap_or(self.name);
        let package = package.split(',').next().unwrap_or(package);
        Contender {
            name: self.name.to_owned(),
            version: subjects::version(package).map(str::to_owned),
            usage: self.usage.to_owned(),
            promise,
            verifies: self.verifies,
            passes: Vec::new(),
            failures: Vec::new(),
        }
    }
}

fn contenders(row: &Row) -> Vec<Candidate> {
    if let Kind::RoundTrip { cpus } = row.kind {
        let candidate = |echo: &&dyn echoes::Echo| Candidate {
            name: echo.name(),
            usage: echo.usage(),
            promise: echo.promise(cpus),
            verifies: None,
        };
        return echoes::ALL.iter().map(candidate).collect();
    }
    let work = row.work().expect("round trips have none");
    let candidate = |subject: &&dyn crate::subject::Subject| Candidate {
        name: subject.name(),
        usage: subject.usage(),
        promise: subject.promise(work),
        verifies: (work == Work::Read).then(|| subject.verifies()),
    };
    subjects::ALL.iter().map(candidate).collect()
}
