//! `top`: shows the activity of a log, live.

mod draw;
mod look;
mod model;
mod outstanding;
mod plain;
mod screen;
mod tables;
mod view;
mod watch;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::args::top::Top;
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::Global;
use model::Model;
use screen::{Asked, Screen};
pub(crate) use view::View;
use watch::Watch;

const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The longest time until a key or a signal is noticed.
const LOOK: Duration = Duration::from_millis(100);
/// A poll reads at most this long in the topics of one service; the next one continues there.
const READING_MAX: Duration = Duration::from_millis(200);
/// The first poll has to read all that was there before.
const FIRST_READING_MAX: Duration = Duration::from_secs(5);

impl Top {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&self.interval) {
            return Err(Failure::usage("--interval must be from 10ms to 1h"));
        }
        if self.count == Some(0) {
            return Err(Failure::usage("--count must be at least 1, not 0"));
        }
        let watch = Watch::new(global.open_read_only()?);
        let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        if is_terminal && !self.once && !out.is_json() {
            return self.live(watch, out);
        }
        self.plain(watch, out)
    }

    fn live(&self, mut watch: Watch, out: &Out) -> Result<Exit, Failure> {
        let mut model = Model::new(watch.dir());
        let mut view = model.update(watch.look(FIRST_READING_MAX)?)?;
        let mut screen = Screen::open(out.has_colour(), self.all)?;
        let mut next = Instant::now() + self.interval;
        let mut looks = 0;
        loop {
            screen.draw(&view, self.interval)?;
            let left = next.saturating_duration_since(Instant::now());
            if screen.wait(left.min(LOOK))? == Asked::ToQuit {
                return Ok(Exit::Ok);
            }
            if Instant::now() >= next {
                view = model.update(watch.look(READING_MAX)?)?;
                looks += 1;
                if self.count.is_some_and(|count| looks >= count) {
                    screen.draw(&view, self.interval)?;
                    return Ok(Exit::Ok);
                }
                next = Instant::now() + self.interval;
            }
        }
    }

    fn plain(&self, mut watch: Watch, out: &mut Out) -> Result<Exit, Failure> {
        let mut model = Model::new(watch.dir());
        model.update(watch.look(FIRST_READING_MAX)?)?;
        let count = if self.once { 1 } else { self.count.unwrap_or(u64::MAX) };
        let mut exit = Exit::Ok;
        for number in 0..count {
            std::thread::sleep(self.interval);
            let view = model.update(watch.look(READING_MAX)?)?;
            if out.is_json() {
                out.object(&view)?;
            } else {
                plain::print(&view, self.all, number > 0, out)?;
            }
            std::io::Write::flush(out)?;
            if view.is_damaged() {
                exit = Exit::Corruption;
            }
        }
        Ok(exit)
    }
}
