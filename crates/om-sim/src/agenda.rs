//! What will happen when: the simulation's list of events, in the order of their times and, at one time, in the order
//! in which they were entered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Nanos;

/// Something that will happen. Events that have become pointless are not taken out; whoever handles them looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The next job of the workload is submitted.
    Arrival,
    /// A job starts to run on a node.
    Begin {
        /// The job.
        job: u32,
        /// The node.
        node: u32,
    },
    /// A job has waited long enough.
    Wake(u32),
    /// A job on this node may be done, or about to wait.
    Done {
        /// The node.
        node: u32,
        /// The node's state for which this was computed.
        version: u64,
    },
    /// The node's om files are due to be read.
    Read(u32),
    /// The node broadcasts its report.
    Report(u32),
    /// The oldest report that is on its way arrives.
    Heard,
    /// A datagram arrives.
    Deliver(usize),
    /// The core on this node wanted to be called.
    Timeout(u32),
    /// The fixed part of a move is over, the job's memory goes over the network.
    Transfer(u32),
    /// A transfer may be done.
    Transferred {
        /// The links' state for which this was computed.
        version: u64,
    },
    /// The scheduler of the node that a job left, or should have left, learns how the move ended.
    Told {
        /// The node.
        node: u32,
        /// The job.
        job: u32,
        /// Whether the job is where it should be.
        moved: bool,
        /// For how long it stood still.
        frozen: Nanos,
    },
    /// Who sees everything looks at the cluster.
    Look,
    /// A node dies.
    Fail,
    /// A dead node is back.
    Repair(u32),
    /// A node takes no guests from now on.
    Block,
    /// This node takes guests again.
    Unblock(u32),
}

/// The list.
#[derive(Clone, Debug, Default)]
pub struct Agenda {
    heap: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    entered: u64,
}

impl Agenda {
    /// Enters an event.
    pub fn enter(&mut self, at: Nanos, event: Event) {
        self.heap.push(Reverse((at, self.entered, event)));
        self.entered += 1;
    }

    /// The next event, which is taken out.
    pub fn take(&mut self) -> Option<(Nanos, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
