//! A network configuration list with autoport in it, and without: what changes in the text.

use super::NAME;
use super::from_portmap;
use super::problem::Problem;
use super::text::{Part, Value};
use crate::cni::{Config, NodeFiles, Version};

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
    /// What the change does; `None` where there is nothing to change.
    pub(super) how: Option<&'static str>,
    /// What whoever asked for it should know.
    pub(super) remarks: Vec<String>,
}

/// A list as far as it has to be understood.
struct List<'a> {
    whole: Value<'a>,
    plugins: Value<'a>,
    items: Vec<Part<'a>>,
    types: Vec<String>,
}

const fn shape(what: &'static str, expected: &'static str) -> Problem {
    Problem::Shape { what, expected }
}

impl<'a> List<'a> {
    fn read(text: &'a str) -> Result<Self, Problem> {
        let whole = Value::of(text).map_err(Problem::Json)?;
        if whole.members().is_none() {
            return Err(shape("it", "an object"));
        }
        let plugins = whole.get("plugins").ok_or(shape("\"plugins\"", "there"))?;
        let items = plugins.items().ok_or(shape("\"plugins\"", "a list"))?;
        let kind = |item: &Part<'_>| item.value.get("type").and_then(Value::string);
        let types: Option<Vec<String>> = items.iter().map(kind).collect();
        let types = types.ok_or(shape("an item of \"plugins\"", "an object with a \"type\""))?;
        Ok(Self { whole, plugins, items, types })
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
        let whole = self.whole;
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

/// autoport's object in a network configuration of either form.
pub(super) fn object(text: &str) -> Option<Value<'_>> {
    let whole = Value::of(text).ok()?;
    let is_ours =
        |object: &Value<'_>| object.get("type").and_then(Value::string).as_deref() == Some(NAME);
    let Some(plugins) = whole.get("plugins") else { return Some(whole).filter(is_ours) };
    plugins.items()?.into_iter().map(|item| item.value).find(is_ours)
}

/// Puts autoport into the list: in the place of portmap, or behind all others.
///
/// # Errors
/// When the list, or what it says for portmap, is not understood.
pub(super) fn with_autoport(text: &str) -> Result<Edited, Problem> {
    let mut list = List::read(text)?;
    list.permit()?;
    let mut remarks = Vec::new();
    let (autoport, portmap) = (list.only("autoport")?, list.only("portmap")?);
    let (new, how) = match (autoport, portmap) {
        (Some(_), Some(_)) => {
            return Err(Problem::Several { count: 2, what: "portmap or autoport" });
        }
        (Some(index), None) => {
            let capabilities = list.items[index].value.get("capabilities");
            let asked = |key| capabilities.and_then(|all| all.get(key)).map(Value::raw);
            if asked(from_portmap::CAPABILITIES[0]) != Some("true") {
                remarks.push(
                    "autoport's entry lacks \"capabilities\": {\"portMappings\": true}; without it the \
                     runtime passes no host port"
                        .to_owned(),
                );
            }
            return Ok(Edited { text: text.to_owned(), how: None, remarks });
        }
        (None, Some(index)) => {
            let portmap = list.items[index].value;
            let object = from_portmap::translated(portmap, &mut remarks)?;
            // What was portmap's own is now ours to judge, before a pod is refused because of it.
            let judged = Config::read(Some(object.as_bytes()), &NodeFiles::default());
            remarks.extend(judged.map_err(Problem::Config)?.1);
            NAME.clone_into(&mut list.types[index]);
            (portmap.replaced(&object), "autoport replaces portmap")
        }
        (None, None) => {
            let like = list.items.last().map_or(list.plugins, |last| last.value);
            let capabilities = ("capabilities", from_portmap::all_capabilities(like));
            let members = [("type", "\"autoport\"".to_owned()), capabilities];
            let entry = like.with_members(Vec::new(), &members);
            let plugins = list.plugins.with(&list.items, &[entry]);
            list.types.push(NAME.to_owned());
            (list.plugins.replaced(&plugins), "autoport added after the other plugins")
        }
    };
    Ok(Edited { text: verified(new, &list.types)?, how: Some(how), remarks })
}

/// Insists that a changed text is a list of plugins of these types: it takes the place of one that every
/// new pod of the node needs.
fn verified(text: String, types: &[String]) -> Result<String, Problem> {
    let is_meant = List::read(&text).is_ok_and(|list| list.types == types);
    if is_meant { Ok(text) } else { Err(Problem::Broken) }
}

/// The text without autoport's object, whose keys may have been changed.
fn rest(text: &str) -> Option<String> {
    object(text).map(|object| object.replaced(""))
}

/// Takes autoport out of the list, and puts back what stood there in `before`, the text before the
/// installation.
///
/// # Errors
/// When the list is not understood, or would be empty.
pub(super) fn without_autoport(text: &str, before: Option<&str>) -> Result<Edited, Problem> {
    let mut list = List::read(text)?;
    let done = |text: String, how| Ok(Edited { text, how, remarks: Vec::new() });
    let Some(index) = list.only("autoport")? else { return done(text.to_owned(), None) };
    if let Some(before) = before
        && with_autoport(before).is_ok_and(|installed| rest(&installed.text) == rest(text))
    {
        return done(before.to_owned(), Some("restored to its content before the installation"));
    }
    let note = before.and_then(|before| List::read(before).ok());
    let portmap = note.as_ref().and_then(|note| {
        let index = note.only("portmap").ok().flatten()?;
        Some(note.items[index].value.raw())
    });
    // What else was changed stays.
    if let Some(portmap) = portmap.filter(|_| list.places("portmap").is_empty()) {
        let text = list.items[index].value.replaced(portmap);
        "portmap".clone_into(&mut list.types[index]);
        return done(verified(text, &list.types)?, Some("portmap replaces autoport"));
    }
    list.items.remove(index);
    list.types.remove(index);
    if list.items.is_empty() {
        return Err(shape("what would be left of \"plugins\"", "a list with a plugin"));
    }
    let plugins = list.plugins.with(&list.items, &[]);
    let text = verified(list.plugins.replaced(&plugins), &list.types)?;
    let mut taken = done(text, Some("autoport removed"))?;
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
