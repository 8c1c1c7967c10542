//! Places of which no principal takes so many that none is left for the others: devices that watch, prompts that wait,
//! sessions that run, commands and HELLOs that are remembered. Owns the rule and the counts; must not know what a place is for.
//!
//! The rule: the first thing of a principal is let in wherever it fits, a further one while the principal then holds no
//! more than is left for the others. So one principal alone takes half, the next one half of the rest, and no principal
//! gets the last place for a further thing. Where the oldest makes room instead, it is that of the principal that would
//! hold the most.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use super::api::{Code, Error, Text};

/// Places, and how many of them each principal holds.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    places: usize,
    taken: usize,
    held: HashMap<Text, usize>,
    /// The same, the largest last.
    by_size: BTreeSet<(usize, Text)>,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    places: usize,
    /// How many the principal that asks holds, where there would be places for others.
    own: Option<usize>,
}

impl Shares {
    /// All of them free.
    pub(super) fn new(places: usize) -> Self {
        Self { places, taken: 0, held: HashMap::new(), by_size: BTreeSet::new() }
    }

    /// As these principals hold them, with how many each time.
    pub(super) fn of<'a>(places: usize, holders: impl IntoIterator<Item = (&'a Text, usize)>) -> Self {
        let mut shares = Self::new(places);
        holders.into_iter().for_each(|(principal, weight)| shares.take(principal, weight));
        shares
    }

    /// Whether all are free.
    pub(super) fn is_free(&self) -> bool {
        self.taken == 0
    }

    /// Whether there are so many places more for a principal.
    ///
    /// # Errors
    /// There are not; the error says whether the principal's own places are the cause.
    pub(super) fn admits(&self, principal: &str, weight: usize) -> Result<(), Full> {
        let (places, own) = (self.places, self.held(principal));
        let left = (places - self.taken.min(places)).checked_sub(weight).ok_or(Full { places, own: None })?;
        if own > 0 && own + weight > left { Err(Full { places, own: Some(own) }) } else { Ok(()) }
    }

    /// A principal has so many more. Places that are held already may be counted without asking first.
    pub(super) fn take(&mut self, principal: &Text, weight: usize) {
        self.taken += weight;
        self.set(principal, self.held(principal) + weight);
    }

    /// A principal has so many less.
    pub(super) fn give_back(&mut self, principal: &Text, weight: usize) {
        self.taken -= weight;
        self.set(principal, self.held(principal) - weight);
    }

    fn set(&mut self, principal: &Text, now: usize) {
        let before = self.held(principal);
        self.by_size.remove(&(before, principal.clone()));
        if now == 0 {
            self.held.remove(principal);
        } else {
            self.held.insert(principal.clone(), now);
            self.by_size.insert((now, principal.clone()));
        }
        debug_assert_eq!(self.held.len(), self.by_size.len());
    }

    /// How many a principal holds.
    pub(super) fn held(&self, principal: &str) -> usize {
        self.held.get(principal).copied().unwrap_or_default()
    }

    /// How many are taken.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether so many more are more than there are.
    pub(super) fn overflows(&self, weight: usize) -> bool {
        self.taken + weight > self.places
    }

    /// The principal that would hold the most if this one had so many more: something of it makes room. `None` where
    /// nothing is held.
    pub(super) fn largest_with(&self, principal: &Text, weight: usize) -> Option<Text> {
        let (most, largest) = self.by_size.last()?;
        let own = self.held(principal);
        Some(if own > 0 && own + weight >= *most { principal.clone() } else { largest.clone() })
    }

    /// The counts agree with each other.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.held.values().sum::<usize>(), self.taken, "what each holds is what is taken");
        assert!(self.by_size.iter().all(|(held, who)| *held > 0 && self.held(who) == *held));
        assert_eq!(self.held.len(), self.by_size.len());
    }
}

impl Full {
    /// Whether the principal's own places are the cause: there would be places for others.
    pub(super) fn is_own(self) -> bool {
        self.own.is_some()
    }

    /// The answer to a command. `what`: of what there may be no more, as it follows on a number; `then`: what to do.
    pub(super) fn error(self, what: impl fmt::Display, then: &str) -> Error {
        let Self { places, own } = self;
        let message = match own {
            Some(own) => {
                format!("this key has {own} of the {places} {what}, and the rest is kept for other keys: {then}")
            }
            None => format!("there is no room left among the {places} {what}: {then}"),
        };
        Error::new(Code::Limit, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Text> {
        (0..count).map(|n| format!("SHA256:{n}").into()).collect()
    }

    /// Takes one after the other until there is no place more for this principal.
    fn fill(shares: &mut Shares, principal: &Text) -> usize {
        while shares.admits(principal, 1).is_ok() {
            shares.take(principal, 1);
        }
        shares.held(principal)
    }

    #[test]
    fn one_takes_half_and_the_next_one_half_of_the_rest() {
        let names = names(8);
        let mut shares = Shares::new(64);
        let filled: Vec<usize> = names.iter().map(|name| fill(&mut shares, name)).collect();
        assert_eq!(filled, [32, 16, 8, 4, 2, 1, 1, 0]);
        assert_eq!(shares.admits(&names[0], 1), Err(Full { places: 64, own: None }));
        shares.give_back(&names[0], 31);
        assert!(shares.admits(&names[7], 1).is_ok() && shares.admits(&names[0], 1).is_ok());
        let mut shares = Shares::new(1);
        assert_eq!((fill(&mut shares, &names[0]), fill(&mut shares, &names[1])), (1, 0));
    }

    #[test]
    fn an_answer_says_what_is_full_and_whose_it_is() {
        let names = names(2);
        let mut shares = Shares::new(4);
        fill(&mut shares, &names[0]);
        let said = |shares: &Shares, who: &str| shares.admits(who, 1).unwrap_err().error("seats", "wait").message;
        assert_eq!(
            &*said(&shares, &names[0]),
            "this key has 2 of the 4 seats, and the rest is kept for other keys: wait"
        );
        shares.take(&names[1], 2);
        assert_eq!(&*said(&shares, &names[0]), "there is no room left among the 4 seats: wait");
    }

    /// Goal: the rule holds for any principals, weights and orders. Method: calls drawn from a seed, beside counts of the
    /// plainest kind.
    #[test]
    fn whatever_is_taken_something_is_left_for_the_others() {
        for seed in 0..200 {
            let mut state: u64 = seed;
            let mut below = |n: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % n
            };
            let (places, names) = (1 + below(100), names(1 + below(6)));
            let heaviest = 1 + below(places.div_ceil(2));
            let (mut shares, mut model) = (Shares::new(places), vec![Vec::<usize>::new(); names.len()]);
            for _ in 0..300 {
                let (who, weight) = (below(names.len()), 1 + below(heaviest));
                let own: usize = model[who].iter().sum();
                let free = places - model.iter().flatten().sum::<usize>();
                if below(3) == 0 {
                    if let Some(weight) = model[who].pop() {
                        shares.give_back(&names[who], weight);
                    }
                } else if shares.admits(&names[who], weight).is_ok() {
                    assert!(weight <= free && (own == 0 || own + weight <= free - weight), "seed {seed}");
                    shares.take(&names[who], weight);
                    model[who].push(weight);
                } else {
                    assert!(weight > free || own > 0, "seed {seed}: the first one is let in where it fits");
                }
                shares.check_invariants();
                let held: Vec<usize> = model.iter().map(|all| all.iter().sum()).collect();
                assert!(names.iter().zip(&held).all(|(name, held)| shares.held(name) == *held), "seed {seed}");
                assert_eq!(shares.taken(), held.iter().sum::<usize>());
                let largest = shares.largest_with(&"".into(), 0).map(|name| shares.held(&name));
                assert_eq!(largest, held.iter().copied().max().filter(|held| *held > 0), "seed {seed}");
            }
        }
    }

    #[test]
    fn who_would_hold_the_most_makes_room() {
        let names = names(3);
        let shares = Shares::of(10, [(&names[0], 4), (&names[1], 3), (&names[0], 1)]);
        assert!(shares.overflows(3) && !shares.overflows(2));
        assert_eq!(
            shares.largest_with(&names[2], 9).as_ref(),
            Some(&names[0]),
            "what holds nothing has nothing to give"
        );
        assert_eq!(shares.largest_with(&names[1], 1).as_ref(), Some(&names[0]));
        assert_eq!(shares.largest_with(&names[1], 2).as_ref(), Some(&names[1]), "and not another's at a tie");
    }
}
