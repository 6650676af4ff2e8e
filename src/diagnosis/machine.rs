//! The kernel, and the program itself.

use super::facts::Seen;
use super::{Facts, Finding};
use crate::kernel::{Release, Table};
use crate::ruleset::LAYOUT;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = kernel(facts);
    findings.push(binary(facts).unwrap_or_else(|bad| bad));
    findings
}

/// The oldest kernel that is promised to work.
const OLDEST: (u32, u32) = (6, 1);

fn kernel(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "kernel";
    let release = &facts.release;
    let mut findings = Vec::new();
    if version(release).is_none_or(|version| version < OLDEST) {
        findings.push(Finding::warning(
            CHECK,
            format!("Linux {release} is older than what autoport is tested on"),
            format!("Linux {}.{} or later", OLDEST.0, OLDEST.1),
        ));
    }
    findings.push(match &facts.trial {
        Seen::Known(release_of) => {
            let how = match release_of {
                Release::Expiry => "released elements expire",
                Release::Deletion => "released elements are deleted (before 6.12)",
            };
            Finding::ok(CHECK, format!("Linux {release}; nf_tables accepts the table; {how}"))
        }
        Seen::Hidden => {
            Finding::unseen(CHECK, format!("Linux {release}; whether nf_tables accepts the table"))
        }
        Seen::Failed(why) => Finding::failed(
            CHECK,
            format!("Linux {release}: the table cannot be created: {why}"),
            "modprobe nf_tables, nft_chain_nat, nft_fib_inet, nft_masq, nf_conntrack_netlink; a \
             kernel without them cannot serve",
        ),
    });
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn binary(facts: &Facts) -> Result<Finding, Finding> {
    const CHECK: &str = "plugin";
    let own = env!("CARGO_PKG_VERSION");
    let path = facts.places.bin_dir.join("autoport");
    let path = path.display();
    let binary = facts.binary.or(
        || Finding::unseen(CHECK, format!("{path} may not be read")),
        |why| Finding::failed(CHECK, format!("{path}: {why}"), "install it again"),
    )?;
    let binary = binary.as_ref().ok_or_else(|| {
        let text = format!("{path} is missing: every ADD of a chain with autoport fails");
        Finding::failed(CHECK, text, "`autoport install`, or name the directory with --bin-dir")
    })?;
    let layout = match facts.table.known() {
        Some(Table::Ours(identity)) if identity.layout != LAYOUT => Some(identity.layout),
        _ => None,
    };
    let Some(version) = binary.version.as_ref().filter(|_| binary.executable) else {
        let text = format!("{path} cannot be run as autoport");
        return Err(Finding::failed(CHECK, text, "`autoport install`, or chmod 0755"));
    };
    if let Some(layout) = layout.filter(|layout| *layout > LAYOUT) {
        return Err(Finding::failed(
            CHECK,
            format!("the table has layout {layout}; this autoport, {own}, supports up to {LAYOUT}"),
            "install the newer autoport again: an older one does not change its table",
        ));
    }
    if !binary.is_this {
        return Err(Finding::warning(
            CHECK,
            format!("{path} is another program than this one (it is {version}, this is {own})"),
            "run `autoport install`, or use that program",
        ));
    }
    let table = layout.map_or(String::new(), |layout| {
        format!("; the table has the older layout {layout}, the next ADD or DEL replaces it")
    });
    Ok(Finding::ok(CHECK, format!("{path} is this program, {own}, table layout {LAYOUT}{table}")))
}
