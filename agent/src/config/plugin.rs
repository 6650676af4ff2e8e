//! The plugin's configuration on this node: ranges, limits and aliases are the same for pods on the node's
//! network.

use std::path::PathBuf;

use autoport::cni::{Config, NODE_DIR, NodeFiles, StoreConfig};
use autoport::{install, regular};

use super::Unusable;

/// Where the plugin's configuration is.
#[derive(Clone, Debug)]
pub struct Plugin {
    net_conf_dir: PathBuf,
    node_dir: PathBuf,
}

impl Plugin {
    pub fn new(net_conf_dir: PathBuf) -> Self {
        Self { net_conf_dir, node_dir: NODE_DIR.into() }
    }

    /// The same with another directory of the node's own files.
    pub fn with_node_dir(self, node_dir: PathBuf) -> Self {
        Self { node_dir, ..self }
    }

    /// Reads it as it is now: as an ADD by the first network configuration that has autoport, or by the
    /// node's files alone if none has.
    ///
    /// # Errors
    /// When an ADD would be refused for it.
    pub fn read(&self) -> Result<Config, Unusable> {
        let network = install::network(&self.net_conf_dir).map_err(|error| {
            Unusable::new(&self.net_conf_dir, autoport::error::in_one_line(&error))
        })?;
        let (path, object) = match network {
            Some((path, object)) => (path, Some(object)),
            None => (self.node_dir.clone(), None),
        };
        let object = object.as_ref().map(String::as_bytes);
        let config = Config::read(object, &self.node_files());
        config.map(|(config, _)| config).map_err(|error| Unusable::new(&path, error.in_one_line()))
    }

    /// Where the records are, as far as the configuration can be read.
    pub fn store(&self) -> StoreConfig {
        let in_part = || StoreConfig::of_node_in_part(&self.node_files());
        self.read().map_or_else(|_| in_part(), |config| config.store)
    }

    fn node_files(&self) -> NodeFiles {
        NodeFiles::in_dir(&self.node_dir, regular::read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn plugin(files: &[(&str, &str)]) -> (tempfile::TempDir, Plugin) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("node")).expect("it can be made");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("it can be written");
        }
        let net_conf_dir = dir.path().to_owned();
        let node_dir = dir.path().join("node");
        let plugin = Plugin::new(net_conf_dir).with_node_dir(node_dir);
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
    fn the_nodes_files_win_and_are_enough() {
        let own = r#"{"portRange": "8000-8999", "stateDir": "/run/other"}"#;
        let (network, node) = (("10-ours.conflist", OURS), ("node/autoport.json", own));
        let cluster = ("node/autoport.cluster.json", own);
        for files in [&[network, node][..], &[node], &[network, cluster], &[cluster]] {
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
