//! The kernel, and the program itself.

use super::facts::Unseen;
use super::{Facts, Report, State};
use crate::kernel::{Release, Table};
use crate::ruleset::LAYOUT;

/// The oldest kernel that is promised to work.
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn kernel(facts: &Facts, report: &mut Report) {
    report.check("kernel");
    let release = facts.sysctls.get("kernel/osrelease").unwrap_or_default();
    if version(release).is_none_or(|version| version < OLDEST) {
        report.warning(
            format!("Linux {release} is older than what autoport is tested on"),
            format!("Linux {}.{} or later", OLDEST.0, OLDEST.1),
        );
    }
    match &facts.trial {
        Ok(release_of) => {
            let how = match release_of {
                Release::Expiry => "released elements expire",
                Release::Deletion => "released elements are deleted (before 6.12)",
            };
            report.ok(format!("Linux {release}; nf_tables accepts the table; {how}"));
        }
        Err(Unseen::Hidden) => {
            report.unseen(format!("Linux {release}; whether nf_tables accepts the table"));
        }
        Err(Unseen::Failed(why)) => report.failed(
            format!("Linux {release}: the table cannot be created: {why}"),
            "modprobe nf_tables, nft_chain_nat, nft_fib_inet, nft_masq, nf_conntrack_netlink; a \
             kernel without them cannot serve",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn plugin(facts: &Facts, report: &mut Report) {
    report.check("plugin");
    let own = env!("CARGO_PKG_VERSION");
    let path = facts.plugin.display();
    let hidden = format!("{path} may not be read");
    let binary = match report.see(&facts.binary, &hidden, State::Failed, "install it again") {
        None => return,
        Some(Some(binary)) => binary,
        Some(None) => {
            let text = format!("{path} is missing: every ADD of a chain with autoport fails");
            let remedy = "`autoport install`, or name the directory with --bin-dir";
            return report.failed(text, remedy);
        }
    };
    let Some(version) = &binary.version else {
        let text = format!("{path} cannot be run as autoport");
        return report.failed(text, "`autoport install`, or chmod 0755");
    };
    let mut table = String::new();
    if let Some(Table::Ours(identity)) = &facts.table {
        let layout = identity.layout;
        if layout > LAYOUT {
            return report.failed(
                format!(
                    "the table has layout {layout}; this autoport, {own}, supports up to {LAYOUT}"
                ),
                "install the newer autoport again: an older one does not change its table",
            );
        }
        if layout < LAYOUT {
            table = format!(
                "; the table has the older layout {layout}, the next ADD or DEL replaces it"
            );
        }
    }
    if !binary.is_this {
        return report.warning(
            format!("{path} is another program than this one (it is {version}, this is {own})"),
            "run `autoport install`, or use that program",
        );
    }
    report.ok(format!("{path} is this program, {own}, table layout {LAYOUT}{table}"));
}
