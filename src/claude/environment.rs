//! The environment of the CLI, built from nothing: an allow-list over the relay's own variables, what the profile adds
//! or removes, and what the supervisor needs. Pure; reads no environment itself.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// Variables that pass as they are.
const NAMES: &[&str] = &[
    // The person's surroundings.
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TERM",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    // The way out.
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "CLAUDE_CODE_CLIENT_CERT",
    "CLAUDE_CODE_CLIENT_KEY",
    "CLAUDE_CODE_CLIENT_KEY_PASSPHRASE",
    // The account, where it is not the stored login.
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_SKIP_VERTEX_AUTH",
    "CLAUDE_CODE_SKIP_FOUNDRY_AUTH",
    "CLOUD_ML_REGION",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GCLOUD_PROJECT",
    // Hermetic use.
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "CLAUDE_CODE_MAX_RETRIES",
    "DISABLE_TELEMETRY",
    "DISABLE_ERROR_REPORTING",
    "API_TIMEOUT_MS",
    "IS_SANDBOX",
];

/// Variables that pass by the beginning of their names.
const PREFIXES: &[&str] = &["LC_", "ANTHROPIC_", "AWS_", "VERTEX_REGION_"];

/// Variables that no profile can add: they would change what runs, or tell the CLI that it runs inside itself.
const NEVER: &[&str] = &["CLAUDECODE", "NODE_OPTIONS", "LD_PRELOAD", "LD_AUDIT", "DYLD_INSERT_LIBRARIES"];

/// Whether a shell takes this as the name of a variable.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether no profile may add this variable.
pub fn is_never_added(name: &str) -> bool {
    NEVER.contains(&name)
}

/// What a profile changes in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Variables to set, whether the relay has them or not.
    pub set: BTreeMap<OsString, OsString>,
    /// Variables to leave out.
    pub remove: Vec<OsString>,
}

/// The variables of a new CLI process, sorted by name. `restart` says that the conversation may have a turn that died.
pub fn environment(
    parent: impl IntoIterator<Item = (OsString, OsString)>,
    changes: &Changes,
    restart: bool,
) -> Vec<(OsString, OsString)> {
    let mut child: BTreeMap<OsString, OsString> = parent.into_iter().filter(|(name, _)| passes(name)).collect();
    for name in &changes.remove {
        child.remove(name);
    }
    child.extend(changes.set.iter().map(|(name, value)| (name.clone(), value.clone())));
    child.retain(|name, value| is_sound(name, value) && !NEVER.iter().any(|never| name == never));
    let mut fix = |name: &str, value: &str| child.insert(name.into(), value.into());
    fix("DISABLE_AUTOUPDATER", "1");
    fix("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1");
    if restart {
        fix("CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "1");
    }
    child.into_iter().collect()
}

fn passes(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A name or value the system takes: one with a zero byte would make the start fail as a whole.
fn is_sound(name: &OsStr, value: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    #[test]
    fn only_what_is_listed_passes() {
        let parent = pairs(&[
            ("PATH", "/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("ANTHROPIC_API_KEY", "k"),
            ("IS_SANDBOX", "1"),
            ("SECRET", "s"),
            ("CLAUDECODE", "1"),
            ("CLAUDE_CODE_ENTRYPOINT", "cli"),
            ("CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "1"),
            ("NODE_OPTIONS", "--inspect"),
            ("LD_PRELOAD", "x.so"),
            ("AMP_RELAY_TOKEN", "t"),
        ]);
        let child = environment(parent, &Changes::default(), false);
        let want = pairs(&[
            ("ANTHROPIC_API_KEY", "k"),
            ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("IS_SANDBOX", "1"),
            ("LC_ALL", "C.UTF-8"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(child, want);
    }

    #[test]
    fn what_is_added_has_the_name_of_a_variable() {
        assert!(["A", "_", "SSH_AUTH_SOCK", "x9"].iter().all(|name| is_name(name) && !is_never_added(name)));
        let none = ["", "A B", " A", "9A", "A-B", "A=", "ü", "A\n"];
        assert!(none.iter().all(|name| !is_name(name)));
        assert!(NEVER.iter().all(|name| is_name(name) && is_never_added(name)));
    }

    #[test]
    fn a_profile_adds_and_removes_but_cannot_add_what_changes_the_program() {
        let changes = Changes {
            set: pairs(&[("FOO", "bar"), ("PATH", "/opt/bin"), ("NODE_OPTIONS", "x"), ("BAD=", "x"), ("NUL", "\0")])
                .into_iter()
                .collect(),
            remove: vec!["ANTHROPIC_API_KEY".into(), "DISABLE_AUTOUPDATER".into()],
        };
        let child = environment(pairs(&[("ANTHROPIC_API_KEY", "k"), ("PATH", "/bin")]), &changes, true);
        let want = pairs(&[
            ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
            ("CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("FOO", "bar"),
            ("PATH", "/opt/bin"),
        ]);
        assert_eq!(child, want);
    }
}
