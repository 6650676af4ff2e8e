//! What the commands print: tables for people, JSON for programs.

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::arguments::Format;

/// What a command has to say. As JSON it is what serde makes of it: docs/cli.md promises the names.
pub(super) trait Answer: Serialize {
    /// Writes it for people.
    fn text(&self, out: &mut Text<'_>) -> io::Result<()>;
}

/// Standard output.
pub(super) struct Screen<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) format: Format,
    /// Whether text may be coloured.
    pub(super) colour: bool,
}

impl Screen<'_> {
    pub(super) fn show(&mut self, answer: &impl Answer) -> io::Result<()> {
        match self.format {
            Format::Table => answer.text(&mut Text { out: self.out, colour: self.colour }),
            Format::Json => {
                serde_json::to_writer_pretty(&mut *self.out, answer)?;
                writeln!(self.out)
            }
        }
    }
}

/// Where text for people goes.
pub(super) struct Text<'a> {
    out: &'a mut dyn Write,
    colour: bool,
}

impl Write for Text<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How something is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Heading,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }
}

impl Text<'_> {
    /// Writes `text` in the colour of `tone`.
    pub(super) fn paint(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        if !self.colour {
            return self.out.write_all(text.as_bytes());
        }
        let style = tone.style();
        write!(self.out, "{style}{text}{style:#}")
    }
}

/// One cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// What is not there is `-`.
    pub(super) fn or_dash(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| "-".into(), Self::from)
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text.to_string(), Tone::Plain)
    }
}

/// Rows of which the columns are aligned.
pub(super) struct Table<const N: usize>(Vec<[Cell; N]>);

impl<const N: usize> Table<N> {
    pub(super) fn headed(names: [&str; N]) -> Self {
        Self(vec![names.map(|name| Cell::toned(name, Tone::Heading))])
    }

    pub(super) fn row(&mut self, cells: [Cell; N]) {
        self.0.push(cells);
    }

    pub(super) fn write(&self, out: &mut Text<'_>) -> io::Result<()> {
        let length = |cell: &Cell| cell.text.chars().count();
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.0.iter().map(|row| length(&row[column])).max().unwrap_or_default()
        });
        for row in &self.0 {
            for (column, cell) in row.iter().enumerate() {
                out.paint(cell.tone, &cell.text)?;
                // Nothing is appended to the last one, so that a line can be copied.
                if column + 1 < N {
                    write!(out, "{:1$}", "", widths[column] - length(cell) + 2)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
