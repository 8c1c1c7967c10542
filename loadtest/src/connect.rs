//! Opening WebSockets as fast as they go: connect, upgrade, reset. No HELLO is sent.
//!
//! The connections are reset, not closed: a client that closes keeps the port for a minute, and the ports of one
//! address are soon used up.

use std::{io, sync::Arc, time::Duration};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    engine::{Plan, Shared, Tally},
    measure,
    target::{Key, Speech, Target},
};

use std::io::{Read as _, Write as _};

const WAIT: Duration = Duration::from_millis(10);
/// A connection that takes longer has failed.
const DIAL_NANOS_MAX: u64 = 10_000_000_000;
/// So many failures end a run that gets nowhere.
const FAILURES_MAX: u64 = 1000;

/// What one thread of it does.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) index: usize,
    pub(crate) target: Target,
    pub(crate) key: Key,
    /// Connections on their way at a time.
    pub(crate) at_a_time: u32,
    pub(crate) cpu: Option<usize>,
}

struct Dial {
    stream: TcpStream,
    started: u64,
    is_asked: bool,
    answer: Vec<u8>,
}

/// Dials until the plan ends.
///
/// # Errors
/// In words: the system failed us, or nothing works.
pub(crate) fn run(job: &Job, shared: &Arc<Shared>) -> Result<Tally, String> {
    if let Some(cpu) = job.cpu {
        measure::pin(cpu)?;
    }
    let mut poll = Poll::new().map_err(|error| error.to_string())?;
    let mut events = Events::with_capacity(1024);
    let mut dials: Vec<Option<Dial>> = (0..job.at_a_time).map(|_| None).collect();
    let mut tally = Tally::new();
    loop {
        let now = shared.now();
        let Some(plan) = shared.plan.get() else {
            if shared.is_stopped() {
                return Err("stopped".into());
            }
            std::thread::yield_now();
            continue;
        };
        if shared.is_stopped() || now >= plan.drain || tally.dead > FAILURES_MAX {
            break;
        }
        for (at, place) in dials.iter_mut().enumerate() {
            if let Some(dial) = place.as_ref().filter(|dial| now - dial.started > DIAL_NANOS_MAX) {
                let waited = (now - dial.started) / 1_000_000_000;
                fail(&mut tally, format!("a connection was not open after {waited} s"));
                *place = None;
            }
            if place.is_none() && now < plan.end {
                match dial(job, &poll, at, now) {
                    Ok(dial) => *place = Some(dial),
                    Err(error) => fail(&mut tally, error.to_string()),
                }
                tally.sent += 1;
            }
        }
        if now >= plan.end && dials.iter().all(Option::is_none) {
            break;
        }
        match poll.poll(&mut events, Some(WAIT)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.to_string()),
            _ => {}
        }
        for event in &events {
            let Token(at) = event.token();
            let Some(dial) = dials.get_mut(at).and_then(Option::as_mut) else { continue };
            match dial.go_on(job) {
                Ok(false) => {}
                Ok(true) => {
                    opened(plan, shared.now(), dial, &mut tally);
                    dials[at] = None;
                }
                Err(why) => {
                    fail(&mut tally, why);
                    dials[at] = None;
                }
            }
        }
        shared.delivered[job.index].set(tally.delivered);
    }
    tally.lost = dials.iter().flatten().count() as u64;
    Ok(tally)
}

fn opened(plan: &Plan, now: u64, dial: &Dial, tally: &mut Tally) {
    tally.delivered += 1;
    if (plan.count_from..plan.end).contains(&dial.started) {
        tally.latency.saturating_record(now - dial.started);
    }
}

fn fail(tally: &mut Tally, why: String) {
    tally.dead += 1;
    tally.problem(why);
}

fn dial(job: &Job, poll: &Poll, at: usize, now: u64) -> io::Result<Dial> {
    let mut stream = TcpStream::connect(job.target.address)?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
    Ok(Dial { stream, started: now, is_asked: false, answer: Vec::new() })
}

impl Dial {
    /// Asks once the connection stands, then reads; says whether the answer is whole.
    fn go_on(&mut self, job: &Job) -> Result<bool, String> {
        let text = |error: io::Error| error.to_string();
        if !self.is_asked {
            if let Some(error) = self.stream.take_error().map_err(text)? {
                return Err(text(error));
            }
            let mut request = job.target.request(&job.key, 1 << 20).into_bytes();
            if job.target.speech == Speech::Baseline {
                // As many bytes, which come back: an answer to an upgrade is about as long as its request.
                let len = (request.len() as u32).to_le_bytes();
                request[..8].copy_from_slice(&[len, 1u32.to_le_bytes()].concat());
            }
            match self.stream.write(&request) {
                Ok(count) if count == request.len() => self.is_asked = true,
                Ok(_) => return Err("the request was not taken at once".into()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return Ok(false);
                }
                Err(error) => return Err(text(error)),
            }
        }
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err("the server ended the connection".into()),
            Ok(count) => self.answer.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(text(error)),
        }
        match job.target.speech {
            Speech::Amp => job.key.answer(&self.answer).map(|answer| answer.is_some()),
            Speech::Baseline => {
                let len = self.answer.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize);
                Ok(len.is_some_and(|len| self.answer.len() >= len))
            }
        }
    }
}
