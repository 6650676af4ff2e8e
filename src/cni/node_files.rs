//! The files of a node whose keys override those of every network.

use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::json::Object;
use super::judge::Judge;

/// Where the node's own files are.
pub const NODE_DIR: &str = "/etc/cni";

/// What the operator of one node sets. It overrides [`CLUSTER_FILE`].
pub const NODE_FILE: &str = "/etc/cni/autoport.json";

/// What `autoport install --config` and `--set` write.
pub const CLUSTER_FILE: &str = "/etc/cni/autoport.cluster.json";

/// A file, and its content or why it cannot be read.
#[derive(Debug)]
pub struct NodeFile {
    pub path: PathBuf,
    pub bytes: io::Result<Vec<u8>>,
}

/// The files that exist. Of equal keys that of the earlier file counts.
#[derive(Clone, Debug, Default)]
pub struct NodeFiles(pub Vec<NodeFile>);

impl NodeFiles {
    /// Those of `dir`, as `read` reads them.
    pub fn in_dir(dir: &Path, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Self {
        let names = [NODE_FILE, CLUSTER_FILE].map(Path::new).map(Path::file_name);
        let files = names.into_iter().flatten().filter_map(|name| {
            let path = dir.join(name);
            match read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                bytes => Some(NodeFile { path, bytes }),
            }
        });
        Self(files.collect())
    }

    /// The same with these bytes as [`CLUSTER_FILE`].
    #[must_use]
    pub fn with_cluster_file(mut self, bytes: Vec<u8>) -> Self {
        let path = PathBuf::from(CLUSTER_FILE);
        self.0.retain(|file| file.path.file_name() != path.file_name());
        self.0.push(NodeFile { path, bytes: Ok(bytes) });
        self
    }

    pub(super) fn decode(&self, judge: &mut Judge) -> Result<Vec<Object<'_>>, Error> {
        let mut layers = Vec::new();
        for file in &self.0 {
            layers.extend(judge.weigh(file.decode())?);
        }
        Ok(layers)
    }
}

impl NodeFile {
    fn decode(&self) -> Result<Object<'_>, Error> {
        let path = self.path.display();
        match &self.bytes {
            Ok(bytes) => Object::decode(&path.to_string(), &format!("{path}: "), bytes),
            Err(error) => Err(Error::NodeFile { path: self.path.clone(), source: copy(error) }),
        }
    }
}

impl Clone for NodeFile {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), bytes: self.bytes.as_ref().cloned().map_err(copy) }
    }
}

fn copy(error: &io::Error) -> io::Error {
    let text = || io::Error::new(error.kind(), error.to_string());
    error.raw_os_error().map_or_else(text, io::Error::from_raw_os_error)
}
