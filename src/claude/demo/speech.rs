//! How a message of the demo agent becomes lines: streamed pieces, whole blocks, their records.

use serde_json::{Value, json};

use super::{
    machine::Machine,
    turn::{Open, Step, Turn},
};

impl Machine {
    /// Carries out a step of a message.
    pub(super) fn speak(&mut self, step: Step) {
        match step {
            Step::MessageStart => self.start_message(),
            Step::TextStart => {
                self.stream(&json!({"type":"content_block_start","content_block":{"type":"text","text":""}}));
                self.open(Open::Text(String::new()));
            }
            Step::ToolStart => {
                let call = self.voice.id("toolu");
                self.stream(&json!({"type":"content_block_start",
                    "content_block":{"type":"tool_use","id":call,"name":"Bash","input":{}}}));
                self.stream(&json!({"type":"content_block_delta",
                    "delta":{"type":"input_json_delta","partial_json":Turn::input().to_string()}}));
                self.open(Open::Tool(call));
            }
            Step::Delta(piece) => {
                self.stream(&json!({"type":"content_block_delta","delta":{"type":"text_delta","text":piece}}));
                if let Some(Turn { open: Some(Open::Text(text)), .. }) = &mut self.turn {
                    text.push_str(&piece);
                }
            }
            Step::BlockEnd => self.whole_block(false),
            Step::MessageEnd => self.end_message(),
            _ => {}
        }
    }

    fn open(&mut self, block: Open) {
        if let Some(turn) = &mut self.turn {
            turn.open = Some(block);
        }
    }

    fn start_message(&mut self) {
        let id = self.voice.id("msg");
        let Some(turn) = &mut self.turn else { return };
        (turn.message, turn.index) = (Some(id.clone()), 0);
        turn.messages += 1;
        let prompt = (!std::mem::replace(&mut turn.echoed, true)).then(|| turn.prompt.clone());
        if let Some(prompt) = prompt.filter(|prompt| prompt.uuid.is_some()) {
            self.echo(&prompt);
        }
        let message = json!({"id":id,"type":"message","role":"assistant","content":[],"stop_reason":null});
        self.stream(&json!({"type":"message_start","message":message}));
    }

    /// A stream event of the message under way.
    fn stream(&mut self, event: &Value) {
        let Some(turn) = &self.turn else { return };
        if !self.options.partial || turn.message.is_none() {
            return;
        }
        let mut event = event.clone();
        if event["type"].as_str().is_some_and(|kind| kind.starts_with("content_block")) {
            event["index"] = json!(turn.index);
        }
        self.voice.say(json!({"type":"stream_event","event":event,"parent_tool_use_id":null}));
    }

    /// Says the open block whole, and keeps it.
    fn whole_block(&mut self, aborted: bool) {
        let Some(turn) = &mut self.turn else { return };
        let Some(open) = turn.open.take() else { return };
        let (content, stop) = match open {
            Open::Text(text) => {
                turn.said.clone_from(&text);
                (json!({"type":"text","text":text}), if turn.asks_next() { "tool_use" } else { "end_turn" })
            }
            Open::Tool(call) => {
                turn.call = Some(call.clone());
                (json!({"type":"tool_use","id":call,"name":"Bash","input":Turn::input()}), "tool_use")
            }
        };
        let mut message = json!({"id":turn.message,"type":"message","role":"assistant","content":[content],
            "stop_reason":stop});
        let uuids = turn.uuids();
        let mut line = json!({"type":"assistant","parent_tool_use_id":null,"user_message_uuids":uuids});
        if turn.rerun {
            line["resume_reason"] = json!("interrupted_turn");
        }
        if aborted {
            line["aborted"] = json!(true);
        } else {
            self.voice.record(json!({"type":"assistant","message":message}));
        }
        message["stop_reason"] = Value::Null;
        line["message"] = message;
        self.voice.say(line);
        if !aborted {
            self.stream(&json!({"type":"content_block_stop"}));
            if let Some(turn) = &mut self.turn {
                turn.index += 1;
            }
        }
    }

    /// Says what there is of a block that an interrupt cut off.
    pub(super) fn cut_message(&mut self) {
        let empty = matches!(&self.turn, Some(Turn { open: Some(Open::Text(text)), .. }) if text.is_empty());
        if !empty {
            self.whole_block(true);
        }
    }

    pub(super) fn end_message(&mut self) {
        self.stream(&json!({"type":"message_delta","delta":{"stop_reason":null}}));
        self.stream(&json!({"type":"message_stop"}));
        if let Some(turn) = &mut self.turn {
            (turn.message, turn.open) = (None, None);
        }
    }
}
