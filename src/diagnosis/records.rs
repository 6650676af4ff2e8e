//! The records, and the kernel's table beside them.

use super::{Facts, Finding, counted, some_of};
use crate::app::Examined;
use crate::error::is_denied;
use crate::kernel::Table;
use crate::model::Record;
use crate::ruleset::Identity;

pub(super) fn findings(facts: &Facts) -> Result<Vec<Finding>, Finding> {
    const CHECK: &str = "records";
    let examined = facts.store.or(
        || Finding::unseen(CHECK, "the records and the table"),
        |why| {
            let remedy =
                "follow the message (more in docs/errors.md); every ADD with host ports fails";
            Finding::failed(CHECK, why, remedy)
        },
    )?;
    let Some(examined) = examined else {
        let Some(Table::Ours(Identity { instance, .. })) = facts.table.known() else {
            return Ok(vec![Finding::ok(CHECK, "nothing has been recorded yet")]);
        };
        return Ok(vec![Finding::failed(
            CHECK,
            format!("nothing is recorded, but table inet autoport of store {instance} exists"),
            "`autoport repair --adopt` creates records from it; or set the right --state-dir",
        )]);
    };
    let mut findings = Vec::new();
    if !examined.unreadable.is_empty() {
        findings.push(Finding::failed(
            CHECK,
            some_of(&examined.unreadable),
            "`autoport repair` releases its ports; `autoport repair --adopt` restores the record from the table",
        ));
    }
    if !facts.stale.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            format!("held by pods that no longer exist: {}", some_of(&facts.stale)),
            "`autoport gc` releases their ports; so does a pod that asks for one",
        ));
    }
    findings.push(table(facts, examined));
    Ok(findings)
}

fn table(facts: &Facts, examined: &Examined) -> Finding {
    const CHECK: &str = "table";
    let ports = facts.records().iter().map(translated).sum::<usize>();
    let attachments = counted(examined.records.len(), "attachment");
    let held = format!("{attachments}, {}", counted(ports, "translated host port"));
    match &examined.differences {
        Ok(differences) if differences.is_empty() => {
            Finding::ok(CHECK, format!("table inet autoport equals the records: {held}"))
        }
        Ok(differences) => Finding::failed(
            CHECK,
            format!("table inet autoport differs from the records: {}", some_of(differences)),
            "`autoport repair`",
        ),
        Err(error) if is_denied(error) => {
            Finding::unseen(CHECK, format!("whether the table equals the records: {held}"))
        }
        Err(error) => Finding::failed(CHECK, error.in_one_line(), "see docs/errors.md"),
    }
}

fn translated(record: &Record) -> usize {
    record.mappings.iter().filter(|mapping| mapping.target.is_some()).count()
}
