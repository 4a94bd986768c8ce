//! Whether a history can be explained: each operation seems to happen at one moment between its call and its answer, in an
//! order in which a small model gives the same answers (linearizability, Wing and Gong 1993).
//!
//! All orders are followed at once, call by call and answer by answer; those that have done the same operations and come to
//! the same state are one (Lowe 2017, just-in-time). An operation whose answer is not known may have happened or not, up to
//! a moment behind which it cannot.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What the thing is meant to do, one operation after another.
pub trait Model: Clone + Debug + Eq + Hash {
    /// What is asked for.
    type Call: Debug;
    /// What is told.
    type Answer: Debug;

    /// The state after `call`, when it may be answered so. Without an answer: the state when it was done, where it can be.
    fn after(&self, call: &Self::Call, answer: Option<&Self::Answer>) -> Option<Self>;
}

/// One operation as its client saw it.
#[derive(Clone, Debug)]
pub struct Operation<M: Model> {
    /// What was asked for.
    pub call: M::Call,
    /// What was told; `None`: nothing.
    pub answer: Option<M::Answer>,
    /// Before the call.
    pub start_us: u64,
    /// Behind the answer; without one, when it can no longer happen.
    pub end_us: u64,
}

/// Orders that are followed at a time.
const ORDERS_MAX: usize = 200_000;

/// One order so far: what came of it, and the calls that it has not done.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Order<M> {
    state: M,
    open: Vec<usize>,
}

/// Explains a history that begins in this state, or tells from where on it cannot be. How many orders there were at most.
pub fn explain<M: Model>(initial: M, history: &[Operation<M>]) -> Result<usize, String> {
    // At one moment calls come first: what may have overlapped has.
    let starts = history.iter().enumerate().map(|(index, operation)| (operation.start_us, false, index));
    let ends = history.iter().enumerate().map(|(index, operation)| (operation.end_us, true, index));
    let mut events: Vec<_> = starts.chain(ends).collect();
    events.sort_unstable();
    let mut orders = HashSet::from([Order { state: initial, open: Vec::new() }]);
    let mut most = 1;
    for (_, is_end, index) in events {
        let next = if is_end { answered(history, &orders, index)? } else { called(orders.clone(), index) };
        if next.is_empty() {
            return Err(unexplained(history, &orders, index));
        }
        most = most.max(next.len());
        orders = next;
    }
    Ok(most)
}

fn called<M: Model>(orders: HashSet<Order<M>>, index: usize) -> HashSet<Order<M>> {
    let add = |mut order: Order<M>| {
        order.open.push(index);
        order
    };
    orders.into_iter().map(add).collect()
}

/// The orders that have done the operation. An operation without an answer need not have been done.
fn answered<M: Model>(
    history: &[Operation<M>],
    orders: &HashSet<Order<M>>,
    index: usize,
) -> Result<HashSet<Order<M>>, String> {
    let is_known = history[index].answer.is_some();
    let (mut done, mut seen) = (HashSet::new(), orders.clone());
    let mut left: Vec<_> = orders.iter().cloned().collect();
    while let Some(order) = left.pop() {
        if !order.open.contains(&index) {
            done.insert(order);
            continue;
        }
        if !is_known {
            let open = order.open.iter().copied().filter(|other| *other != index).collect();
            done.insert(Order { open, ..order.clone() });
        }
        for &next in &order.open {
            let operation = &history[next];
            let Some(state) = order.state.after(&operation.call, operation.answer.as_ref()) else { continue };
            let open = order.open.iter().copied().filter(|other| *other != next).collect();
            let order = Order { state, open };
            if seen.insert(order.clone()) {
                left.push(order);
            }
        }
        if seen.len() > ORDERS_MAX {
            return Err(format!("more than {ORDERS_MAX} orders: not decided"));
        }
    }
    Ok(done)
}

fn unexplained<M: Model>(history: &[Operation<M>], orders: &HashSet<Order<M>>, index: usize) -> String {
    const SHOWN: usize = 30;
    let last = &history[index];
    let mut before: Vec<_> = history.iter().filter(|operation| operation.start_us <= last.end_us).collect();
    before.sort_by_key(|operation| operation.end_us);
    let shown: Vec<_> = before[before.len().saturating_sub(SHOWN)..]
        .iter()
        .map(|operation| format!("{operation:?}"))
        .collect();
    let states: HashSet<_> = orders.iter().map(|order| format!("{:?}", order.state)).collect();
    format!(
        "expected an order that explains {last:?}; the state may be one of {states:?}, after\n{}",
        shown.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: what was written last is read.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Register(u32);

    #[derive(Clone, Debug)]
    enum Call {
        Write(u32),
        Read,
    }

    impl Model for Register {
        type Call = Call;
        type Answer = u32;

        fn after(&self, call: &Call, answer: Option<&u32>) -> Option<Self> {
            match call {
                Call::Write(value) => Some(Self(*value)),
                Call::Read => answer.is_none_or(|value| *value == self.0).then(|| self.clone()),
            }
        }
    }

    fn write(value: u32, start_us: u64, end_us: u64) -> Operation<Register> {
        Operation { call: Call::Write(value), answer: Some(0), start_us, end_us }
    }

    fn read(value: u32, start_us: u64, end_us: u64) -> Operation<Register> {
        Operation { call: Call::Read, answer: Some(value), start_us, end_us }
    }

    #[test]
    fn a_good_history_is_explained() {
        let history = [
            write(1, 0, 10),
            read(0, 1, 3),
            read(1, 4, 6),
            read(1, 20, 30),
            write(2, 25, 40),
            read(2, 41, 42),
        ];
        explain(Register(0), &history).unwrap();
    }

    #[test]
    fn a_lost_write_is_found() {
        explain(Register(0), &[write(1, 0, 10), read(0, 11, 12)]).unwrap_err();
    }

    #[test]
    fn a_read_that_falls_back_is_found() {
        explain(Register(0), &[write(1, 0, 100), read(1, 10, 20), read(0, 30, 40)]).unwrap_err();
    }

    #[test]
    fn two_readers_that_see_two_orders_are_found() {
        let both = [write(1, 0, 100), write(2, 0, 100)];
        let one = [read(1, 1, 10), read(2, 11, 20)];
        explain(Register(0), &[both.to_vec(), one.to_vec()].concat()).unwrap();
        let other = [read(2, 21, 30), read(1, 31, 40)];
        explain(Register(0), &[both.to_vec(), one.to_vec(), other.to_vec()].concat()).unwrap_err();
    }

    #[test]
    fn what_is_not_known_may_have_happened_in_its_time() {
        let unknown = Operation { answer: None, ..write(1, 0, 50) };
        for seen in [[0, 0], [0, 1], [1, 1]] {
            let reads = [read(seen[0], 10, 20), read(seen[1], 60, 70)];
            explain(Register(0), &[vec![unknown.clone()], reads.to_vec()].concat()).unwrap();
        }
        // Not twice, and not later.
        explain(Register(0), &[unknown.clone(), read(1, 10, 20), read(0, 60, 70)]).unwrap_err();
        explain(Register(0), &[unknown, read(0, 60, 70), read(1, 80, 90)]).unwrap_err();
    }
}
