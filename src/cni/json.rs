//! JSON the way Go's plugins take it: null is absent, and of equal keys the last counts.
//!
//! Values stay text until somebody asks for them, so what nobody needs is never judged.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::Error;
use super::text::{escape, shown};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    path: String,
    raw: &'a RawValue,
}

impl<'a> Field<'a> {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn raw(&self) -> &'a RawValue {
        self.raw
    }

    /// The value as error messages show it: shortened, and without characters that could end or
    /// disguise a line. JSON's own quotes and escapes stay.
    pub(super) fn shown(&self) -> String {
        shown(self.raw.get())
    }

    pub(super) fn string(&self) -> Result<String, Error> {
        self.decode('"', "a string")
    }

    /// The number, which must be one of `range`.
    pub(super) fn number<T: FromStr + PartialOrd>(
        &self,
        range: RangeInclusive<T>,
        allowed: &str,
    ) -> Result<T, Error> {
        let text = self.raw.get();
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Err(self.wrong_type("a number"));
        }
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.invalid(allowed))
    }

    pub(super) fn list(&self) -> Result<Vec<Self>, Error> {
        let items: Vec<&RawValue> = self.decode('[', "a list")?;
        let item = |(index, raw)| Self { path: format!("{}[{index}]", self.path), raw };
        Ok(items.into_iter().enumerate().map(item).collect())
    }

    /// The items of a list, or the value itself where it is no list.
    pub(super) fn one_or_more(&self) -> Result<Vec<Self>, Error> {
        if self.raw.get().starts_with('[') { self.list() } else { Ok(vec![self.clone()]) }
    }

    pub(super) fn object(&self) -> Result<Object<'a>, Error> {
        let Entries(entries) = self.decode('{', "an object")?;
        Ok(Object { path: self.path.clone(), entries })
    }

    pub(super) fn invalid(&self, allowed: &str) -> Error {
        Error::Invalid { key: self.path.clone(), value: self.shown(), allowed: allowed.to_owned() }
    }

    pub(super) fn unsupported(&self, remedy: &str) -> Error {
        let (key, value) = (self.path.clone(), self.shown());
        Error::Unsupported { key, value, remedy: remedy.to_owned() }
    }

    pub(super) fn wrong_type(&self, expected: &'static str) -> Error {
        Error::WrongType { key: self.path.clone(), value: self.shown(), expected }
    }

    pub(super) fn decode<T: Deserialize<'a>>(
        &self,
        first: char,
        expected: &'static str,
    ) -> Result<T, Error> {
        if !self.raw.get().starts_with(first) {
            return Err(self.wrong_type(expected));
        }
        serde_json::from_str(self.raw.get())
            .map_err(|source| Error::Decode { what: self.path.clone(), source })
    }
}

/// An object whose values are still text, in the order of the text.
#[derive(Debug)]
pub(super) struct Object<'a> {
    path: String,
    entries: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Decodes a whole text. `prefix` goes before every key in error messages.
    pub(super) fn decode(what: &str, prefix: &str, text: &'a [u8]) -> Result<Self, Error> {
        let Entries(entries) = serde_json::from_slice(text)
            .map_err(|source| Error::Decode { what: what.to_owned(), source })?;
        Ok(Self { path: prefix.to_owned(), entries })
    }

    /// A string, empty if there is none.
    pub(super) fn text(&self, key: &str) -> Result<String, Error> {
        self.get(key).map_or(Ok(String::new()), |field| field.string())
    }

    pub(super) fn get(&self, key: &str) -> Option<Field<'a>> {
        self.find(key, |name| name == key)
    }

    /// Finds a key in any case: containerd writes `HostPort`, CONVENTIONS.md `hostPort`.
    pub(super) fn get_any_case(&self, key: &str) -> Option<Field<'a>> {
        self.find(key, |name| name.eq_ignore_ascii_case(key))
    }

    /// Whether the key is there at all, be it with null.
    pub(super) fn mentions(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name == key)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, Field<'a>)> {
        self.entries.iter().map(|(name, raw)| (&**name, self.field(&escape(name), raw)))
    }

    pub(super) fn entries(&self) -> &[(String, &'a RawValue)] {
        &self.entries
    }

    fn find(&self, key: &str, matches: impl Fn(&str) -> bool) -> Option<Field<'a>> {
        let (_, raw) = self.entries.iter().rev().find(|(name, _)| matches(name))?;
        (raw.get() != "null").then(|| self.field(key, raw))
    }

    fn field(&self, key: &str, raw: &'a RawValue) -> Field<'a> {
        let whole = self.path.is_empty() || self.path.ends_with(' ');
        Field { path: format!("{}{}{key}", self.path, if whole { "" } else { "." }), raw }
    }
}

/// The members of an object in the order of the text, equal keys too.
pub(crate) struct Entries<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Entries<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries<'de>, M::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests;
