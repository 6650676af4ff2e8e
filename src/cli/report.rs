//! `autoport report`: what a bug report needs, in one archive.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use autoport::cni::{Config, NodeFiles};
use autoport::error::Error;
use autoport::ruleset::{OFFLOAD_TABLE, TABLE};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tar::{Builder, Header};

use super::arguments::{self, List};
use super::output::{Answer, Screen, timestamp};
use super::{Failure, Store, config, doctor, list, now, status, version};

/// An archive that was written.
#[derive(Serialize)]
pub(super) struct Written {
    file: PathBuf,
    contents: Vec<String>,
}

impl Answer for Written {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let (file, contents) = (self.file.display(), self.contents.join(", "));
        writeln!(out, "{file}: {contents}")?;
        writeln!(
            out,
            "It names pods, containers, addresses and ports of this node: look before you publish it"
        )
    }
}

pub(super) fn run(
    asked: &arguments::Report,
    store: &Store,
    node_files: NodeFiles,
) -> Result<Written, Failure> {
    let time = timestamp(now());
    let name = format!("autoport-report-{}.tar.gz", time.replace([':', '-'], ""));
    let file = asked.file.clone().unwrap_or_else(|| PathBuf::from(name));
    let mut options = OpenOptions::new();
    // Nothing is overwritten, and only root may read what it says of the node.
    let open = options.write(true).create_new(true).mode(0o600).open(&file);
    let cannot = |error| Failure::Asked(format!("cannot write {}: {error}", file.display()));
    let mut archive = Archive {
        tar: Builder::new(GzEncoder::new(open.map_err(cannot)?, Compression::default())),
        contents: Vec::new(),
    };
    let contents = archive.fill(asked, store, node_files).map_err(cannot)?;
    let archived = archive.tar.into_inner().and_then(GzEncoder::finish);
    archived.and_then(|file| file.sync_all()).map_err(cannot)?;
    Ok(Written { file, contents })
}

/// Both tables as nft lists them, where there is nft; otherwise why not.
fn table() -> String {
    let list = |table| {
        let mut nft = Command::new("nft");
        nft.args(["list", "table", "inet", table]).stdin(Stdio::null());
        match nft.output() {
            Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into(),
            Err(error) => format!("cannot run nft: {error}\n"),
        }
    };
    [TABLE, OFFLOAD_TABLE].map(list).concat()
}

struct Archive {
    tar: Builder<GzEncoder<File>>,
    contents: Vec<String>,
}

impl Archive {
    /// Adds everything, and gives the names.
    fn fill(
        &mut self,
        asked: &arguments::Report,
        store: &Store,
        node_files: NodeFiles,
    ) -> io::Result<Vec<String>> {
        let status = Config::read(None, &node_files)
            .map_err(|error| Failure::from(Error::from(error)))
            .and_then(|(config, _)| status::run(store, &config));
        self.answer("version.json", Ok(version::run()))?;
        self.answer("config.json", config::run(&asked.runtime.networks))?;
        self.answer("status.json", status)?;
        self.answer("list.json", list::listed(&List::default(), store, false))?;
        self.answer("doctor.json", Ok(doctor::run(&asked.runtime, store, node_files)))?;
        self.text("table.nft", &table())?;
        Ok(std::mem::take(&mut self.contents))
    }

    /// Adds what a command says to programs, or why it failed.
    fn answer<T: Answer>(&mut self, name: &str, answer: Result<T, Failure>) -> io::Result<()> {
        let mut text = Vec::new();
        match answer {
            Ok(answer) => {
                serde_json::to_writer_pretty(&mut text as &mut dyn io::Write, &answer)?;
                writeln!(text)?;
            }
            Err(error) => writeln!(text, "{}", error.in_one_line())?,
        }
        self.text(name, &String::from_utf8_lossy(&text))
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(now());
        self.tar.append_data(&mut header, format!("autoport-report/{name}"), text.as_bytes())?;
        self.contents.push(name.to_owned());
        Ok(())
    }
}
