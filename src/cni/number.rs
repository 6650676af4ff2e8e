//! Port numbers and runs of them as text.

use std::num::NonZeroU16;

use crate::model::PortRange;

/// Reads a port in plain decimal: no sign, no leading zero, nothing around it.
pub(super) fn port(text: &str) -> Option<NonZeroU16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

/// Reads `first-last`, or one port. White space around the ends is welcome.
pub(super) fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    (first <= last).then_some(PortRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        for (text, shown) in [
            ("80", "80"),
            ("1-65535", "1-65535"),
            ("80-80", "80"),
            (" 7000 - 7999 ", "7000-7999"),
            ("65535", "65535"),
        ] {
            assert_eq!(range(text).expect(text).to_string(), shown);
        }
        for bad in [
            "",
            "-",
            "0",
            "0-5",
            "80-",
            "-80",
            "90-80",
            "65536",
            "1-65536",
            "080",
            "+80",
            "80-90-95",
            "8 0",
            "0x50",
            "1e3",
            "80.0",
            "\u{0668}\u{0660}",
            "80,90",
            "a-b",
        ] {
            assert_eq!(range(bad), None, "{bad:?}");
        }
    }
}
