//! What commands print: tables for people, JSON for scripts.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;
use types::Timestamp;

/// Most columns of a table, as the narrowest terminals have.
const WIDTH_MAX: usize = 80;
/// What a column keeps when others need room.
const COLUMN_MIN: usize = 8;
const GAP: usize = 2;

/// Form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For scripts: one document, or one a line where there are many.
    Json,
}

impl Output {
    /// Prints a result in the form that was asked for.
    pub(crate) fn print(self, text: &str, value: &Value) -> anyhow::Result<()> {
        match self {
            Self::Text => say(text),
            Self::Json => say(&serde_json::to_string_pretty(value)?),
        }
    }

    /// Prints one of many results.
    pub(crate) fn print_next(self, text: &str, value: &Value) -> anyhow::Result<()> {
        match self {
            Self::Text => say(text),
            Self::Json => say(&value.to_string()),
        }
    }
}

/// Writes to standard output. Whoever stops reading, such as `head`, has had enough: that is no failure.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("failed to print"),
    }
}

/// A moment of the wire; 0 is none.
pub(crate) fn moment(secs: u64) -> String {
    if secs == 0 { String::new() } else { Timestamp::from_secs(secs).to_string() }
}

/// The same in JSON.
pub(crate) fn moment_json(secs: u64) -> Value {
    if secs == 0 { Value::Null } else { moment(secs).into() }
}

/// Text in JSON, where empty is none.
pub(crate) fn text_json(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// A table that fits [`WIDTH_MAX`] columns: what is too wide is cut, and stands whole in the JSON form.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths = heads.map(width);
    for row in rows {
        for (idx, cell) in row.iter().enumerate() {
            widths[idx] = widths[idx].max(width(cell));
        }
    }
    let room = WIDTH_MAX.saturating_sub(GAP * N.saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > COLUMN_MIN) else { break };
        *widest -= 1;
    }
    let heads = heads.map(str::to_owned);
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{:width$}{:GAP$}", fit(cell, width), "");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.truncate(out.trim_end().len());
    out
}

/// A cell of at most `width` characters, none of which steers a terminal.
fn fit(cell: &str, width: usize) -> String {
    let cell = cell.replace(char::is_control, "\u{fffd}");
    let cell = if cell.is_empty() { "-".to_owned() } else { cell };
    if cell.chars().count() <= width {
        return cell;
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_and_shows_what_is_absent() {
        let rows = [
            ["pi".to_owned(), "alive".to_owned(), "x".repeat(100)],
            ["tv".to_owned(), String::new(), "\u{1b}[2J".to_owned()],
        ];
        let table = table(["NODE", "STATE", "SERVICES"], &rows);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH_MAX), "{table}");
        assert!(lines[1].ends_with('…') && lines[2].starts_with("tv    -"), "{table}");
        assert!(!table.contains('\u{1b}'));
    }
}
