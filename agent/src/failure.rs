//! Failures of commands, by the exit code that they mean.

use std::fmt::Display;

/// A command that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Tried and failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Wrong usage or configuration: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// There is no agent to ask: exit code 3.
    #[error("{0}")]
    NoAgent(String),
}

impl Failure {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::NoAgent(_) => 3,
        }
    }

    /// Something was tried and failed.
    pub fn failed(what: impl Display) -> Self {
        Failure::Failed(what.to_string())
    }

    /// The operator's words or files are wrong.
    pub fn usage(what: impl Display) -> Self {
        Failure::Usage(what.to_string())
    }
}

/// What commands return.
pub type Result<T> = std::result::Result<T, Failure>;
