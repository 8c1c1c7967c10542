//! `amp-relay sessions`: what runs.

use std::{io, path::Path, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{
    out,
    reach::{ReachArgs, ask, reach},
    text::{self, clean_line, field, ticked},
    tty,
};
use crate::client::{Connection, Summary, Unreadable};

/// Characters of an id that are shown, if they are enough.
const SHORT_CHARS: usize = 8;

/// Columns of a folder that are shown on a terminal.
const FOLDER_COLUMNS: usize = 48;
/// Which cells of a row are its title and its folder.
const TITLE: usize = 1;
const FOLDER: usize = 3;
/// What gives way where a terminal is narrow, one after the other, and the columns of it that stay.
const CUTS: [(usize, usize); 4] = [(FOLDER, 12), (TITLE, 12), (FOLDER, 8), (TITLE, 6)];

/// Said where a relay has no session.
const NONE: &str = "this relay has no sessions: `amp-relay new` starts one in this folder";
/// Said where none of them is live.
const NONE_LIVE: &str = "no session is live any more: `amp-relay new` starts one in this folder, `amp-relay new \
                         --continue` goes on with the folder's newest conversation, and `amp-relay sessions` lists those \
                         that ended";

/// Lists the sessions of a relay.
#[derive(Args, Clone, Debug)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// As JSON, the relay's own fields, with whole ids
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// What went wrong, why, and what to do next.
pub(super) fn run(args: &SessionsArgs) -> Result<ExitCode, String> {
    let mut reached = reach(&args.reach, None, "command line")?;
    let reply = ask(&mut reached.connection, json!({"type": "list"}))?;
    reached.connection.writer().close();
    if args.json {
        out::json(reply.fields.get("sessions").ok_or_else(|| Unreadable("sessions".into()).to_string())?)?;
    } else {
        let sessions = reply.sessions().map_err(|unreadable| unreadable.to_string())?;
        if sessions.is_empty() {
            out::note(&args.reach.hinted(NONE));
        }
        if let Some(field) = sessions.iter().flat_map(|session| &session.unreadable).next() {
            out::note(&format_args!("where a ? stands: {}", Unreadable(clean_line(field, 32))));
        }
        out::text(&table(&sessions, &sessions, tty::columns_of(io::stdout())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The sessions of a relay.
///
/// # Errors
/// The relay refuses, does not answer, or not so that its sessions can be told.
pub(super) fn list(connection: &mut Connection) -> Result<Vec<Summary>, String> {
    ask(connection, json!({"type": "list"}))?.sessions().map_err(|unreadable| unreadable.to_string())
}

/// The session that is meant, from the current folder.
///
/// # Errors
/// As [`meant`].
pub(super) fn choose(
    sessions: &[Summary],
    wanted: Option<&str>,
    verb: &str,
    reach: &ReachArgs,
) -> Result<String, String> {
    meant(sessions, wanted, (verb, reach), std::env::current_dir().ok().as_deref())
}

/// The session that is meant. Without `wanted` it is the only live one, else the one of the current folder that was
/// active last, as for `up`. A whole id, or as much of it as the table shows, goes before a title; the title of a live
/// session goes before the titles of ended ones. What may mean two sessions is refused. `verb` is what the session is
/// meant for, and `reach` how the relay was reached.
///
/// # Errors
/// No session is meant, or several may be: with those, and the command for the first of them, a live one if there is
/// any.
fn meant(
    sessions: &[Summary],
    wanted: Option<&str>,
    (verb, reach): (&str, &ReachArgs),
    here: Option<&Path>,
) -> Result<String, String> {
    let several = |what: &str, shown: &[Summary]| {
        let next = shown.iter().find(|session| session.is_live()).or(shown.first());
        let next = next.map_or("SESSION".into(), |session| clean_line(short(&session.session, sessions), 64));
        let rows = table(shown, sessions, tty::columns_of(io::stderr()));
        format!("{what}:\n{rows}next: {}", reach.command(&format!("{verb} {next}")))
    };
    let Some(wanted) = wanted else {
        let live: Vec<Summary> = sessions.iter().filter(|session| session.is_live()).cloned().collect();
        if live.len() > 1
            && let Some(one) = newest_in(&live, here)
        {
            return Ok(one.session.clone());
        }
        return match live.as_slice() {
            [one] => Ok(one.session.clone()),
            [] if sessions.is_empty() => Err(reach.hinted(NONE)),
            [] => Err(reach.hinted(NONE_LIVE)),
            many => Err(several("several sessions are live, none in this folder; say which one", many)),
        };
    };
    if let Some(exact) = sessions.iter().find(|session| session.session == wanted) {
        return Ok(exact.session.clone());
    }
    // The beginning of an id as the table shows it goes before a title, which may be set to look like one.
    let mut begun = sessions.iter().filter(|session| session.session.starts_with(wanted));
    if let (true, Some(one), None) = (wanted.len() >= SHORT_CHARS, begun.next(), begun.next()) {
        return Ok(one.session.clone());
    }
    let begins = |session: &&Summary| !wanted.is_empty() && session.session.starts_with(wanted);
    let is_meant = |session: &&Summary| begins(session) || session.title == wanted;
    let mut found: Vec<Summary> = sessions.iter().filter(is_meant).cloned().collect();
    if found.iter().any(Summary::is_live) {
        found.retain(|session| session.is_live() || begins(&session));
    }
    match found.as_slice() {
        [one] => Ok(one.session.clone()),
        [] if sessions.is_empty() => Err(reach.hinted(NONE)),
        [] => {
            Err(format!("no session is called {}: {} lists those there are", ticked(wanted), reach.command("sessions")))
        }
        many if verb == "stop" && !many.iter().any(Summary::is_live) => {
            let rows = table(many, sessions, tty::columns_of(io::stderr()));
            Err(format!("what {} may mean has ended already:\n{}", ticked(wanted), rows.trim_end()))
        }
        many => Err(several(&format!("{} may mean several sessions; name one by its id", ticked(wanted)), many)),
    }
}

/// The session of this folder that was active last.
pub(super) fn newest_in<'a>(live: &'a [Summary], here: Option<&Path>) -> Option<&'a Summary> {
    live_in(live, here).max_by_key(|session| session.active_at)
}

/// The sessions of this folder that are live.
pub(super) fn live_in<'a>(all: &'a [Summary], here: Option<&Path>) -> impl Iterator<Item = &'a Summary> {
    all.iter().filter(move |session| session.is_live() && here == Some(Path::new(&session.folder)))
}

/// The beginning of an id that names it among these sessions, which every verb takes for it: a whole id would wrap each
/// row of the table on a usual terminal.
pub(super) fn short<'a>(id: &'a str, all: &[Summary]) -> &'a str {
    let others = || all.iter().map(|other| other.session.as_str()).filter(|other| *other != id);
    let ends = id.char_indices().map(|(at, _)| at).skip(SHORT_CHARS).chain([id.len()]);
    let beginnings = ends.map(|end| &id[..end]);
    let mut unique = beginnings.filter(|beginning| !others().any(|other| other.starts_with(beginning)));
    unique.next().unwrap_or(id)
}

/// A table with a line for each session, named as it is told apart among all. On a terminal of so many columns the folders,
/// and where that is not enough the titles, are as short as their rows need it; elsewhere they are whole.
fn table(sessions: &[Summary], all: &[Summary], width: Option<usize>) -> String {
    if sessions.is_empty() {
        return String::new();
    }
    let head = ["SESSION", "TITLE", "STATE", "FOLDER", "WAITING", "DEVICES", "COST"].map(str::to_owned);
    let row = |session: &Summary| {
        let cell = |field: &str, cell: String| if session.is_unreadable(field) { "?".into() } else { cell };
        let folder = field(&session.folder, usize::MAX);
        let folder = if width.is_some() { text::end_of(&folder, FOLDER_COLUMNS) } else { folder };
        [
            clean_line(short(&session.session, all), 64),
            cell("title", field(&session.title, 32)),
            cell("state", field(&session.state, 16) + &mode(session)),
            cell("folder", folder),
            cell("waiting", text::count(session.waiting)),
            cell("devices", text::count(session.devices)),
            cell("cost_usd", text::dollars(session.cost_usd, 2)),
        ]
    };
    let mut rows: Vec<_> = std::iter::once(head).chain(sessions.iter().map(row)).collect();
    for (cell, least) in CUTS {
        let widest = columns(&rows).lines().map(text::columns).max().unwrap_or_default();
        let over = width.map_or(0, |width| widest.saturating_sub(width));
        if over > 0 {
            let used = rows.iter().map(|row| text::columns(&row[cell])).max().unwrap_or_default();
            let fits = used.saturating_sub(over).max(least);
            // The end of a folder tells it from others, the beginning of a title.
            let cut = if cell == FOLDER { text::end_of } else { text::beginning_of };
            rows.iter_mut().for_each(|row| row[cell] = cut(&row[cell], fits));
        }
    }
    columns(&rows)
}

/// What the agent may do unasked in a session, where that is not the usual: behind its state.
fn mode(session: &Summary) -> String {
    if session.is_unreadable("mode") {
        return " (?)".into();
    }
    let unusual = session.mode.as_deref().filter(|mode| *mode != "default");
    unusual.map(|mode| format!(" ({})", field(mode, 24))).unwrap_or_default()
}

/// Pads columns to their widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| text::columns(&row[at])).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut table = String::new();
    for row in rows {
        let pad = |(cell, width): (&String, usize)| format!("{cell}{:1$}", "", width - text::columns(cell));
        let cells: Vec<String> = row.iter().zip(widths).map(pad).collect();
        table.push_str(cells.join("  ").trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "ws://127.0.0.1:5711";

    fn reach() -> ReachArgs {
        ReachArgs { url: Some(URL.into()), ..ReachArgs::default() }
    }

    fn choose(sessions: &[Summary], wanted: Option<&str>, verb: &str) -> Result<String, String> {
        super::choose(sessions, wanted, verb, &reach())
    }

    fn session(id: &str, title: &str, state: &str) -> Summary {
        Summary { session: id.into(), title: title.into(), state: state.into(), ..Summary::default() }
    }

    #[test]
    fn a7_the_session_that_is_meant_is_found() {
        let all = [session("abc1", "one", "ready"), session("abd2", "two", "stopped"), session("x", "abc1", "busy")];
        assert_eq!(choose(&all, Some("abc1"), "attach").unwrap(), "abc1", "an id goes before a title");
        assert_eq!(choose(&all, Some("two"), "attach").unwrap(), "abd2");
        assert_eq!(choose(&all, Some("abd"), "attach").unwrap(), "abd2");
        let titled = [session("8c9623d3aaaa", "one", "ready"), session("f", "8c9623d3", "ready")];
        assert_eq!(choose(&titled, Some("8c9623d3"), "stop").unwrap(), "8c9623d3aaaa", "whatever others are called");
        assert!(choose(&titled[1..], Some("8c9623d3"), "stop").is_ok(), "where it is no id it is a title");
        let short = [session("8c9623d3aaaa", "one", "ready"), session("f", "8c9", "ready")];
        assert!(choose(&short, Some("8c9"), "stop").unwrap_err().contains("several"), "too little for an id");
        assert!(choose(&all, Some("ab"), "attach").unwrap_err().contains("several"));
        assert!(choose(&all, Some(""), "attach").is_err());
        assert!(choose(&all, Some("ab"), "attach").unwrap_err().ends_with(&format!(" attach abc1 --url {URL}`")));
        let refused = choose(&all, Some("nope"), "attach").unwrap_err();
        assert!(refused.contains(&format!(" sessions --url {URL}` lists")) && !refused.contains("attach"), "{refused}");
        assert!(choose(&all, None, "attach").unwrap_err().contains("several"));
        assert_eq!(choose(&all[..2], None, "attach").unwrap(), "abc1");
        let refused = choose(&all[1..2], None, "attach").unwrap_err();
        assert!(refused.contains("no session is live") && refused.contains(&format!(" new --url {URL}`")), "{refused}");
        assert!(!refused.contains("attach"), "an ended one is no use: {refused}");
        assert!(choose(&[], None, "attach").unwrap_err().contains(&format!(" new --url {URL}` starts")));
    }

    #[test]
    fn who_says_nothing_means_the_session_of_the_folder_where_they_stand() {
        let at = |id: &str, state: &str, folder: &str, active_at: u64| Summary {
            folder: folder.into(),
            active_at,
            ..session(id, "t", state)
        };
        let all = [
            at("elsewhere", "ready", "/b", 9),
            at("older", "ready", "/a", 1),
            at("newer", "busy", "/a", 2),
            at("ended", "stopped", "/a", 3),
        ];
        let chosen =
            |sessions: &[Summary], here: &str| meant(sessions, None, ("attach", &reach()), Some(Path::new(here)));
        assert_eq!(chosen(&all, "/a").unwrap(), "newer", "as `up` takes it");
        assert_eq!(chosen(&all, "/b").unwrap(), "elsewhere");
        assert_eq!(chosen(&all[..1], "/c").unwrap(), "elsewhere", "the only one is meant from anywhere");
        let refused = chosen(&all, "/c").unwrap_err();
        assert!(refused.contains("several") && !refused.contains("ended"), "what ended is not offered: {refused}");
    }

    #[test]
    fn a_live_session_goes_before_those_that_ended_under_its_name() {
        let all =
            [session("aaaa", "site", "stopped"), session("bbbb", "site", "ready"), session("abcd", "x", "failed")];
        assert_eq!(choose(&all, Some("site"), "stop").unwrap(), "bbbb");
        assert_eq!(choose(&all, Some("aaaa"), "attach").unwrap(), "aaaa", "an ended one is reached by its id");
        let refused = choose(&all, Some("nope"), "stop").unwrap_err();
        assert!(!refused.contains("next:"), "nobody named one: {refused}");
        let two = [&all[..], &[session("cccc", "site", "busy")]].concat();
        let refused = choose(&two, Some("site"), "stop").unwrap_err();
        assert!(refused.contains("several") && !refused.contains("aaaa"), "{refused}");
        let ended = [session("aaaa", "site", "stopped"), session("bbbb", "site", "failed")];
        assert!(choose(&ended, Some("site"), "attach").unwrap_err().contains("several"));
        let refused = choose(&ended, Some("site"), "stop").unwrap_err();
        assert!(refused.contains("ended already") && !refused.contains("next:"), "{refused}");
    }

    #[test]
    fn an_id_is_shown_as_far_as_it_is_needed() {
        let ids = ["37acecd8-0001", "37acecd8-0002", "8c9623d3-0001", "short", "größer-größer"];
        let all = ids.map(|id| session(id, "t", "ready"));
        assert_eq!(ids.map(|id| short(id, &all)), ["37acecd8-0001", "37acecd8-0002", "8c9623d3", "short", "größer-g"]);
        for one in &all {
            assert_eq!(choose(&all, Some(short(&one.session, &all)), "attach").unwrap(), one.session);
        }
    }

    #[test]
    fn columns_are_aligned_and_clean() {
        let session =
            Summary { session: "abc".into(), title: "a\x1b[2Jb".into(), state: "busy".into(), ..Summary::default() };
        let all = [session];
        assert_eq!(
            table(&all, &all, None),
            "SESSION  TITLE          STATE  FOLDER  WAITING  DEVICES  COST\nabc      a<U+001B>[2Jb  busy           0        0        $0.00\n"
        );
        assert_eq!(table(&[], &[], None), "");
    }

    #[test]
    fn no_number_of_a_relay_takes_the_room_of_other_columns() {
        let folder = "/home/somebody/relay";
        let one = Summary { folder: folder.into(), ..session("37acecd8", "a title", "ready") };
        for cost_usd in [1e308, -1e308] {
            let odd = Summary { cost_usd, waiting: u64::MAX, devices: u64::MAX, ..one.clone() };
            let shown = table(&[odd, one.clone()], std::slice::from_ref(&one), Some(80));
            assert!(shown.lines().all(|row| text::columns(row) <= 80), "{shown}");
            assert_eq!(shown.matches(folder).count(), 2, "{shown}");
        }
    }

    #[test]
    fn on_a_terminal_a_folder_is_as_short_as_its_row_needs_it() {
        let folder = "/home/somebody/projects/größer/relay";
        let session = Summary { folder: folder.into(), ..session("37acecd8", "a title of some length", "ready") };
        let all = [session];
        let deep = format!("/srv{folder}{folder}");
        let long = [Summary { folder: deep.clone(), ..all[0].clone() }];
        assert!(table(&long, &long, None).contains(&deep), "into a pipe it is whole");
        let cut = table(&long, &long, Some(200));
        assert!(!cut.contains(&deep) && cut.contains(folder), "{cut}");
        assert!(table(&all, &all, Some(200)).contains(folder));
        let narrow = table(&all, &all, Some(80));
        assert!(narrow.lines().all(|row| text::columns(row) <= 80), "{narrow}");
        assert!(narrow.lines().any(|row| text::columns(row) == 80), "no shorter than that: {narrow}");
        assert!(narrow.contains("…") && narrow.contains("/größer/relay "), "its end tells it from others: {narrow}");
        assert!(table(&all, &all, Some(20)).contains("…r/relay "), "something of it stays");
        for (mode, title, folder) in
            [("bypassPermissions", "修修…", "…r/relay "), ("plan", "修修修修修…", "…rößer/relay ")]
        {
            let state = "waiting".into();
            let long = [Summary { title: "修".repeat(20), state, mode: Some(mode.into()), ..all[0].clone() }];
            let narrow = table(&long, &long, Some(80));
            assert!(narrow.lines().all(|row| text::columns(row) <= 80), "{narrow}");
            assert!(narrow.contains(title) && narrow.contains(folder), "{narrow}");
        }
    }

    #[test]
    fn a_mode_that_is_not_the_usual_one_stands_behind_the_state() {
        let of = |mode: &str| {
            let one = [Summary { mode: Some(mode.into()), ..session("abc", "t", "ready") }];
            table(&one, &one, None)
        };
        assert!(of("auto").contains("ready (auto)") && !of("default").contains('('), "{}", of("default"));
    }
}
