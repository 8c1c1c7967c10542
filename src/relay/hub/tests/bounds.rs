//! Goal: no key takes, or pushes out, what another one needs. Method: one takes all it is given, then another asks.

use super::*;

fn of(principal: &str, slot: u32) -> Caller {
    Caller { principal: principal.into(), ..caller(slot, Role::Admin) }
}

fn create() -> Command {
    let (folder, title, model, mode, prompt) = (None, None, None, None, None);
    Command::Create { profile: "default".into(), folder, title, model, mode, prompt, past: Past::None }
}

#[test]
fn what_is_for_admins_is_made_for_them_alone() {
    let mut bench = Bench::new(Settings::default());
    let Command::Create { profile, title, model, mode, prompt, past, .. } = create() else { unreachable!() };
    let command = Command::Create { profile, folder: Some(ADMINS.into()), title, model, mode, prompt, past };
    let made = |bench: &mut Bench, role| bench.answer(&caller(1, role), command.clone()).map_err(|error| error.code);
    assert_eq!(made(&mut bench, Role::Spawn), Err(Code::Forbidden));
    assert!(matches!(made(&mut bench, Role::Admin), Ok(Reply::Created(_))));
    let own = Create { profile: "default".into(), folder: Some(ADMINS.into()), ..Create::default() };
    assert_eq!(bench.hub.create(own, bench.now).map_err(|error| error.code), Err(Code::Forbidden), "it is no device's");
}

#[test]
fn a_session_is_named_and_told_what_it_is_made_with() {
    for (title, is) in [(Some("mine"), "mine"), (Some(" "), "project"), (None, "project")] {
        let mut bench = Bench::new(Settings::default());
        let Command::Create { profile, folder, model, mode, past, .. } = create() else { unreachable!() };
        let (title, prompt) = (title.map(Text::from), Some("first".into()));
        let command = Command::Create { profile, folder, title, model, mode, prompt, past };
        let Ok(Reply::Created(summary)) = bench.answer(&caller(1, Role::Spawn), command) else { panic!("not made") };
        assert_eq!(&*summary.title, is);
        bench.says(1, ready(LoginState::Present));
        assert!(matches!(
            writes(&bench.outs())[..],
            [Say::Initialize { .. }, Say::Prompt { .. }] | [Say::Prompt { .. }]
        ));
        let Ok(Reply::Attached { snapshot, .. }) = bench.answer(&caller(2, Role::Watch), attach()) else { panic!() };
        assert_eq!(snapshot.queue[0].by.as_ref().map(|by| &*by.device), Some("device1"));
    }
}

/// Asks until it is refused; gives how often it was not, and the refusal.
fn fill(bench: &mut Bench, most: u32, ask: impl Fn(u32) -> (Caller, Command)) -> (u32, Error) {
    for n in 0..=most {
        let (caller, command) = ask(n);
        if let Some(Err(error)) = answer(&bench.ask(&caller, command)) {
            return (n, error);
        }
    }
    panic!("there is no bound");
}

#[test]
fn d2_the_interrupts_of_one_key_do_not_make_another_s_prompt_run_twice() {
    let mut bench = Bench::ready(Settings::default());
    let (flood, other) = (of("SHA256:flood", 1), of("SHA256:other", 2));
    let request = Request { id: "once".into(), command: prompt("x") };
    bench.hub.request(&other, request.clone(), bench.now);
    let first = answer(&bench.outs());
    for _ in 0..34_000 {
        let interrupt = Command::Interrupt { session: "id1".into(), cancel_queued: false };
        assert_eq!(bench.answer(&flood, interrupt), Ok(Reply::Interrupted { ran: true }));
    }
    bench.hub.request(&other, request, bench.now);
    assert_eq!(answer(&bench.outs()), first);
}

#[test]
fn d2_one_key_does_not_take_all_watchers() {
    let mut bench = Bench::ready(Settings::default());
    let (taken, error) = fill(&mut bench, 256, |n| (of("SHA256:many", n), attach()));
    assert_eq!((taken, error.code), (128, Code::Limit));
    let says = "this key has 128 of the 256 devices that may watch this session, and the rest is kept for other keys: detach one";
    assert_eq!(&*error.message, says);
    assert!(bench.answer(&of("SHA256:other", 1000), attach()).is_ok());
    // A device that watches already may ask anew.
    assert!(bench.answer(&of("SHA256:many", 5), attach()).is_ok());
}

#[test]
fn d2_one_key_does_not_take_all_prompts_that_wait() {
    let mut bench = Bench::ready(Settings::default());
    let (taken, error) = fill(&mut bench, 64, |_| (of("SHA256:many", 1), prompt("x")));
    assert_eq!((taken, error.code), (32, Code::Limit));
    assert!(error.message.starts_with("this key has 32 of the 64 prompts"), "{error:?}");
    assert!(bench.answer(&of("SHA256:other", 2), prompt("x")).is_ok());
}

#[test]
fn d2_one_key_does_not_take_all_bytes_of_prompts_that_wait() {
    let mut bench = Bench::ready(Settings::default());
    let large = "x".repeat(768 << 10);
    assert!(bench.answer(&of("SHA256:many", 1), prompt(&large)).is_ok());
    let error = bench.answer(&of("SHA256:many", 1), prompt("x")).unwrap_err();
    assert!(error.code == Code::Limit && error.message.contains("bytes"), "{error:?}");
    assert!(bench.answer(&of("SHA256:other", 2), prompt(&large)).is_ok());
    let error = bench.answer(&of("SHA256:third", 3), prompt("x")).unwrap_err();
    assert!(error.code == Code::Limit && error.message.starts_with("there is no room left"), "{error:?}");
}

#[test]
fn d2_one_key_does_not_take_all_sessions() {
    let mut bench = Bench::new(Settings { sessions_max: 8, ..Settings::default() });
    let (taken, error) = fill(&mut bench, 8, |_| (of("SHA256:many", 1), create()));
    assert_eq!((taken, error.code), (4, Code::Limit));
    let says = "this key has 4 of the 8 sessions that may run, and the rest is kept for other keys: stop one";
    assert_eq!(&*error.message, says);
    assert!(bench.answer(&of("SHA256:other", 2), create()).is_ok());
}

#[test]
fn d2_sessions_of_one_key_that_have_ended_push_out_none_of_another() {
    let mut bench = Bench::new(Settings { sessions_max: 4, ..Settings::default() });
    let (many, other) = (of("SHA256:many", 1), of("SHA256:other", 2));
    let made = |bench: &mut Bench, who: &Caller| {
        let Ok(Reply::Created(summary)) = bench.answer(who, create()) else { panic!("not made") };
        bench.ask(who, Command::Stop { session: summary.session.clone(), now: true });
        bench.hub.exited(&summary.session, 1, &ExitInfo::default(), bench.now);
        bench.outs();
        bench.now = bench.now.plus_ms(10);
        summary.session
    };
    let kept = made(&mut bench, &other);
    for _ in 0..10 {
        let session = made(&mut bench, &many);
        // It keeps all that it has from giving way.
        let attach = Command::Attach { session, from: None, tail_bytes: None };
        assert!(bench.answer(&many, attach).is_ok());
    }
    assert!(bench.hub.summaries().iter().any(|summary| summary.session == kept));
    // What gives way though it is watched says so.
    let outs = bench.ask(&other, create());
    let reset =
        outs.iter().find_map(|out| if let Out::Reset { peer, why, .. } = out { Some((*peer, *why)) } else { None });
    assert_eq!(reset, Some((many.peer, "the session had ended and has given way to a new one")));
}

#[test]
fn d2_one_key_does_not_take_all_places_of_those_who_wait_for_an_end() {
    let mut bench = stop::in_turn();
    let wait = |who: &str| (of(who, 1), stop(false));
    let (taken, error) = fill(&mut bench, 300, |_| wait("SHA256:many"));
    assert_eq!((taken, error.code), (128, Code::Limit));
    let (other, command) = wait("SHA256:other");
    assert_eq!(answer(&bench.ask(&other, command)), None, "it waits");
}
