//! A view on a screen: its tables one under the other, scrolled as a whole.

use std::time::Duration;

use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use ratatui::Frame;

use super::tables::{tables, Shown, Table, Tone};
use super::view::View;

/// Put before an error, which is shown under its row.
const INDENT: &str = "  ";

/// How a view is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// The number of lines that the view is scrolled down.
    pub(super) scroll: u16,
    pub(super) has_colour: bool,
    /// Includes the topics, positions and members of services and clients.
    pub(super) all: bool,
}

/// Draws the view; returns the largest useful number of lines to scroll.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, interval: Duration, manner: &Manner) -> u16 {
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let faint = Style::new().add_modifier(Modifier::DIM);
    let at = view.at.split('.').next().unwrap_or_default().replace('T', " ");
    let title = Line::from(vec![
        Span::styled("deaddrop top", strong),
        Span::raw(format!("  {}  ", view.dir)),
        Span::styled(format!("{at} UTC"), faint),
    ]);
    frame.render_widget(Paragraph::new(title), top);
    let lines = lines(view, manner, middle.width.into());
    let scroll_max = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(middle.height);
    let scroll = manner.scroll.min(scroll_max);
    frame.render_widget(Paragraph::new(lines).scroll((scroll, 0)), middle);
    let more = match scroll_max {
        0 => String::new(),
        most => format!(
            "  line {} of {}",
            u32::from(scroll) + 1,
            u32::from(most) + u32::from(middle.height)
        ),
    };
    let interval = humantime::format_duration(interval);
    let other = if manner.all { "fewer" } else { "all" };
    let keys = format!("q quit  up down scroll  a {other}  every {interval}{more}");
    frame.render_widget(Paragraph::new(Span::styled(keys, faint)), bottom);
    scroll_max
}

fn lines(view: &View, manner: &Manner, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for table in tables(view, Shown { history: true, all: manner.all }) {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        table_lines(&table, manner.has_colour, width, &mut lines);
    }
    if view.topics.is_empty() {
        lines.push(Line::raw("no topics yet"));
    }
    lines
}

/// Columns with an empty heading hold errors: each error gets its own lines under its row, where a narrow
/// screen shows it whole.
fn table_lines(
    table: &Table,
    has_colour: bool,
    screen_width: usize,
    lines: &mut Vec<Line<'static>>,
) {
    let width = |column: usize| {
        let cells = table.rows.iter().map(|row| row[column].text.chars().count());
        cells.chain([table.heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.heading.len()).map(width).collect();
    let pad = |column: usize, text: &str| {
        let padding = " ".repeat(widths[column] - text.chars().count());
        match table.right.contains(&column) {
            true => format!("{padding}{text}  "),
            false => format!("{text}{padding}  "),
        }
    };
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let heading: String =
        table.heading.iter().enumerate().map(|(column, name)| pad(column, name)).collect();
    lines.push(Line::styled(heading, strong));
    let is_error = |column: usize| table.heading[column].is_empty();
    for row in &table.rows {
        let cells = row.iter().enumerate().filter(|(column, _)| !is_error(*column));
        let spans =
            cells.map(|(at, cell)| Span::styled(pad(at, &cell.text), style(cell.tone, has_colour)));
        lines.push(Line::from(spans.collect::<Vec<_>>()));
        for (_, error) in row.iter().enumerate().filter(|(column, _)| is_error(*column)) {
            let text: Vec<char> = error.text.chars().collect();
            for piece in text.chunks(screen_width.saturating_sub(INDENT.len()).max(1)) {
                let piece = format!("{INDENT}{}", piece.iter().collect::<String>());
                lines.push(Line::styled(piece, style(error.tone, has_colour)));
            }
        }
    }
}

fn style(tone: Tone, has_colour: bool) -> Style {
    match (tone, has_colour) {
        (Tone::Plain, _) | (Tone::Graph, false) => Style::new(),
        (Tone::Bad, true) => Style::new().fg(Color::Red),
        (Tone::Bad, false) => Style::new().add_modifier(Modifier::REVERSED),
        (Tone::Graph, true) => Style::new().fg(Color::Cyan),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    use super::super::look::{Look, ServiceLook};
    use super::super::model::Model;
    use super::super::view::{
        ConsumerView, GroupView, InHand, Lane, Member, Problem, State, TopicView,
    };
    use super::*;

    fn lane(number: usize, state: &'static str) -> Lane {
        let in_hand = InHand { offset: 41, attempt: 3, state };
        Lane { lane: number, committed: 41, owner: Some(7), in_hand: Some(in_hand) }
    }

    fn view() -> View {
        let look = |seconds: u64, end: u64| Look {
            at: Duration::from_secs(seconds),
            wall_nanos: 90_000_000_000,
            topics: vec![TopicView {
                topic: "orders".into(),
                durability: "power-loss".into(),
                high_watermark: end,
                disk_bytes: 32 << 20,
                consumers: vec![ConsumerView {
                    consumer: "billing".into(),
                    lag: 7,
                    owner: Some(12),
                    error: Some(Problem { text: "its slot\nis bad".into(), is_corruption: true }),
                    ..ConsumerView::default()
                }],
                groups: vec![GroupView {
                    group: "shipping".into(),
                    committed: Some(40),
                    lag: 2,
                    lanes: vec![lane(0, "running"), lane(1, "suspect")],
                    ..GroupView::default()
                }],
                members: vec![Member {
                    slot: 3,
                    pid: 99,
                    command: "shop".into(),
                    state: State::Stopped,
                }],
                ..TopicView::default()
            }],
            services: vec![ServiceLook {
                name: "inventory".into(),
                outstanding: 5,
                is_behind: true,
                oldest_nanos: Some(88_500_000_000),
                latencies_micros: vec![100, 100, 4000],
                ..ServiceLook::default()
            }],
        };
        let mut model = Model::new("./drop".into());
        model.update(look(0, 1000)).unwrap();
        model.update(look(2, 5000)).unwrap()
    }

    fn screen(view: &View, width: u16, height: u16, scroll: u16) -> (Vec<String>, u16) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut most = 0;
        terminal
            .draw(|frame| {
                let manner = Manner { scroll, has_colour: true, all: false };
                most = draw(frame, view, Duration::from_secs(2), &manner);
            })
            .unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(width.into());
        let text = |row: &[ratatui::buffer::Cell]| {
            row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
        };
        (rows.map(text).collect(), most)
    }

    #[test]
    fn everything_that_was_seen_is_on_the_screen() {
        let (rows, most) = screen(&view(), 120, 30, 0);
        let expected = [
            "deaddrop top  ./drop  1970-01-01 00:01:30 UTC",
            "",
            "TOPIC   DURABILITY  FIRST   END  PER SECOND  ON DISK  CONSUMERS  MEMBERS  HISTORY",
            "orders  power-loss      0  5000       2,000   32 MiB          1        1  █",
            "",
            "SERVICE    OUTSTANDING  OLDEST  OUTCOMES/S     P50   P90   P99   MAX  ON DISK  HISTORY",
            "inventory           5+   1.5 s         1.5  <10 ms  4 ms  4 ms  4 ms      0 B  ██",
            "",
            "CONSUMER  TOPIC   COMMITTED  LAG  PER SECOND  OWNER",
            "billing   orders          -    7           -  process 12",
            "  its slot\\nis bad",
            "",
            "GROUP     TOPIC   COMMITTED  LAG  PER SECOND  LANES  HELD  PROCESSES  IN FLIGHT",
            "shipping  orders         40    2           0      2     2          1          2",
            "",
            "LANE  GROUP     TOPIC   RECORD  ATTEMPT  OWNER      STATE",
            "   1  shipping  orders      41        3  process 7  suspect",
            "",
            "MEMBER      TOPIC   SLOT  COMMAND  STATE",
            "process 99  orders     3  shop     stopped",
        ];
        assert_eq!(rows[..expected.len()], expected);
        assert!(rows[expected.len()..29].iter().all(String::is_empty), "{rows:#?}");
        assert_eq!(
            (rows.last().unwrap().as_str(), most),
            ("q quit  up down scroll  a all  every 2s", 0)
        );
    }

    #[test]
    fn headings_are_bold_and_what_is_bad_is_red_or_without_colours_reversed() {
        for (has_colour, bad) in [
            (true, Style::new().fg(Color::Red)),
            (false, Style::new().add_modifier(Modifier::REVERSED)),
        ] {
            let lines = lines(&view(), &Manner { scroll: 0, has_colour, all: false }, 120);
            let with = |text: &str| {
                let of = |line: &&Line<'_>| line.to_string().contains(text);
                lines.iter().find(of).unwrap().clone()
            };
            assert!(with("TOPIC").style.add_modifier.contains(Modifier::BOLD));
            assert_eq!(with("its slot").style, bad);
            assert_eq!(with("suspect").spans.last().unwrap().style, bad);
            assert_eq!(with("stopped").spans.last().unwrap().style, bad);
            assert!(with("orders  power-loss").spans.iter().all(|span| span.style != bad));
        }
    }

    #[test]
    fn a_small_screen_scrolls_to_the_last_line_and_no_further() {
        let (rows, most) = screen(&view(), 60, 8, u16::MAX);
        assert_eq!(most, 18 - 5);
        assert!(rows[6].starts_with("process 99"), "{rows:?}");
        assert_eq!(rows[7], "q quit  up down scroll  a all  every 2s  line 14 of 18");
        // An error that is wider than the screen continues in the next line.
        let (rows, _) = screen(&view(), 12, 30, 0);
        let at = rows.iter().position(|row| row == "  its slot\\n").unwrap();
        assert_eq!(rows[at + 1], "  is bad");
        for (width, height) in [(1, 1), (3, 2), (200, 3)] {
            screen(&view(), width, height, 3);
        }
    }

    #[test]
    fn a_log_without_topics_says_so() {
        let view = Model::new("./drop".into()).update(Look::default()).unwrap();
        let (rows, _) = screen(&view, 80, 8, 0);
        assert_eq!(rows[2], "no topics yet");
    }
}
