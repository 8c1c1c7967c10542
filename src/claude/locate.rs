//! Where the CLI's program is. Pure over a check that the caller injects.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// Finds the CLI: the path the config names, else `claude` in the folders of `PATH`, else the two places its installers
/// use below `HOME`. `runs` says whether a path is a program.
///
/// # Errors
/// The places that were tried, in order.
pub fn locate(
    named: Option<&Path>,
    path: Option<&OsStr>,
    home: Option<&Path>,
    runs: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Vec<PathBuf>> {
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(named) = named {
        places.push(named.to_path_buf());
    } else {
        // An empty or relative entry would depend on the folder the relay was started in.
        let folders = path.into_iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
        places.extend(folders.map(|folder| folder.join("claude")));
        if let Some(home) = home {
            places.extend([home.join(".claude/local/claude"), home.join(".local/bin/claude")]);
        }
    }
    match places.iter().position(|place| runs(place)) {
        Some(at) => Ok(places.swap_remove(at)),
        None => Err(places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(named: Option<&str>, exist: &[&str]) -> Result<PathBuf, Vec<PathBuf>> {
        let path = OsStr::new("/usr/bin::relative:/opt/bin");
        locate(named.map(Path::new), Some(path), Some(Path::new("/home/user")), |place| {
            exist.iter().any(|there| place == Path::new(there))
        })
    }

    #[test]
    fn the_first_place_that_holds_a_program_wins() {
        let all = ["/opt/bin/claude", "/home/user/.claude/local/claude", "/home/user/.local/bin/claude"];
        assert_eq!(find(None, &all), Ok(all[0].into()));
        assert_eq!(find(None, &all[1..]), Ok(all[1].into()));
        assert_eq!(find(None, &all[2..]), Ok(all[2].into()));
        assert_eq!(find(Some("/x/claude"), &["/x/claude", all[0]]), Ok("/x/claude".into()));
    }

    #[test]
    fn a_named_path_is_not_replaced_by_another_program() {
        assert_eq!(find(Some("/x/claude"), &["/opt/bin/claude"]), Err(vec!["/x/claude".into()]));
        let tried = find(None, &[]).expect_err("nothing is there");
        assert_eq!(tried.len(), 4);
        assert_eq!(tried[0], Path::new("/usr/bin/claude"));
    }
}
