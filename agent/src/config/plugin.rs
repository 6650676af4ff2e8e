//! The plugin's configuration on this node: ranges, limits and aliases are the same for pods on the node's
//! network.

use std::io;
use std::path::PathBuf;

use autoport::cni::{Config, NODE_FILE, StoreConfig};
use autoport::{install, regular};
use serde_json::Value;

use super::Unusable;

/// Where the plugin's configuration is.
#[derive(Clone, Debug)]
pub struct Plugin {
    net_conf_dir: PathBuf,
    node_file: PathBuf,
}

impl Plugin {
    pub fn new(net_conf_dir: PathBuf) -> Self {
        Self { net_conf_dir, node_file: NODE_FILE.into() }
    }

    /// The same with another file of the node.
    pub fn with_node_file(self, node_file: PathBuf) -> Self {
        Self { node_file, ..self }
    }

    /// Reads it as it is now: as an ADD by the first network configuration that has autoport, or by the
    /// node's file alone if none has.
    ///
    /// # Errors
    /// When an ADD would be refused for it.
    pub fn read(&self) -> Result<Config, Unusable> {
        let node_file = self.node_file()?;
        let (path, object) = match self.object()? {
            Some((path, object)) => (path, Some(object.to_string())),
            None => (self.node_file.clone(), None),
        };
        let object = object.as_ref().map(String::as_bytes);
        let config = Config::read(object, node_file.as_deref());
        config.map(|(config, _)| config).map_err(|error| Unusable::new(&path, error.in_one_line()))
    }

    /// Where the records are, as far as the configuration can be read.
    pub fn store(&self) -> StoreConfig {
        let node_file = self.node_file().ok().flatten();
        let in_part = || StoreConfig::of_node_in_part(node_file.as_deref());
        self.read().map_or_else(|_| in_part(), |config| config.store)
    }

    fn node_file(&self) -> Result<Option<Vec<u8>>, Unusable> {
        match regular::read(&self.node_file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Unusable::new(&self.node_file, error.to_string())),
        }
    }

    /// The object of autoport in the first file that has one, in the order in which runtimes choose theirs.
    fn object(&self) -> Result<Option<(PathBuf, Value)>, Unusable> {
        let paths = install::configurations(&self.net_conf_dir);
        let paths = paths.map_err(|error| {
            Unusable::new(&self.net_conf_dir, autoport::error::in_one_line(&error))
        })?;
        // A file that cannot be read is not the one that the runtime uses.
        let found = paths.into_iter().find_map(|path| {
            let bytes = regular::read(&path).ok()?;
            let object = object_in(serde_json::from_slice(&bytes).ok()?)?;
            Some((path, object))
        });
        Ok(found)
    }
}

fn object_in(mut file: Value) -> Option<Value> {
    let is_ours = |object: &Value| object.get("type").and_then(Value::as_str) == Some("autoport");
    if is_ours(&file) {
        return Some(file);
    }
    let plugins = file.get_mut("plugins")?.as_array_mut()?;
    plugins.iter_mut().find(|object| is_ours(object)).map(Value::take)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn plugin(files: &[(&str, &str)]) -> (tempfile::TempDir, Plugin) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("it can be written");
        }
        let net_conf_dir = dir.path().to_owned();
        let node_file = dir.path().join("node-file");
        let plugin = Plugin::new(net_conf_dir).with_node_file(node_file);
        (dir, plugin)
    }

    fn range(plugin: &Plugin) -> String {
        plugin.read().expect("it is right").ports.ranges[0].to_string()
    }

    const OURS: &str = r#"{"name": "a", "plugins": [{"type": "bridge"},
                          {"type": "autoport", "portRange": "7000-7999"}]}"#;

    #[test]
    fn the_first_file_with_the_plugin_counts() {
        let other = r#"{"plugins": [{"type": "autoport", "portRange": "1000-1999"}]}"#;
        let none = r#"{"plugins": [{"type": "bridge"}]}"#;
        let (_dir, plugin) = plugin(&[
            ("00-broken.conflist", "{"),
            ("05-none.conflist", none),
            ("07-other.txt", other),
            ("10-ours.conflist", OURS),
            ("20-other.conflist", other),
        ]);
        assert_eq!(range(&plugin), "7000-7999");
    }

    #[test]
    fn the_nodes_file_wins_and_is_enough() {
        let node_file = r#"{"portRange": "8000-8999", "stateDir": "/run/other"}"#;
        for files in [
            &[("10-ours.conflist", OURS), ("node-file", node_file)][..],
            &[("node-file", node_file)],
        ] {
            let (_dir, plugin) = plugin(files);
            assert_eq!(range(&plugin), "8000-8999");
            assert_eq!(plugin.store().state_dir, Path::new("/run/other"));
        }
        let (_dir, plugin) = plugin(&[]);
        assert_eq!(range(&plugin), "20000-29999");
    }

    #[test]
    fn what_an_add_would_be_refused_for_is_an_error_with_the_file() {
        let wrong = r#"{"plugins": [{"type": "autoport", "portRange": "x"}]}"#;
        let (_dir, plugin) = plugin(&[("10-ours.conflist", wrong)]);
        let error = plugin.read().expect_err("it is wrong").to_string();
        assert!(error.contains("10-ours.conflist") && error.contains("portRange"), "{error}");
        assert_eq!(plugin.store(), StoreConfig::default());
    }
}
