//! A network configuration list with autoport in it, and without: what changes in the text.

use std::fmt;

use super::from_portmap;
use super::problem::Problem;
use super::text::{Edit, Value, appended, edited, indent, removed};
use crate::cni::{Config, Version};

/// Plugins that work on the result of those before them, and make none themselves.
const CHAINED: [&str; 9] =
    ["autoport", "portmap", "bandwidth", "firewall", "tuning", "sbr", "vrf", "loopback", "tbf"];

/// Plugins that hand their work on to networks of other files.
const DELEGATING: [&str; 2] = ["multus", "multus-shim"];

/// What has to change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edited {
    /// The whole text as it has to be.
    pub(super) text: String,
    pub(super) how: How,
    /// What whoever asked for it should know.
    pub(super) remarks: Vec<String>,
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Unchanged,
    ReplacesPortmap,
    Appended,
    /// The file is what it was before.
    Restored,
    /// portmap's object is back in the place of autoport's; what else was changed stays.
    PortmapBack,
    /// autoport's object is gone, and there was no portmap.
    TakenOut,
}

impl fmt::Display for How {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Unchanged => "nothing to do",
            Self::ReplacesPortmap => "autoport replaces portmap",
            Self::Appended => "autoport added after the other plugins",
            Self::Restored => "restored to its content before the installation",
            Self::PortmapBack => "portmap replaces autoport",
            Self::TakenOut => "autoport removed",
        })
    }
}

/// A list as far as it has to be understood.
struct List<'a> {
    text: &'a str,
    plugins: Value<'a>,
    items: Vec<Value<'a>>,
    types: Vec<String>,
}

impl<'a> List<'a> {
    fn read(text: &'a str) -> Result<Self, Problem> {
        let whole = Value::of(text).map_err(Problem::Json)?;
        let shape = |what, expected| Problem::Shape { what, expected };
        if whole.members().is_none() {
            return Err(shape("it", "an object"));
        }
        let plugins = whole.get("plugins").ok_or(shape("\"plugins\"", "there"))?;
        let items = plugins.items().ok_or(shape("\"plugins\"", "a list"))?;
        let kind = |item: &Value<'_>| item.get("type").and_then(Value::string);
        let types: Option<Vec<String>> = items.iter().map(kind).collect();
        let types = types.ok_or(shape("an item of \"plugins\"", "an object with a \"type\""))?;
        Ok(Self { text, plugins, items, types })
    }

    fn places(&self, kind: &str) -> Vec<usize> {
        (0..self.types.len()).filter(|index| self.types[*index] == kind).collect()
    }

    /// The one plugin of this type, if there is any.
    fn only(&self, what: &'static str) -> Result<Option<usize>, Problem> {
        match self.places(what).as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            several => Err(Problem::Several { count: several.len(), what }),
        }
    }

    /// Insists that autoport can work in it.
    fn permit(&self) -> Result<(), Problem> {
        let whole = Value::of(self.text).map_err(Problem::Json)?;
        let shape = |what, expected| Problem::Shape { what, expected };
        if whole.get("name").and_then(Value::string).is_none_or(|name| name.is_empty()) {
            return Err(shape("\"name\"", "a name"));
        }
        if let Some(version) = whole.get("cniVersion").filter(|version| !version.is_empty()) {
            let spoken = version.string().and_then(|text| Version::named(&text));
            spoken.ok_or_else(|| Problem::Version(version.shown()))?;
        }
        let first = self.types.first().ok_or(shape("\"plugins\"", "a list with a plugin"))?;
        if DELEGATING.contains(&first.as_str()) {
            return Err(Problem::Delegating(first.clone()));
        }
        if CHAINED.contains(&first.as_str()) {
            return Err(Problem::NoMainPlugin(first.clone()));
        }
        Ok(())
    }
}

/// The types of the plugins in `text`; none where it is no list.
pub(super) fn types(text: &str) -> Vec<String> {
    List::read(text).map(|list| list.types).unwrap_or_default()
}

/// Puts autoport into the list: in the place of portmap, or behind all others.
///
/// # Errors
/// When the list, or what it says for portmap, is not understood.
pub(super) fn with_autoport(text: &str) -> Result<Edited, Problem> {
    let list = List::read(text)?;
    list.permit()?;
    let mut remarks = Vec::new();
    let (autoport, portmap) = (list.only("autoport")?, list.only("portmap")?);
    let (edits, how) = match (autoport, portmap) {
        (Some(_), Some(_)) => {
            return Err(Problem::Several { count: 2, what: "portmap or autoport" });
        }
        (Some(index), None) => {
            let capabilities = list.items[index].get("capabilities");
            let asked = |key| capabilities.and_then(|all| all.get(key)).map(Value::raw);
            if asked(from_portmap::CAPABILITIES[0]) != Some("true") {
                remarks.push(
                    "autoport's entry lacks \"capabilities\": {\"portMappings\": true}; without it the \
                     runtime passes no host port"
                        .to_owned(),
                );
            }
            (Vec::new(), How::Unchanged)
        }
        (None, Some(index)) => {
            (from_portmap::translated(list.items[index], &mut remarks)?, How::ReplacesPortmap)
        }
        (None, None) => (vec![behind(&list)], How::Appended),
    };
    let new = edited(text, edits);
    let edited = List::read(&new)?;
    if how == How::ReplacesPortmap {
        // What was portmap's own is now ours to judge, before a pod is refused because of it.
        let object = edited.only("autoport")?.map_or("", |index| edited.items[index].raw());
        remarks.extend(Config::read(Some(object.as_bytes()), None).map_err(Problem::Config)?.1);
    }
    Ok(Edited { text: new, how, remarks })
}

/// A new object behind the last plugin, laid out like that one.
fn behind(list: &List<'_>) -> Edit {
    let spans: Vec<_> = list.items.iter().map(|item| item.span()).collect();
    let like = list.items.last().copied().unwrap_or(list.plugins);
    let capabilities = from_portmap::all_capabilities(like);
    let members = like.members().unwrap_or_default();
    let first = members.first().map(|member| indent(list.text, member.span.start));
    let object = match first.filter(|inner| !inner.is_empty()) {
        Some(inner) => {
            let outer = indent(list.text, like.span().start);
            // Where the object begins in the line of its list, its end shows how far in it is.
            let outer =
                if outer.is_empty() { indent(list.text, like.span().end - 1) } else { outer };
            let newline = if like.raw().contains("\r\n") { "\r\n" } else { "\n" };
            format!(
                "{{{newline}{inner}\"type\": \"autoport\",{newline}{inner}\"capabilities\": \
                 {capabilities}{newline}{outer}}}"
            )
        }
        None if like.is_spaced() => {
            format!("{{ \"type\": \"autoport\", \"capabilities\": {capabilities} }}")
        }
        None => format!("{{\"type\":\"autoport\",\"capabilities\":{capabilities}}}"),
    };
    appended(list.plugins, &spans, &object)
}

/// Takes autoport out of the list, and puts back what stood there in `before`, the text before the
/// installation.
///
/// # Errors
/// When the list is not understood, or would be empty.
pub(super) fn without_autoport(text: &str, before: Option<&str>) -> Result<Edited, Problem> {
    let list = List::read(text)?;
    let Some(index) = list.only("autoport")? else {
        return Ok(Edited { text: text.to_owned(), how: How::Unchanged, remarks: Vec::new() });
    };
    let done = |text: String, how| Ok(Edited { text, how, remarks: Vec::new() });
    if let Some(before) = before
        && with_autoport(before).is_ok_and(|installed| installed.text == text)
    {
        return done(before.to_owned(), How::Restored);
    }
    let note = before.map(List::read).transpose().ok().flatten();
    let portmap = note.as_ref().and_then(|note| {
        let index = note.only("portmap").ok().flatten()?;
        Some(note.items[index].raw())
    });
    if let Some(portmap) = portmap.filter(|_| list.places("portmap").is_empty()) {
        let back = Edit { at: list.items[index].span(), with: portmap.to_owned() };
        return done(edited(text, vec![back]), How::PortmapBack);
    }
    if list.items.len() == 1 {
        return Err(Problem::Shape {
            what: "what would be left of \"plugins\"",
            expected: "a list with a plugin",
        });
    }
    let spans: Vec<_> = list.items.iter().map(|item| item.span()).collect();
    let mut taken = done(edited(text, removed(&spans, |one| one == index)), How::TakenOut)?;
    if before.is_none() {
        taken.remarks.push(
            "the original file is missing: if portmap was in the list, put it back by hand"
                .to_owned(),
        );
    }
    Ok(taken)
}

#[cfg(test)]
mod tests;
