//! What a change of a text amounts to, as `diff -u` prints it.

use std::fmt::Write as _;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The unified diff between two texts of the file `name`, in one hunk; nothing where they are equal.
pub(super) fn unified(name: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (lines(old), lines(new));
    let same = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
    let rest = old.len().min(new.len()) - same;
    let both = old.iter().rev().zip(new.iter().rev()).take(rest);
    let same_behind = both.take_while(|(one, other)| one == other).count();
    let from = same.saturating_sub(CONTEXT);
    let behind = same_behind.min(CONTEXT);
    let (old_end, new_end) = (old.len() - same_behind, new.len() - same_behind);
    let mut out = format!("--- {name}\n+++ {name}\n");
    let range = |end: usize| format!("{},{}", from + 1, end + behind - from);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "@@ -{} +{} @@", range(old_end), range(new_end));
    let mut put = |sign: char, line: &str| {
        out.push(sign);
        out.push_str(line);
        if !line.ends_with('\n') {
            out.push_str("\n\\ No newline at end of file\n");
        }
    };
    old[from..same].iter().for_each(|line| put(' ', line));
    for (sign, line) in changes(&old[same..old_end], &new[same..new_end]) {
        put(sign, line);
    }
    old[old_end..old_end + behind].iter().for_each(|line| put(' ', line));
    out
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// The lines that stay, go and come: up to the nearest pair of equal ones, and on from there.
fn changes<'a>(mut old: &[&'a str], mut new: &[&'a str]) -> Vec<(char, &'a str)> {
    let mut changes = Vec::new();
    while !old.is_empty() || !new.is_empty() {
        let mut pairs = (0..old.len() + new.len())
            .flat_map(|distance| (0..=distance).map(move |gone| (gone, distance - gone)));
        let equal = |(gone, come): &(usize, usize)| {
            old.get(*gone).zip(new.get(*come)).is_some_and(|(one, other)| one == other)
        };
        let (gone, come) = pairs.find(equal).unwrap_or((old.len(), new.len()));
        changes.extend(old[..gone].iter().map(|line| ('-', *line)));
        changes.extend(new[..come].iter().map(|line| ('+', *line)));
        changes.extend(old[gone..].first().map(|line| (' ', *line)));
        (old, new) = (&old[old.len().min(gone + 1)..], &new[new.len().min(come + 1)..]);
    }
    changes
}

#[cfg(test)]
mod tests;
