//! The commands of the specification: in which versions they are, and which variables each needs.

use super::version::Version;

/// The operations of the specification (SPEC section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, derive_more::Display)]
#[display(rename_all = "UPPERCASE")]
pub enum Command {
    /// ADD.
    Add,
    /// CHECK.
    Check,
    /// DEL.
    Del,
    /// GC.
    Gc,
    /// STATUS.
    Status,
    /// VERSION.
    Version,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 6] =
        [Self::Add, Self::Check, Self::Del, Self::Gc, Self::Status, Self::Version];

    /// The versions of the specification in which this command can be used.
    pub(super) fn versions(self) -> Vec<&'static str> {
        let since = match self {
            Self::Add | Self::Del | Self::Version => Version::V0_1_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        };
        let versions = Version::ALL.into_iter().filter(|version| *version >= since);
        versions.map(Version::as_str).collect()
    }

    /// The variables that must be there and not empty: the table of Go's `skel`, except that
    /// STATUS goes without `CNI_PATH`, as the specification has it.
    pub(super) const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINER_ID, NETNS, IFNAME, PATH],
            Self::Del => &[CONTAINER_ID, IFNAME, PATH],
            Self::Gc => &[PATH],
            Self::Status | Self::Version => &[],
        }
    }
}

pub(super) const CONTAINER_ID: &str = "CNI_CONTAINERID";
pub(super) const NETNS: &str = "CNI_NETNS";
pub(super) const IFNAME: &str = "CNI_IFNAME";
pub(super) const ARGS: &str = "CNI_ARGS";
pub(super) const PATH: &str = "CNI_PATH";

/// The variables of the specification (SPEC section 2, "Parameters").
pub(super) const VARIABLES: [&str; 6] = ["CNI_COMMAND", CONTAINER_ID, NETNS, IFNAME, ARGS, PATH];
