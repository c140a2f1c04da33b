//! How far a command is, on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line without an end in sight is drawn again.
const TICK: Duration = Duration::from_millis(100);

/// A bar on stderr up to `total` records, or a running count if that is not known; hidden where nobody
/// looks, or where it would run into what is printed.
pub(crate) fn bar(total: Option<u64>, printing: bool) -> ProgressBar {
    let beside = printing && std::io::stdout().is_terminal();
    if beside || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, style) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {bar:30} {human_pos} of {human_len} records {per_sec} {eta}",
        ),
        None => {
            (ProgressBar::new_spinner(), "{msg} {spinner} {human_pos} records {per_sec} {elapsed}")
        }
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    if total.is_none() {
        bar.enable_steady_tick(TICK);
    }
    bar
}
