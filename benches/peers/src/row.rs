//! The rows: which work is measured, and in which figures.

use serde::{Deserialize, Serialize};

use crate::subject::Work;

/// How much a pass does at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    /// Of [`BATCH`] records.
    Batch,
    Tail,
    Durable {
        threads: usize,
    },
    Read,
    Reopen,
    RoundTrip {
        cpus: usize,
    },
}

pub(crate) const BATCH: usize = 100;

/// One piece of work.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Bytes of a record.
    pub(crate) size: usize,
}

/// What a pass measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PerSecond,
    Nanoseconds,
    Records,
}

impl Unit {
    pub(crate) fn more_is_better(self) -> bool {
        self == Unit::PerSecond
    }
}

impl Row {
    pub(crate) fn all() -> Vec<Row> {
        let mut rows = Vec::new();
        let mut add = |name: String, kind, size| rows.push(Row { name, kind, size });
        for (size, name) in SIZES {
            add(format!("append {name}"), Kind::Append, size);
        }
        for (size, name) in &SIZES[..2] {
            add(format!("batch {BATCH} x {name}"), Kind::Batch, *size);
        }
        for (size, name) in &SIZES[1..3] {
            add(format!("tail {name}"), Kind::Tail, *size);
        }
        for threads in [1, 16, 64] {
            let plural = if threads == 1 { "" } else { "s" };
            add(format!("durable {threads} thread{plural}"), Kind::Durable { threads }, 256);
        }
        for (size, name) in &SIZES[..3] {
            add(format!("read {name}"), Kind::Read, *size);
        }
        add("reopen".to_owned(), Kind::Reopen, 1 << 10);
        add("round trip, one CPU".to_owned(), Kind::RoundTrip { cpus: 1 }, 256);
        add("round trip, two CPUs".to_owned(), Kind::RoundTrip { cpus: 2 }, 256);
        rows
    }

    /// The work of the subjects; round trips have contenders of their own.
    pub(crate) fn work(&self) -> Option<Work> {
        match self.kind {
            Kind::Append | Kind::Batch | Kind::Tail => Some(Work::Append),
            Kind::Durable { .. } => Some(Work::Durable),
            Kind::Read => Some(Work::Read),
            Kind::Reopen => Some(Work::Reopen),
            Kind::RoundTrip { .. } => None,
        }
    }

    pub(crate) fn figures(&self) -> Vec<Figure> {
        let figures: &[(&str, Unit)] = match self.kind {
            Kind::Append | Kind::Batch | Kind::Read => &[("", Unit::PerSecond)],
            Kind::Tail => &[
                ("p50", Unit::Nanoseconds),
                ("p99.9", Unit::Nanoseconds),
                ("p99.99", Unit::Nanoseconds),
            ],
            Kind::Durable { .. } => &[("", Unit::PerSecond), ("p99.9", Unit::Nanoseconds)],
            Kind::Reopen => &[("", Unit::Nanoseconds), ("missing", Unit::Records)],
            Kind::RoundTrip { .. } => &[("p50", Unit::Nanoseconds), ("p99", Unit::Nanoseconds)],
        };
        figures.iter().map(|&(name, unit)| Figure { name: name.to_owned(), unit }).collect()
    }

    /// The heading of the table that has the row, and what its rows measure.
    pub(crate) fn heading(&self) -> (&'static str, &'static str) {
        match self.kind {
            Kind::Append => (
                "Appending one by one",
                "Records a second, sustained, into new pages: the log is empty when it is opened.",
            ),
            Kind::Batch => (
                "Appending in batches of 100",
                "The same, 100 records in a call. Records a second.",
            ),
            Kind::Tail => ("Latency of one append", "Each append timed, up to a million of them."),
            Kind::Durable { .. } => (
                "Durable appends of 256 B",
                "An append returns when its record is on the disk. Records a second of all threads, and \
                 the 99.9th percentile of an append.",
            ),
            Kind::Read => (
                "Reading what another process wrote",
                "Records a second, from the first to the last, of a log that another process has just \
                 written and closed. Checked: a checksum of each record is verified.",
            ),
            Kind::Reopen => (
                "Reopening after `kill -9`",
                "Opening and one append, after a process that had filled the log was killed; and how many \
                 acknowledged records cannot be read afterwards.",
            ),
            Kind::RoundTrip { .. } => (
                "Round trips of 256 B between two processes",
                "A request until its reply has arrived, with default waits, both processes on one CPU and \
                 on two.",
            ),
        }
    }
}

const SIZES: [(usize, &str); 5] =
    [(64, "64 B"), (256, "256 B"), (1 << 10, "1 KiB"), (16 << 10, "16 KiB"), (64 << 10, "64 KiB")];
