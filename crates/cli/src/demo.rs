//! `demo`: an order service and an inventory service that never have to run at the same time, killed and
//! restarted while they work; and a proof from the log that every order was settled exactly once.

mod inventory;
mod order_service;
mod orders;
mod play;
mod poison;
mod proof;
mod watch;

use std::path::{Path, PathBuf};

use deaddrop::{Stop, TopicOptions};

use crate::args::demo::{Demo, Setting};
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::Global;

impl Setting {
    fn topic_options(&self) -> TopicOptions {
        TopicOptions::durability(self.durability.into())
    }

    /// The same as arguments of a child process.
    fn to_args(&self) -> Vec<std::ffi::OsString> {
        let mut args = vec!["--durability".into(), self.durability.to_string().into()];
        args.push("--over".into());
        args.push(humantime::format_duration(self.over).to_string().replace(' ', "").into());
        if let Some(orders) = &self.orders {
            args.push("--orders".into());
            args.push(orders.into());
        }
        args
    }
}

/// The names that both sides of the demo know.
const SERVICE: &str = "inventory";
const REQUESTS: &str = "inventory.requests";
const REPLIES: &str = "inventory.replies";
const CLIENT: &str = "order-service";
const CALLBACK: &str = "stock-checked";
/// The topic in which the order service notes the outcome of each order.
const NOTES: &str = "orders";

impl Demo {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let orders = orders::read(self.setting.orders.as_deref())?;
        let dir = match &global.dir {
            Some(dir) => new_log(dir)?,
            None => new_run(Path::new("target/demo"))?,
        };
        let exit = play::play(&self.setting, &dir, orders.len() as u64, out)?;
        if !out.is_json() {
            poison::play(&dir, out)?;
        }
        Ok(exit)
    }
}

/// The directory that the user named, if there is no log in it yet.
fn new_log(dir: &Path) -> Result<PathBuf, Failure> {
    match deaddrop::Log::open_read_only(dir) {
        Ok(_) => Err(Failure::usage(format_args!(
            "{} already contains a log: name a new directory",
            dir.display()
        ))),
        Err(_) => Ok(dir.to_owned()),
    }
}

/// A directory of its own for each run.
fn new_run(base: &Path) -> Result<PathBuf, Failure> {
    const RUNS: u32 = 100_000;
    std::fs::create_dir_all(base).map_err(|error| Failure::io("creating", base, &error))?;
    for run in 1..RUNS {
        let dir = base.join(format!("run-{run}"));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::io("creating", &dir, &error)),
        }
    }
    Err(Failure::usage(format_args!("{} is full of runs: delete it", base.display())))
}

/// Stops when standard input ends: a child of the demo does not outlive its parent.
fn stop_at_end_of_input() -> Stop {
    let stop = Stop::new();
    let ends = stop.clone();
    std::thread::spawn(move || {
        // An error ends it as well.
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        ends.stop();
    });
    stop
}
