//! What the demo's parent sees: it reads the log beside the services, and prints what happens.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use deaddrop::Log;

use crate::{Result, NOTES, REPLIES, REQUESTS};

/// How this repository runs the tool.
pub(crate) const TOOL: &str = "cargo run --release --";

/// The progress of the services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requested: u64,
    pub(crate) answered: u64,
    /// Outcomes that the order service's callback has noted.
    pub(crate) noted: u64,
}

/// Looks at the log, and prints.
pub(crate) struct Watch {
    log: Log,
    total: u64,
    started: Instant,
    is_live: bool,
    shown_at: Option<Instant>,
}

/// The live line is written again after this time.
const REFRESH: Duration = Duration::from_millis(50);

impl Watch {
    pub(crate) fn new(log: Log, total: u64) -> Watch {
        let is_live = io::stdout().is_terminal();
        Watch { log, total, started: Instant::now(), is_live, shown_at: None }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn counts(&self) -> Result<Counts> {
        // Opened again each time: a topic that is just being created is seen when it is ready.
        let end = |name: &str| match self.log.open_topic(name) {
            Ok(topic) => topic.high_watermark(),
            Err(deaddrop::Error::NotFound { .. }) => Ok(0),
            Err(error) => Err(error),
        };
        Ok(Counts { answered: end(REPLIES)?, requested: end(REQUESTS)?, noted: end(NOTES)? })
    }

    /// Prints the line that changes in place, on a terminal.
    pub(crate) fn show(&mut self, counts: &Counts) -> io::Result<()> {
        if !self.is_live || self.shown_at.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        self.shown_at = Some(Instant::now());
        let bar = 30 * counts.requested.min(self.total) / self.total.max(1);
        let bar = "=".repeat(bar as usize);
        let waiting = counts.requested.saturating_sub(counts.answered);
        print!(
            "\r\x1b[K{:5.2} s [{bar:<30}] requested {} answered {} waiting {waiting}",
            self.started.elapsed().as_secs_f64(),
            grouped(counts.requested),
            grouped(counts.answered),
        );
        io::stdout().flush()
    }

    /// Prints an event, on a line that stays.
    pub(crate) fn say(&self, event: &str, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let clear = if self.is_live { "\r\x1b[K" } else { "" };
        println!("{clear}{seconds:5.2} s {}: {text}", strong(event));
    }
}

/// `text` in bold, on a terminal whose user has not refused colours.
pub(crate) fn strong(text: &str) -> String {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_plain || !io::stdout().is_terminal() {
        return text.to_owned();
    }
    format!("\x1b[1m{text}\x1b[0m")
}

/// A number with commas between the thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}
