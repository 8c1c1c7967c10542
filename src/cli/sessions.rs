//! (to be built)
#[derive(clap::Args, Debug)]
pub(super) struct SessionsArgs {}
pub(super) fn run(_: &SessionsArgs) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
