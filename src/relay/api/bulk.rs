//! What values take in a message, in bytes of JSON: never less than what a dialect writes for a device, so that what the
//! core puts together fits whatever the texts hold. A line end takes two bytes, other control characters take six. Every
//! field is named here, those of a bounded length too, so that a new one is not forgotten.

use super::{
    By, DeviceInfo, Event, Input, Kind, OpenPermission, Position, QueuedPrompt, Ran, RunningTurn, Snapshot, Summary,
    Text, TurnBlock,
};
use crate::base::Json;

/// The longest message that a device is sent. Clients at their defaults take 1 MiB; a frame adds ten bytes at the most.
pub const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Names, numbers, quotes and commas of the largest of these objects, and identifiers of the relay's own making.
const OBJECT_BYTES: usize = 448;
/// The same of a permission request.
const REQUEST_BYTES: usize = 256;

/// A text between its quotes.
pub fn text(text: &str) -> usize {
    text.bytes().map(escaped).sum()
}

fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        ..0x20 => 6,
        _ => 1,
    }
}

/// The longest prefix that takes at most `bytes` and ends between characters.
pub fn prefix(text: &str, bytes: usize) -> &str {
    let mut taken = 0;
    let over = text.bytes().position(|byte| {
        taken += escaped(byte);
        taken > bytes
    });
    &text[..text.floor_char_boundary(over.unwrap_or(text.len()))]
}

fn maybe(value: Option<&Text>) -> usize {
    value.map_or(0, |value| text(value))
}

fn json(value: Option<&Json>) -> usize {
    value.map_or(0, |value| value.as_str().len())
}

impl By {
    /// See the module.
    pub fn bulk(&self) -> usize {
        let Self { device, principal, comment } = self;
        text(device) + text(principal) + text(comment)
    }
}

impl DeviceInfo {
    /// See the module.
    pub fn bulk(&self) -> usize {
        let Self { device, name, principal, comment, kind, role: _, since: _ } = self;
        OBJECT_BYTES / 2 + [device, name, principal, comment, kind].map(|part| text(part)).iter().sum::<usize>()
    }
}

impl Summary {
    /// See the module. A dialect makes one line of the folder.
    pub fn bulk(&self) -> usize {
        #[rustfmt::skip]
        let Self {
            session, did, title, profile, folder, why, model, mode, next,
            state: _, since: _, waiting: _, created_at: _, active_at: _, cost_usd: _, devices: _,
        } = self;
        let Position { epoch, offset: _ } = next;
        let parts = [session, did, title, profile, epoch, epoch].map(|part| text(part));
        let folder = 3 * folder.as_os_str().len();
        OBJECT_BYTES
            + parts.iter().sum::<usize>()
            + folder
            + maybe(why.as_ref())
            + maybe(model.as_ref())
            + maybe(mode.as_ref())
    }
}

impl TurnBlock {
    /// See the module.
    pub fn bulk(&self) -> usize {
        let Self { message, block: _, kind: _, text: said, bytes: _ } = self;
        OBJECT_BYTES / 2 + text(message) + text(said)
    }
}

impl QueuedPrompt {
    /// See the module.
    pub fn bulk(&self) -> usize {
        let Self { prompt, text: said, by, state: _ } = self;
        OBJECT_BYTES / 2 + text(prompt) + text(said) + by.as_ref().map_or(0, By::bulk)
    }
}

impl Snapshot {
    /// See the module.
    pub fn bulk(&self) -> usize {
        let Self { summary, turn, queue, permissions, devices, notice } = self;
        let turn = turn.as_ref().map_or(0, |RunningTurn { prompts, since: _, blocks }| {
            let prompts: usize = prompts.iter().map(|prompt| text(prompt) + 3).sum();
            prompts + blocks.iter().map(TurnBlock::bulk).sum::<usize>()
        });
        OBJECT_BYTES
            + summary.bulk()
            + turn
            + queue.iter().map(QueuedPrompt::bulk).sum::<usize>()
            + permissions.iter().map(OpenPermission::bulk).sum::<usize>()
            + devices.iter().map(DeviceInfo::bulk).sum::<usize>()
            + maybe(notice.as_ref())
    }
}

impl OpenPermission {
    /// See the module.
    pub fn bulk(&self) -> usize {
        #[rustfmt::skip]
        let Self {
            request, call, tool, input, hash, deny_why, about, suggestions, questions,
            default_to_no: _, no_always: _, needs_interaction: _,
        } = self;
        let input = match input {
            Input::Whole(json) => json.as_str().len(),
            Input::Large { bytes: _, blob } => text(blob),
        };
        let hash = maybe(hash.as_ref()) + maybe(deny_why.as_ref());
        let texts = text(request) + maybe(call.as_ref()) + text(tool) + hash + text(about);
        REQUEST_BYTES + texts + input + json(suggestions.as_ref()) + json(questions.as_ref())
    }
}

impl Ran {
    fn bulk(&self) -> usize {
        let Self { hash, input, replaced_hash, replaced, answers } = self;
        text(hash)
            + maybe(replaced_hash.as_ref())
            + [input, replaced, answers].map(|part| json(part.as_ref())).iter().sum::<usize>()
    }
}

impl Kind {
    fn bulk(&self) -> usize {
        match self {
            Self::Prompt { prompt, text: said } => text(prompt) + text(said),
            Self::PromptState { prompt, state: _, why } => text(prompt) + maybe(why.as_ref()),
            Self::Text { block_kind: _, message, block: _, text: said, parent } => {
                text(message) + text(said) + maybe(parent.as_ref())
            }
            Self::ToolCall { call, tool, input, parent } => {
                text(call) + text(tool) + input.as_str().len() + maybe(parent.as_ref())
            }
            Self::ToolResult { call, outcome: _, preview, bytes: _ } => text(call) + text(preview),
            Self::Permission(open) => open.bulk(),
            Self::Decision { request, decision: _, how: _, message, ran } => {
                text(request) + maybe(message.as_ref()) + ran.as_ref().map_or(0, Ran::bulk)
            }
            Self::PermissionClosed { request, how: _ } => text(request),
            Self::State { state: _, why } => maybe(why.as_ref()),
            Self::Turn { prompts, ok: _, stop, cost_usd: _, usage, duration_ms: _ } => {
                prompts.iter().map(|prompt| text(prompt) + 3).sum::<usize>() + text(stop) + json(usage.as_ref())
            }
            Self::Settings { title, model, mode } => {
                maybe(title.as_ref()) + maybe(model.as_ref()) + maybe(mode.as_ref())
            }
            Self::Retry { attempt: _, of: _, delay_ms: _, error } => text(error),
            Self::Notice { level: _, text: said } => text(said),
            Self::Raw { line } => line.as_str().len(),
        }
    }
}

impl Event {
    /// See the module. Reads all its texts: what needs it again keeps it. The event's record is not longer.
    pub fn bulk(&self) -> usize {
        let Self { session, position: Position { epoch, offset: _ }, at: _, by, kind } = self;
        OBJECT_BYTES + text(session) + text(epoch) + by.as_ref().map_or(0, By::bulk) + kind.bulk()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_ends_between_characters_and_before_an_escape_that_does_not_fit() {
        assert_eq!(prefix("añb", 2), "a");
        assert_eq!(prefix("añb", 3), "añ");
        assert_eq!(prefix("a\"b", 2), "a");
        assert_eq!(prefix("\u{1}\u{1}", 11), "\u{1}");
        assert_eq!(prefix("whole", 5), "whole");
    }

    proptest! {
        #[test]
        fn a_text_takes_what_it_is_written_as(said in "(.|[\\x00-\\x1f\"\\\\\\x7f]){0,60}", bytes in 0usize..80) {
            prop_assert_eq!(text(&said) + 2, serde_json::to_string(&said)?.len());
            let kept = prefix(&said, bytes);
            prop_assert!(said.starts_with(kept) && text(kept) <= bytes);
            let next = said[kept.len()..].chars().next();
            prop_assert!(next.is_none_or(|next| text(kept) + text(&next.to_string()) > bytes));
        }
    }
}
