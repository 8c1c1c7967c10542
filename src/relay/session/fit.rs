//! Makes a snapshot fit into a message. What a device needs to act stays; texts go first, and where one was cut its
//! place says so.

use super::clip;
use crate::{
    base::Json,
    relay::api::{DeviceInfo, OpenPermission, QueuedPrompt, Snapshot, Text, TurnBlock, bulk},
};

/// What the mark of a cut text, or of a list that was left out, takes at the most.
const MARK_BYTES: usize = 48;

/// Cuts what finds no room in `room` bytes, and gives back how much is left.
pub(super) fn fit(snapshot: &mut Snapshot, room: usize) -> usize {
    if let Some(left) = room.checked_sub(snapshot.bulk()) {
        return left;
    }
    let mut parts = Parts::take_out(snapshot);
    let mut room = room.saturating_sub(snapshot.bulk() + parts.marks());
    for (open, (about, questions, suggestions)) in snapshot.permissions.iter_mut().zip(parts.permissions) {
        open.about = put(about, &mut room);
        open.questions = questions.map(|list| put_list(list, &mut room));
        open.suggestions = suggestions.filter(|list| takes(&mut room, list.as_str().len()));
    }
    for (device, comment) in snapshot.devices.iter_mut().zip(parts.comments) {
        if takes(&mut room, bulk::text(&comment)) {
            device.comment = comment;
        }
    }
    if let Some(turn) = &mut snapshot.turn {
        parts.blocks.retain_mut(|block| {
            let text = std::mem::take(&mut block.text);
            let stays = takes(&mut room, block.bulk());
            if stays {
                // Its length says that this is the first part of it.
                block.text = bulk::prefix(&text, room).to_owned();
                room -= bulk::text(&block.text);
            }
            stays
        });
        turn.blocks = parts.blocks;
    }
    for (prompt, text) in snapshot.queue.iter_mut().zip(parts.prompts) {
        prompt.text = put(text, &mut room);
    }
    room
}

/// What a snapshot can do without, in its order.
struct Parts {
    permissions: Vec<(Text, Option<Json>, Option<Json>)>,
    comments: Vec<Text>,
    blocks: Vec<TurnBlock>,
    prompts: Vec<Text>,
}

impl Parts {
    fn take_out(snapshot: &mut Snapshot) -> Self {
        let none: Text = "".into();
        let take = |text: &mut Text| std::mem::replace(text, none.clone());
        let of_request =
            |open: &mut OpenPermission| (take(&mut open.about), open.questions.take(), open.suggestions.take());
        let of_prompt = |prompt: &mut QueuedPrompt| {
            if let Some(by) = &mut prompt.by {
                by.comment = none.clone();
            }
            take(&mut prompt.text)
        };
        Self {
            permissions: snapshot.permissions.iter_mut().map(of_request).collect(),
            comments: snapshot.devices.iter_mut().map(|device: &mut DeviceInfo| take(&mut device.comment)).collect(),
            blocks: snapshot.turn.as_mut().map(|turn| std::mem::take(&mut turn.blocks)).unwrap_or_default(),
            prompts: snapshot.queue.iter_mut().map(of_prompt).collect(),
        }
    }

    /// What their marks take where nothing of them stays.
    fn marks(&self) -> usize {
        MARK_BYTES * (2 * self.permissions.len() + self.prompts.len())
    }
}

fn takes(room: &mut usize, bytes: usize) -> bool {
    let left = room.checked_sub(bytes);
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// The text, or as much of it as there is room for, with a mark.
fn put(text: Text, room: &mut usize) -> Text {
    let bytes = bulk::text(&text).min(*room);
    *room -= bytes;
    clip::within(text, bytes)
}

/// The list, or a mark in its place.
fn put_list(list: Json, room: &mut usize) -> Json {
    if takes(room, list.as_str().len()) { list } else { clip::left_out(list) }
}
