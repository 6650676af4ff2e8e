//! What libcni remembers of attachments. CRI-O calls, for a DEL, the plugins of the configuration that
//! is remembered, not of the one that is there by then.

use std::path::{Path, PathBuf};

use super::disk::{Found, look, names};
use super::text::Value;
use super::{Error, NAME, conflist};

/// The first attachment that was made with autoport in its list. What cannot be read counts as one:
/// an executable too many does no harm.
pub(super) fn first_with_autoport(dir: &Path) -> Result<Option<PathBuf>, Error> {
    for name in names(dir)? {
        let path = dir.join(name);
        let Found::File(bytes) = look(&path)? else { continue };
        if has_autoport(&bytes).unwrap_or(true) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn has_autoport(bytes: &[u8]) -> Option<bool> {
    let text = str::from_utf8(bytes).ok()?;
    let config = Value::of(text).ok()?.get("config")?.string()?;
    let config = String::from_utf8(base64(&config)?).ok()?;
    Some(conflist::types(&config).iter().any(|plugin| plugin == NAME))
}

/// Decodes what Go's encoding/json makes of bytes (RFC 4648, section 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes().map(|byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in digits {
        held = held << 6 | u32::from(digit?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
