//! Tests of staying attached.

use proptest::prelude::*;

use super::*;
use crate::client::message::Reply;

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, unix_ms: 0 }
}

fn event(offset: u64) -> Incoming {
    let text =
        format!(r#"{{"type":"event","session":"s","epoch":"e","offset":{offset},"kind":"notice","text":"{offset}"}}"#);
    Incoming::parse(&text).unwrap()
}

fn sent(todo: &[Do]) -> Vec<Value> {
    let texts = todo.iter().filter_map(|item| if let Do::Send(text) = item { Some(text) } else { None });
    texts.map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Answers the attach that was sent last; `next` as the relay says it.
fn attached(link: &mut Link, next: u64) -> Vec<Do> {
    let fields = json!({"snapshot": {}, "events": [], "next": {"epoch": "e", "offset": next}});
    let Value::Object(fields) = fields else { unreachable!() };
    let reply = Incoming::Reply(Reply { re: link.attach_id.clone(), fields });
    link.received(at(0), &reply).1
}

fn live(next: u64) -> Link {
    let mut link = Link::new("s", "p", 1);
    assert_eq!(sent(&link.connected(at(0)))[0]["type"], "attach");
    assert!(matches!(attached(&mut link, next)[..], [Do::Attached(_)]));
    link
}

fn returned(permissions: Option<Vec<OpenPermission>>, unreadable: &[&str]) -> Do {
    Do::Returned { permissions, unreadable: unreadable.iter().map(|&name| name.into()).collect() }
}

fn lost() -> Ended {
    Ended::Broken("gone".into())
}

#[test]
fn what_was_only_kept_is_told_from_what_was_sent() {
    let mut link = live(0);
    let (before, _) = link.command(json!({"type": "prompt"})).unwrap();
    link.ended(at(1), &lost());
    let (kept, todo) = link.command(json!({"type": "prompt"})).unwrap();
    assert!(todo.is_empty() && link.was_sent(&before) && !link.was_sent(&kept));
    link.tick(at(link.deadline_ms().unwrap()));
    link.connected(at(9_000));
    assert!(!link.was_sent(&kept), "the session is not joined again");
    attached(&mut link, 0);
    assert!(link.was_sent(&kept));
}

#[test]
fn a_break_is_resumed_where_it_happened() {
    let mut link = live(5);
    assert!(link.received(at(1), &event(5)).0);
    let todo = link.ended(at(10), &lost());
    let [Do::Lost { retry_ms, .. }] = todo[..] else { panic!("{todo:?}") };
    assert!((125..=250).contains(&retry_ms));
    let (_, todo) = link.command(json!({"type": "prompt", "text": "hi"})).unwrap();
    assert_eq!(todo, []);
    assert_eq!(link.tick(at(10 + retry_ms - 1)), []);
    assert_eq!(link.tick(at(10 + retry_ms)), [Do::Connect]);
    let attach = &sent(&link.connected(at(20)))[0];
    assert_eq!(attach["from"], json!({"epoch": "e", "offset": 6}));
    // The prompt goes out behind the attach, with the id it had.
    let prompt = &sent(&attached(&mut link, 8))[0];
    assert_eq!((&prompt["type"], &prompt["session"]), (&json!("prompt"), &json!("s")));
    assert!(link.received(at(21), &event(6)).0 && link.received(at(21), &event(7)).0);
    let caught_up = Incoming::CaughtUp { session: "s".into() };
    assert_eq!(link.received(at(22), &caught_up).1, [Do::Resumed { missed: 2 }]);
    assert!(link.is_live());
    assert_eq!(link.unanswered(), 1);
    let answer = Incoming::Reply(Reply { re: prompt["id"].as_str().unwrap().into(), ..Reply::default() });
    assert!(link.received(at(23), &answer).0);
    assert_eq!(link.unanswered(), 0);
}

/// A link that has returned in the middle of a block, which began to be streamed at this offset; and what is to be done.
fn returned_into_a_block(offset: u64) -> (Link, Vec<Do>) {
    let mut link = live(5);
    link.ended(at(0), &lost());
    link.tick(at(1_000));
    link.connected(at(1_000));
    let fields = json!({"snapshot": {"next": {"epoch": "e", "offset": offset},
        "turn": {"prompts": [], "since": 0, "blocks": [{"message": "m", "block": 0, "kind": "text", "text": "so far"}]}},
        "events": [], "next": {"epoch": "e", "offset": 5}});
    let Value::Object(fields) = fields else { unreachable!() };
    let reply = Incoming::Reply(Reply { re: link.attach_id.clone(), fields });
    let todo = link.received(at(1_001), &reply).1;
    (link, todo)
}

#[test]
fn a_break_in_the_middle_of_a_block_loses_nothing_of_it() {
    let (_, todo) = returned_into_a_block(5);
    assert!(matches!(&todo[..], [Do::Returned { .. }, Do::Streamed(_)]), "no event was missed: {todo:?}");
    let (mut link, _) = returned_into_a_block(7);
    link.unreadable(at(1_001));
    let (_, todo) = link.received(at(1_001), &event(6));
    assert!(matches!(&todo[..], [Do::Skipped { events: 1 }, Do::Streamed(_)]), "one cannot be read: {todo:?}");
    let (mut link, todo) = returned_into_a_block(7);
    assert_eq!(todo, [returned(Some(Vec::new()), &[])]);
    assert_eq!(link.received(at(1_001), &event(5)), (true, Vec::new()));
    // Behind the events that came before it, and once.
    let (fresh, todo) = link.received(at(1_001), &event(6));
    assert!(fresh);
    let [Do::Streamed(blocks)] = &todo[..] else { panic!("{todo:?}") };
    assert_eq!(blocks[0].text, "so far");
    assert_eq!(link.received(at(1_001), &event(7)), (true, Vec::new()));
}

#[test]
fn a_message_that_cannot_be_read_is_said_and_what_follows_is_taken() {
    let mut link = live(5);
    assert_eq!(link.unreadable(at(1)), []);
    assert_eq!(link.received(at(2), &event(6)), (true, vec![Do::Skipped { events: 1 }]));
    assert_eq!(link.received(at(3), &event(7)), (true, Vec::new()));
    // A gap without such a message is asked for, as ever.
    assert_eq!(sent(&link.received(at(4), &event(9)).1)[0]["from"]["offset"], 8);
    // It is a sign of life.
    let mut link = live(5);
    link.unreadable(at(NOTHING_SEEN_MS));
    assert_eq!(link.tick(at(NOTHING_SEEN_MS + 1)), []);
    // It was no event where none is missing, and another log has to be asked for.
    assert_eq!(link.received(at(NOTHING_SEEN_MS), &event(4)), (false, Vec::new()));
    assert_eq!(link.received(at(NOTHING_SEEN_MS), &event(5)), (true, Vec::new()));
    let Incoming::Event(mut other) = event(9) else { unreachable!() };
    other.position.epoch = "another".into();
    let (fresh, todo) = link.received(at(NOTHING_SEEN_MS), &Incoming::Event(other));
    assert_eq!((fresh, &sent(&todo)[0]["type"]), (false, &json!("attach")), "{todo:?}");
    // Nor does it wait for an answer to the first attachment for ever.
    let mut link = Link::new("s", "p", 1);
    link.connected(at(0));
    assert!(matches!(link.unreadable(at(1))[..], [Do::GiveUp(_)]));
    assert!(is_over(&mut link));
}

/// Whether it does nothing more, whatever becomes of its connection.
fn is_over(link: &mut Link) -> bool {
    link.ended(at(9_000), &lost()).is_empty() && link.deadline_ms().is_none()
}

#[test]
fn a_command_waits_for_its_own_answer_and_for_no_other() {
    let refusal = |re: &str| {
        let error = ErrorMessage { re: Some(re.into()), code: "FORBIDDEN".into(), ..ErrorMessage::default() };
        Incoming::Error(error)
    };
    let answer = |re: &str| Incoming::Reply(Reply { re: re.into(), ..Reply::default() });
    for answer in [&refusal as &dyn Fn(&str) -> Incoming, &answer] {
        // Two of them from before the first connection, which are sent once the session is joined.
        let mut link = Link::new("s", "p", 1);
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(link.command(json!({"type": "interrupt"})).unwrap().0);
        }
        link.connected(at(0));
        let again =
            |todo: &[Do]| sent(todo).iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(again(&attached(&mut link, 0)), ids);
        assert!(link.received(at(1), &answer(&ids.remove(1))).0);
        link.ended(at(2), &lost());
        link.tick(at(link.deadline_ms().unwrap()));
        link.connected(at(1_000));
        assert_eq!(again(&attached(&mut link, 0)), ids);
    }
}

#[test]
fn only_the_end_of_what_was_missed_is_told_and_once() {
    let caught_up = |session: &str| Incoming::CaughtUp { session: session.into() };
    let mut link = live(5);
    assert_eq!(link.received(at(1), &caught_up("s")), (false, Vec::new()), "nothing was missed");
    link.ended(at(1), &lost());
    link.tick(at(1_000));
    link.connected(at(1_000));
    for session in ["another", "s"] {
        let (_, todo) = link.received(at(1_001), &caught_up(session));
        let resumed = [returned(None, &["attach"]), Do::Resumed { missed: 0 }];
        assert_eq!(todo, if session == "s" { &resumed[..] } else { &[] });
    }
    assert!(link.is_live());
    assert_eq!(link.received(at(1_002), &caught_up("s")), (false, Vec::new()));
}

#[test]
fn a_relay_that_is_reached_again_is_tried_again_soon_after_the_next_break() {
    for was_joined in [false, true] {
        let mut link = if was_joined { live(0) } else { Link::new("s", "p", 3) };
        link.ended(at(0), &lost());
        for _ in 0..12 {
            link.failed(at(0), "refused", true);
            link.tick(at(link.deadline_ms().unwrap()));
        }
        link.connected(at(0));
        // It was told to wait, and is let in all the same.
        let wait = ErrorMessage { code: "LIMIT".into(), retry_after_ms: Some(9_000), ..ErrorMessage::default() };
        link.received(at(0), &Incoming::Error(wait));
        attached(&mut link, 0);
        let todo = link.ended(at(0), &lost());
        assert!(matches!(todo[..], [Do::Lost { retry_ms: ..=RETRY_MS_FIRST, .. }]), "{was_joined}: {todo:?}");
    }
}

#[test]
fn c5_an_answer_to_attach_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let answer = |link: &mut Link, fields: Value| {
        let Value::Object(fields) = fields else { unreachable!() };
        link.received(at(2_000), &Incoming::Reply(Reply { re: link.attach_id.clone(), fields })).1
    };
    let next = json!({"epoch": "e", "offset": 5});
    for fields in [json!({"snapshot": 7, "next": next}), json!({"snapshot": {}, "next": 7}), json!({"next": next})] {
        let mut link = Link::new("s", "p", 1);
        link.connected(at(0));
        let todo = answer(&mut link, fields);
        assert!(matches!(&todo[..], [Do::GiveUp(why)] if why.contains("another version?")), "{todo:?}");
        assert!(is_over(&mut link));
    }
    let again = || {
        let mut link = live(5);
        link.ended(at(0), &lost());
        link.command(json!({"type": "prompt", "text": "hi"})).unwrap();
        link.tick(at(1_000));
        link.connected(at(1_000));
        link
    };
    let caught_up = Incoming::CaughtUp { session: "s".into() };
    // The log goes on by its events, and what was open stays.
    let mut link = again();
    let todo = answer(&mut link, json!({"snapshot": {"permissions": 7}, "next": next}));
    assert_eq!((&todo[0], sent(&todo).len()), (&returned(None, &["snapshot"]), 1));
    assert!(link.received(at(2_000), &event(5)).0);
    assert_eq!(link.received(at(2_000), &caught_up).1, [Do::Resumed { missed: 1 }]);
    // The same where all of the answer is lost.
    let mut link = again();
    assert_eq!(link.unreadable(at(2_000)), []);
    assert!(link.received(at(2_000), &event(5)).0);
    let todo = link.received(at(2_000), &caught_up).1;
    assert_eq!((&todo[0], sent(&todo).len()), (&returned(None, &["attach"]), 1));
    assert!(link.is_live());
}

#[test]
fn an_old_refusal_decides_no_later_close() {
    let close = || Ended::Closed { code: Some(CloseCode::POLICY), reason: String::new() };
    let mut link = live(5);
    let error =
        ErrorMessage { code: "LIMIT".into(), message: "the old one".into(), recoverable: true, ..Default::default() };
    link.received(at(0), &Incoming::Error(error));
    // The connection breaks before the close that belongs to it.
    link.ended(at(0), &lost());
    link.tick(at(60_000));
    link.connected(at(60_000));
    assert_eq!(link.ended(at(60_001), &close()), [Do::GiveUp(close().to_string())]);
}

#[test]
fn the_first_attachment_asks_for_as_much_as_is_wanted() {
    let mut link = Link::new("s", "p", 1).with_tail(0);
    assert_eq!(sent(&link.connected(at(0)))[0]["tail"], json!({"bytes": 0}));
    attached(&mut link, 3);
    link.ended(at(0), &lost());
    link.tick(at(1_000));
    let again = &sent(&link.connected(at(1_000)))[0];
    assert_eq!((again.get("tail"), &again["from"]["offset"]), (None, &json!(3)));
}

#[test]
fn what_cannot_be_resumed_is_started_anew_and_said() {
    let mut link = live(5);
    link.ended(at(0), &lost());
    link.tick(at(1_000));
    link.connected(at(1_000));
    let error = ErrorMessage {
        re: Some(link.attach_id.clone()),
        code: "CANNOT_RESUME".into(),
        message: "too old".into(),
        ..ErrorMessage::default()
    };
    let (_, todo) = link.received(at(1_001), &Incoming::Error(error));
    assert_eq!(todo[0], Do::Restarted { why: "too old".into() });
    assert_eq!(sent(&todo)[0].get("from"), None);
    assert!(matches!(attached(&mut link, 90)[..], [Do::Attached(_)]));
    let reset = Incoming::Reset { session: "s".into(), why: "slow".into() };
    assert_eq!(sent(&link.received(at(1_002), &reset).1).len(), 1);
}

#[test]
fn closes_mean_what_the_protocol_says() {
    let close = |code| Ended::Closed { code: Some(code), reason: String::new() };
    for (code, again) in [
        (CloseCode::GOING_AWAY, true),
        (CloseCode(1012), true),
        (CloseCode::INTERNAL, true),
        (CloseCode::TRY_AGAIN, true),
        (CloseCode::NORMAL, false),
        (CloseCode::POLICY, false),
        (CloseCode::TOO_BIG, false),
        (CloseCode::KEY_REVOKED, false),
    ] {
        let todo = live(0).ended(at(0), &close(code));
        assert_eq!(matches!(todo[..], [Do::Lost { .. }]), again, "{code}");
        assert_eq!(matches!(todo[..], [Do::GiveUp(_)]), !again, "{code}");
    }
    let mut link = live(0);
    let error =
        ErrorMessage { code: "LIMIT".into(), recoverable: true, retry_after_ms: Some(9_000), ..Default::default() };
    link.received(at(0), &Incoming::Error(error));
    assert_eq!(
        link.ended(at(0), &close(CloseCode::POLICY)),
        [Do::Lost { why: "the relay closed the connection (code 1008)".into(), retry_ms: 9_000 }]
    );
}

#[test]
fn silence_is_a_break() {
    let mut link = live(0);
    link.alive(at(5));
    assert_eq!(link.tick(at(4 + NOTHING_SEEN_MS)), []);
    assert!(matches!(link.tick(at(5 + NOTHING_SEEN_MS))[..], [Do::Abandon, Do::Lost { .. }]));
}

#[test]
fn attempts_become_rarer_and_commands_are_bounded() {
    let mut link = Link::new("s", "p", 7);
    let mut now = 0;
    for attempt in 0..20 {
        let todo = link.failed(at(now), "refused", true);
        let [Do::Lost { retry_ms, .. }] = todo[..] else { panic!() };
        let most = (RETRY_MS_FIRST << attempt.min(16)).min(RETRY_MS_MAX);
        assert!((most / 2..=most).contains(&retry_ms), "{attempt}: {retry_ms}");
        now += retry_ms;
        assert_eq!(link.tick(at(now)), [Do::Connect]);
    }
    for _ in 0..UNANSWERED_MAX {
        link.command(json!({"type": "interrupt"})).unwrap();
    }
    assert_eq!(link.command(json!({"type": "interrupt"})), Err(LinkFull));
    assert_eq!(link.failed(at(now), "revoked", false), [Do::GiveUp("revoked".into())]);
}

proptest! {
    /// Whatever breaks when, every event is shown once and in order.
    #[test]
    fn nothing_is_missed_or_doubled(breaks in prop::collection::vec((0u64..6, 0u64..4), 1..12)) {
        let mut link = live(0);
        let (mut log, mut shown, mut now) = (0u64, Vec::new(), 0u64);
        for (before, during) in breaks {
            for _ in 0..before {
                let (fresh, todo) = link.received(at(now), &event(log));
                prop_assert!(fresh && todo.is_empty());
                shown.push(log);
                log += 1;
            }
            // The newest event may come twice: it was under way when the connection broke.
            if log > 0 {
                prop_assert!(!link.received(at(now), &event(log - 1)).0);
            }
            link.ended(at(now), &lost());
            log += during;
            now = link.deadline_ms().unwrap();
            link.tick(at(now));
            let from = sent(&link.connected(at(now)))[0]["from"]["offset"].as_u64().unwrap();
            attached(&mut link, log);
            for offset in from..log {
                prop_assert!(link.received(at(now), &event(offset)).0);
                shown.push(offset);
            }
            let (_, todo) = link.received(at(now), &Incoming::CaughtUp { session: "s".into() });
            prop_assert_eq!(todo, vec![Do::Resumed { missed: during }]);
        }
        prop_assert_eq!(shown, (0..log).collect::<Vec<_>>());
    }
}
