//! The terminal: taken over, drawn on, and restored, however the view ends.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen};
use ratatui::layout::Rect;
use ratatui::{DefaultTerminal, TerminalOptions, Viewport};

use super::draw::{draw, Manner};
use super::view::View;
use crate::failure::{Exit, Failure};

/// The most columns and rows that are drawn on. Each of them needs memory, and a terminal can claim any
/// number of them up to 65,535.
const WIDTH_MAX: u16 = 1_000;
const HEIGHT_MAX: u16 = 500;

/// The terminal while this program owns it. Restored when this is dropped, and by the panic hook that
/// ratatui sets.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Set by a signal that ends this program.
    ended: Arc<AtomicBool>,
    has_colour: bool,
    /// Includes the topics, positions and members of services and clients.
    all: bool,
    scroll: u16,
    scroll_max: u16,
    page: u16,
    /// The part of the terminal that is drawn on.
    area: Rect,
}

/// The action that the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    ToQuit,
    /// To scroll this many lines down, or up.
    ToScroll(i32),
    /// To show the topics of services and clients, or to hide them.
    ToShowAll,
}

impl Screen {
    pub(super) fn open(has_colour: bool, all: bool) -> Result<Screen, Failure> {
        let ended = Arc::new(AtomicBool::new(false));
        // Before the terminal is taken over: from then on none of these signals ends the program at once.
        for signal in [
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGHUP,
            signal_hook::consts::SIGQUIT,
        ] {
            signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(|error| {
                Failure::new(Exit::Io, format_args!("watching signals: {error}"))
            })?;
        }
        let area = area().map_err(failed)?;
        let terminal = take(area).map_err(|error| {
            // It may have been taken over in part.
            ratatui::restore();
            failed(error)
        })?;
        Ok(Screen { terminal, ended, has_colour, all, scroll: 0, scroll_max: 0, page: 1, area })
    }

    pub(super) fn draw(&mut self, view: &View, interval: Duration) -> Result<(), Failure> {
        let (scroll, has_colour, all) = (self.scroll, self.has_colour, self.all);
        let mut scroll_max = 0;
        let area = area().map_err(failed)?;
        if area != self.area {
            self.terminal.resize(area).map_err(failed)?;
            self.area = area;
        }
        self.terminal
            .draw(|frame| {
                scroll_max = draw(frame, view, interval, &Manner { scroll, has_colour, all })
            })
            .map_err(failed)?;
        // Three of the drawn lines do not scroll.
        self.page = area.height.saturating_sub(3).max(1);
        self.scroll_max = scroll_max;
        self.scroll = scroll.min(scroll_max);
        Ok(())
    }

    /// Waits for a key, a new size or a signal, at most this long.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<Asked, Failure> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(Asked::ToQuit);
        }
        if !event::poll(timeout).map_err(failed)? {
            return Ok(Asked::Nothing);
        }
        let asked = match event::read().map_err(failed)? {
            Event::Key(key) => meaning(key, self.page),
            _ => Asked::Nothing,
        };
        if let Asked::ToScroll(lines) = asked {
            let to = i32::from(self.scroll).saturating_add(lines);
            self.scroll = to.clamp(0, i32::from(self.scroll_max)) as u16;
        }
        if asked == Asked::ToShowAll {
            self.all = !self.all;
        }
        Ok(asked)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone need not be restored; ratatui reports that on stderr.
        ratatui::restore();
    }
}

/// The part of the terminal, as large as it is now, that is drawn on.
fn area() -> std::io::Result<Rect> {
    let (width, height) = terminal::size()?;
    Ok(Rect::new(0, 0, width.min(WIDTH_MAX), height.min(HEIGHT_MAX)))
}

fn take(area: Rect) -> std::io::Result<DefaultTerminal> {
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    let terminal = ratatui::try_init_with_options(options)?;
    execute!(std::io::stdout(), EnterAlternateScreen)?;
    Ok(terminal)
}

/// The action of a key, where a page has this many lines.
fn meaning(key: KeyEvent, page: u16) -> Asked {
    if key.kind == KeyEventKind::Release {
        return Asked::Nothing;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Asked::ToQuit,
        KeyCode::Char('c' | 'd') if control => Asked::ToQuit,
        KeyCode::Char('a') => Asked::ToShowAll,
        KeyCode::Up | KeyCode::Char('k') => Asked::ToScroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Asked::ToScroll(1),
        KeyCode::PageUp => Asked::ToScroll(-i32::from(page)),
        KeyCode::PageDown | KeyCode::Char(' ') => Asked::ToScroll(page.into()),
        KeyCode::Home => Asked::ToScroll(i32::MIN),
        KeyCode::End => Asked::ToScroll(i32::MAX),
        _ => Asked::Nothing,
    }
}

fn failed(error: std::io::Error) -> Failure {
    Failure::io("using", Path::new("the terminal"), &error)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    use rustix::pty::{self, OpenptFlags};
    use rustix::termios::{self, LocalModes, Winsize};

    use super::super::look::Look;
    use super::super::model::Model;
    use super::*;

    /// Distinguishes the child of a test from the test, which does nothing.
    const CHILD: &str = "DEADDROP_CHILD";
    const SAID: &str = "in the middle of the view";
    /// A child that hangs is a failure, not a hung test.
    const GUARD: Duration = Duration::from_secs(60);

    fn is_cooked(terminal: impl std::os::fd::AsFd) -> bool {
        let modes = termios::tcgetattr(terminal).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Runs with a terminal as its standard input and output.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let view = Model::new("drop".to_owned()).update(Look::default()).unwrap();
        let mut screen = Screen::open(true, false).unwrap();
        screen.draw(&view, Duration::from_secs(1)).unwrap();
        assert!(!is_cooked(std::io::stdin()), "the terminal was not taken");
        panic!("{SAID}");
    }

    /// The child's output to its terminal, and whether the terminal is restored when it has ended.
    fn panic_on_a_terminal() -> (Vec<u8>, bool) {
        let mut screen = File::from(pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        pty::grantpt(&screen).unwrap();
        pty::unlockpt(&screen).unwrap();
        let name = pty::ptsname(&screen, Vec::new()).unwrap();
        let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&terminal, size).unwrap();
        assert!(is_cooked(&terminal));
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "top::screen::tests::child", "--nocapture"])
            .env(CHILD, "1")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let (begun, mut seen, mut has_ended) = (Instant::now(), Vec::new(), false);
        let pause = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        loop {
            if begun.elapsed() >= GUARD {
                drop(child.kill());
            }
            if poll(&mut [PollFd::new(&screen, PollFlags::IN)], Some(&pause)).unwrap() > 0 {
                let mut piece = [0; 4096];
                let read = screen.read(&mut piece).unwrap();
                seen.extend_from_slice(&piece[..read]);
            } else if has_ended {
                break;
            } else {
                // Output from before its end is read by the next iteration.
                has_ended = child.try_wait().unwrap().is_some();
            }
        }
        child.wait().unwrap();
        (seen, is_cooked(&terminal))
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        let (seen, is_cooked) = panic_on_a_terminal();
        let text = String::from_utf8_lossy(&seen);
        let last = |what: &str| text.rfind(what).unwrap_or_else(|| panic!("{what:?}: {text}"));
        let (enter, leave) = (last("\x1b[?1049h"), last("\x1b[?1049l"));
        assert!(is_cooked, "{text}");
        assert!(enter < leave, "{text}");
        // On the alternate screen it would vanish with it.
        let told = text.find(SAID).unwrap_or_else(|| panic!("{text}"));
        let left = text.find("\x1b[?1049l").unwrap();
        assert!(left < told && enter < told, "{text}");
        assert!(last("\x1b[?25l") < last("\x1b[?25h"), "the cursor stays hidden: {text}");
    }

    #[test]
    fn keys_quit_and_scroll_and_others_do_nothing() {
        let key = |code| meaning(KeyEvent::new(code, KeyModifiers::NONE), 7);
        assert_eq!(key(KeyCode::Char('q')), Asked::ToQuit);
        assert_eq!(key(KeyCode::Char('c')), Asked::Nothing);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(meaning(control_c, 7), Asked::ToQuit);
        assert_eq!(key(KeyCode::PageUp), Asked::ToScroll(-7));
        assert_eq!(key(KeyCode::Down), Asked::ToScroll(1));
    }
}
