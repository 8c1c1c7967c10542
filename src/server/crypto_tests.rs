//! The order of the crypto thread's work, and when the keys file is read and believed.

use super::*;
use crate::{
    base::ConnToken,
    reactor::Worker,
    relay::admission::SignInJob,
    server::channels::sink::{self, Sink},
    wire::amp::KeyEncoding,
};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

/// A loop, what it hears of room, and its two workers with inboxes of one mail.
fn crypto_loop(path: PathBuf) -> (CryptoLoop, Receiver<()>, Vec<Worker<Sink>>, Mailers) {
    crypto_loop_of(path, 1)
}

/// The same, with inboxes of so many.
fn crypto_loop_of(path: PathBuf, places: usize) -> (CryptoLoop, Receiver<()>, Vec<Worker<Sink>>, Mailers) {
    let (workers, mailers, _) = sink::workers(2, places);
    let host_key = PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519).expect("a key");
    let (waker, heard) = bell();
    let (keys, links) = (KeysFile::new(path), mailers.links(&waker));
    let (supervisor, _) = Supervisor::prepare().expect("a supervisor");
    let thread = CryptoLoop::new(host_key, "did:key:z".into(), keys, links, supervisor, SessionKeys::default());
    let thread = thread.expect("a loop");
    (thread, heard, workers, mailers)
}

#[test]
fn a_comment_that_is_not_utf_8_costs_no_key_its_effect() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    fs::write(&path, [KEY.as_bytes(), b" J\xfcrgen\n"].concat()).expect("written");
    let mut file = KeysFile::new(path);
    assert!(file.refresh(true));
    assert_eq!((file.set.entries.len(), file.set.refused.len()), (1, 0));
}

#[test]
fn c6_a_keys_file_that_is_away_for_a_moment_revokes_nobody() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    fs::write(&path, KEY).expect("written");
    let mut file = KeysFile::new(path.clone());
    assert!(file.refresh(true));
    for empty in [false, true] {
        if empty {
            fs::write(&path, "").expect("written");
        } else {
            fs::remove_file(&path).expect("removed");
        }
        assert!(!file.refresh(false), "empty: {empty}");
        assert!(empty || !file.refresh(true), "a missing file says nothing");
        assert_eq!(file.set.entries.len(), 1);
        let why = file.found().expect_err("it was not read").message;
        assert!(why.contains("not there: the keys stay for 5 s"), "{why}");
    }
    fs::write(&path, format!("{KEY} again")).expect("written");
    assert!(file.refresh(false) && file.away.is_none());
    assert_eq!(file.found().map(|found| found.entries).ok(), Some(1));
    // Away for good.
    fs::remove_file(&path).expect("removed");
    assert!(!file.refresh(false));
    file.away = file.away.and_then(|since| since.checked_sub(AWAY_MAX));
    assert!(file.refresh(false));
    assert_eq!(file.set.entries.len(), 0);
    assert!(file.found().expect_err("it is away").message.contains("nobody can sign in"));
}

#[test]
fn c6_an_empty_keys_file_is_believed_where_it_is_to_be_read() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    fs::write(&path, KEY).expect("written");
    let mut file = KeysFile::new(path.clone());
    assert!(file.refresh(true));
    fs::write(&path, "").expect("written");
    assert!(!file.refresh(false) && file.refresh(true));
    assert_eq!(file.found().map(|found| found.entries).ok(), Some(0));
}

#[test]
fn c6_where_the_system_is_exhausted_the_keys_stay_and_the_next_look_reads_the_file() {
    use rustix::io::Errno;
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    let said = |file: &KeysFile| file.found().map(|found| found.entries).map_err(|error| error.message);
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS] {
        for (is_asked, text, keys) in [(true, KEY, 1), (false, "# nobody", 0), (true, "# nobody", 0)] {
            fs::write(&path, KEY).expect("written");
            let mut file = KeysFile::new(path.clone());
            assert!(file.refresh(true));
            // A file that is asked for may be another, though its stamp is not.
            if text != KEY {
                fs::write(&path, text).expect("written");
            }
            assert!(!file.refresh_with(is_asked, |_| Err(errno.into())));
            assert_eq!(file.set.entries.len(), 1);
            assert!(said(&file).expect_err("it was not read").contains("the keys stay"));
            assert!(file.refresh(false), "{errno} {is_asked} {text}");
            assert_eq!((file.set.entries.len(), said(&file)), (keys, Ok(keys)));
            assert!(!file.refresh(false), "once");
        }
    }
    fs::write(&path, KEY).expect("written");
    let mut file = KeysFile::new(path);
    assert!(file.refresh(true) && file.refresh_with(true, |_| Err(Errno::ACCESS.into())));
    assert_eq!(file.set.entries.len(), 0, "any other reason admits no key");
}

#[test]
fn a_sign_in_and_a_hello_are_judged_by_the_keys_file_as_it_is_then() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    let peer = ConnToken::new(0, 1, 1);
    let sign_in = serde_json::json!({
        "type": "sign_in", "id": "1", "client": "c", "key": KEY, "nonce": "n", "authority": "localhost:1",
        "binding": "none", "device": {"name": "d", "kind": "test"}, "signature": "s",
    });
    let sign_in = Box::new(serde_json::from_value(sign_in).expect("a sign-in"));
    let hello = HelloJob {
        peer,
        frame: Vec::new(),
        proves: Some("did:key:zA".into()),
        from: "did:key:zA".into(),
        selected: Some("1.0".into()),
        id: Id([7; 16]),
        thread_id: None,
        from_ms: 0,
        key_encoding: KeyEncoding::Text,
    };
    let sign_in = Job::SignIn(SignInJob { peer, sign_in, server_nonce: "n".into(), is_local: false });
    for job in [sign_in, Job::Hello(Box::new(hello))] {
        let _ = fs::remove_file(&path);
        let (mut thread, _, mut workers, _) = crypto_loop_of(path.clone(), 8);
        thread.refresh(true);
        fs::write(&path, KEY).expect("written");
        thread.links.retain(|_| false);
        // Too soon for the look that is due without it.
        assert!(thread.looked.elapsed() < WATCH_EVERY);
        thread.job(Lane::Strangers, job);
        thread.links.flush();
        let mails = sink::take(&mut workers[0]);
        let [Mail::Keys(keys), Mail::SignedIn { .. } | Mail::Judged { .. }] = &mails[..] else {
            panic!("the keys, and then the answer: {} mails", mails.len())
        };
        assert_eq!(keys.entries.len(), 1);
    }
}

#[test]
fn new_keys_are_never_dropped_and_follow_the_sign_ins_that_older_ones_admitted() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    fs::write(&path, KEY).expect("written");
    let (mut thread, heard, mut workers, _) = crypto_loop(path.clone());
    let answer = || Mail::SignedIn {
        peer: ConnToken::new(0, 1, 1),
        lane: Lane::Strangers,
        result: Err(Error::new(Code::Internal, "stands for any answer")),
    };
    for _ in 0..3 {
        thread.links.push(0, answer());
    }
    assert!(!thread.links.flush(), "one fits in the inbox");
    thread.refresh(true);
    fs::write(&path, "# nobody").expect("written");
    thread.refresh(true);
    assert!(!thread.links.flush() && heard.is_empty());
    let mut got = Vec::new();
    for left in (0..4).rev() {
        got.extend(sink::take(&mut workers[0]));
        assert_eq!(heard.try_recv().is_ok(), left > 0, "the thread has its turn, with {left} left");
        assert_eq!(thread.links.flush(), left < 2);
    }
    let [Mail::SignedIn { .. }, Mail::SignedIn { .. }, Mail::SignedIn { .. }, Mail::Keys(keys)] = &got[..] else {
        panic!("the answers, and then the newest keys")
    };
    assert_eq!(keys.entries.len(), 0);
}

/// The id of a job: its answer has it.
fn job(id: usize) -> Job {
    Job::Reload { peer: ConnToken::new(0, 1, 1), id: id.to_string().into() }
}

/// The ids of the answers that come next.
fn answered(worker: &mut Worker<Sink>) -> Vec<usize> {
    let ids = sink::take(worker).into_iter().filter_map(|mail| match mail {
        Mail::KeysRead { id, .. } => id.parse().ok(),
        _ => None,
    });
    ids.collect()
}

#[test]
fn a_stranger_waits_for_the_others_up_to_a_bound() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (mut thread, heard, mut workers, _) = crypto_loop_of(scratch.path().join("keys"), 2 * JOBS_OUT_MAX);
    let (crypto, queues) = Crypto::queues(2, heard);
    let turns = 10;
    for _ in 0..turns {
        crypto.give(Lane::Strangers, job(0));
        (1..=3).for_each(|id| crypto.give(Lane::Admitted, job(id)));
        assert!(thread.turn(&queues, Duration::ZERO));
        assert_eq!(answered(&mut workers[0]), [1, 2, 3, 0]);
    }
    // Without end they would keep it out for good.
    crypto.give(Lane::Strangers, job(0));
    let mut got = Vec::new();
    while !got.contains(&0) {
        (1..=JOBS_BEFORE_A_STRANGER + 1).for_each(|id| crypto.give(Lane::Admitted, job(id)));
        while !queues.jobs.is_empty() && !got.contains(&0) {
            assert!(thread.turn(&queues, Duration::ZERO));
            got.extend(answered(&mut workers[0]));
        }
    }
    assert_eq!(got[..JOBS_BEFORE_A_STRANGER], Vec::from_iter(1..=JOBS_BEFORE_A_STRANGER));
}

#[test]
fn no_message_is_checked_while_a_worker_takes_no_verdicts() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (mut thread, heard, mut workers, _) = crypto_loop(scratch.path().join("keys"));
    let (crypto, queues) = Crypto::queues(2, heard);
    for id in ["1", "2"] {
        let result = Err(Error::new(Code::Internal, "stands for any answer"));
        let mail = Mail::KeysRead { peer: ConnToken::new(0, 1, 1), id: id.into(), result: Box::new(result) };
        thread.links.push(0, mail);
    }
    crypto.check(Vec::new());
    assert!(thread.turn(&queues, Duration::ZERO) && thread.turn(&queues, Duration::ZERO));
    assert_eq!((queues.checks.len(), answered(&mut workers[0])), (1, vec![1]), "one answer fits in the inbox");
    assert!(thread.turn(&queues, Duration::ZERO) && thread.turn(&queues, Duration::ZERO));
    assert_eq!((queues.checks.len(), answered(&mut workers[0])), (0, vec![2]));
}

#[test]
fn the_keys_file_is_read_once_for_all_that_ask_for_it() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    let (mut thread, heard, mut workers, _) = crypto_loop(path.clone());
    let (crypto, queues) = Crypto::queues(2, heard);
    fs::write(&path, KEY).expect("written");
    (0..100).for_each(|_| crypto.refresh());
    for times in [1, 0] {
        assert!(thread.turn(&queues, Duration::ZERO));
        assert_eq!(sink::take(&mut workers[0]).len(), times);
    }
}

#[test]
fn a_change_of_the_keys_file_comes_into_force_though_nothing_asks_for_it() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    let (mut thread, heard, mut workers, _) = crypto_loop(path.clone());
    let (_crypto, queues) = Crypto::queues(2, heard);
    fs::write(&path, KEY).expect("written");
    thread.looked = thread.looked.checked_sub(WATCH_EVERY).expect("a time");
    assert!(thread.turn(&queues, Duration::ZERO));
    let mails = workers.iter_mut().map(sink::take);
    for mails in mails {
        assert!(matches!(&mails[..], [Mail::Keys(keys)] if keys.entries.len() == 1), "each worker has them");
    }
}

#[test]
fn a_keys_file_that_is_too_large_is_not_read_into_memory() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("keys");
    fs::write(&path, format!("{KEY}\n{}", "\n".repeat(KEYS_FILE_BYTES_MAX))).expect("written");
    let mut file = KeysFile::new(path);
    assert!(file.refresh(true));
    assert_eq!(file.set.entries.len(), 0);
    assert!(file.found().expect_err("it was not read").message.contains("nobody can sign in"));
}

#[test]
fn the_thread_ends_though_its_queue_is_full() {
    let (to_jobs, jobs) = crossbeam_channel::bounded(1);
    let crypto = Crypto { jobs: to_jobs, ..Crypto::queues(1, never()).0 };
    crypto.give(Lane::Admitted, job(1));
    // Another sender is still there.
    let another = crypto.clone();
    let ending = thread::spawn(move || crypto.end());
    assert!(matches!(jobs.recv(), Ok(Order::Job(_, Job::Reload { .. }))));
    assert!(matches!(jobs.recv(), Ok(Order::End)));
    ending.join().expect("it ends");
    drop(another);
}
