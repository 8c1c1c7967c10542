//! What a message from agent to agent costs a relay in steady state, every check of AMP included: no allocation, and one
//! read and one write for each socket that is active in a turn. Nothing here depends on time or on the machine: the test
//! turns the relay's only worker itself, so that it knows what lies in the sockets, and sends frames made before.
//!
//! One test in a process of its own, because it counts the allocations of the whole process.

mod hot_path;

use std::{alloc::System, time::Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use hot_path::{Agent, Batch, Key, LIMIT, Relay};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Messages that are counted, at least.
const MESSAGES: usize = 16_384;
const WARM_UP: usize = 2_048;

/// Agents that write to each other, by their number.
struct Scene {
    relay: Relay,
    keys: Vec<Key>,
    agents: Vec<Agent>,
}

/// What messages have cost.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    messages: usize,
    allocations: usize,
    reads: u64,
    writes: u64,
    /// Turns in which anything was read.
    turns: u64,
}

/// Who sends, and to whom. A sender writes to its receivers in turn.
struct Flow {
    sender: usize,
    batch: Batch,
    receivers: Vec<usize>,
}

impl Scene {
    fn new(agents: u8) -> Self {
        let keys: Vec<_> = (0..agents).map(Key::new).collect();
        let mut relay = Relay::start(&keys);
        let agents = keys.iter().map(|key| relay.sign_in(key)).collect();
        Self { relay, keys, agents }
    }

    fn flow(&self, sender: usize, receivers: &[usize], depth: usize, body_bytes: usize) -> Flow {
        let to: Vec<_> = receivers.iter().map(|&receiver| &self.keys[receiver]).collect();
        let batch = Batch::new(&self.keys[sender], &to, depth, body_bytes);
        Flow { sender, batch, receivers: receivers.to_vec() }
    }

    /// Every sender writes its messages at once, the worker turns until all have arrived. No turn may read a socket or
    /// write to one twice.
    fn round(&mut self, flows: &mut [Flow], due: &mut [usize], cost: &mut Cost) {
        for flow in flows.iter_mut() {
            let Self { relay, agents, .. } = self;
            let count = flow.batch.count;
            agents[flow.sender].write_all(flow.batch.fresh(count), &mut || relay.turn());
            let (share, rest) = (count / flow.receivers.len(), count % flow.receivers.len());
            assert_eq!(rest, 0, "each receiver gets as many");
            for &receiver in &flow.receivers {
                due[receiver] += share * flow.batch.received_bytes();
            }
            cost.messages += count;
        }
        let receivers = due.iter().filter(|&&due| due > 0).count() as u64;
        let give_up = Instant::now() + LIMIT;
        while due.iter().any(|&due| due > 0) {
            assert!(Instant::now() < give_up, "{due:?} bytes are missing");
            let counters = self.relay.counters();
            let before = (counters.reads.get(), counters.writes.get());
            self.relay.turn();
            let counters = self.relay.counters();
            let (reads, writes) = (counters.reads.get() - before.0, counters.writes.get() - before.1);
            assert!(reads <= flows.len() as u64, "{reads} reads in a turn of {} senders", flows.len());
            assert!(writes <= receivers, "{writes} writes in a turn with {receivers} receivers");
            assert!(reads > 0 || writes == 0, "{writes} writes in a turn without a read");
            (cost.reads, cost.writes) = (cost.reads + reads, cost.writes + writes);
            cost.turns += u64::from(reads > 0);
            for (agent, due) in self.agents.iter_mut().zip(due.iter_mut()).filter(|(_, due)| **due > 0) {
                *due = due.checked_sub(agent.read()).expect("nothing comes twice");
            }
        }
    }

    fn cost(&mut self, flows: &mut [Flow]) -> Cost {
        // Nothing in here allocates but the relay.
        let mut due = vec![0; self.agents.len()];
        let mut warm = Cost::default();
        while warm.messages < WARM_UP {
            self.round(flows, &mut due, &mut warm);
        }
        let mut cost = Cost::default();
        let region = Region::new(ALLOCATOR);
        while cost.messages < MESSAGES {
            self.round(flows, &mut due, &mut cost);
        }
        let change = region.change();
        cost.allocations = change.allocations + change.reallocations;
        cost
    }
}

impl Cost {
    fn assert_no_allocation(&self, what: &str) {
        println!("{what}: {self:?}, {:.4} allocations a message", self.allocations as f64 / self.messages as f64);
        assert!(self.allocations * 100 <= self.messages, "{what}: {self:?}");
    }
}

#[test]
fn a_message_between_agents_costs_no_allocation_and_its_turn_one_call_for_each_active_socket() {
    let mut scene = Scene::new(8);

    // What is written at once lies in the socket at once, as long as it is one segment of the loopback: every turn
    // then has all senders and all receivers.
    for (depth, body_bytes) in [(1, 128), (16, 0), (16, 128), (16, 1024)] {
        for pairs in [1, 4] {
            let mut flows: Vec<_> = (0..pairs).map(|pair| scene.flow(pair, &[pair + 4], depth, body_bytes)).collect();
            let cost = scene.cost(&mut flows);
            let what = format!("{pairs} pairs, depth {depth}, {body_bytes} B");
            cost.assert_no_allocation(&what);
            let rounds = (cost.messages / depth) as u64;
            assert_eq!((cost.reads, cost.writes), (rounds, rounds), "{what}: {cost:?}");
            assert_eq!(cost.turns * pairs as u64, rounds, "{what}: {cost:?}");
        }
    }

    // Each to four others: one write for each receiver, whoever wrote to it.
    let mut flows: Vec<_> = (0..4).map(|sender| scene.flow(sender, &[4, 5, 6, 7], 16, 128)).collect();
    let cost = scene.cost(&mut flows);
    cost.assert_no_allocation("scatter, depth 16");
    let rounds = (cost.messages / 64) as u64;
    assert_eq!((cost.turns, cost.reads, cost.writes), (rounds, 4 * rounds, 4 * rounds), "{cost:?}");

    // An agent that writes to itself.
    let mut flows = [scene.flow(0, &[0], 16, 128)];
    let cost = scene.cost(&mut flows);
    cost.assert_no_allocation("echo, depth 16");
    let rounds = (cost.messages / 16) as u64;
    assert_eq!((cost.turns, cost.reads, cost.writes), (rounds, rounds, rounds), "{cost:?}");

    // So many bytes may take the kernel more than one turn to bring; in none of them is there a second call (`round`).
    for pairs in [1, 2] {
        let mut flows: Vec<_> = (0..pairs).map(|pair| scene.flow(pair, &[pair + 4], 256, 128)).collect();
        let cost = scene.cost(&mut flows);
        cost.assert_no_allocation(&format!("{pairs} pairs, depth 256"));
        assert_eq!(cost.reads, cost.writes, "{cost:?}");
    }

    assert_eq!(scene.relay.counters().panics.get(), 0);
    drop(scene.agents);
    scene.relay.end();
}
