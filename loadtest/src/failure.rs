//! Why a subcommand has nothing to show.

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The run did not come about.
    Run(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Run(text)
    }
}
