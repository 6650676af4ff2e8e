//! `autoport show`.

use std::io;
use std::iter;

use autoport::app;
use autoport::model::{Holder, HostPort, Masquerade, Policy};
use autoport::store::{self, Store};
use serde::Serialize;

use super::arguments::{Format, Subject};
use super::holders::{Attachment, Details, Holders, name_of, recorded};
use super::output::{Answer, BAD, DOUBTFUL, GOOD, HEADING, Screen, timestamp};
use super::{Failure, nothing_recorded, rows};

/// All that is known of somebody.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Shown(Holders);

impl Answer for Shown {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Self(Holders { attachments, reservations, unreadable }) = self;
        let mut gap = iter::once("").chain(iter::repeat("\n"));
        let mut begin = |out: &mut Screen<'_>, style, title: &str| {
            write!(out, "{}", gap.next().unwrap_or_default())?;
            out.paint(style, title)?;
            writeln!(out)
        };
        for one in attachments {
            begin(out, HEADING, &name_of(&one.record.owner))?;
            if let Some(details) = &one.details {
                about(one, details, out)?;
            }
        }
        for one in reservations {
            begin(out, HEADING, &one.of.to_string())?;
            let persistent = one.of.persistent;
            let kept = if persistent { "kept across reboots" } else { "until the next reboot" };
            let made = recorded(one.of.created, one.age_seconds);
            writeln!(out, "  made        {made}, {kept}")?;
            writeln!(out, "  host ports  {}", words(&one.of.hosts))?;
        }
        for one in unreadable {
            begin(out, BAD, &one.name)?;
            writeln!(out, "  {}", one.reason)?;
            writeln!(out, "  host ports  {}", words(&one.hosts))?;
        }
        Ok(())
    }

    fn is_well(&self) -> bool {
        let mut seen =
            self.0.attachments.iter().filter_map(|one| one.details.as_ref()?.kernel.as_ref());
        seen.all(|kernel| kernel.difference.is_none())
    }
}

fn about(one: &Attachment, details: &Details, out: &mut Screen<'_>) -> io::Result<()> {
    let Attachment { record, evidence, .. } = one;
    write!(out, "  state       ")?;
    out.paint(one.style, one.state)?;
    writeln!(out, ": {evidence}")?;
    let netns = record.owner.netns.as_ref().map_or("not examined".to_owned(), |netns| {
        format!("{} ({}:{})", netns.path.escape_debug(), netns.id.device, netns.id.inode)
    });
    let published = details.published.as_ref().map(|path| path.display().to_string());
    let rows = [
        ("recorded", recorded(record.created, one.age_seconds)),
        ("attachment", format!("{:#}", record.owner.holder)),
        ("netns", netns),
        ("addresses", words(&record.pod_addresses)),
        ("policy", policy(&record.policy)),
        ("record", details.record_file.display().to_string()),
        ("published", published.unwrap_or_default()),
    ];
    for (name, value) in rows {
        writeln!(out, "  {name:10}  {}", if value.is_empty() { "-" } else { &value })?;
    }
    containers(details, out)?;
    programs(details, out)?;
    write!(out, "  kernel      ")?;
    let difference = details.kernel.as_ref().and_then(|kernel| kernel.difference.as_ref());
    match (&details.kernel_error, difference) {
        (Some(error), _) => out.paint(DOUBTFUL, &format!("not seen: {error}"))?,
        (None, Some(difference)) => out.paint(BAD, difference)?,
        (None, None) => out.paint(GOOD, "as recorded")?,
    }
    writeln!(out, "\n")?;
    let found = details.kernel.as_ref().map_or(&[][..], |kernel| &kernel.mappings);
    let rows = rows::arranged(rows::of(record, found), out.format == Format::Wide);
    let rows = rows.into_iter().map(|row| {
        let ([host, target, name, choice], [kernel, connections, flows]) =
            (row.cells(), row.in_kernel());
        [host, target, name, choice, kernel, connections, flows]
    });
    let names = ["HOST PORT", "TARGET", "NAME", "CHOICE", "IN KERNEL", "CONNECTIONS", "FLOWS"];
    out.table("  ", names, rows)?;
    listings(details, out)?;
    for line in details.kernel.iter().flat_map(|kernel| kernel.chains.lines()) {
        writeln!(out, "{}{line}", if line.starts_with("\tchain") { "\n" } else { "" })?;
    }
    Ok(())
}

/// The containers of the pod that an agent knows.
fn containers(details: &Details, out: &mut Screen<'_>) -> io::Result<()> {
    for one in &details.containers {
        let store::Container { variables, since, .. } = one;
        let (since, as_of) = (timestamp(*since), &details.as_of);
        write!(out, "  container   {}: ", one.label())?;
        match one.uninjected {
            None => writeln!(out, "{variables} variables since {since}{as_of}")?,
            Some(reason) => {
                out.paint(
                    DOUBTFUL,
                    &format!("runs without its variables since {since}: {reason}"),
                )?;
                writeln!(out, "{as_of}")?;
            }
        }
    }
    Ok(())
}

/// What the bind hook has attached for the pod.
fn programs(details: &Details, out: &mut Screen<'_>) -> io::Result<()> {
    for store::BindProgram { call, id, instructions, .. } in &details.programs {
        let call = call.escape_debug();
        writeln!(out, "  bind hook   {call}: program {id}, {instructions} instructions")?;
    }
    Ok(())
}

/// Each instruction of it, where all is to be shown.
fn listings(details: &Details, out: &mut Screen<'_>) -> io::Result<()> {
    if out.format != Format::Wide {
        return Ok(());
    }
    for store::BindProgram { call, listing, .. } in &details.programs {
        writeln!(out, "\n  {}", call.escape_debug())?;
        for line in listing.lines() {
            writeln!(out, "  {}", line.escape_debug())?;
        }
    }
    Ok(())
}

/// In the words of the configuration.
fn policy(policy: &Policy) -> String {
    let snat = policy.masquerade != Masquerade::Nobody;
    let masq_all = policy.masquerade == Masquerade::Everybody;
    let Policy { mark_bit, source_ranges, host_addresses, .. } = policy;
    let lists = [("sourceRanges", source_ranges), ("hostAddresses", host_addresses)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let lists = lists.map(|(name, list)| format!(", {name} {}", words(list)));
    let lists = lists.collect::<Vec<_>>().concat();
    format!("snat {snat}, masqAll {masq_all}, markMasqBit {mark_bit}{lists}")
}

fn words<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn run(asked: &Subject, store: &Store) -> Result<Shown, Failure> {
    let listing = app::list(store, &mut crate::Stderr)?;
    if listing.is_none() {
        nothing_recorded(store)?;
    }
    let mut listing = listing.unwrap_or_default();
    let nobody = match asked {
        Subject::Name(name) => {
            listing.narrow_to_name(name)?;
            Failure::nobody(name)
        }
        Subject::Port(ports, protocol) => {
            listing.keep_holders(|host| is_asked(asked, host));
            let suffix = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
            Failure::Asked(format!(
                "host port {ports}{suffix} is not in use; `autoport list` shows all host ports in use"
            ))
        }
    };
    if listing.is_empty() {
        return Err(nobody);
    }
    let instance = std::mem::take(&mut listing.instance);
    let agent = store.agent();
    let known = agent.and_then(|agent| {
        let found = store.containers()?;
        Some((found.as_of(&agent), found.containers))
    });
    let (as_of, containers) = known.unwrap_or_default();
    let mut holders = Holders::from(listing).with(&containers);
    for one in &mut holders.attachments {
        let uid = one.record.owner.uid();
        let told = uid.map(|uid| app::told(store, uid, &mut crate::Stderr));
        let is_its = |it: &&store::Container| uid == Some(&it.pod.uid);
        let (kernel, kernel_error) = match app::in_kernel(&instance, &one.record) {
            Ok(kernel) => (Some(kernel), None),
            Err(error) => (None, Some(error.in_one_line())),
        };
        one.details = Some(Details {
            record_file: store.path_of(&one.record.owner.holder),
            published: told.transpose()?.flatten().map(|told| told.directory),
            kernel,
            kernel_error,
            containers: containers.iter().filter(is_its).cloned().collect(),
            as_of: as_of.clone(),
            programs: match &one.record.owner.holder {
                Holder::HostPod { pod } => store.bind_programs(pod),
                Holder::Attachment(_) => Vec::new(),
            },
        });
        narrow(one, asked);
    }
    Ok(Shown(holders))
}

/// Whether a port is one that is asked about: all are, of a holder by its name.
fn is_asked(asked: &Subject, host: &HostPort) -> bool {
    match asked {
        Subject::Name(_) => true,
        Subject::Port(ports, protocol) => {
            rows::is_among(Some(*ports), host)
                && protocol.is_none_or(|protocol| protocol == host.protocol)
        }
    }
}

/// Keeps the ports of a holder that are asked about, after the whole record was compared with the kernel.
fn narrow(one: &mut Attachment, asked: &Subject) {
    one.record.mappings.retain(|mapping| is_asked(asked, &mapping.host));
    if let Some(kernel) = one.details.as_mut().and_then(|details| details.kernel.as_mut()) {
        kernel.mappings.retain(|mapping| is_asked(asked, &mapping.host));
    }
}
