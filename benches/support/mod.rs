//! Parts that the benchmarks share: pairs measured in turns, tables, directories, children.
//!
//! Every figure is compared with its physical limit, measured in the same run: the two take turns in
//! short rounds, so that a busy neighbour slows both, and the table gives the median of the rounds'
//! ratios. Criterion then measures each alone, for its own history.
#![allow(dead_code, clippy::print_stdout, clippy::unwrap_used)]

pub(crate) mod child;
pub(crate) mod limit;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use deaddrop::{Durability, Log, Retention, Topic, TopicOptions};

/// Runs this many iterations and returns how long they took.
pub(crate) type Measured<'a> = &'a mut dyn FnMut(u64) -> Duration;

/// A run of one benchmark binary.
pub(crate) struct Run {
    /// `--test`: everything once, with tiny counts.
    pub(crate) quick: bool,
    filter: Option<String>,
    list: bool,
    criterion: Criterion,
    tables: Vec<Table>,
    dir: tempfile::TempDir,
}

struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A pair of measurements that take turns.
pub(crate) struct Pair {
    /// A description of one iteration, e.g. `64 B`.
    pub(crate) name: String,
    /// Bytes of payload per iteration.
    pub(crate) bytes: u64,
    /// Iterations of a round.
    pub(crate) round: u64,
    /// The ratio to reach, if one is set.
    pub(crate) figure: Option<f64>,
}

/// Rounds in which a pair takes turns.
const ROUNDS: usize = 31;

impl Run {
    /// Reads the command line, as cargo and the user give it.
    pub(crate) fn new() -> Run {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |name: &str| args.iter().any(|arg| arg == name);
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        std::fs::create_dir_all(&target).unwrap();
        Run {
            quick: has("--test") || !has("--bench"),
            filter: args.iter().find(|arg| !arg.starts_with('-')).cloned(),
            list: has("--list"),
            criterion: Criterion::default().configure_from_args(),
            tables: Vec::new(),
            // On a disk: /tmp is memory on many machines.
            dir: tempfile::Builder::new().prefix("bench-").tempdir_in(target).unwrap(),
        }
    }

    /// Whether the command line selects the benchmark with this name.
    pub(crate) fn wants(&self, name: &str) -> bool {
        !self.list && self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// A path for a file or directory of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `full`, or `quick` in a smoke run.
    pub(crate) fn choose<T>(&self, full: T, quick: T) -> T {
        if self.quick {
            quick
        } else {
            full
        }
    }

    /// Begins a table.
    pub(crate) fn table(&mut self, title: &str, columns: &[&str]) {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        self.tables.push(Table { title: title.to_owned(), columns, rows: Vec::new() });
    }

    /// Begins a table of pairs.
    pub(crate) fn table_of_pairs(&mut self, title: &str) {
        self.table(title, &["what", "ns", "limit ns", "ratio", "p10-p90", "figure", ""]);
    }

    /// Adds a row to the table that was begun last.
    pub(crate) fn row(&mut self, cells: &[String]) {
        println!("  {}", cells.join("  "));
        self.tables.last_mut().expect("a table was begun").rows.push(cells.to_vec());
    }

    /// Measures a pair: in turns for the table, then each by criterion.
    pub(crate) fn pair(&mut self, group: &str, pair: Pair, ours: Measured, limit: Measured) {
        let full_name = format!("{group}/{}", pair.name);
        if !self.wants(&full_name) {
            return;
        }
        let (rounds, count) = if self.quick { (1, 2) } else { (ROUNDS, pair.round) };
        let compared = in_turns(rounds, || ours(count), || limit(count));
        self.pair_row(&pair, count, &compared);
        // Large pieces are measured for less time, so that the bytes stay bounded.
        let millis = if pair.bytes >= 16 << 10 { 40 } else { 200 };
        let mut criterion = self.criterion.benchmark_group(group);
        criterion
            .sample_size(10)
            .warm_up_time(Duration::from_millis(millis / 5))
            .measurement_time(Duration::from_millis(millis));
        if pair.bytes > 0 {
            criterion.throughput(Throughput::Bytes(pair.bytes));
        }
        criterion.bench_function(&pair.name, |bencher| bencher.iter_custom(&mut *ours));
        criterion.bench_function(format!("{}/limit", pair.name), |bencher| {
            bencher.iter_custom(&mut *limit);
        });
        criterion.finish();
    }

    /// Measures by criterion alone, for a short time.
    pub(crate) fn criterion_only(&mut self, group: &str, name: &str, work: Measured) {
        let mut criterion = self.criterion.benchmark_group(group);
        criterion
            .sample_size(10)
            .warm_up_time(Duration::from_millis(20))
            .measurement_time(Duration::from_millis(100));
        criterion.bench_function(name, |bencher| bencher.iter_custom(&mut *work));
        criterion.finish();
    }

    /// Adds a row for a pair of which a round had `count` iterations.
    pub(crate) fn pair_row(&mut self, pair: &Pair, count: u64, compared: &Compared) {
        let reached = match pair.figure {
            Some(figure) if compared.ratio >= figure => "reached",
            Some(_) => "short",
            None => "",
        };
        let nanos = |round: Duration| format!("{:.1}", round.as_nanos() as f64 / count as f64);
        self.row(&[
            pair.name.clone(),
            nanos(compared.ours),
            nanos(compared.limit),
            format!("{:.2}", compared.ratio),
            format!("{:.2}-{:.2}", compared.low, compared.high),
            pair.figure.map_or("-".into(), |figure| format!("{figure:.2}")),
            reached.to_owned(),
        ]);
    }

    /// Prints the tables.
    pub(crate) fn finish(self) {
        self.criterion.final_summary();
        if self.list {
            return;
        }
        println!("\n{}", machine());
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            table.print();
        }
        if self.quick {
            println!("\nA smoke run: the figures mean nothing.");
        }
    }
}

impl Table {
    fn print(&self) {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        let line = |cells: &[String]| {
            let padded = cells.iter().enumerate().map(|(column, cell)| {
                let width = width(column);
                match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                }
            });
            format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
        };
        println!("\n### {}\n\n{}", self.title, line(&self.columns));
        let rule: Vec<String> =
            (0..self.columns.len()).map(|column| "-".repeat(width(column))).collect();
        println!("{}", line(&rule));
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

/// The times of two measurements that took turns.
pub(crate) struct Compared {
    /// Median of a round.
    pub(crate) ours: Duration,
    /// Median of a round.
    pub(crate) limit: Duration,
    /// Median of the rounds' ratios, limit to ours: 1 is as fast as the limit.
    pub(crate) ratio: f64,
    /// Its 10th percentile.
    pub(crate) low: f64,
    /// Its 90th percentile.
    pub(crate) high: f64,
}

/// Runs the two in turns; the one that begins changes every round. One round before them is not counted.
pub(crate) fn in_turns(
    rounds: usize,
    mut ours: impl FnMut() -> Duration,
    mut limit: impl FnMut() -> Duration,
) -> Compared {
    let (mut all_ours, mut all_limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds + 1 {
        let (one, other) = if round % 2 == 0 {
            let one = ours();
            (one, limit())
        } else {
            let other = limit();
            (ours(), other)
        };
        if round > 0 {
            ratios.push(other.as_nanos() as f64 / one.as_nanos().max(1) as f64);
            all_ours.push(one);
            all_limits.push(other);
        }
    }
    all_ours.sort();
    all_limits.sort();
    ratios.sort_by(f64::total_cmp);
    Compared {
        ours: all_ours[rounds / 2],
        limit: all_limits[rounds / 2],
        ratio: ratios[rounds / 2],
        low: ratios[rounds / 10],
        high: ratios[rounds - 1 - rounds / 10],
    }
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long `work` takes.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Options of a topic for measuring.
pub(crate) fn options(durability: Durability, segment_len: u64) -> TopicOptions {
    TopicOptions::default()
        .with_durability(durability)
        .with_segment_len(segment_len)
        .with_retention(Retention::default())
}

/// A topic with one resident segment, which is created again when it is full.
pub(crate) struct Fresh {
    dir: PathBuf,
    durability: Durability,
    segment_len: u64,
    left: u64,
    open: Option<(Log, Topic)>,
    made: u64,
}

impl Fresh {
    /// Nothing is created before the first use.
    pub(crate) fn new(dir: PathBuf, durability: Durability, segment_len: u64) -> Fresh {
        Fresh { dir, durability, segment_len, left: 0, open: None, made: 0 }
    }

    /// The topic, with room for at least `len` bytes, and the number of bytes that it has room for.
    pub(crate) fn topic(&mut self, len: u64) -> (&Topic, u64) {
        if self.left < len {
            if let Some((log, topic)) = self.open.take() {
                remove(log, topic);
            }
            self.made += 1;
            let log = Log::open_or_create(self.dir.join(self.made.to_string())).unwrap();
            let options = options(self.durability, self.segment_len);
            let topic = log.topic_with("t", options).unwrap();
            if self.durability == Durability::ProcessCrash {
                topic.populate(self.segment_len).unwrap();
            }
            self.left = self.segment_len - 8192;
            self.open = Some((log, topic));
        }
        let (_, topic) = self.open.as_ref().unwrap();
        (topic, self.left)
    }

    /// Records that this many bytes of the topic are used.
    pub(crate) fn used(&mut self, len: u64) {
        self.left -= len;
    }

    /// Runs `append`, which takes `len` bytes of the segment, `count` times; only the appends are timed.
    pub(crate) fn run(&mut self, count: u64, len: u64, append: impl Fn(&Topic)) -> Duration {
        let mut elapsed = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let (topic, room) = self.topic(len);
            let now = left.min(room / len);
            elapsed += timed(|| (0..now).for_each(|_| append(topic)));
            self.used(now * len);
            left -= now;
        }
        elapsed
    }
}

/// Closes a log and removes its directory, as soon as the background threads have finished their work.
pub(crate) fn remove(log: Log, topic: Topic) {
    let dir = log.dir().to_owned();
    drop((topic, log));
    let mut tries = 0;
    while let Err(error) = std::fs::remove_dir_all(&dir) {
        tries += 1;
        assert!(tries < 1000, "removing {dir:?}: {error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes that a record with only this payload takes in a segment.
pub(crate) fn frame_len(payload: usize) -> u64 {
    (deaddrop::format::frame::FIXED_LEN + payload).next_multiple_of(8) as u64
}

/// A payload that does not repeat every few bytes.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 131 + (index >> 8) * 17) as u8).collect()
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("?", |(_, model)| model);
    let count = cpus.lines().filter(|line| line.starts_with("model name")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {count} CPUs, Linux {}", kernel.trim())
}
