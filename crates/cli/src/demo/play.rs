//! The parent of the demo: starts the services, kills them, and has the result checked.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deaddrop::{Log, Start};
use hdrhistogram::Histogram;
use serde_json::json;

use super::orders::{Note, RESERVED};
use super::watch::{Counts, Watch};
use super::{Setting, NOTES};
use crate::failure::{Exit, Failure};
use crate::output::{Colour, Out};
use crate::units::{self, count, grouped};

/// How often the parent reads the log.
const LOOK: Duration = Duration::from_millis(2);
/// No demo takes longer, unless something is wrong.
const LIMIT: Duration = Duration::from_secs(300);

/// A service of the demo. Killed when the demo ends early.
struct Service {
    name: &'static str,
    child: Child,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already, which is just as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The running demo.
struct Play<'a> {
    setting: &'a Setting,
    dir: PathBuf,
    total: u64,
    watch: Watch<'a>,
}

/// Plays the demo in an empty directory.
pub(super) fn play(
    setting: &Setting,
    dir: &Path,
    total: u64,
    out: &mut Out,
) -> Result<Exit, Failure> {
    Log::open(dir)?;
    let watch = Watch::new(out, Log::open_read_only(dir)?, total);
    let mut play = Play { setting, dir: dir.to_owned(), total, watch };
    let undisturbed = play.act()?;
    play.report(undisturbed)?;
    let proved = play.prove()?;
    play.hints()?;
    Ok(if proved { Exit::Ok } else { Exit::No })
}

impl Play<'_> {
    /// The whole story; returns how many outcomes were noted before the first kill.
    fn act(&mut self) -> Result<u64, Failure> {
        let start = format!(
            "{} in {}; two services are started as processes of their own",
            count(self.total, "order"),
            self.dir.display()
        );
        self.watch.say("demo", &Counts::default(), &start)?;
        let mut inventory = self.start("inventory", "demo-inventory-service")?;
        let mut orders = self.start("order service", "demo-order-service")?;

        let counts = self.wait(&mut orders, |counts, total| counts.requested >= total * 3 / 10)?;
        kill(&mut inventory)?;
        let counts = Counts { noted: counts.noted, ..self.watch.counts()? };
        let undisturbed = counts.noted;
        let text = "SIGKILL; the order service does not notice and continues";
        self.watch.say("inventory killed", &counts, text)?;

        self.wait(&mut orders, |counts, total| counts.requested >= total / 2)?;
        let restarted = Instant::now();
        let mut inventory = self.start("inventory", "demo-inventory-service")?;
        let counts = self.watch.counts()?;
        let backlog = counts.requested.saturating_sub(counts.answered);
        let text = format!("waiting for it in the log: {}", count(backlog, "request"));
        self.watch.say("inventory started", &counts, &text)?;
        let counts = self.wait(&mut orders, |counts, total| {
            // New ones arrive all the time: it has nearly caught up.
            counts.answered + total / 500 >= counts.requested
        })?;
        let text = format!("they are answered {:.0} ms later", millis(restarted));
        self.watch.say("inventory caught up", &counts, &text)?;

        self.wait(&mut orders, |counts, total| counts.requested >= total * 7 / 10)?;
        kill(&mut inventory)?;
        let counts = self.watch.counts()?;
        self.watch.say("inventory killed", &counts, "SIGKILL, again")?;
        self.wait(&mut orders, |counts, total| counts.requested >= total * 4 / 5)?;
        kill(&mut orders)?;
        let counts = self.watch.counts()?;
        let left = count(self.total.saturating_sub(counts.requested), "order");
        let text = format!("SIGKILL; now neither runs; not yet requested: {left}");
        self.watch.say("order service killed", &counts, &text)?;
        let mut inventory = self.start("inventory", "demo-inventory-service")?;
        let backlog = count(counts.requested.saturating_sub(counts.answered), "request");
        let text = format!("waiting for it: {backlog}");
        self.watch.say("inventory started", &counts, &text)?;
        let counts = self.wait(&mut inventory, |counts, _| counts.answered >= counts.requested)?;
        let unseen = count(counts.answered.saturating_sub(counts.noted), "outcome");
        let text = format!("waiting in the log for the order service: {unseen}");
        self.watch.say("inventory caught up", &counts, &text)?;
        let mut orders = self.start("order service", "demo-order-service")?;
        let text = "it reads its requests and their outcomes from the log, and continues";
        self.watch.say("order service started", &counts, text)?;
        self.finish(&mut orders)?;
        // Its input ends: it finishes the outcomes that are in flight.
        drop(inventory.child.stdin.take());
        expect_success(&mut inventory)?;
        Ok(undisturbed)
    }

    fn start(&self, name: &'static str, command: &str) -> Result<Service, Failure> {
        let exe = std::env::current_exe()
            .map_err(|error| Failure::io("finding", Path::new("this program"), &error))?;
        let child = Command::new(&exe)
            .arg("-d")
            .arg(&self.dir)
            .arg(command)
            .args(self.setting.to_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Failure::io("starting", &exe, &error))?;
        Ok(Service { name, child })
    }

    /// Polls until `reached`, or until a service that is needed for it ends.
    fn wait(
        &mut self,
        service: &mut Service,
        reached: impl Fn(&Counts, u64) -> bool,
    ) -> Result<Counts, Failure> {
        loop {
            // This comes first: what a service did before it ended counts.
            let ended = has_ended(service)?;
            let counts = self.watch.counts()?;
            self.watch.show(&counts)?;
            if ended || reached(&counts, self.total) {
                return Ok(counts);
            }
            self.check_time(&counts)?;
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for the end of the order service.
    fn finish(&mut self, orders: &mut Service) -> Result<(), Failure> {
        while !has_ended(orders)? {
            let counts = self.watch.counts()?;
            self.watch.show(&counts)?;
            self.check_time(&counts)?;
            std::thread::sleep(LOOK);
        }
        expect_success(orders)?;
        let counts = self.watch.counts()?;
        let text = "every order has its outcome";
        Ok(self.watch.say("order service done", &counts, text)?)
    }

    fn check_time(&self, counts: &Counts) -> Result<(), Failure> {
        if self.watch.elapsed() < LIMIT {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Io,
            format_args!(
                "the services make no progress: {} requested, {} answered; inspect {}",
                counts.requested,
                counts.answered,
                self.dir.display()
            ),
        ))
    }

    /// Throughput and latencies, from the notes of the order service.
    fn report(&mut self, undisturbed: u64) -> Result<(), Failure> {
        let seconds = self.watch.elapsed().as_secs_f64();
        let (mut calm, mut all) = (histogram()?, histogram()?);
        let mut seen = HashSet::new();
        let mut reserved = 0;
        let notes = self.watch.log().existing_topic(NOTES)?;
        let mut reader = notes.reader(Start::First)?;
        while let Some(record) = reader.next()? {
            let note: Note = record.json()?;
            if !seen.insert(note.order) {
                continue;
            }
            reserved += u64::from(note.status == RESERVED);
            if record.offset() < undisturbed {
                calm.saturating_record(note.latency_us);
            }
            all.saturating_record(note.latency_us);
        }
        let rate = seen.len() as f64 / seconds;
        let out = self.watch.out();
        if out.is_json() {
            let of = |histogram: &Histogram<u64>| {
                json!({
                    "count": histogram.len(), "p50_us": histogram.value_at_quantile(0.5),
                    "p90_us": histogram.value_at_quantile(0.9),
                    "p99_us": histogram.value_at_quantile(0.99), "max_us": histogram.max(),
                })
            };
            out.object(&json!({
                "event": "result", "orders": seen.len(), "reserved": reserved,
                "seconds": seconds, "orders_per_second": rate,
                "latency_undisturbed": of(&calm), "latency_all": of(&all),
            }))?;
            return Ok(());
        }
        writeln!(
            out,
            "\n{} in {seconds:.1} s ({} a second): {} reserved, {} rejected\n",
            count(seen.len() as u64, "order"),
            units::rate(rate),
            grouped(reserved),
            grouped(seen.len() as u64 - reserved)
        )?;
        let row = |name: &str, histogram: &Histogram<u64>| {
            // Without values there is no latency.
            let or_dash = |us| if histogram.is_empty() { "-".to_owned() } else { duration(us) };
            let at = |quantile| or_dash(histogram.value_at_quantile(quantile));
            let max = or_dash(histogram.max());
            vec![name.to_owned(), at(0.5), at(0.9), at(0.99), at(0.999), max]
        };
        let rows = [row("before the first kill", &calm), row("all, both kills included", &all)];
        let heading = ["REQUEST TO CALLBACK", "P50", "P90", "P99", "P99.9", "MAX"];
        Ok(out.table(&heading, &[1, 2, 3, 4, 5], &rows)?)
    }

    /// Has a new process check the log.
    fn prove(&mut self) -> Result<bool, Failure> {
        let exe = std::env::current_exe()
            .map_err(|error| Failure::io("finding", Path::new("this program"), &error))?;
        let out = self.watch.out();
        let json = out.is_json();
        if !json {
            writeln!(out, "\nA new process reads the log and nothing else:")?;
        }
        out.flush()?;
        let mut command = Command::new(&exe);
        command.arg("-d").arg(&self.dir);
        if json {
            command.arg("--json");
        }
        command.arg("demo-verify").args(&self.setting.orders);
        let status = command.status().map_err(|error| Failure::io("starting", &exe, &error))?;
        Ok(status.success())
    }

    fn hints(&mut self) -> Result<(), Failure> {
        let dir = self.dir.display().to_string();
        let out = self.watch.out();
        if out.is_json() {
            out.object(&json!({ "event": "left", "dir": dir }))?;
            return Ok(());
        }
        // As the user called it: `cargo run` does not put it on the path.
        let program = std::env::args().next().unwrap_or_else(|| "deaddrop".into());
        writeln!(out, "\nThe log is kept in {dir}. Inspect it:")?;
        for command in [
            "ls",
            "groups inventory.requests",
            "trace --last 1",
            "cat inventory.replies -5",
            "dump inventory.requests | less",
            "verify",
        ] {
            let line = out.paint(Colour::Strong, format!("{program} -d {dir} {command}"));
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }
}

fn kill(service: &mut Service) -> Result<(), Failure> {
    let failed = |error| Failure::io("killing", Path::new(service.name), &error);
    service.child.kill().map_err(failed)?;
    service.child.wait().map_err(failed)?;
    Ok(())
}

fn has_ended(service: &mut Service) -> Result<bool, Failure> {
    let ended = service.child.try_wait();
    ended
        .map(|status| status.is_some())
        .map_err(|error| Failure::io("waiting for", Path::new(service.name), &error))
}

fn expect_success(service: &mut Service) -> Result<(), Failure> {
    let status = service
        .child
        .wait()
        .map_err(|error| Failure::io("waiting for", Path::new(service.name), &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Io, format_args!("the {} ended with {status}", service.name)))
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    // In microseconds: up to ten minutes, to three digits.
    Histogram::new_with_bounds(1, 600_000_000, 3).map_err(|error| Failure::usage(error.to_string()))
}

/// Microseconds, in the one unit of all times that the demo prints side by side.
fn duration(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}
