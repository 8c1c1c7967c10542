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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        claude::Block,
        relay::{
            Role,
            api::{By, Input, Position, PromptState, RunningTurn, Summary},
        },
    };

    /// A snapshot of so many requests, devices, blocks and prompts; all that it can do without is of `quotes` quotes.
    fn snapshot([requests, devices, blocks, prompts]: [usize; 4], quotes: usize) -> Snapshot {
        let said: Text = "\"".repeat(quotes).into();
        let list = || Some(Json::of(&vec![&*said]).expect("JSON"));
        let name: Text = "name".into();
        let by = By { device: name.clone(), principal: name.clone(), comment: said.clone() };
        let request = OpenPermission {
            request: name.clone(),
            call: None,
            tool: name.clone(),
            input: Input::Large { bytes: 9, blob: name.clone() },
            hash: None,
            deny_why: Some(name.clone()),
            about: said.clone(),
            suggestions: list(),
            questions: list(),
            default_to_no: false,
            no_always: false,
            needs_interaction: false,
        };
        let device = DeviceInfo {
            device: name.clone(),
            name: name.clone(),
            principal: name.clone(),
            comment: said.clone(),
            kind: name.clone(),
            role: Role::Admin,
            since: 1,
        };
        let text = said.to_string();
        let block = TurnBlock { message: name.clone(), block: 0, kind: Block::Text, bytes: text.len() as u64, text };
        let prompt = QueuedPrompt { prompt: name.clone(), text: said, by: Some(by), state: PromptState::Queued };
        Snapshot {
            summary: Summary::sample(&name, Position { epoch: name.clone(), offset: 1 }),
            turn: Some(RunningTurn { prompts: Vec::new(), since: 1, blocks: vec![block; blocks] }),
            queue: vec![prompt; prompts],
            permissions: vec![request; requests],
            devices: vec![device; devices],
            notice: None,
        }
    }

    #[test]
    fn what_goes_first_is_what_a_device_needs_least() {
        let whole = snapshot([2, 3, 2, 2], 1_000);
        let comments: usize = whole.queue.iter().map(|prompt| bulk::text(&prompt.by.as_ref().unwrap().comment)).sum();
        let mut cut = whole.clone();
        fit(&mut cut, whole.bulk() - comments - 1);
        assert_eq!((cut.permissions, cut.devices, cut.turn), (whole.permissions, whole.devices, whole.turn));
        assert!(cut.queue[0].text == whole.queue[0].text && clip::is_cut(&cut.queue[1].text));
    }

    proptest! {
        /// Where the bound lies anywhere between nothing but marks and all of it, what is left fits, to the byte.
        #[test]
        fn what_is_cut_fits_and_so_do_its_marks(
            many in prop::array::uniform4(0usize..40),
            quotes in 0usize..2_000,
            share in 0usize..=1_000,
        ) {
            let whole = snapshot(many, quotes);
            let [requests, devices, _, prompts] = many;
            // A mark is no longer than this: `\n[cut: 4000 bytes in all]`, or the object in place of a list.
            let least = snapshot([requests, devices, 0, prompts], 0).bulk() + 48 * (2 * requests + prompts);
            let room = least + (whole.bulk().saturating_sub(least)) * share / 1_000;
            let mut cut = whole.clone();
            let left = fit(&mut cut, room);
            prop_assert!(cut.bulk() + left <= room, "{} and {left} left of {room}", cut.bulk());
            prop_assert!(share < 1_000 || room < whole.bulk() || cut == whole);
            for (cut, whole) in cut.queue.iter().zip(&whole.queue) {
                prop_assert!(cut.text == whole.text || clip::is_cut(&cut.text));
            }
            for (cut, whole) in cut.permissions.iter().zip(&whole.permissions) {
                prop_assert!(cut.about == whole.about || clip::is_cut(&cut.about));
            }
        }
    }
}
