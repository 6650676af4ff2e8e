//! What the commands print: tables for people, JSON for programs.

use std::io::{self, Write};
use std::iter;
use std::time::{Duration, UNIX_EPOCH};

use autoport::diagnosis::Finding;
use clap::builder::styling::AnsiColor;
pub(super) use clap::builder::styling::Style;
use serde::Serialize;
use serde_json::Value;

use super::arguments::Format;
use super::{Failure, Store, nothing_recorded, yaml};

/// What a command has to say. As JSON it is what serde makes of it: docs/cli.md promises the names.
pub(super) trait Answer: Serialize {
    /// Writes it for people.
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()>;

    /// Whether what was looked at is as it should be.
    fn is_well(&self) -> bool {
        true
    }
}

/// Standard output.
#[derive(derive_more::Deref, derive_more::DerefMut)]
pub(super) struct Screen<'a> {
    #[deref]
    #[deref_mut]
    pub(super) out: &'a mut dyn Write,
    pub(super) format: Format,
    pub(super) colour: bool,
    /// Whether tables begin with the names of the columns.
    pub(super) headers: bool,
}

impl Screen<'_> {
    /// Prints the answer. Gives the exit status.
    pub(super) fn show(&mut self, answer: &impl Answer) -> io::Result<u8> {
        match self.format {
            Format::Table | Format::Wide => answer.text(self)?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut *self.out, answer)?;
                writeln!(self)?;
            }
            Format::Yaml => yaml::write(&mut *self.out, &value_of(answer)?)?,
        }
        Ok(if answer.is_well() { 0 } else { 3 })
    }

    /// Prints that nothing has been recorded in `store`; for programs the answer `empty`.
    pub(super) fn show_nothing(
        &mut self,
        store: &Store,
        empty: &impl Answer,
    ) -> Result<u8, Failure> {
        let text = nothing_recorded(store)?;
        Ok(match self.format {
            Format::Table | Format::Wide => writeln!(self, "{text}").map(|()| 0)?,
            Format::Json | Format::Yaml => self.show(empty)?,
        })
    }

    /// Writes `text` in this style, where the terminal has colours.
    pub(super) fn paint(&mut self, style: Style, text: &str) -> io::Result<()> {
        let style = if self.colour { style } else { PLAIN };
        write!(self, "{style}{text}{style:#}")
    }

    /// Writes rows with their columns aligned, each line after `indent`.
    pub(super) fn table<const N: usize>(
        &mut self,
        indent: &str,
        names: [&str; N],
        rows: impl Iterator<Item = [Cell; N]>,
    ) -> io::Result<()> {
        let heading = names.map(|name| Cell::styled(name, HEADING));
        let heading = iter::once(heading).filter(|_| self.headers);
        let rows: Vec<[Cell; N]> = heading.chain(rows).collect();
        let length = |cell: &Cell| cell.text.chars().count();
        let widths: [usize; N] = std::array::from_fn(|column| {
            rows.iter().map(|row| length(&row[column])).max().unwrap_or_default()
        });
        for row in &rows {
            write!(self, "{indent}")?;
            for (column, cell) in row.iter().enumerate() {
                self.paint(cell.style, &cell.text)?;
                // Nothing is appended to the last one, so that a line can be copied.
                if column + 1 < N {
                    write!(self, "{:1$}", "", widths[column] - length(cell) + 2)?;
                }
            }
            writeln!(self)?;
        }
        Ok(())
    }

    /// Writes a line of a report, its first two columns so wide, and below it what to do.
    pub(super) fn finding<S>(
        &mut self,
        (word, style): (&str, Style),
        [state, check]: [usize; 2],
        finding: &Finding<S>,
    ) -> io::Result<()> {
        self.paint(style, &format!("{word:state$}"))?;
        writeln!(self, "{:check$}{}", finding.check, finding.text)?;
        let remedy = finding.remedy.as_ref();
        remedy.map_or(Ok(()), |remedy| writeln!(self, "{:1$}-> {remedy}", "", state + check))
    }
}

/// The JSON of this, to be changed or written in another form. By way of its text, which all of it is made
/// into already: another serializer would add 100 KB to this program.
pub(super) fn value_of<T: Serialize>(of: &T) -> serde_json::Result<Value> {
    let mut text = Vec::new();
    serde_json::to_writer_pretty(&mut text as &mut dyn Write, of)?;
    serde_json::from_slice(&text)
}

const PLAIN: Style = Style::new();
pub(super) const HEADING: Style = Style::new().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// One cell of a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What is not there is `-`.
    pub(super) fn or_dash(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| "-".into(), Self::from)
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text.to_string(), PLAIN)
    }
}

/// How long ago, as kubectl writes it (`HumanDuration` of k8s.io/apimachinery): two units while the larger
/// one is small.
pub(super) fn age(seconds: u64) -> String {
    let two = |value: u64, unit: &str, rest: u64, of: &str| match rest {
        0 => format!("{value}{unit}"),
        rest => format!("{value}{unit}{rest}{of}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if minutes < 2 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if days < 2 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 2 * 365 => format!("{days}d"),
        () if days < 8 * 365 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// Seconds since the epoch as RFC 3339 writes them, in UTC.
pub(super) fn timestamp(seconds: u64) -> String {
    // Of the last second of the year 9999, after which there is no such form.
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests;
