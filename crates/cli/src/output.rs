//! Standard output: buffered, JSON or text, coloured on a terminal only.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use serde::Serialize;

use crate::args::When;

/// The version of all JSON objects that are printed. A field may be added without a new version; removing
/// a field, or changing its meaning, needs one.
pub(crate) const VERSION: u32 = 1;

/// An object with the version as its first field.
#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl When {
    /// Whether to colour output to `stream`.
    pub(crate) fn colours(self, stream: &impl IsTerminal) -> bool {
        match self {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                stream.is_terminal() && !plain
            }
        }
    }
}

/// Standard output.
pub(crate) struct Out {
    writer: BufWriter<File>,
    json: bool,
    colour: bool,
}

/// How to colour a piece of text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    /// Headings and names.
    Strong,
    /// Less important text.
    Faint,
    /// Damage.
    Bad,
    /// All well.
    Good,
}

impl Out {
    pub(crate) fn new(json: bool, colour: When) -> io::Result<Out> {
        let stdout = io::stdout();
        // `Stdout` flushes at every line; a million lines need a buffer.
        let file = File::from(stdout.as_fd().try_clone_to_owned()?);
        let colour = colour.colours(&stdout);
        Ok(Out { writer: BufWriter::with_capacity(64 << 10, file), json, colour })
    }

    /// Whether the user asked for JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether to colour: on a terminal, unless the user wants no colours.
    pub(crate) fn has_colour(&self) -> bool {
        self.colour
    }

    /// Writes one JSON object, with its version, and a newline.
    pub(crate) fn object(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.writer, &Versioned { v: VERSION, value })?;
        self.writer.write_all(b"\n")
    }

    /// `text` in a colour, on a terminal.
    pub(crate) fn paint(&self, colour: Colour, text: impl Into<String>) -> String {
        let text = text.into();
        if !self.colour || text.is_empty() {
            return text;
        }
        let code = match colour {
            Colour::Strong => "1",
            Colour::Faint => "2",
            Colour::Bad => "31",
            Colour::Good => "32",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Writes a line in a colour, on a terminal.
    pub(crate) fn line(&mut self, colour: Colour, text: impl Into<String>) -> io::Result<()> {
        let text = self.paint(colour, text);
        writeln!(self.writer, "{text}")
    }

    /// Writes rows in aligned columns under a heading. Columns named in `right` are aligned right.
    pub(crate) fn table(
        &mut self,
        heading: &[&str],
        right: &[usize],
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([heading[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let mut line = String::new();
            for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                if right.contains(&column) {
                    line += &format!("{padding}{cell}  ");
                } else {
                    line += &format!("{cell}{padding}  ");
                }
            }
            line.trim_end().to_owned()
        };
        let first = self.paint(Colour::Strong, line(heading.to_vec()));
        writeln!(self.writer, "{first}")?;
        for row in rows {
            writeln!(self.writer, "{}", line(row.iter().map(String::as_str).collect()))?;
        }
        Ok(())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Bytes as text on one line: valid UTF-8 stays, the rest is escaped.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'\\';
    if bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' => text += "\\n",
                '\t' => text += "\\t",
                '\r' => text += "\\r",
                '\\' => text += "\\\\",
                other if other.is_control() => text += &format!("\\u{{{:x}}}", other as u32),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_and_invalid_bytes_are_escaped() {
        assert_eq!(super::escape("grün\n\u{1b}[31m".as_bytes()), "grün\\n\\u{1b}[31m");
        assert_eq!(super::escape(b"a\xff\\"), "a\\xff\\\\");
        assert_eq!(super::escape(b"plain\\"), "plain\\\\");
        assert_eq!(super::escape(b" plain ~"), " plain ~");
    }
}
