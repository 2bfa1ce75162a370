//! What is wrong with this machine right now, for the log and for `onemac status`.
//!
//! Whoever notices something raises a warning under a key of its own and clears it when it is over. The log
//! gets a line when a warning begins, when its text changes, and when it ends; the status has all that stand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::model::Warning;

/// The warnings that stand. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<BTreeMap<String, Warning>>>);

impl Warnings {
    /// Says what is wrong and what to do about it, until [`clear`](Self::clear).
    pub fn raise(&self, key: &str, what: impl Into<String>, advice: impl Into<String>) {
        let warning = Warning { what: what.into(), advice: advice.into() };
        let before = self.lock().insert(key.to_owned(), warning.clone());
        if before.as_ref() != Some(&warning) {
            tracing::warn!("{}; {}", warning.what, warning.advice);
        }
    }

    /// It is over; whether it stood.
    pub fn clear(&self, key: &str) -> bool {
        let stood = self.lock().remove(key);
        if let Some(warning) = &stood {
            tracing::info!("over: {}", warning.what);
        }
        stood.is_some()
    }

    /// All that stand, in the order of their keys.
    pub fn list(&self) -> Vec<Warning> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Warning>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_stands_until_it_is_cleared() {
        let warnings = Warnings::default();
        warnings.raise("arp", "nobody answers", "do this");
        warnings.clone().raise("arp", "nobody answers at all", "do that");
        let listed = warnings.list();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (listed[0].what.as_str(), listed[0].advice.as_str()),
            ("nobody answers at all", "do that")
        );
        assert!(warnings.clear("arp") && !warnings.clear("arp"));
        assert!(warnings.list().is_empty());
    }
}
