//! (to be built)
#[derive(clap::Args, Debug)]
pub(super) struct KeysArgs {}
pub(super) fn run(_: &KeysArgs) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
