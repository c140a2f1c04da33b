//! The parent of the demo: starts the services, kills them, and has the end checked.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deaddrop::{Log, Start};

use crate::orders::{Note, RESERVED};
use crate::watch::{count, grouped, strong, Counts, Watch, TOOL};
use crate::{failed, Result, Setting, NOTES};

/// How often the parent looks at the log.
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
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Service {
    fn kill(&mut self) -> Result<()> {
        let failed = |error| failed("killing", Path::new(self.name), &error);
        self.child.kill().map_err(failed)?;
        self.child.wait().map_err(failed)?;
        Ok(())
    }

    fn has_ended(&mut self) -> Result<bool> {
        let ended = self.child.try_wait();
        let ended = ended.map_err(|error| failed("waiting for", Path::new(self.name), &error))?;
        Ok(ended.is_some())
    }

    fn expect_success(&mut self) -> Result<()> {
        let status = self.child.wait();
        let status = status.map_err(|error| failed("waiting for", Path::new(self.name), &error))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("the {} ended with {status}", self.name).into())
    }
}

/// The running demo.
struct Play<'a> {
    setting: &'a Setting,
    total: u64,
    watch: Watch,
}

/// Plays the demo in an empty directory. Returns whether its claims hold.
pub(crate) fn play(setting: &Setting, total: u64) -> Result<bool> {
    Log::open_or_create(&setting.dir)?;
    let watch = Watch::new(Log::open_read_only(&setting.dir)?, total);
    let mut play = Play { setting, total, watch };
    let undisturbed = play.act()?;
    play.report(undisturbed)?;
    println!("\nA fresh process reads the log and nothing else:");
    let status = play.command("proof")?.status();
    let status = status.map_err(|error| failed("starting", Path::new("the proof"), &error))?;
    play.hints();
    Ok(status.success())
}

impl Play<'_> {
    /// Plays the story. Returns how many outcomes were noted before the first kill.
    fn act(&mut self) -> Result<u64> {
        let orders = count(self.total, "order");
        let dir = self.setting.dir.display();
        self.watch.say("demo", &format!("{orders} in {dir}; two services start as processes"));
        let mut inventory = self.start("inventory", "inventory-service")?;
        let mut orders = self.start("order service", "order-service")?;

        let counts = self.wait(&mut orders, |counts, total| counts.requested >= total * 3 / 10)?;
        inventory.kill()?;
        let undisturbed = counts.noted;
        let text = "SIGKILL; the order service does not notice and continues";
        self.watch.say("inventory killed", text);

        self.wait(&mut orders, |counts, total| counts.requested >= total / 2)?;
        let restarted = Instant::now();
        let mut inventory = self.start("inventory", "inventory-service")?;
        let counts = self.watch.counts()?;
        let backlog = counts.requested.saturating_sub(counts.answered);
        let text = format!("waiting for it in the log: {}", count(backlog, "request"));
        self.watch.say("inventory started", &text);
        self.wait(&mut orders, |counts, total| {
            // New ones arrive all the time: nearly all are answered.
            counts.answered + total / 500 >= counts.requested
        })?;
        let text = format!("they are answered {} ms later", restarted.elapsed().as_millis());
        self.watch.say("inventory caught up", &text);

        self.wait(&mut orders, |counts, total| counts.requested >= total * 7 / 10)?;
        inventory.kill()?;
        self.watch.say("inventory killed", "SIGKILL, once more");
        self.wait(&mut orders, |counts, total| counts.requested >= total * 4 / 5)?;
        orders.kill()?;
        let counts = self.watch.counts()?;
        let left = count(self.total.saturating_sub(counts.requested), "order");
        let text = format!("SIGKILL; now neither service runs; remaining: {left}");
        self.watch.say("order service killed", &text);
        let mut inventory = self.start("inventory", "inventory-service")?;
        let backlog = count(counts.requested.saturating_sub(counts.answered), "request");
        self.watch.say("inventory started", &format!("waiting for it: {backlog}"));
        let counts = self.wait(&mut inventory, |counts, _| counts.answered >= counts.requested)?;
        let unseen = count(counts.answered.saturating_sub(counts.noted), "outcome");
        let text = format!("waiting in the log for the order service: {unseen}");
        self.watch.say("inventory caught up", &text);
        let mut orders = self.start("order service", "order-service")?;
        let text = "it finds its requests and their outcomes in the log, and continues";
        self.watch.say("order service started", text);
        self.wait(&mut orders, |_, _| false)?;
        orders.expect_success()?;
        self.watch.say("order service done", "every order has its outcome");
        // Its input ends: it finishes the requests in flight.
        drop(inventory.child.stdin.take());
        inventory.expect_success()?;
        Ok(undisturbed)
    }

    /// Prepares this program in another role, with the same settings.
    fn command(&self, role: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.setting.to_args(role));
        Ok(command)
    }

    fn start(&self, name: &'static str, role: &str) -> Result<Service> {
        let child = self.command(role)?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| failed("starting", Path::new(name), &error))?;
        Ok(Service { name, child })
    }

    /// Looks until `reached`, or until the service that has to reach it ends.
    fn wait(
        &mut self,
        service: &mut Service,
        reached: impl Fn(&Counts, u64) -> bool,
    ) -> Result<Counts> {
        loop {
            // First: what it did before it ended counts.
            let ended = service.has_ended()?;
            let counts = self.watch.counts()?;
            self.watch.show(&counts)?;
            if ended || reached(&counts, self.total) {
                return Ok(counts);
            }
            if self.watch.elapsed() > LIMIT {
                let Counts { requested, answered, .. } = counts;
                let dir = self.setting.dir.display();
                return Err(format!(
                    "the services make no progress: {requested} requested, {answered} answered; see {dir}"
                )
                .into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Prints throughput and latencies, from what the order service has noted.
    fn report(&self, undisturbed: u64) -> Result<()> {
        let seconds = self.watch.elapsed().as_secs_f64();
        let (mut calm, mut all) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        let mut reserved = 0;
        let notes = self.watch.log().open_topic(NOTES)?;
        let mut reader = notes.reader(Start::First)?;
        while let Some(record) = reader.next()? {
            let note: Note = record.json()?;
            if !seen.insert(note.order) {
                continue;
            }
            reserved += u64::from(note.status == RESERVED);
            if record.offset() < undisturbed {
                calm.push(note.latency_us);
            }
            all.push(note.latency_us);
        }
        let orders = seen.len() as u64;
        println!(
            "\n{} in {seconds:.1} s ({:.0} a second): {} reserved, {} rejected\n",
            count(orders, "order"),
            orders as f64 / seconds,
            grouped(reserved),
            grouped(orders - reserved)
        );
        let row = |name: &str, cells: [String; 5]| {
            let [p50, p90, p99, p999, max] = cells;
            format!("{name:<24}  {p50:>9}  {p90:>9}  {p99:>9}  {p999:>9}  {max:>9}")
        };
        let heading = ["P50", "P90", "P99", "P99.9", "MAX"].map(str::to_owned);
        println!("{}", strong(&row("REQUEST TO CALLBACK", heading)));
        println!("{}", row("before the first kill", quantiles(calm)));
        println!("{}", row("all, both kills included", quantiles(all)));
        Ok(())
    }

    fn hints(&self) {
        let dir = self.setting.dir.display();
        println!("\nThe log is left in {dir}. Look into it with the tool:");
        for command in [
            "ls",
            "groups inventory.requests",
            "trace --last 1",
            "cat inventory.replies -5",
            "dump inventory.requests | less",
            "verify",
        ] {
            println!("  {}", strong(&format!("{TOOL} -d {dir} {command}")));
        }
    }
}

/// The quantiles of the heading, of latencies in microseconds.
fn quantiles(mut latencies: Vec<u64>) -> [String; 5] {
    latencies.sort_unstable();
    [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| {
        let rank = (latencies.len() as f64 * quantile).ceil() as usize;
        let latency = latencies.get(rank.saturating_sub(1));
        latency.map_or("-".to_owned(), |us| format!("{:.1} ms", *us as f64 / 1e3))
    })
}
