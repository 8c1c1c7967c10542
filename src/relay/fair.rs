//! Work by principal: each principal has one piece of it done, then the next principal. What one principal has waits for
//! its own alone.

use std::collections::{HashMap, VecDeque};

use super::api::Text;

/// What waits, by principal.
#[derive(Debug)]
pub(super) struct Fair<T> {
    by_principal: HashMap<Text, VecDeque<T>>,
    turns: VecDeque<Text>,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { by_principal: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<T> Fair<T> {
    pub(super) fn push(&mut self, principal: &Text, item: T) {
        if let Some(queue) = self.by_principal.get_mut(principal) {
            return queue.push_back(item);
        }
        self.by_principal.insert(principal.clone(), VecDeque::from([item]));
        self.turns.push_back(principal.clone());
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        self.pop_where(|_| true)
    }

    /// The same, of the first principal with an oldest piece that fits now. The others keep their turns.
    pub(super) fn pop_where(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        for _ in 0..self.turns.len() {
            let principal = self.turns.pop_front()?;
            let Some(queue) = self.by_principal.get_mut(&principal) else { continue };
            if queue.front().is_some_and(|oldest| !fits(oldest)) {
                self.turns.push_back(principal);
                continue;
            }
            let item = queue.pop_front();
            if queue.is_empty() {
                self.by_principal.remove(&principal);
            } else {
                self.turns.push_back(principal);
            }
            if item.is_some() {
                return item;
            }
        }
        None
    }

    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&T) -> bool) {
        for queue in self.by_principal.values_mut() {
            queue.retain(&mut keeps);
        }
    }

    /// Whether nothing waits. What [`retain`](Self::retain) has emptied counts until it had its turn.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_in_its_own_order_and_what_is_left_out_costs_nobody_a_turn() {
        let mut fair = Fair::default();
        let (a, b, c) = (Text::from("a"), Text::from("b"), Text::from("c"));
        (0..4).for_each(|n| fair.push(&a, ("a", n)));
        fair.push(&b, ("b", 0));
        fair.push(&c, ("c", 0));
        assert_eq!(fair.pop(), Some(("a", 0)));
        fair.push(&b, ("b", 1));
        fair.retain(|item| item.0 != "c");
        fair.push(&c, ("c", 1));
        let rest: Vec<_> = std::iter::from_fn(|| fair.pop()).collect();
        assert_eq!(rest, [("b", 0), ("c", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 3)]);
        assert!(fair.is_empty() && fair.by_principal.is_empty());
        [&a, &b].into_iter().for_each(|principal| fair.push(principal, (if principal == &a { "a" } else { "b" }, 9)));
        fair.retain(|item| item.0 != "a");
        assert_eq!(fair.pop(), Some(("b", 9)), "what is left out is passed over");
    }

    #[test]
    fn what_cannot_be_done_yet_holds_up_its_own_principal_alone() {
        let mut fair = Fair::default();
        let (a, b) = (Text::from("a"), Text::from("b"));
        [10, 1].into_iter().for_each(|n| fair.push(&a, n));
        [2, 20].into_iter().for_each(|n| fair.push(&b, n));
        let small = |n: &i32| *n < 10;
        assert_eq!((fair.pop_where(small), fair.pop_where(small)), (Some(2), None));
        assert_eq!((fair.pop(), fair.pop(), fair.pop(), fair.pop()), (Some(10), Some(20), Some(1), None));
    }
}
