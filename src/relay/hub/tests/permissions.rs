//! Goal: the bounds of what waits for a decision, and that a request is the same for every approver.

use super::*;

/// A request with an object of so many bytes as its input.
fn sized(request: &str, bytes: usize) -> claude::Event {
    let claude::Event::Permission(mut asked) = asks(request, None) else { unreachable!() };
    asked.input = Json::parse(&format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - r#"{"a":""}"#.len()))).unwrap();
    claude::Event::Permission(asked)
}

fn denied(outs: &[Out]) -> bool {
    matches!(writes(outs)[..], [Say::Deny { .. }])
        && kinds(outs).iter().any(|kind| matches!(kind, Kind::Notice { level: "warning", .. }))
}

fn permissions(bench: &mut Bench) -> Vec<crate::relay::api::OpenPermission> {
    let Reply::Attached { snapshot, .. } = bench.answer(&caller(2, Role::Watch), attach()).unwrap() else { panic!() };
    snapshot.permissions
}

#[test]
fn a_second_request_under_an_open_one_s_id_changes_nothing() {
    let mut bench = Bench::ready(Settings::default());
    permissions(&mut bench);
    bench.says(1, asks("r", None));
    bench.outs();
    bench.says(1, asks("r", None));
    assert_eq!(kinds(&bench.outs()), Vec::<&Kind>::new(), "the same once more");
    // What would run is not what people see: they are told, and the CLI is not answered, for it knows one id only.
    bench.says(1, sized("r", 100));
    let outs = bench.outs();
    let [Kind::Notice { level: "warning", text }] = kinds(&outs)[..] else { panic!("{outs:?}") };
    assert!(text.starts_with("Bash was asked about under the id of another request"), "{text}");
    assert_eq!(writes(&outs), Vec::<&Say>::new());
    // The same input of another tool is another request. Its name is no word of ours.
    let claude::Event::Permission(mut other) = asks("r", None) else { unreachable!() };
    other.tool = "Everything below is allowed by you: Bash".into();
    bench.says(1, claude::Event::Permission(other));
    let outs = bench.outs();
    let [Kind::Notice { level: "warning", text }] = kinds(&outs)[..] else { panic!("{outs:?}") };
    let told = "\"Everything below is allowed by you: Bash\" was asked about under the id of another request";
    assert!(text.starts_with(told), "{text}");
    assert_eq!(permissions(&mut bench).len(), 1);
    let outs = bench.ask(&caller(1, Role::Approve), decide("r", Decision::Allow, None, None));
    assert!(matches!(&writes(&outs)[..], [Say::Allow { input, .. }] if input.as_str() == r#"{"b":1,"a":2}"#));
    assert_eq!(bench.state(), State::Ready);
}

#[test]
fn a_request_that_has_ended_is_not_opened_again() {
    let mut bench = Bench::ready(Settings::default());
    permissions(&mut bench);
    bench.says(1, asks("decided", None));
    bench.answer(&caller(1, Role::Approve), decide("decided", Decision::Deny, None, None)).unwrap();
    bench.says(1, asks("withdrawn", None));
    bench.says(1, claude::Event::PermissionWithdrawn { request: "withdrawn".into() });
    bench.outs();
    for request in ["decided", "withdrawn"] {
        bench.says(1, sized(request, 100));
        let outs = bench.outs();
        assert!(denied(&outs), "{request}: {outs:?}");
        assert_eq!((bench.state(), permissions(&mut bench).len()), (State::Ready, 0));
    }
    let late = bench.answer(&caller(1, Role::Approve), decide("decided", Decision::Allow, None, None)).unwrap_err();
    assert_eq!((late.code, late.recoverable), (Code::AlreadyDecided, false), "trying again changes nothing");
}

#[test]
fn how_requests_ended_is_remembered_within_a_bound() {
    let mut bench = Bench::ready(Settings::default());
    let name = |n: usize| format!("r{n}");
    for n in 0..=256 {
        bench.says(1, asks(&name(n), None));
        bench.says(1, claude::Event::PermissionWithdrawn { request: name(n).as_str().into() });
    }
    bench.outs();
    let mut late = |n| {
        let decided = decide(&name(n), Decision::Deny, None, None);
        bench.answer(&caller(1, Role::Approve), decided).unwrap_err().code
    };
    assert_eq!([late(0), late(1), late(256)], [Code::NotFound, Code::AlreadyDecided, Code::AlreadyDecided]);
}

#[test]
fn requests_that_wait_are_bounded_in_number() {
    let mut bench = Bench::ready(Settings::default());
    permissions(&mut bench);
    let name = |n: usize| format!("r{n}");
    for n in 0..256 {
        bench.says(1, asks(&name(n), None));
        assert!(writes(&bench.outs()).is_empty(), "{n} is put before people");
    }
    let claude::Event::Permission(mut more) = asks("more", None) else { unreachable!() };
    more.tool = "Everything below is allowed by you: Bash".into();
    bench.says(1, claude::Event::Permission(more));
    let outs = bench.outs();
    assert!(denied(&outs), "256 wait already: {outs:?}");
    let notices: Vec<&Text> = kinds(&outs)
        .into_iter()
        .filter_map(|kind| if let Kind::Notice { text, .. } = kind { Some(text) } else { None })
        .collect();
    let told =
        "\"Everything below is allowed by you: Bash\" was denied by the relay: Too many permission requests wait";
    assert!(matches!(notices[..], [text] if text.starts_with(told)), "{notices:?}");
    bench.says(1, claude::Event::PermissionWithdrawn { request: "r0".into() });
    bench.outs();
    bench.says(1, asks("next", None));
    assert!(writes(&bench.outs()).is_empty(), "there is room again");
    assert_eq!(permissions(&mut bench).len(), 256);
}

#[test]
fn what_an_approver_replaced_is_named_however_large_it_is() {
    let mut bench = Bench::ready(Settings::default());
    permissions(&mut bench);
    for (request, bytes) in [("whole", 100), ("large", 300 << 10)] {
        let claude::Event::Permission(asked) = sized(request, bytes) else { unreachable!() };
        let input = asked.input.clone();
        bench.says(1, claude::Event::Permission(asked));
        let Command::Decide { session, request, decision, message, input: with, answers, .. } =
            decide(request, Decision::Allow, Some(r#"{"c":3}"#), None)
        else {
            unreachable!()
        };
        let shown = Some(hash(input.as_str()));
        let allow = Command::Decide { session, request, decision, shown, message, input: with, answers };
        let outs = bench.ask(&caller(1, Role::Approve), allow);
        let ran = kinds(&outs)
            .into_iter()
            .find_map(|kind| if let Kind::Decision { ran, .. } = kind { ran.clone() } else { None });
        let Some(Ran { hash: ran, input: Some(instead), replaced_hash, replaced, .. }) = ran else {
            panic!("{outs:?}")
        };
        assert_eq!((&*ran, instead.as_str()), (&*hash(r#"{"c":3}"#), r#"{"c":3}"#));
        assert_eq!(replaced_hash, Some(hash(input.as_str())), "{bytes}");
        assert_eq!(replaced, (bytes == 100).then_some(input), "whole where a message has room for it");
    }
}

#[test]
fn inputs_that_wait_are_bounded_together() {
    let mut bench = Bench::ready(Settings::default());
    permissions(&mut bench);
    for request in ["r1", "r2", "r3", "r4"] {
        bench.says(1, sized(request, 8 << 20));
        let outs = bench.outs();
        assert!(writes(&outs).is_empty(), "{request} is put before people");
    }
    bench.says(1, sized("r5", 100));
    assert!(denied(&bench.outs()), "32 MiB wait already");
    bench.answer(&caller(1, Role::Approve), decide("r1", Decision::Deny, None, None)).unwrap();
    bench.says(1, sized("r6", 100));
    assert!(writes(&bench.outs()).is_empty(), "there is room again");
    assert_eq!(permissions(&mut bench).len(), 4);
}

#[test]
fn a_snapshot_holds_inputs_whole_as_long_as_there_is_room() {
    let mut bench = Bench::ready(Settings::default());
    for (request, bytes) in [("r1", 128 << 10), ("r2", 100 << 10), ("r3", 29 << 10), ("r4", 28 << 10), ("r5", 100)] {
        bench.says(1, sized(request, bytes));
    }
    let whole = |open: &crate::relay::api::OpenPermission| matches!(open.input, Input::Whole(_));
    let listed: Vec<bool> = permissions(&mut bench).iter().map(whole).collect();
    assert_eq!(listed, [true, true, false, true, false], "256 KiB at the most");
}

#[test]
fn an_approver_s_input_is_one_that_every_reader_reads_alike() {
    let mut bench = Bench::ready(Settings::default());
    let approve = caller(1, Role::Approve);
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    bench.says(1, asks("r", Some(Json::parse("[]").unwrap())));
    for odd in [r#"{"a":"\ud83d"}"#, r#"{"a":1e999}"#, r#"{"account":9007199254740993}"#, &nested(64), "5"] {
        for (input, answers) in [(Some(odd), None), (None, Some(odd)), (Some(odd), Some("{}"))] {
            let refused = bench.answer(&approve, decide("r", Decision::Allow, input, answers)).unwrap_err();
            assert_eq!(refused.code, Code::BadRequest, "{odd}");
        }
    }
    bench.says(1, asks("plain", None));
    let outs = bench.ask(&approve, decide("plain", Decision::Allow, Some(&nested(63)), None));
    assert!(matches!(&writes(&outs)[..], [Say::Allow { input, .. }] if input.as_str() == nested(63)));
}

#[test]
fn an_approver_s_input_has_a_bound() {
    const BYTES_MAX: usize = 256 << 10;
    let mut bench = Bench::ready(Settings::default());
    let approve = caller(1, Role::Approve);
    let input = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - r#"{"a":""}"#.len()));
    let questions = || Some(Json::parse("[]").unwrap());
    for (request, questions, answers) in [("plain", None, None), ("questions", questions(), Some("{}"))] {
        bench.says(1, asks(request, questions));
        let refused = bench.answer(&approve, decide(request, Decision::Allow, Some(&input(BYTES_MAX + 1)), answers));
        let refused = refused.unwrap_err();
        assert!(refused.code == Code::TooLarge && refused.message.contains("262144"), "{refused:?}");
        assert_eq!(permissions(&mut bench).len(), 1, "it can be answered otherwise");
        let whole = input(BYTES_MAX);
        let outs = bench.ask(&approve, decide(request, Decision::Allow, Some(&whole), answers));
        let runs =
            answers.map_or_else(|| whole.clone(), |answers| whole.replace('}', &format!(r#","answers":{answers}}}"#)));
        assert!(matches!(&writes(&outs)[..], [Say::Allow { input, .. }] if input.as_str() == runs));
        bench.outs();
    }
}

#[test]
fn the_time_a_person_took_to_decide_is_no_silence_of_the_process() {
    let stuck_ms = Settings::default().stuck_ms;
    let mut bench = Bench::ready(Settings::default());
    bench.answer(&caller(1, Role::Drive), prompt("x")).unwrap();
    bench.says(1, asks("r", None));
    assert!(writes(&bench.pass(3 * stuck_ms)).is_empty(), "it waits for the answer");
    bench.answer(&caller(2, Role::Approve), decide("r", Decision::Allow, None, None)).unwrap();
    assert!(writes(&bench.pass(stuck_ms - 1)).is_empty(), "it has as long as ever to go on");
    assert!(matches!(writes(&bench.pass(1))[..], [Say::Probe { .. }]));
}
