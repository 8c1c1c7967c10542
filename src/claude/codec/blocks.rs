//! Which index a whole block has in its message. Deltas carry it; the `assistant` line that repeats the block does
//! not, so it is found again by message and kind. Owns that bookkeeping only.

use std::{collections::VecDeque, sync::Arc};

/// What a block is, as far as finding it again needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Thinking,
    ToolUse,
    Other,
}

impl Shape {
    pub(super) fn of(kind: &str) -> Self {
        match kind {
            "text" => Self::Text,
            "thinking" => Self::Thinking,
            "tool_use" => Self::ToolUse,
            _ => Self::Other,
        }
    }
}

#[derive(Debug)]
struct Message {
    id: Arc<str>,
    /// Blocks that streaming announced, by index.
    started: Vec<Shape>,
    /// The first index that no whole block has taken yet.
    next: u32,
}

/// Messages with blocks that are still to come whole.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    messages: VecDeque<Message>,
    streaming: Option<Arc<str>>,
}

impl Blocks {
    /// Sub-agents run in parallel, each with a message of its own.
    const MESSAGES_MAX: usize = 32;
    const STARTED_MAX: usize = 4096;

    /// Streaming of a message begins.
    pub(super) fn stream(&mut self, id: &Arc<str>) {
        self.streaming = Some(id.clone());
        self.message(id);
    }

    /// Streaming of a block of the current message begins.
    pub(super) fn start(&mut self, index: u32, shape: Shape) {
        let Some(id) = self.streaming.clone() else { return };
        let started = &mut self.message(&id).started;
        let index = index as usize;
        if index < Self::STARTED_MAX {
            if started.len() <= index {
                started.resize(index + 1, Shape::Other);
            }
            started[index] = shape;
        }
    }

    /// The message that streams now.
    pub(super) fn streaming(&self) -> Option<&Arc<str>> {
        self.streaming.as_ref()
    }

    /// The index of the next whole block of this shape: the first one announced and not yet taken, else the next
    /// number.
    pub(super) fn whole(&mut self, id: &Arc<str>, shape: Shape) -> u32 {
        let message = self.message(id);
        let from = message.next as usize;
        let found = message.started.iter().skip(from).position(|&started| started == shape);
        let index = found.map_or(message.next, |offset| (from + offset) as u32);
        message.next = index.saturating_add(1);
        index
    }

    fn message(&mut self, id: &Arc<str>) -> &mut Message {
        let at = self.messages.iter().position(|message| message.id == *id).unwrap_or_else(|| {
            if self.messages.len() == Self::MESSAGES_MAX {
                self.messages.pop_front();
            }
            self.messages.push_back(Message { id: id.clone(), started: Vec::new(), next: 0 });
            self.messages.len() - 1
        });
        &mut self.messages[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_block_finds_the_index_its_deltas_had() {
        let mut blocks = Blocks::default();
        let (message, other) = (Arc::from("m"), Arc::from("sub-agent"));
        blocks.stream(&message);
        blocks.start(0, Shape::Other);
        blocks.start(1, Shape::Thinking);
        assert_eq!(blocks.whole(&message, Shape::Thinking), 1);
        blocks.start(2, Shape::Text);
        assert_eq!(blocks.whole(&other, Shape::Text), 0);
        assert_eq!(blocks.whole(&message, Shape::Text), 2);
        blocks.start(3, Shape::ToolUse);
        assert_eq!(blocks.whole(&message, Shape::ToolUse), 3);
        assert_eq!(blocks.whole(&other, Shape::ToolUse), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut blocks = Blocks::default();
        for number in 0..1000 {
            blocks.stream(&Arc::from(number.to_string()));
            blocks.start(u32::MAX, Shape::Text);
        }
        assert_eq!(blocks.messages.len(), Blocks::MESSAGES_MAX);
        assert!(blocks.messages.iter().all(|message| message.started.is_empty()));
    }
}
