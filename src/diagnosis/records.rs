//! The records, and the kernel's table beside them.

use super::{Facts, Report, State, counted, some_of};
use crate::app::{Examined, Offloaded};
use crate::error::is_denied;
use crate::kernel::Table;
use crate::model::Record;
use crate::ruleset::Identity;

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    report.check("records");
    let remedy = "follow the message (more in docs/errors.md); every ADD with host ports fails";
    let seen = report.see(&facts.store, "the records and the table", State::Failed, remedy);
    let Some(examined) = seen else { return };
    let Some(examined) = examined else {
        let instance = match &facts.table {
            Some(Table::Ours(Identity { instance, .. })) => instance,
            Some(_) => return report.ok("nothing has been recorded yet"),
            None => {
                let dir = facts.state_dir.display();
                return report.unseen(format!("there are no records in {dir}, and the table"));
            }
        };
        return report.failed(
            format!("nothing is recorded, but table inet autoport of store {instance} exists"),
            "`autoport repair --adopt` creates records from it, if this is the node and no container without \
             its state directory; or set the right --state-dir",
        );
    };
    if !examined.unreadable.is_empty() {
        report.failed(
            some_of(&examined.unreadable),
            "`autoport repair` releases its ports; `autoport repair --adopt` restores the record from the table",
        );
    }
    if !facts.stale.is_empty() {
        report.warning(
            format!("held by pods that no longer exist: {}", some_of(&facts.stale)),
            "`autoport gc` releases their ports; so does a pod that asks for one",
        );
    }
    table(examined, report);
    if let Some(offloaded) = &examined.offload {
        offload(offloaded, report);
    }
}

fn offload(found: &Offloaded, report: &mut Report) {
    report.check("offload");
    for uplink in &found.missing {
        report.warning(
            format!("offload names {uplink}, which does not exist on this node"),
            "correct offload in the configuration; `autoport repair` adds an interface that exists by now",
        );
    }
    if !found.differences.is_empty() {
        report.warning(
            format!("connections take the usual way: {}", some_of(&found.differences)),
            "`autoport repair`; a kernel without flowtables needs the modules nf_flow_table_inet and \
             nft_flow_offload, or no offload in the configuration",
        );
    }
    let excluded = match found.excluded {
        0 => String::new(),
        number => format!("; {} without a veth on the node", counted(number, "attachment")),
    };
    report.or_ok(format!("{}{excluded}", offloaded(found)));
}

/// How many connections are offloaded, and where.
pub fn offloaded(found: &Offloaded) -> String {
    let connections = counted(found.connections, "connection");
    let (uplinks, others): (Vec<&String>, Vec<&String>) =
        found.interfaces.iter().partition(|name| found.uplinks.contains(name));
    let interfaces = counted(others.len(), "interface");
    format!("{connections} between {} and {interfaces} of pods", some_of(&uplinks))
}

fn table(examined: &Examined, report: &mut Report) {
    report.check("table");
    let ports = examined.records.iter().map(translated).sum::<usize>();
    let attachments = counted(examined.records.len(), "attachment");
    let held = format!("{attachments}, {}", counted(ports, "translated host port"));
    match &examined.differences {
        Ok(differences) if differences.is_empty() => {
            report.ok(format!("table inet autoport equals the records: {held}"));
        }
        Ok(differences) => {
            let differs = some_of(differences);
            let text = format!("table inet autoport differs from the records: {differs}");
            report.failed(text, "`autoport repair`");
        }
        Err(error) if is_denied(error) => {
            report.unseen(format!("whether the table equals the records: {held}"));
        }
        Err(error) => report.failed(error.in_one_line(), "see docs/errors.md"),
    }
}

fn translated(record: &Record) -> usize {
    record.mappings.iter().filter(|mapping| mapping.target.is_some()).count()
}
