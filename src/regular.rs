//! Regular files that others wrote, read without waiting for them and without end: at their path may
//! be a FIFO, a device, a link to one, or a file of any size.

#![expect(clippy::disallowed_methods, reason = "the door to files that are only read")]

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// No configuration with its mappings comes near this; 10,000 mappings take about 1 MiB.
const SIZE_MAX: u64 = 16 << 20;

/// Opens the file at `path`, also where a link leads to it.
///
/// # Errors
/// When there is none, when it is not a regular file, or when it may not be read.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Reads the whole file at `path`, also where a link leads to it.
///
/// # Errors
/// As [`open`], and when it is larger than 16 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_all(open(path)?)
}

/// Reads `input` to its end.
///
/// # Errors
/// When it cannot be read, or is larger than 16 MiB.
pub fn read_all(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(io::Error::other(format!("it is larger than {SIZE_MAX} bytes")));
    }
    Ok(bytes)
}

/// Whether two files have the same content.
///
/// # Errors
/// When one of them cannot be read.
pub fn are_equal(one: &File, other: &File) -> io::Result<bool> {
    let (own, its) = (one.metadata()?, other.metadata()?);
    if (own.dev(), own.ino()) == (its.dev(), its.ino()) {
        return Ok(true);
    }
    if own.len() != its.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (own, its) = (one.fill_buf()?, other.fill_buf()?);
        let length = own.len().min(its.len());
        if length == 0 || own.get(..length) != its.get(..length) {
            return Ok(own.is_empty() && its.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}
