//! A command's progress, shown on a terminal.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::units;

/// How often a line without a known total is drawn again.
const TICK: Duration = Duration::from_millis(100);

/// A bar on stderr up to `total` records, or a running count if the total is not known; hidden where no
/// user sees it, or where it would be mixed with the printed records.
pub(crate) fn bar(total: Option<u64>, printing: bool) -> ProgressBar {
    let beside = printing && std::io::stdout().is_terminal();
    if beside || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = styled(total);
    if total.is_none() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

fn styled(total: Option<u64>) -> ProgressBar {
    let (bar, style) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {bar:30} {human_pos} of {human_len} records {per_second} {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{msg} {spinner} {human_pos} records {per_second} {elapsed}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.with_key("per_second", per_second));
    }
    bar
}

/// The rate that a bar shows: the library's own rate has four decimals.
fn per_second(state: &ProgressState, text: &mut dyn Write) {
    // Writing to a `String` does not fail.
    write!(text, "{}/s", units::rate(state.per_sec())).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that keeps all output to it.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn rates_are_drawn_as_people_read_them() {
        for total in [Some(1_000_000), None] {
            let (bar, paper) = (styled(total), Paper::default());
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(paper.clone())));
            bar.set_message("orders");
            bar.set_position(123_456);
            // The rate of a bar at its end is that of the whole time: here 17.64.
            let bar = bar.with_elapsed(Duration::from_secs(7_000));
            bar.abandon();
            let drawn = paper.0.lock().unwrap().clone();
            assert!(drawn.contains("orders ") && drawn.contains("123,456"), "{drawn}");
            assert!(drawn.contains(" 18/s "), "{drawn}");
        }
    }
}
