//! The terminal: taken over, drawn on, and given back, whatever ends the view.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;

use super::draw::draw;
use super::view::View;
use crate::failure::{Exit, Failure};

/// The terminal in the hands of this program. Given back when it is dropped, and by the panic hook
/// that ratatui sets.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Raised by a signal that ends this program.
    ended: Arc<AtomicBool>,
    has_colour: bool,
    scroll: u16,
    scroll_max: u16,
    page: u16,
}

/// What whoever sits at the terminal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    ToQuit,
    /// To see other lines: so far down, or up.
    ToScroll(i32),
}

impl Screen {
    pub(super) fn open(has_colour: bool) -> Result<Screen, Failure> {
        let ended = Arc::new(AtomicBool::new(false));
        // Before the terminal is taken: from then on none of these ends the program at once.
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
        let terminal = ratatui::try_init().map_err(|error| {
            // It may have been taken in part.
            ratatui::restore();
            failed(error)
        })?;
        Ok(Screen { terminal, ended, has_colour, scroll: 0, scroll_max: 0, page: 1 })
    }

    pub(super) fn draw(&mut self, view: &View, interval: Duration) -> Result<(), Failure> {
        let (scroll, has_colour) = (self.scroll, self.has_colour);
        let mut scroll_max = 0;
        let frame = self
            .terminal
            .draw(|frame| scroll_max = draw(frame, view, interval, scroll, has_colour))
            .map_err(failed)?;
        // Of what is drawn, three lines stay where they are.
        self.page = frame.area.height.saturating_sub(3).max(1);
        self.scroll_max = scroll_max;
        self.scroll = scroll.min(scroll_max);
        Ok(())
    }

    /// Waits for a key, a new size or a signal, at most so long.
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
        Ok(asked)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back; this says so on stderr.
        ratatui::restore();
    }
}

/// What a key asks for, where a page has so many lines.
fn meaning(key: KeyEvent, page: u16) -> Asked {
    if key.kind == KeyEventKind::Release {
        return Asked::Nothing;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Asked::ToQuit,
        KeyCode::Char('c' | 'd') if control => Asked::ToQuit,
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
    use super::*;

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
