//! `amp-relay sessions`: what runs.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{
    out,
    reach::{ReachArgs, ask, reach},
    text::clean_line,
};
use crate::client::{Connection, Summary};

/// Said where a relay has no session; `up` has one from its start.
pub(super) const NONE: &str =
    "this relay has no sessions: a client starts one with `create`, and `amp-relay up` is a relay that starts with one";

/// Lists the sessions of a relay.
#[derive(Args, Clone, Debug)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// As JSON, the relay's own fields
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
        out::line(reply.fields.get("sessions").unwrap_or(&Value::Array(Vec::new())))?;
    } else {
        let sessions: Vec<Summary> = reply.field("sessions").unwrap_or_default();
        if sessions.is_empty() {
            out::note(&NONE);
        }
        out::text(&table(&sessions))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The sessions of a relay.
///
/// # Errors
/// The relay refuses, or does not answer.
pub(super) fn list(connection: &mut Connection) -> Result<Vec<Summary>, String> {
    Ok(ask(connection, json!({"type": "list"}))?.field("sessions").unwrap_or_default())
}

/// A table with a line for each session.
pub(super) fn table(sessions: &[Summary]) -> String {
    if sessions.is_empty() {
        return String::new();
    }
    let head = ["SESSION", "TITLE", "STATE", "FOLDER", "WAITING", "DEVICES", "COST"].map(str::to_owned);
    let row = |session: &Summary| {
        [
            clean_line(&session.session, 64),
            clean_line(&session.title, 32),
            clean_line(&session.state, 16),
            clean_line(&session.folder, 48),
            session.waiting.to_string(),
            session.devices.to_string(),
            format!("${:.2}", session.cost_usd),
        ]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(sessions.iter().map(row)).collect();
    columns(&rows)
}

/// Pads columns to their widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_clean() {
        let session =
            Summary { session: "abc".into(), title: "a\x1b[2Jb".into(), state: "busy".into(), ..Summary::default() };
        let text = table(&[session]);
        assert_eq!(
            text,
            "SESSION  TITLE  STATE  FOLDER  WAITING  DEVICES  COST\nabc      a[2Jb  busy           0        0        $0.00\n"
        );
        assert_eq!(table(&[]), "");
    }
}
