//! The CLI's argument list. Pure; knows nothing of profiles or of which values are allowed.

use std::{ffi::OsString, fmt};

/// How a process begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With a new conversation under the id that is given.
    #[default]
    New,
    /// With the conversation of that id.
    Resume,
    /// With the newest conversation of the folder, whichever that is.
    Continue,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Resume => "resume",
            Self::Continue => "continue",
        })
    }
}

/// The permission modes that need no consent; `bypassPermissions` is none of them.
pub const MODES: [&str; 5] = ["default", "acceptEdits", "plan", "auto", "dontAsk"];

/// What differs between two starts of the CLI.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments<'a> {
    /// The conversation's id, a UUID.
    pub conversation: &'a str,
    /// How it begins.
    pub start: Start,
    /// The model; the CLI's own default when left out.
    pub model: Option<&'a str>,
    /// The permission mode; the CLI's own default when left out.
    pub mode: Option<&'a str>,
    /// More arguments, as a profile names them.
    pub more: &'a [OsString],
}

/// Whether this can be the id of a conversation. The CLI wants a UUID, and says so only once it runs.
pub fn is_conversation(id: &str) -> bool {
    id.len() == 36 && uuid::Uuid::try_parse(id).is_ok()
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
    list.push(match with.start {
        Start::New => format!("--session-id={}", with.conversation).into(),
        Start::Resume => format!("--resume={}", with.conversation).into(),
        Start::Continue => "--continue".into(),
    });
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
        let with = Arguments {
            conversation: "-x",
            start: Start::Resume,
            model: Some("--help"),
            mode: Some("plan"),
            more: &more,
        };
        let list = arguments(&with);
        assert_eq!(list[10..], ["--resume=-x", "--model=--help", "--permission-mode=plan", "--add-dir=/srv"]);
        let list = arguments(&Arguments { conversation: "id", ..Arguments::default() });
        assert_eq!(list[10..], ["--session-id=id"]);
        let list = arguments(&Arguments { start: Start::Continue, ..Arguments::default() });
        assert_eq!(list[10..], ["--continue"]);
        assert_eq!(list[0], "-p");
    }
}
