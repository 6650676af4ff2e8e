//! The system calls of one command of the plugin, as strace(1) sees them.

use std::fs;

use crate::stage::chain::Attachment;

/// The lines of `strace -f` for one call, which must succeed.
pub(crate) fn trace(attachment: &Attachment, command: &str) -> Vec<String> {
    const OUTPUT: &str = "/run/strace";
    let call = attachment.plugin_call(command);
    call.under(&["strace", "-f", "-s", "4096", "-o", OUTPUT]).run().success();
    let text = fs::read_to_string(OUTPUT).expect("strace wrote it");
    assert!(text.contains("+++ exited with 0 +++"), "{text}");
    text.lines().map(str::to_owned).collect()
}
