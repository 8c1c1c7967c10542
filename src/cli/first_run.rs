//! What a first run makes and asks: the keys file, with the keys that the person at the terminal wants in it.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use super::{
    keys::told_apart,
    out,
    settings::{Settings, unreadable_keys},
    text::{clean_line, path_line, ticked},
};
use crate::{
    base::{file, text},
    relay::{
        Role,
        keys::{self, KeySet},
    },
    server::DataFolder,
    wire::sign_in::KEY_FILE_BYTES_MAX,
};

/// Makes the keys file if there is none; `asking`: offers the user's own keys, if there is a terminal to ask on.
///
/// # Errors
/// It cannot be read or written, or the client key cannot be made.
pub(super) fn keys_file(data: &DataFolder, settings: &Settings, asking: bool) -> Result<(), String> {
    let client = data.client_key().map_err(|error| error.to_string())?;
    let path = &settings.keys.value;
    if let Some(why) = unreadable_keys(path) {
        return Err(format!(
            "{why}. No key could sign in: mend it, or move it away, and {} makes a new one; --keys FILE names another",
            ticked("amp-relay up")
        ));
    }
    if path.exists() {
        return Ok(());
    }
    let own = client.public_key().to_openssh().map_err(|error| format!("the client key: {error}"))?;
    let mut lines = vec![line(&own)?];
    if asking && io::stdin().is_terminal() && io::stderr().is_terminal() {
        for (file, key) in public_keys_of_home() {
            match key.and_then(|key| offered(&lines, &key, &file)) {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => {}
                // A refused key is no reason to lose the answers about the others.
                Err(why) => out::note(&format_args!("{} is passed over: {why}.", path_line(&file))),
            }
        }
    }
    data.ensure_keys_file(path, &lines).map_err(|error| error.to_string())?;
    Ok(())
}

fn line(public: &str) -> Result<String, String> {
    keys::line_for(public, Role::Admin).map(|(line, _)| line.trim_end().to_owned()).map_err(|error| error.to_string())
}

/// The line of a key, below others, if the person lets it in.
///
/// # Errors
/// It cannot sign in.
fn offered(lines: &[String], key: &str, file: &Path) -> Result<Option<String>, String> {
    let (_, entry) = keys::line_for(key, Role::Admin).map_err(|error| error.to_string())?;
    // File names and comments come from elsewhere: each stands behind words of ours, and its further rows behind a
    // mark.
    let question = format!(
        "{}:{}\nLet it sign in to this relay as admin? [y/N] ",
        out::foreign("\nA key in ", &path_line(file)),
        out::foreign(&format!("\n  {} ", entry.fingerprint), &clean_line(&entry.comment, 64)),
    );
    if !out::agreed(&question.trim_start()) {
        return Ok(None);
    }
    let (line, said) = beside(lines, key, file)?;
    if let Some(said) = said {
        out::note(&said);
    }
    Ok(Some(line))
}

/// A key's line below others, and what is to be said where it cannot have the name that its file gives it, as `keys add`
/// refuses it.
fn beside(lines: &[String], public: &str, file: &Path) -> Result<(String, Option<String>), String> {
    let set = KeySet::parse(&lines.join("\n"));
    Ok(match told_apart(public, Role::Admin, &set, file)? {
        None => (line(public)?, None),
        Some((line, name)) => {
            let said =
                format!("Its comment is that of another key, so it is called {} here.", ticked(&clean_line(&name, 64)));
            (line.trim_end().to_owned(), Some(said))
        }
    })
}

/// `~/.ssh/*.pub`, each key once, and why a file has none that can be read.
fn public_keys_of_home() -> Vec<(PathBuf, Result<String, String>)> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let Ok(entries) = fs::read_dir(Path::new(&home).join(".ssh")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // What is no file is told to be none.
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
    paths.sort();
    let mut seen = Vec::new();
    let mut is_new = |text: &str| match keys::line_for(text, Role::Admin) {
        Ok((_, entry)) if seen.contains(entry.key.key_data()) => false,
        Ok((_, entry)) => {
            seen.push(entry.key.key_data().clone());
            true
        }
        // Each text that is not one key is kept, one of several keys too: the reason is told for each.
        Err(_) => true,
    };
    let read = |path: PathBuf| match file::read(&path, KEY_FILE_BYTES_MAX) {
        Ok(bytes) => {
            let text = text::of_file(&bytes).trim().to_owned();
            is_new(&text).then_some((path, Ok(text)))
        }
        Err(error) => Some((path, Err(format!("it cannot be read: {error}")))),
    };
    paths.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";

    #[test]
    fn keys_of_one_name_are_told_apart_by_their_files() {
        let admin = |key: &str, name: &str| format!("amp-role=\"admin\" {key} {name}");
        let file = |name: &str| Path::new("/home/u/.ssh").join(name);
        let first = beside(&[], &format!("{ONE} me@laptop"), &file("id_ed25519.pub")).unwrap();
        assert_eq!(first, (admin(ONE, "me@laptop"), None));
        let (line, said) =
            beside(std::slice::from_ref(&first.0), &format!("{OTHER} Me@laptop"), &file("id_rsa.pub")).unwrap();
        assert_eq!(line, admin(OTHER, "Me@laptop id_rsa"));
        assert!(said.unwrap().contains("`Me@laptop id_rsa`"));
        // The end of a long comment is not read.
        let long = "x".repeat(80);
        let taken = [admin(ONE, &long)];
        let (line, _) = beside(&taken, &format!("{OTHER} {long}"), &file("id_rsa.pub")).unwrap();
        assert!(line.ends_with("x… id_rsa"), "{line}");
        let taken = [admin(ONE, "me id_rsa")];
        let (line, said) = beside(&taken, &format!("{OTHER} me"), &file("id_rsa.pub")).unwrap();
        assert!(line == admin(OTHER, "me") && said.is_none());
        assert!(beside(&[], ONE, &file("a.pub")).unwrap().1.is_none(), "no name is no name of another");
    }
}
