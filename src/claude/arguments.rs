//! The CLI's argument list. Pure; knows nothing of profiles or of which values are allowed.

use std::ffi::OsString;

/// What differs between two starts of the CLI.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments<'a> {
    /// The conversation's id, a UUID.
    pub conversation: &'a str,
    /// Continue it instead of beginning it.
    pub resume: bool,
    /// The model; the CLI's own default when left out.
    pub model: Option<&'a str>,
    /// The permission mode; the CLI's own default when left out.
    pub mode: Option<&'a str>,
    /// More arguments, as a profile names them.
    pub more: &'a [OsString],
}

/// Everything after the program's name. Values that may come from outside are joined to their flag by `=`, so that
/// none of them is read as a flag.
pub fn arguments(with: &Arguments<'_>) -> Vec<OsString> {
    let fixed = [
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--permission-prompt-tool",
        "stdio",
        "--include-partial-messages",
        "--replay-user-messages",
    ];
    let mut list: Vec<OsString> = fixed.into_iter().map(OsString::from).collect();
    let start = if with.resume { "--resume" } else { "--session-id" };
    list.push(format!("{start}={}", with.conversation).into());
    list.extend(with.model.map(|model| format!("--model={model}").into()));
    list.extend(with.mode.map(|mode| format!("--permission-mode={mode}").into()));
    list.extend_from_slice(with.more);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_outside_stay_values() {
        let more = [OsString::from("--add-dir=/srv")];
        let with =
            Arguments { conversation: "-x", resume: true, model: Some("--help"), mode: Some("plan"), more: &more };
        let list = arguments(&with);
        assert_eq!(list[10..], ["--resume=-x", "--model=--help", "--permission-mode=plan", "--add-dir=/srv"]);
        let list = arguments(&Arguments { conversation: "id", ..Arguments::default() });
        assert_eq!(list[10..], ["--session-id=id"]);
        assert_eq!(list[0], "-p");
    }
}
