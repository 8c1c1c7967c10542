//! Tests of reading what a relay says.

use serde_json::json;

use super::*;

#[test]
fn messages_are_read_and_those_of_the_future_ignored() {
    let event = r#"{"type":"event","session":"s","epoch":"e","offset":7,"at":1,"by":{"device":"d","principal":"p"},
        "kind":"text","message":"m","block":0,"text":"hi","new":{}}"#;
    let Some(Incoming::Event(event)) = Incoming::parse(event) else { panic!() };
    assert_eq!(event.position, Position { epoch: "e".into(), offset: 7 });
    assert!(matches!(&event.fact, Fact::Text(block) if block.text == "hi"), "{event:?}");
    assert_eq!(Incoming::parse(r#"{"type":"hologram","x":1}"#), Some(Incoming::Unknown));
    assert_eq!(Incoming::parse(r#"{"type":"tick","now":1}"#), Some(Incoming::Unknown));
    let odd = r#"{"type":"event","session":"s","epoch":"e","offset":7,"kind":"dance","steps":3}"#;
    let Some(Incoming::Event(odd)) = Incoming::parse(odd) else { panic!() };
    assert_eq!(odd.fact, Fact::Unknown);
    let permission = r#"{"type":"event","session":"s","epoch":"e","offset":8,"kind":"permission","request":"r","tool":"Bash",
        "input":{"command":"ls"},"about":"list"}"#;
    let Some(Incoming::Event(event)) = Incoming::parse(permission) else { panic!() };
    assert!(
        matches!(&event.fact, Fact::Permission(open) if open.input.as_ref().is_some_and(|input| input["command"] == "ls"))
    );
    let Some(Incoming::Reply(reply)) = Incoming::parse(r#"{"type":"reply","re":"1","next":{"epoch":"e","offset":2}}"#)
    else {
        panic!()
    };
    assert_eq!(reply.field::<Position>("next").unwrap().unwrap().offset, 2);
    let error = r#"{"type":"error","code":"FORBIDDEN","message":"no","recoverable":true}"#;
    assert!(matches!(Incoming::parse(error), Some(Incoming::Error(error)) if error.code == "FORBIDDEN"));
    assert_eq!(Incoming::parse("[]"), None);
    // What has the place of an event and says that it is something else.
    assert_eq!(Incoming::parse(r#"{"type":"delta","session":"s","epoch":"e","offset":7,"text":7}"#), None);
    let snapshot: Snapshot = serde_json::from_str(
        r#"{"session":"s","state":"busy","devices":[{"name":"a"}],"turn":{"prompts":[],"blocks":[{"message":"m","block":1,
        "kind":"thinking","text":"hm"}]}}"#,
    )
    .unwrap();
    assert_eq!(snapshot.turn.unwrap().blocks[0].block_kind.as_deref(), Some("thinking"));
    assert_eq!(snapshot.devices[0].name, "a");
}

#[test]
fn c5_what_cannot_be_read_costs_itself_and_is_named() {
    let reply = |fields: Value| Reply { fields: fields.as_object().unwrap().clone(), ..Reply::default() };
    let position = json!({"epoch": "e", "offset": 2});
    let whole = json!({"request": "r", "tool": "Bash", "input": {"command": "ls"}});
    let odd = json!({"request": "q", "tool": "Bash", "input": {"command": "ls"}, "about": 1, "deny_only": "x"});
    let snapshot = json!({"title": "t", "cost_usd": "x", "permissions": [whole, odd, 7]});
    let events = json!([{"session": "s", "epoch": "e", "offset": 1, "kind": "notice", "text": 7}, 7]);
    let answer = reply(json!({"next": position, "snapshot": snapshot, "events": events, "earliest": 7}));
    let Attachment { snapshot, page, .. } = answer.attachment().unwrap();
    assert_eq!((snapshot.title.as_str(), &snapshot.unreadable[..]), ("t", &["cost_usd".to_owned()][..]));
    let unread: Vec<_> = snapshot.permissions.iter().map(|open| open.unreadable.join(" ")).collect();
    assert_eq!(unread, ["", "about deny_only", "request"]);
    assert_eq!((snapshot.permissions[1].tool.as_str(), snapshot.permissions[1].request.as_str()), ("Bash", "q"));
    assert_eq!((page.events[0].fact.clone(), page.lost), (Fact::Unreadable, 1));
    assert_eq!((page.earliest, &page.unreadable[..]), (None, &["earliest".to_owned()][..]));
    let page = reply(json!({"events": {"0": 7}})).page();
    assert_eq!(
        (page.events.len(), &page.unreadable[..]),
        (0, &["events".to_owned()][..]),
        "a log is not taken for empty"
    );
    // On what cannot be read at all, nothing can be built.
    for snapshot in [json!(7), json!([]), json!({"permissions": 7})] {
        let answer = reply(json!({"next": {"epoch": "e", "offset": 2}, "snapshot": snapshot}));
        assert_eq!(answer.attachment(), Err(Unreadable("snapshot".into())));
    }
    assert_eq!(reply(json!({"snapshot": {}, "next": 7})).attachment(), Err(Unreadable("next".into())));
    assert_eq!(reply(json!({"n": 7})).field::<String>("n"), Err(Unreadable("n".into())));
    assert_eq!(reply(json!({})).field::<String>("n"), Ok(None));
    let list = reply(json!({"sessions": [{"session": "s", "cost_usd": "x"}]})).sessions().unwrap();
    assert!(list[0].is_unreadable("cost_usd") && !list[0].is_unreadable("title") && list[0].is_live());
    for sessions in [json!(7), json!([{"session": 7}]), json!([[]])] {
        assert_eq!(reply(json!({"sessions": sessions})).sessions(), Err(Unreadable("sessions".into())));
    }
    // A request is one, whatever of it cannot be read: also what is not its own.
    for (odd, name) in [(r#""about":7"#, "about"), (r#""by":7"#, "event")] {
        let text = format!(
            r#"{{"type":"event","session":"s","epoch":"e","offset":1,"kind":"permission","request":"r",{odd}}}"#
        );
        let Some(Incoming::Event(event)) = Incoming::parse(&text) else { panic!("{text}") };
        assert!(matches!(&event.fact, Fact::Permission(open) if open.request == "r" && open.unreadable == [name]));
    }
}
