//! Events as records of a log, and back: JSON, which names each field, so that a field can be added later.

use bytes::Bytes;

use super::api::Event;

/// Writes an event as a record.
pub fn encode(event: &Event) -> Bytes {
    // Fails for maps with keys that are not strings, of which an event has none. A record that cannot be read would be
    // refused where it is read.
    serde_json::to_vec(event).unwrap_or_default().into()
}

/// Reads a record.
///
/// # Errors
/// It holds no event.
pub fn decode(record: &[u8]) -> Result<Event, serde_json::Error> {
    serde_json::from_slice(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::Json,
        claude::Block,
        relay::api::{
            By, Closed, Decision, How, Input, Kind, OpenPermission, Outcome, Position, PromptState, Ran, State, Text,
        },
    };

    fn text() -> impl Strategy<Value = Text> {
        "(.|[\\x00-\\x1f\"\\\\\\x7f]){0,20}".prop_map(Text::from)
    }

    fn maybe() -> impl Strategy<Value = Option<Text>> {
        prop::option::of(text())
    }

    /// Texts of JSON that a reader which reads into values would change.
    fn json() -> impl Strategy<Value = Json> {
        const TEXTS: [&str; 6] = ["null", "1.0", "1e400", r#"{"b":1,"a":[ 2, "\u00e9\ud800"],"b":2}"#, r#""x""#, "[]"];
        prop::sample::select(&TEXTS[..]).prop_map(|text| Json::parse(text).expect("JSON"))
    }

    fn maybe_json() -> impl Strategy<Value = Option<Json>> {
        prop::option::of(json())
    }

    fn of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
        prop::sample::select(all)
    }

    fn permission() -> impl Strategy<Value = OpenPermission> {
        let input = prop_oneof![
            json().prop_map(Input::Whole),
            (any::<u64>(), text()).prop_map(|(bytes, blob)| Input::Large { bytes, blob }),
        ];
        let texts = (text(), maybe(), text(), maybe(), maybe(), text());
        (texts, input, maybe_json(), maybe_json(), any::<[bool; 3]>()).prop_map(
            |((request, call, tool, hash, deny_why, about), input, suggestions, questions, flags)| {
                let [default_to_no, no_always, needs_interaction] = flags;
                OpenPermission {
                    request,
                    call,
                    tool,
                    input,
                    hash,
                    deny_why,
                    about,
                    suggestions,
                    questions,
                    default_to_no,
                    no_always,
                    needs_interaction,
                }
            },
        )
    }

    fn ran() -> impl Strategy<Value = Ran> {
        (text(), maybe_json(), maybe(), maybe_json(), maybe_json()).prop_map(
            |(hash, input, replaced_hash, replaced, answers)| Ran { hash, input, replaced_hash, replaced, answers },
        )
    }

    fn prompts() -> impl Strategy<Value = Kind> {
        const STATES: [PromptState; 5] =
            [PromptState::Queued, PromptState::Running, PromptState::Done, PromptState::Cancelled, PromptState::Failed];
        prop_oneof![
            (text(), text()).prop_map(|(prompt, text)| Kind::Prompt { prompt, text }),
            (text(), of(&STATES), maybe()).prop_map(|(prompt, state, why)| Kind::PromptState { prompt, state, why }),
        ]
    }

    fn answers() -> impl Strategy<Value = Kind> {
        const OUTCOMES: [Outcome; 3] = [Outcome::Ok, Outcome::Error, Outcome::Unknown];
        let block = of(&[Block::Text, Block::Thinking]);
        let usage = (prop::collection::vec(text(), 0..3), any::<bool>(), text(), -1e300f64..1e300, maybe_json());
        prop_oneof![
            (block, text(), any::<u32>(), text(), maybe()).prop_map(|(block_kind, message, block, text, parent)| {
                Kind::Text { block_kind, message, block, text, parent }
            }),
            (text(), text(), json(), maybe()).prop_map(|(call, tool, input, parent)| Kind::ToolCall {
                call,
                tool,
                input,
                parent
            }),
            (text(), of(&OUTCOMES), text(), any::<u64>())
                .prop_map(|(call, outcome, preview, bytes)| Kind::ToolResult { call, outcome, preview, bytes }),
            (usage, any::<u64>()).prop_map(|((prompts, ok, stop, cost_usd, usage), duration_ms)| {
                Kind::Turn { prompts, ok, stop, cost_usd, usage, duration_ms }
            }),
        ]
    }

    fn permissions() -> impl Strategy<Value = Kind> {
        let decision = of(&[Decision::Allow, Decision::Deny]);
        let how = of(&[How::Person, How::Rule, How::Timeout]);
        let closed = of(&[Closed::Applied, Closed::Withdrawn, Closed::Void]);
        prop_oneof![
            permission().prop_map(Kind::Permission),
            (text(), decision, how, maybe(), prop::option::of(ran())).prop_map(
                |(request, decision, how, message, ran)| Kind::Decision { request, decision, how, message, ran }
            ),
            (text(), closed).prop_map(|(request, how)| Kind::PermissionClosed { request, how }),
        ]
    }

    fn others() -> impl Strategy<Value = Kind> {
        prop_oneof![
            (of(&State::ALL), maybe()).prop_map(|(state, why)| Kind::State { state, why }),
            (maybe(), maybe(), maybe()).prop_map(|(title, model, mode)| Kind::Settings { title, model, mode }),
            (any::<[u32; 2]>(), any::<u64>(), text()).prop_map(|([attempt, of], delay_ms, error)| Kind::Retry {
                attempt,
                of,
                delay_ms,
                error
            }),
            (of(&["info", "warning", "error"]), text()).prop_map(|(level, text)| Kind::Notice { level, text }),
            json().prop_map(|line| Kind::Raw { line }),
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        let by = (text(), text(), text()).prop_map(|(device, principal, comment)| By { device, principal, comment });
        let kind = prop_oneof![prompts(), answers(), permissions(), others()];
        (text(), text(), any::<u64>(), any::<u64>(), prop::option::of(by), kind).prop_map(
            |(session, epoch, offset, at, by, kind)| Event {
                session,
                position: Position { epoch, offset },
                at,
                by,
                kind,
            },
        )
    }

    /// A place for each kind: a new one does not compile until it is here, and then in the strategies above.
    fn number(kind: &Kind) -> usize {
        match kind {
            Kind::Prompt { .. } => 0,
            Kind::PromptState { .. } => 1,
            Kind::Text { .. } => 2,
            Kind::ToolCall { .. } => 3,
            Kind::ToolResult { .. } => 4,
            Kind::Permission(_) => 5,
            Kind::Decision { .. } => 6,
            Kind::PermissionClosed { .. } => 7,
            Kind::State { .. } => 8,
            Kind::Turn { .. } => 9,
            Kind::Settings { .. } => 10,
            Kind::Retry { .. } => 11,
            Kind::Notice { .. } => 12,
            Kind::Raw { .. } => 13,
        }
    }

    #[test]
    fn every_kind_comes_back_as_it_was_and_takes_no_more_than_its_bulk() {
        use proptest::{strategy::ValueTree, test_runner::TestRunner};
        let (mut runner, mut met) = (TestRunner::deterministic(), [0; 14]);
        for _ in 0..2_000 {
            let event = event().new_tree(&mut runner).expect("an event").current();
            met[number(&event.kind)] += 1;
            let record = encode(&event);
            assert_eq!(decode(&record).expect("an event"), event);
            assert!(record.len() <= event.bulk(), "{} > {}: {event:?}", record.len(), event.bulk());
        }
        assert!(met.iter().all(|count| *count > 20), "{met:?}");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let event = Event {
            session: "s".into(),
            position: Position { epoch: "e".into(), offset: 7 },
            at: 8,
            by: None,
            kind: Kind::Notice { level: "info", text: "hi".into() },
        };
        let record = r#"{"session":"s","position":{"epoch":"e","offset":7},"at":8,"by":null,"kind":{"notice":{"level":"info","text":"hi"}}}"#;
        assert_eq!(encode(&event), record);
        assert!(decode(&record.as_bytes()[..40]).is_err());
        assert!(decode(record.replace("\"info\"", "\"loud\"").as_bytes()).is_err());
        assert!(decode(record.replace("\"notice\"", "\"other\"").as_bytes()).is_err());
        assert!(decode(b"").is_err());
    }
}
