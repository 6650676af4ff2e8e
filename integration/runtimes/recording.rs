//! What runtimes send: kept by the recorder, made comparable, and compared with what was checked in
//! below `tests/clients`. `BLESS=1` writes them again.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use autoport::cni::{self, Env};
use autoport::model::Pod;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Where the recorder keeps each call, in the order of its beginning.
pub(crate) const CALLS: &str = "/run/calls";

/// One call of the plugin.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    /// The variables of the specification.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) stdin: Box<RawValue>,
}

impl Call {
    fn read(folder: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(folder.join(name)).expect("a recorded call");
        let variables = text("environment");
        let pairs = variables.split('\0').filter_map(|pair| pair.split_once('='));
        let environment = pairs
            .filter(|(name, _)| name.starts_with("CNI_"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let stdin = serde_json::from_str(&text("stdin")).expect("runtimes send JSON");
        Self { environment, stdin }
    }

    /// `CNI_COMMAND`.
    pub(crate) fn command(&self) -> &str {
        &self.environment["CNI_COMMAND"]
    }

    /// Whether it is this command for the Pod of this name.
    pub(crate) fn is(&self, command: &str, pod: &str) -> bool {
        let args = self.environment.get("CNI_ARGS").map_or("", String::as_str);
        let mut pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        self.command() == command && pairs.any(|pair| pair == ("K8S_POD_NAME", pod))
    }

    /// Insists that the plugin makes sense of all of it.
    fn assert_understood(&self) {
        let pairs = self.environment.iter();
        let env: Env =
            pairs.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let parsed =
            cni::Call::parse(&env, self.stdin.get().as_bytes(), cni::NodeFiles::default, no_spec);
        let parsed = parsed.unwrap_or_else(|error| panic!("{error} is said to {self:?}"));
        assert_eq!(parsed.warnings, Vec::<String>::new(), "{self:?}");
    }
}

/// The calls since the last query. Each was understood.
pub(crate) fn calls() -> Vec<Call> {
    let entries = fs::read_dir(CALLS).expect("the folder is there");
    // One that begins with a dot is being written.
    let whole =
        entries.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut folders: Vec<_> = whole.map(|entry| entry.path()).collect();
    folders.sort();
    let calls: Vec<_> = folders.iter().map(|folder| Call::read(folder)).collect();
    for folder in folders {
        fs::remove_dir_all(folder).expect("the folder is ours");
    }
    calls.iter().for_each(Call::assert_understood);
    calls
}

/// The commands of the calls since the last query.
pub(crate) fn commands() -> Vec<String> {
    calls().iter().map(|call| call.command().to_owned()).collect()
}

/// Insists that these calls are the ones that were checked in for this version of the client. One
/// that nobody has recorded yet, as Debian sid may have overnight, has had to be understood, and no
/// more.
pub(crate) fn assert_recorded(client: &str, version: &str, calls: Vec<Call>) {
    let version = version.split(['~', '+', '-']).next().unwrap_or_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(format!("{client}-{version}"));
    let mut names = Names::default();
    let files: Vec<(PathBuf, String)> = (1..)
        .zip(calls)
        .map(|(number, mut call)| {
            if let Some(args) = call.environment.get_mut("CNI_ARGS") {
                // containerd takes them out of a map, in any order.
                let mut pairs: Vec<_> = args.split(';').collect();
                pairs.sort_unstable();
                *args = pairs.join(";");
            }
            let name = format!("{number:02}-{}.json", call.command().to_lowercase());
            let text = serde_json::to_string_pretty(&call).expect("a call is JSON");
            (folder.join(name), format!("{}\n", names.replace(&text)))
        })
        .collect();
    if env::var_os("BLESS").is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the repository can be written");
        for (path, text) in files {
            fs::write(path, text).expect("the repository can be written");
        }
        return;
    }
    let Ok(entries) = fs::read_dir(&folder) else { return };
    let recorded = entries.flatten().map(|entry| entry.path());
    let recorded = recorded.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    assert_eq!(recorded.count(), files.len(), "{client} {version} makes other calls: {files:#?}");
    for (path, text) in files {
        let recorded = fs::read_to_string(&path).unwrap_or_default();
        let same = in_order(&text) == in_order(&recorded);
        assert!(same, "{}: {client} sends\n{text}\nnot\n{recorded}", path.display());
    }
}

/// A recorded call with its mappings sorted: podman takes them out of a map, in any order.
fn in_order(text: &str) -> Value {
    let mut call: Value = serde_json::from_str(text).unwrap_or_default();
    let mappings = call.pointer_mut("/stdin/runtimeConfig/portMappings");
    if let Some(mappings) = mappings.and_then(Value::as_array_mut) {
        mappings.sort_by_key(Value::to_string);
    }
    call
}

/// Puts numbers in the place of what is different in every run.
#[derive(Default)]
struct Names {
    seen: Vec<(&'static str, String)>,
}

impl Names {
    /// What such names look like; `x` stands for a hexadecimal digit, and `9` for digits.
    const SHAPES: [&'static str; 6] = [
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
        "vethxxxxxxxx",
        "xx:xx:xx:xx:xx:xx",
        "autoport-test-9-9",
        "9-9-9T9:9:9.9Z",
    ];

    fn replace(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let inside = out.ends_with(|last: char| last.is_ascii_alphanumeric());
            let found = Self::SHAPES.into_iter().find_map(|shape| Some((shape, fit(shape, rest)?)));
            if let Some((shape, length)) = found.filter(|_| !inside) {
                out.push_str(&self.number(shape, &rest[..length]));
                rest = &rest[length..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        out
    }

    /// The same shape with the number of this name in place of its digits.
    fn number(&mut self, shape: &'static str, name: &str) -> String {
        let known = (shape, name.to_owned());
        if !self.seen.contains(&known) {
            self.seen.push(known.clone());
        }
        let alike = self.seen.iter().filter(|(other, _)| *other == shape);
        let number = 1 + alike.take_while(|other| **other != known).count();
        let mut digits = format!("{number:x}").into_bytes();
        let mut place = |digit| match digit {
            'x' => digits.pop().map_or('0', char::from),
            '9' => '1',
            other => other,
        };
        let mut reversed: Vec<_> = shape.chars().rev().map(&mut place).collect();
        reversed.reverse();
        reversed.into_iter().collect()
    }
}

/// How much of the beginning of `text` has this shape, if it does and ends there.
fn fit(shape: &str, text: &str) -> Option<usize> {
    let mut rest = text;
    for expected in shape.chars() {
        let length = match expected {
            '9' => rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len()),
            'x' => usize::from(rest.starts_with(|char: char| char.is_ascii_hexdigit())),
            other => usize::from(rest.starts_with(other)),
        };
        if length == 0 {
            return None;
        }
        rest = &rest[length..];
    }
    let ends = !rest.starts_with(|char: char| char.is_ascii_alphanumeric());
    ends.then(|| text.len() - rest.len())
}

/// No recorded request needs the spec of its Pod.
fn no_spec(_: &cni::StoreConfig, pod: &Pod, _: bool) -> Result<String, cni::Error> {
    panic!("the spec of {pod} is read")
}
