//! The demo agent's command line and surroundings: the CLI's own flags, of which it minds a few.

use std::{ffi::OsString, path::PathBuf};

/// What the demo agent was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// The conversation's id; chosen by the program when none was given.
    pub(super) conversation: Option<String>,
    pub(super) resume: bool,
    /// Go on with the newest conversation of the folder.
    pub(super) newest: bool,
    pub(super) model: Option<String>,
    pub(super) mode: Option<String>,
    /// Tools that need a person ask over stdout.
    pub(super) asks: bool,
    /// Stream what is being said.
    pub(super) partial: bool,
    /// Echo what comes in.
    pub(super) replay: bool,
    pub(super) verbose: bool,
    pub(super) version: bool,
    /// Run a turn that died again.
    pub(super) rerun: bool,
    /// Say when it is idle, running, or waits for a person.
    pub(super) state_events: bool,
    pub(super) folder: PathBuf,
}

impl Options {
    /// Reads the arguments after the program's name. The error is the line for stderr.
    pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned()).peekable();
        while let Some(argument) = arguments.next() {
            let (flag, mut value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (argument, None),
            };
            let takes_value = !matches!(
                flag.as_str(),
                "-p" | "--print"
                    | "--verbose"
                    | "--include-partial-messages"
                    | "--replay-user-messages"
                    | "--version"
                    | "-v"
                    | "--strict-mcp-config"
                    | "--dangerously-skip-permissions"
                    | "--allow-dangerously-skip-permissions"
                    | "--fork-session"
                    | "--continue"
                    | "-c"
            );
            if takes_value && value.is_none() {
                value = arguments.next_if(|next| !next.starts_with('-'));
            }
            options.take(&flag, value)?;
        }
        Ok(options)
    }

    fn take(&mut self, flag: &str, value: Option<String>) -> Result<(), String> {
        let given = || value.clone().ok_or_else(|| format!("error: option '{flag} <value>' argument missing"));
        match flag {
            "-p" | "--print" | "--strict-mcp-config" | "--fork-session" => {}
            "--dangerously-skip-permissions" | "--allow-dangerously-skip-permissions" => {}
            "--verbose" => self.verbose = true,
            "--version" | "-v" => self.version = true,
            "--include-partial-messages" => self.partial = true,
            "--replay-user-messages" => self.replay = true,
            "--permission-prompt-tool" => self.asks = given()? == "stdio",
            "--session-id" => self.conversation = Some(uuid(given()?)?),
            "--resume" => (self.conversation, self.resume) = (Some(uuid(given()?)?), true),
            "--continue" | "-c" => self.newest = true,
            "--model" => self.model = Some(given()?),
            "--permission-mode" => self.mode = Some(given()?),
            "--input-format" | "--output-format" => {
                if given()? != "stream-json" {
                    return Err(format!("error: the demo agent takes only '{flag} stream-json'"));
                }
            }
            "--allowedTools"
            | "--disallowedTools"
            | "--add-dir"
            | "--mcp-config"
            | "--settings"
            | "--setting-sources"
            | "--max-turns"
            | "--max-budget-usd"
            | "--append-system-prompt" => {
                given()?;
            }
            _ => return Err(format!("error: unknown option '{flag}'")),
        }
        Ok(())
    }

    /// The permission mode in force at the start.
    pub(super) fn mode(&self) -> &str {
        self.mode.as_deref().unwrap_or("default")
    }

    pub(super) fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("demo-model")
    }
}

fn uuid(text: String) -> Result<String, String> {
    match uuid::Uuid::try_parse(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err("Error: Invalid session ID. Must be a valid UUID.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claude::arguments::{Arguments, Start, arguments};

    const ID: &str = "05e1f001-4d7f-4517-86a2-a102f08f356c";

    fn parse(list: &[&str]) -> Result<Options, String> {
        Options::parse(list.iter().map(OsString::from))
    }

    #[test]
    fn takes_what_the_supervisor_gives() {
        let with =
            Arguments { conversation: ID, start: Start::Resume, model: Some("m"), mode: Some("plan"), more: &[] };
        let options = Options::parse(arguments(&with).into_iter()).expect("understood");
        assert_eq!((options.conversation.as_deref(), options.resume), (Some(ID), true));
        assert_eq!((options.model(), options.mode()), ("m", "plan"));
        assert!(options.asks && options.partial && options.replay && options.verbose);
    }

    #[test]
    fn refuses_what_the_cli_refuses() {
        assert_eq!(parse(&["--nope"]).expect_err("refused"), "error: unknown option '--nope'");
        assert!(parse(&["--session-id", "word"]).expect_err("refused").contains("Invalid session ID"));
        assert!(parse(&["--resume", "-x"]).expect_err("refused").contains("argument missing"));
        assert!(parse(&["--output-format=text"]).is_err());
    }
}
