//! (to be built)
#[derive(clap::Args, Debug)]
pub(super) struct AttachArgs {}
pub(super) fn run(_: &AttachArgs) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
