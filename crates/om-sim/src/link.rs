//! Moves on the network: each node has one link for each direction, and transfers that share one share its bandwidth.
//!
//! A transfer gets the lesser of its shares at both ends. That is a little less than what max-min fairness would give,
//! and needs no iteration.

use crate::clock::{Nanos, nanos, seconds};

/// What is left of less than a byte is nothing.
const CRUMB_BYTES: f64 = 0.5;

#[derive(Clone, Copy, Debug)]
struct Transfer {
    job: u32,
    from: u32,
    to: u32,
    left_bytes: f64,
    bytes_per_s: f64,
}

/// All transfers that are under way.
#[derive(Clone, Debug)]
pub struct Links {
    bytes_per_s: f64,
    out: Vec<u32>,
    into: Vec<u32>,
    transfers: Vec<Transfer>,
    at: Nanos,
}

impl Links {
    /// Links of `nodes` nodes that carry `bytes_per_s` each way.
    #[must_use]
    pub fn new(nodes: usize, bytes_per_s: f64) -> Self {
        Self { bytes_per_s, out: vec![0; nodes], into: vec![0; nodes], transfers: Vec::new(), at: 0 }
    }

    /// A transfer begins.
    pub fn begin(&mut self, now: Nanos, job: u32, (from, to): (u32, u32), bytes: u64) {
        self.advance(now);
        self.transfers.push(Transfer { job, from, to, left_bytes: bytes as f64, bytes_per_s: 0.0 });
        self.out[from as usize] += 1;
        self.into[to as usize] += 1;
        self.share();
    }

    /// A transfer that is done by now, which is taken out; the one that began first if there are several.
    pub fn take_done(&mut self, now: Nanos) -> Option<u32> {
        self.advance(now);
        let done = self.transfers.iter().position(|transfer| transfer.left_bytes <= CRUMB_BYTES)?;
        let job = self.transfers[done].job;
        self.remove(now, job);
        Some(job)
    }

    /// A transfer is broken off.
    pub fn remove(&mut self, now: Nanos, job: u32) {
        self.advance(now);
        let Some(found) = self.transfers.iter().position(|transfer| transfer.job == job) else { return };
        let transfer = self.transfers.remove(found);
        self.out[transfer.from as usize] -= 1;
        self.into[transfer.to as usize] -= 1;
        self.share();
    }

    /// How many are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.transfers.len()
    }

    /// When the next transfer will be done if nothing changes.
    #[must_use]
    pub fn next_done(&self) -> Option<Nanos> {
        let ends = self.transfers.iter().map(|transfer| {
            self.at + nanos((transfer.left_bytes - CRUMB_BYTES).max(0.0) / transfer.bytes_per_s)
        });
        ends.min()
    }

    fn advance(&mut self, now: Nanos) {
        let passed_s = seconds(now - self.at);
        for transfer in &mut self.transfers {
            transfer.left_bytes -= transfer.bytes_per_s * passed_s;
        }
        self.at = now;
    }

    fn share(&mut self) {
        for transfer in &mut self.transfers {
            let sharers = self.out[transfer.from as usize].max(self.into[transfer.to as usize]);
            transfer.bytes_per_s = self.bytes_per_s / f64::from(sharers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_to_one_node_share_its_link() {
        let mut links = Links::new(3, 100.0);
        links.begin(0, 1, (0, 2), 100);
        assert!((seconds(links.next_done().unwrap()) - 1.0).abs() < 0.01);
        links.begin(500_000_000, 2, (1, 2), 100);
        let first = links.next_done().unwrap();
        assert!((seconds(first) - 1.5).abs() < 0.02, "{first}");
        assert_eq!(links.take_done(first), Some(1));
        assert!((seconds(links.next_done().unwrap()) - 2.0).abs() < 0.02);
        links.remove(first, 2);
        assert_eq!(links.next_done(), None);
    }
}
