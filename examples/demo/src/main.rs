//! An order service and an inventory service that never have to run at the same time. The demo kills and
//! restarts them while they work, and then proves from the log that every order was settled once.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod inventory;
mod order_service;
mod orders;
mod play;
mod poison;
mod proof;
mod watch;

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use deaddrop::{Durability, Log, Stop, TopicOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: deaddrop-demo [-d DIR] [--orders FILE] [--over SECONDS] [--durability process-crash|power-loss]

An order service asks an inventory service for the stock of 10,000 orders. Both are killed with SIGKILL and
started again. A fresh process then reads the log and proves that every order was requested once and has one
outcome. The log is kept: in DIR, or in ./target/demo/run-1, the next one in run-2.

  -d DIR           a directory that holds no log yet
  --orders FILE    orders to play, one JSON object a line, instead of those of the demo
  --over SECONDS   the time over which the orders arrive; 0: as fast as they can be sent [default: 4]
  --durability     what an acknowledged record survives [default: process-crash]";

/// The names that both services know.
const SERVICE: &str = "inventory";
const REQUESTS: &str = "inventory.requests";
const REPLIES: &str = "inventory.replies";
const CLIENT: &str = "order-service";
const CALLBACK: &str = "stock-checked";
/// The topic in which the order service notes the outcome of each order.
const NOTES: &str = "orders";

/// What one process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Starts the others.
    Play,
    Orders,
    Inventory,
    Proof,
}

/// The settings that all processes of a demo share.
#[derive(Debug)]
struct Setting {
    role: Role,
    dir: PathBuf,
    orders: Option<PathBuf>,
    durability: Durability,
    over: Duration,
}

impl Setting {
    fn read(args: impl Iterator<Item = OsString>) -> Result<Setting> {
        let mut setting = Setting {
            role: Role::Play,
            dir: PathBuf::new(),
            orders: None,
            durability: Durability::ProcessCrash,
            over: Duration::from_secs(4),
        };
        let mut args = args.peekable();
        let role = args.peek().and_then(|first| match first.to_str() {
            Some("order-service") => Some(Role::Orders),
            Some("inventory-service") => Some(Role::Inventory),
            Some("proof") => Some(Role::Proof),
            _ => None,
        });
        if let Some(role) = role {
            setting.role = role;
            args.next();
        }
        while let Some(name) = args.next() {
            let value = args.next().ok_or(USAGE)?;
            match (name.to_str(), value.to_str()) {
                (Some("-d"), _) => setting.dir = value.into(),
                (Some("--orders"), _) => setting.orders = Some(value.into()),
                (Some("--over"), Some(seconds)) => {
                    setting.over = Duration::try_from_secs_f64(seconds.parse()?)?;
                }
                (Some("--durability"), Some("process-crash")) => {
                    setting.durability = Durability::ProcessCrash;
                }
                (Some("--durability"), Some("power-loss")) => {
                    setting.durability = Durability::PowerLoss;
                }
                _ => return Err(USAGE.into()),
            }
        }
        Ok(setting)
    }

    /// The same settings as the arguments of a child.
    fn to_args(&self, role: &str) -> Vec<OsString> {
        let durability = match self.durability {
            Durability::PowerLoss => "power-loss",
            _ => "process-crash",
        };
        let mut args: Vec<OsString> = vec![role.into(), "-d".into(), self.dir.clone().into()];
        args.extend(["--durability".into(), durability.into()]);
        args.extend(["--over".into(), self.over.as_secs_f64().to_string().into()]);
        if let Some(orders) = &self.orders {
            args.extend(["--orders".into(), orders.into()]);
        }
        args
    }

    fn topic_options(&self) -> TopicOptions {
        TopicOptions::default().with_durability(self.durability)
    }
}

fn main() -> ExitCode {
    match Setting::read(std::env::args_os().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Returns false if something that the demo claims does not hold.
fn run(mut setting: Setting) -> Result<bool> {
    let orders = orders::read(setting.orders.as_deref())?;
    match setting.role {
        Role::Orders => order_service::run(&setting, &orders).map(|()| true),
        Role::Inventory => inventory::run(&setting).map(|()| true),
        Role::Proof => proof::run(&setting.dir, &orders),
        Role::Play => {
            if setting.dir.as_os_str().is_empty() {
                setting.dir = new_run(Path::new("target/demo"))?;
            } else if Log::open_read_only(&setting.dir).is_ok() {
                let dir = setting.dir.display();
                return Err(format!("{dir} already holds a log: name a new directory").into());
            }
            let holds = play::play(&setting, orders.len() as u64)?;
            poison::play(&setting.dir)?;
            Ok(holds)
        }
    }
}

/// Creates a directory of its own for each run.
fn new_run(base: &Path) -> Result<PathBuf> {
    const RUNS: u32 = 100_000;
    std::fs::create_dir_all(base).map_err(|error| failed("creating", base, &error))?;
    for run in 1..RUNS {
        let dir = base.join(format!("run-{run}"));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("creating", &dir, &error)),
        }
    }
    Err(format!("{} is full of runs: delete it", base.display()).into())
}

fn failed(doing: &str, what: &Path, error: &io::Error) -> Box<dyn Error> {
    format!("{doing} {}: {error}", what.display()).into()
}

/// Stops when standard input ends: a child of the demo does not outlive its parent.
fn stop_at_end_of_input() -> Stop {
    let stop = Stop::new();
    let ends = stop.clone();
    std::thread::spawn(move || {
        // An error is an end as well.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        ends.stop();
    });
    stop
}
