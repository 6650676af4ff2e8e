//! The records, and the kernel's table beside them.

use super::facts::is_denied;
use super::{Facts, Finding, Seen, counted, some_of};
use crate::app::Examined;
use crate::kernel::Table;
use crate::model::Record;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "records";
    let examined = match &facts.store {
        Seen::Known(Some(examined)) => examined,
        Seen::Known(None) => {
            return vec![match &facts.table {
                Seen::Known(Table::Ours(identity)) => Finding::failed(
                    CHECK,
                    format!(
                        "nothing is recorded, and table inet autoport of store {} is there",
                        identity.instance
                    ),
                    "`autoport repair --adopt` makes records of it; or give the right --state-dir",
                ),
                Seen::Known(Table::Absent | Table::Foreign) | Seen::Hidden | Seen::Failed(_) => {
                    Finding::ok(CHECK, "nothing has been recorded yet")
                }
            }];
        }
        Seen::Hidden => return vec![Finding::unseen(CHECK, "the records and the table")],
        Seen::Failed(why) => {
            return vec![Finding::failed(
                CHECK,
                why.clone(),
                "do what it says (docs/errors.md has more); every ADD with host ports fails",
            )];
        }
    };
    let mut findings = Vec::new();
    if !examined.unreadable.is_empty() {
        findings.push(Finding::failed(
            CHECK,
            some_of(&examined.unreadable),
            "`autoport repair` frees what it holds; `autoport repair --adopt` makes it again",
        ));
    }
    if !facts.stale.is_empty() {
        findings.push(Finding::warning(
            CHECK,
            format!("held by whom nobody knows any more: {}", some_of(&facts.stale)),
            "`autoport gc` frees their ports; so does whoever asks for one",
        ));
    }
    findings.push(table(facts, examined));
    findings
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
            format!("table inet autoport is not what the records say: {}", some_of(differences)),
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
