//! Which versions of the CNI specification are spoken.

/// A version of the specification, as configurations and results spell it. No number in any has two
/// digits, so they are ordered as their texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
#[display("{}", self.as_str())]
pub struct Version(&'static str);

impl Version {
    /// What a configuration without `cniVersion` means.
    pub const V0_1_0: Self = Self("0.1.0");
    /// Results list their interfaces.
    pub const V0_3_0: Self = Self("0.3.0");
    /// CHECK, and a prevResult on DEL.
    pub const V0_4_0: Self = Self("0.4.0");
    /// Addresses in results no longer say their version.
    pub const V1_0_0: Self = Self("1.0.0");
    /// GC and STATUS.
    pub const V1_1_0: Self = Self("1.1.0");

    /// Every version that is spoken, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self("0.2.0"),
        Self::V0_3_0,
        Self("0.3.1"),
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest of them: what is answered where no version was understood.
    pub const NEWEST: Self = Self::V1_1_0;

    /// Its text.
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// Reads a non-empty `cniVersion`. Only exact matches count, as in libcni's version check.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// Reads the `cniVersion` of a configuration, where empty means 0.1.0 (Go `version.Decode`).
    pub fn of_config(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self::V0_1_0) } else { Self::named(text) }
    }
}

#[cfg(test)]
mod tests;
