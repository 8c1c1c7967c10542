//! The lines the demo agent says and the records it keeps, collected for the shell. Ids come from a seed, so that a
//! test is repeatable.

use serde_json::{Value, json};

/// What the shell has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Output {
    /// A line on stdout.
    Line(Value),
    /// A line on stderr.
    Stderr(String),
    /// A record of the transcript.
    Record(Value),
    /// End of the process.
    Exit(u8),
}

#[derive(Debug)]
pub(super) struct Voice {
    pub(super) session: String,
    seed: u64,
    last_record: Option<String>,
    out: Vec<Output>,
}

impl Voice {
    pub(super) fn new(session: String, seed: u64) -> Self {
        Self { session, seed, last_record: None, out: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// splitmix64, by Sebastiano Vigna (public domain): enough for ids that only have to differ.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn uuid(&mut self) -> String {
        let bytes = (u128::from(self.random()) << 64 | u128::from(self.random())).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    pub(super) fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}_demo_{:012x}", self.random() >> 16)
    }

    /// A line with an uuid and the conversation's id, as most have them.
    pub(super) fn say(&mut self, mut line: Value) {
        line["session_id"] = json!(self.session);
        if line["uuid"].is_null() {
            line["uuid"] = json!(self.uuid());
        }
        self.bare(line);
    }

    /// A line as it is.
    pub(super) fn bare(&mut self, line: Value) {
        self.out.push(Output::Line(line));
    }

    pub(super) fn record(&mut self, mut record: Value) {
        record["sessionId"] = json!(self.session);
        if record["uuid"].is_null() {
            record["uuid"] = json!(self.uuid());
        }
        record["parentUuid"] = json!(self.last_record);
        self.last_record = record["uuid"].as_str().map(str::to_owned);
        self.out.push(Output::Record(record));
    }

    pub(super) fn stderr(&mut self, text: impl Into<String>) {
        self.out.push(Output::Stderr(text.into()));
    }

    pub(super) fn exit(&mut self, code: u8) {
        self.out.push(Output::Exit(code));
    }

    pub(super) fn lifecycle(&mut self, prompt: &str, state: &str) {
        self.say(json!({"type":"command_lifecycle","command_uuid":prompt,"state":state}));
    }

    pub(super) fn success(&mut self, id: &Value, response: Option<Value>) {
        let mut answer = json!({"subtype":"success","request_id":id});
        if let Some(response) = response {
            answer["response"] = response;
        }
        self.bare(json!({"type":"control_response","response":answer}));
    }

    pub(super) fn error(&mut self, id: &Value, error: &str) {
        let answer = json!({"subtype":"error","request_id":id,"error":error,"error_code":"unsupported_request"});
        self.bare(json!({"type":"control_response","response":answer}));
    }
}
