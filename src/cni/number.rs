//! Port numbers and runs of them as text.

use std::num::NonZeroU16;

use crate::model::PortRange;

/// Reads a port in plain decimal: no sign, no leading zero, nothing around it.
pub(super) fn port(text: &str) -> Option<NonZeroU16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

/// Reads `first-last`, or one port. White space around the ends is welcome.
pub(crate) fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    (first <= last).then_some(PortRange { first, last })
}

#[cfg(test)]
mod tests;
