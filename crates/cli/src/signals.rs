//! Signals that end the process: the first one lets work in progress finish, the second one does not.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Calls `first` at the first SIGTERM, SIGINT or SIGHUP. At the second one calls `second`, and the
/// process ends by that signal. A signal that was ignored when the process started, for example by
/// `nohup`, stays ignored.
///
/// # Errors
///
/// The kernel refuses to register a handler.
pub(crate) fn on_end(
    first: impl FnOnce() + Send + 'static,
    second: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let ignored = ignored()?;
    let (mut receiver, sender) = UnixStream::pair()?;
    let last = Arc::new(AtomicUsize::new(0));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        if ignored >> (signal - 1) & 1 == 1 {
            continue;
        }
        // Handlers run in the order in which they were registered: the number is there before the byte.
        signal_hook::flag::register_usize(signal, Arc::clone(&last), signal as usize)?;
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    std::thread::spawn(move || {
        let mut byte = [0];
        // The sending end stays open as long as the process: so either a byte arrives, or nothing.
        if receiver.read_exact(&mut byte).is_err() {
            return;
        }
        first();
        if receiver.read_exact(&mut byte).is_err() {
            return;
        }
        second();
        let signal = last.load(Ordering::SeqCst) as i32;
        if signal_hook::low_level::emulate_default_handler(signal).is_err() {
            std::process::abort();
        }
    });
    Ok(())
}

/// The signals that this process ignores, as a mask.
fn ignored() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.ok_or_else(|| io::Error::other("/proc/self/status has no SigIgn"))
}
