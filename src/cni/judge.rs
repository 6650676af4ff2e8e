//! Whether an error in a configuration fails the command, and which value counts.

use super::error::Error;
use super::json::{Field, Object};

/// Decides whether what is wrong stops the command.
#[derive(Debug, Default)]
pub(super) struct Judge {
    lenient: bool,
    /// What was looked for: every key of ours.
    pub(super) keys: Vec<&'static str>,
    pub(super) warnings: Vec<String>,
}

impl Judge {
    pub(super) fn strict() -> Self {
        Self::default()
    }

    pub(super) fn lenient() -> Self {
        Self { lenient: true, ..Self::default() }
    }

    /// Lets an error pass as a warning where no configuration may fail.
    pub(super) fn weigh<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.lenient => {
                self.warnings.push(format!("ignored: {}", error.in_one_line()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads `key` in every layer and takes the first that has it.
    pub(super) fn value<T>(
        &mut self,
        layers: &[&Object<'_>],
        key: &'static str,
        read: impl Fn(&Field<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.keys.push(key);
        let mut first = None;
        for field in layers.iter().filter_map(|layer| layer.get(key)) {
            let value = self.weigh(read(&field))?;
            first = first.or(value);
        }
        Ok(first)
    }
}
