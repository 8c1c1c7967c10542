//! The subcommand `stalled`: healthy pairs beside readers that stop reading, against a relay of its own if need be.

use crate::{
    cli::{Command, StalledOptions},
    failure::Failure,
    report::stalled::Stalled,
    run::stalled,
    servers,
};

/// Runs it.
///
/// # Errors
/// The run could not be made.
pub(crate) fn run(own: &StalledOptions) -> Result<Stalled, Failure> {
    let mut options = own.options.clone();
    if options.url.is_none() && options.relay.is_none() {
        options.relay = Some(servers::relay_beside_us().map_err(Failure::Usage)?);
    }
    stalled(&Command::Stalled(own.clone()), &options)
}
