//! The keys with the values in force, and where each comes from: for `autoport config`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::super::node_files::NodeFiles;
use super::{Config, Error, Judge, Object};

/// Every key with its default, in the order of docs/configuration.md.
const DEFAULTS: [(&str, &str); 23] = [
    ("snat", "true"),
    ("masqAll", "false"),
    ("markMasqBit", "13"),
    ("sourceRanges", "[]"),
    ("hostAddresses", "[]"),
    ("advertiseAddresses", "[]"),
    ("guardExcept", "[]"),
    ("offload", "[]"),
    ("backend", "\"nftables\""),
    ("portRange", "\"20000-29999\""),
    ("namedRanges", "{}"),
    ("excludePorts", "[]"),
    ("minPort", "1"),
    ("allocation", "\"sequential\""),
    ("hostListeners", "\"reject\""),
    ("allowedNamespaces", "null"),
    ("maxPortsPerPod", "128"),
    ("maxPortsPerNamespace", "null"),
    ("aliases", "[\"kubewharf\",\"bcs\"]"),
    ("agent", "\"optional\""),
    ("guardRange", "false"),
    ("stateDir", "\"/run/autoport\""),
    ("lockTimeout", "10"),
];

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: &'static str,
    pub value: Value,
    /// The file that sets it; `None` for the default.
    pub from: Option<PathBuf>,
}

impl Config {
    /// What an ADD by this object of a network configuration file finds, or by the node's own files alone.
    ///
    /// # Errors
    /// When ADD would refuse it.
    pub fn settings(
        network: Option<(&Path, &[u8])>,
        node_files: &NodeFiles,
    ) -> Result<Vec<Setting>, Error> {
        Self::read(network.map(|(_, object)| object), node_files)?;
        let judge = &mut Judge::strict();
        let node = node_files.decode(judge)?;
        let object = network.map(|(_, object)| Object::decode("", "", object)).transpose()?;
        let paths = node_files.0.iter().map(|file| &*file.path);
        let paths: Vec<&Path> = paths.chain(network.map(|(path, _)| path)).collect();
        let layers: Vec<&Object<'_>> = node.iter().chain(&object).collect();
        let setting = |(key, default): (&'static str, &str)| {
            let set = layers.iter().zip(&paths).find_map(|(layer, path)| {
                Some((layer.get(key)?.raw().get().to_owned(), path.to_path_buf()))
            });
            let (text, from) =
                set.map_or((default.to_owned(), None), |(text, path)| (text, Some(path)));
            Setting { key, value: serde_json::from_str(&text).unwrap_or(Value::Null), from }
        };
        Ok(DEFAULTS.into_iter().map(setting).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_there_with_its_default() {
        let mut judge = Judge::strict();
        let defaults = Config::from_layers(&[], &mut judge).expect("no key is needed");
        let mut keys = judge.keys;
        keys.sort_unstable();
        let mut listed: Vec<_> = DEFAULTS.iter().map(|(key, _)| *key).collect();
        listed.sort_unstable();
        assert_eq!(listed, keys);
        for (key, default) in DEFAULTS {
            let object = format!("{{\"{key}\": {default}}}");
            let set = Config::read(Some(object.as_bytes()), &NodeFiles::default());
            assert_eq!(set.expect(key).0, defaults, "{key}");
        }
    }

    #[test]
    fn each_value_has_the_file_that_sets_it() {
        let cluster = br#"{"minPort": 1024, "agent": "required", "snat": null}"#;
        let files = NodeFiles::default().with_cluster_file(cluster.to_vec());
        let (path, object) = (Path::new("/n/10-a.conflist"), br#"{"minPort": 1, "snat": false}"#);
        let found = Config::settings(Some((path, object)), &files).expect("it is right");
        let of = |key| {
            let one = found.iter().find(|one| one.key == key).expect("a key");
            (one.value.to_string(), one.from.as_deref().and_then(Path::to_str))
        };
        let cluster = Some(crate::cni::CLUSTER_FILE);
        assert_eq!(of("minPort"), ("1024".to_owned(), cluster));
        assert_eq!(of("agent"), ("\"required\"".to_owned(), cluster));
        assert_eq!(of("snat"), ("false".to_owned(), path.to_str()));
        assert_eq!(of("markMasqBit"), ("13".to_owned(), None));
        let wrong = br#"{"minPort": 0}"#;
        assert!(Config::settings(Some((path, wrong)), &files).is_err());
    }
}
