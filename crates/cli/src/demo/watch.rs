//! The view of the demo's parent: it reads the log beside the services, and reports events.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use deaddrop::Log;
use serde_json::json;

use super::{NOTES, REPLIES, REQUESTS};
use crate::failure::Failure;
use crate::output::{Colour, Out};
use crate::units::grouped;

/// The progress of the services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requested: u64,
    pub(super) answered: u64,
    /// Outcomes that the order service's callback has noted.
    pub(super) noted: u64,
}

/// Reads the log, and prints.
pub(super) struct Watch<'a> {
    out: &'a mut Out,
    log: Log,
    total: u64,
    started: Instant,
    live: bool,
    shown_at: Option<Instant>,
}

/// The live line is written again after this time.
const REFRESH: Duration = Duration::from_millis(50);

impl<'a> Watch<'a> {
    pub(super) fn new(out: &'a mut Out, log: Log, total: u64) -> Watch<'a> {
        let live = io::stdout().is_terminal() && !out.is_json();
        Watch { out, log, total, started: Instant::now(), live, shown_at: None }
    }

    pub(super) fn out(&mut self) -> &mut Out {
        self.out
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn counts(&self) -> Result<Counts, Failure> {
        // Opened again each time: a topic that was just being created is seen when it is ready.
        let end = |name: &str| match self.log.existing_topic(name) {
            Ok(topic) => topic.high_watermark(),
            Err(deaddrop::Error::NotFound { .. }) => Ok(0),
            Err(error) => Err(error),
        };
        Ok(Counts { answered: end(REPLIES)?, requested: end(REQUESTS)?, noted: end(NOTES)? })
    }

    /// The line that changes in place, on a terminal.
    pub(super) fn show(&mut self, counts: &Counts) -> io::Result<()> {
        if !self.live || self.shown_at.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        self.shown_at = Some(Instant::now());
        let bar = 30 * counts.requested.min(self.total) / self.total.max(1);
        let bar = "=".repeat(bar as usize);
        let waiting = counts.requested.saturating_sub(counts.answered);
        write!(
            self.out,
            "\r\x1b[K{:5.2} s [{bar:<30}] requested {} answered {} waiting {waiting}",
            self.started.elapsed().as_secs_f64(),
            grouped(counts.requested),
            grouped(counts.answered),
        )?;
        self.out.flush()
    }

    /// An event, on a line that stays.
    pub(super) fn say(&mut self, event: &str, counts: &Counts, text: &str) -> io::Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        if self.out.is_json() {
            self.out.object(&json!({
                "event": event, "seconds": seconds, "requested": counts.requested,
                "answered": counts.answered, "noted": counts.noted,
            }))?;
        } else {
            let clear = if self.live { "\r\x1b[K" } else { "" };
            let time = self.out.paint(Colour::Faint, format!("{seconds:5.2} s"));
            let head = self.out.paint(Colour::Strong, event);
            writeln!(self.out, "{clear}{time} {head}: {text}")?;
        }
        self.out.flush()
    }
}
