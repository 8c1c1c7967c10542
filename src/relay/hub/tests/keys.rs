//! Goal: what a key has under way ends with the right to it, and is said. Method: as in the module above, with keys that
//! change in between.

use ssh_key::{PublicKey, public::Ed25519PublicKey};

use super::*;
use crate::relay::keys::KeySet;

/// Keys of these roles, each named by a number, and the callers that sign in with them.
pub(in crate::relay) fn keys(lines: &[(u8, Role)]) -> Arc<KeySet> {
    let line = |(seed, role): &(u8, Role)| {
        let key = PublicKey::from(Ed25519PublicKey([*seed; 32])).to_openssh().unwrap();
        format!("amp-role=\"{role}\" {key}\n")
    };
    Arc::new(KeySet::parse(&lines.iter().map(line).collect::<String>()))
}

pub(in crate::relay) fn of(slot: u8, role: Role) -> Caller {
    let principal = keys(&[(slot, role)]).entries[0].fingerprint.clone();
    Caller { principal, ..caller(slot.into(), role) }
}

const ALL: [(u8, Role); 2] = [(1, Role::Admin), (2, Role::Drive)];

/// The owner watches; his prompt runs, and behind it one of the guest's, his own, and one more of the guest's wait.
fn busy() -> (Bench, Caller, Caller) {
    let mut bench = Bench::ready(Settings::default());
    let (owner, guest) = (of(1, Role::Admin), of(2, Role::Drive));
    bench.hub.keys(keys(&ALL), bench.now);
    bench.answer(&owner, attach()).unwrap();
    for (who, text) in [(&owner, "runs"), (&guest, "one"), (&owner, "mine"), (&guest, "two")] {
        bench.answer(who, prompt(text)).unwrap();
    }
    bench.outs();
    (bench, owner, guest)
}

/// Why prompts were cancelled. No key is named as the cause.
fn cancelled(outs: &[Out]) -> Vec<Text> {
    let why = |out: &Out| match out {
        Out::Event { event, .. } => match &event.kind {
            Kind::PromptState { state: PromptState::Cancelled, why, .. } => {
                assert_eq!(event.by, None);
                why.clone()
            }
            _ => None,
        },
        _ => None,
    };
    outs.iter().filter_map(why).collect()
}

fn prompts(outs: &[Out]) -> Vec<Text> {
    let text = |say: &&Say| match say {
        Say::Prompt { content, .. } => match &content[..] {
            [claude::ContentPart::Text(text)] => Some(text.clone()),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    writes(outs).iter().filter_map(text).collect()
}

/// Lets every turn end, one after the other; gives what the process was told meanwhile.
fn run_on(bench: &mut Bench) -> Vec<Text> {
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(prompts(&stop::turn_ends(bench, 1, true, "completed")));
    }
    told
}

#[test]
fn d1_what_a_revoked_key_has_waiting_is_cancelled_and_said() {
    let (mut bench, owner, _) = busy();
    bench.hub.keys(keys(&[(1, Role::Admin)]), bench.now);
    assert_eq!(cancelled(&bench.outs()), ["the key was revoked".into(), "the key was revoked".into()]);
    let Reply::Attached { snapshot, .. } = bench.answer(&owner, attach()).unwrap() else { panic!() };
    let queue: Vec<&str> = snapshot.queue.iter().map(|prompt| &*prompt.text).collect();
    assert_eq!(queue, ["runs", "mine"]);
    assert_eq!(run_on(&mut bench), ["mine".into()]);
}

/// The owner's prompt runs, and its process ends: before the keys change, after, or when the next one is being started.
#[test]
fn no_further_process_runs_the_prompt_of_a_key_that_has_lost_the_right_to_it() {
    let (without, with) = (keys(&[(1, Role::Watch), (2, Role::Drive)]), keys(&ALL));
    let dies = |bench: &mut Bench, process| {
        bench.hub.exited("id1", process, &exit(), bench.now);
        bench.outs()
    };
    for (removed, is_back) in [("before", false), ("after", false), ("starting", false), ("before", true)] {
        let (mut bench, ..) = busy();
        if removed == "before" {
            bench.hub.keys(without.clone(), bench.now);
            assert_eq!(cancelled(&bench.outs()).len(), 1, "what waits: what runs stays");
        }
        if is_back {
            bench.hub.keys(with.clone(), bench.now);
        }
        let mut outs = dies(&mut bench, 1);
        if removed == "after" {
            bench.hub.keys(without.clone(), bench.now);
        }
        outs.extend(bench.pass(60_000));
        assert!(launch(&outs).is_some());
        let mut process = 2;
        if removed == "starting" {
            bench.hub.keys(without.clone(), bench.now);
            outs.extend(bench.outs());
            assert!(ends(&outs).contains(&End::Terminate), "it may have been told to run the turn again");
            outs.extend(dies(&mut bench, 2));
            process = 3;
        }
        bench.says(process, ready(LoginState::Present));
        outs.extend(bench.outs());
        assert_eq!(prompts(&outs), [Text::from(if is_back { "runs" } else { "one" })], "{removed}");
        let many = match (removed, is_back) {
            (_, true) => 0,
            ("before", _) => 1,
            _ => 2,
        };
        assert_eq!(cancelled(&outs).len(), many, "{removed}");
    }
}

/// The roles of the devices that watch, in the last list of them.
fn roles(outs: &[Out]) -> Option<Vec<Role>> {
    outs.iter().rev().find_map(|out| match out {
        Out::Presence { devices, .. } => Some(devices.iter().map(|device| device.role).collect()),
        _ => None,
    })
}

#[test]
fn a_role_that_is_given_back_is_had_again_and_no_more_than_was_signed_in_with() {
    let (mut bench, _, guest) = busy();
    bench.hub.keys(keys(&[(1, Role::Admin), (2, Role::Watch)]), bench.now);
    bench.outs();
    // It attaches meanwhile, as what it is.
    bench.answer(&Caller { role: Role::Watch, ..guest.clone() }, attach()).unwrap();
    for (role, has) in [(Role::Drive, Role::Drive), (Role::Watch, Role::Watch), (Role::Admin, Role::Drive)] {
        bench.hub.keys(keys(&[(1, Role::Admin), (2, role)]), bench.now);
        assert_eq!(roles(&bench.outs()), Some(vec![Role::Admin, has]));
    }
}

#[test]
fn d1_a_key_that_may_no_longer_prompt_keeps_nothing_that_waits() {
    let (mut bench, owner, guest) = busy();
    bench.answer(&guest, attach()).unwrap();
    bench.outs();
    bench.hub.keys(keys(&[(1, Role::Admin), (2, Role::Watch)]), bench.now);
    let outs = bench.outs();
    assert_eq!(cancelled(&outs), ["the key may do less now".into(), "the key may do less now".into()]);
    assert_eq!(roles(&outs), Some(vec![Role::Admin, Role::Watch]), "it watches on, and is shown as what it is");
    assert_eq!(bench.answer(&guest, prompt("more")).unwrap_err().code, Code::Forbidden);
    assert!(bench.answer(&guest, Command::List { follow: None }).is_ok());
    assert_eq!(run_on(&mut bench), ["mine".into()]);
    // A role that suffices changes nothing.
    bench.answer(&owner, prompt("runs")).unwrap();
    bench.answer(&owner, prompt("waits")).unwrap();
    bench.hub.keys(keys(&[(1, Role::Drive)]), bench.now);
    assert_eq!(cancelled(&bench.outs()), [] as [Text; 0]);
}

#[test]
fn d1_a_prompt_that_runs_was_permitted_and_stays() {
    let mut bench = Bench::ready(Settings::default());
    let (owner, guest) = (of(1, Role::Admin), of(2, Role::Drive));
    bench.hub.keys(keys(&ALL), bench.now);
    bench.answer(&owner, attach()).unwrap();
    assert_eq!(prompts(&bench.ask(&guest, prompt("runs"))), ["runs".into()]);
    bench.hub.keys(keys(&[(1, Role::Admin)]), bench.now);
    assert_eq!((cancelled(&bench.outs()), bench.state()), (vec![], State::Busy));
    let outs = stop::turn_ends(&mut bench, 1, true, "completed");
    assert!(kinds(&outs).iter().any(|kind| matches!(kind, Kind::PromptState { state: PromptState::Done, .. })));
}

#[test]
fn d1_who_may_no_longer_see_sessions_watches_none_and_follows_no_list() {
    for left in [vec![(1, Role::Admin)], vec![(1, Role::Admin), (2, Role::Agent)]] {
        let (mut bench, owner, guest) = busy();
        bench.answer(&guest, attach()).unwrap();
        for who in [&owner, &guest] {
            bench.answer(who, Command::List { follow: Some(true) }).unwrap();
        }
        bench.outs();
        bench.hub.keys(keys(&left), bench.now);
        bench.says(1, asks("r", None));
        let outs = bench.outs();
        assert!(!format!("{outs:?}").contains(&format!("{:?}", guest.peer)), "{outs:?}");
        let follows = |out: &Out| matches!(out, Out::Changed { peers, .. } if peers[..] == [owner.peer]);
        assert!(outs.iter().any(follows), "the owner follows on: {outs:?}");
        let shown = outs
            .iter()
            .find_map(|out| if let Out::Presence { devices, .. } = out { Some(devices.len()) } else { None });
        assert_eq!(shown, Some(1), "the others see that it is gone");
        assert_eq!(bench.hub.counts().watchers, 1);
    }
}

#[test]
fn d1_a_command_that_was_on_its_way_is_judged_by_the_keys_in_force() {
    let mut bench = Bench::ready(Settings::default());
    let owner = of(1, Role::Admin);
    bench.hub.keys(keys(&[]), bench.now);
    for command in [prompt("x"), attach(), stop(true), Command::List { follow: None }] {
        let error = bench.answer(&owner, command).unwrap_err();
        assert_eq!((error.code, error.recoverable), (Code::KeyNotAuthorized, false));
    }
    assert_eq!((bench.state(), bench.hub.counts().remembered), (State::Ready, 0));
    bench.hub.keys(keys(&[(1, Role::Approve)]), bench.now);
    assert_eq!(bench.answer(&owner, stop(true)).unwrap_err().code, Code::Forbidden);
    let create = Command::Create {
        profile: "default".into(),
        folder: None,
        title: None,
        model: None,
        mode: None,
        prompt: None,
        past: Past::None,
    };
    assert_eq!(bench.answer(&owner, create).unwrap_err().code, Code::Forbidden);
    assert!(bench.answer(&owner, prompt("x")).is_ok());
}

#[test]
fn a_stop_that_waits_for_the_turn_ends_with_the_right_to_it() {
    let (owner, guest) = (of(1, Role::Admin), of(2, Role::Spawn));
    let both = keys(&[(1, Role::Admin), (2, Role::Spawn)]);
    for (left, other_waits) in [(None, false), (Some(Role::Drive), false), (None, true)] {
        let mut bench = Bench::ready(Settings::default());
        bench.hub.keys(both.clone(), bench.now);
        bench.answer(&owner, attach()).unwrap();
        bench.answer(&owner, prompt("runs")).unwrap();
        assert_eq!(answer(&bench.ask(&guest, stop(false))), None, "it waits");
        if other_waits {
            bench.ask(&owner, stop(false));
        }
        let left: Vec<_> = [(1, Role::Admin)].into_iter().chain(left.map(|role| (2, role))).collect();
        bench.hub.keys(keys(&left), bench.now);
        let outs = bench.outs();
        assert_eq!(answer(&outs).map(|answer| answer.unwrap_err().code), Some(Code::Forbidden));
        let notices = kinds(&outs).iter().filter(|kind| matches!(kind, Kind::Notice { .. })).count();
        assert_eq!(notices, usize::from(!other_waits));
        assert_eq!(bench.answer(&owner, prompt("more")).is_ok(), !other_waits, "it takes prompts again");
        let outs = stop::turn_ends(&mut bench, 1, true, "completed");
        assert_eq!(ends(&outs).is_empty(), !other_waits, "{outs:?}");
        // A session that has ended stays ended, by the key that ended it.
        bench.ask(&owner, stop(true));
        bench.hub.exited("id1", 1, &ExitInfo::default(), bench.now);
        bench.hub.keys(keys(&[(1, Role::Admin), (2, Role::Drive)]), bench.now);
        bench.answer(&of(2, Role::Drive), attach()).unwrap();
        bench.hub.keys(keys(&[(2, Role::Drive)]), bench.now);
        let outs = bench.outs();
        assert!(!kinds(&outs).iter().any(|kind| matches!(kind, Kind::Notice { .. })), "{outs:?}");
    }
}
