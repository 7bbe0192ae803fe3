//! The JSON document that the status socket gives: what this scheduler hears, thinks and has decided.
//!
//! Fields are only ever added; `version` changes if one has to change its meaning. Times are told as "so many
//! milliseconds ago", since nodes do not share a clock.

use std::collections::BTreeMap;
use std::net::IpAddr;

use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::table::{self, NodeTable};
use om_proto::wire::Rejects;
use serde::{Serialize, Serializer};

use crate::Time;
use crate::core::{Core, JobSays, NodeSays};
use crate::figures::Figures;
use crate::guard::millis;
use crate::history;
use crate::price::PriceLine;

/// What the run loop knows beside the core.
pub struct About<'a> {
    /// The moment.
    pub now: Time,
    /// The address that names this node, once known.
    pub here: Option<IpAddr>,
    /// The policy's name.
    pub policy: &'a str,
    /// Whether nothing is moved.
    pub dry_run: bool,
    /// Offers that were dropped.
    pub rejected_offers: &'a Rejects,
}

/// Makes the document. It is written as it is walked through: without a key there may be as many nodes as somebody likes
/// to invent.
#[must_use]
pub fn document(about: &About<'_>, core: &Core, table: &NodeTable) -> Vec<u8> {
    let now = about.now;
    let says = core.explain_nodes(now);
    let document = Document {
        version: 1,
        address: about.here,
        policy: about.policy,
        dry_run: about.dry_run,
        problem: core.explain_here(now),
        move_price: core.price(),
        nodes: Nodes { about, table, says: says.iter().map(|says| (says.address, says)).collect() },
        jobs: core.explain_jobs(now),
        decisions: core.history().iter().map(|decision| Decision::of(decision, now)).collect(),
        rejected_reports: Counts(table.rejects()),
        rejected_offers: Counts(about.rejected_offers),
    };
    let mut bytes = Vec::new();
    // There is nothing in it that JSON cannot say, and a vector takes everything.
    if let Err(error) = serde_json::to_writer(&mut bytes, &document) {
        log::error!("cannot tell how things stand: {error}");
    }
    bytes.push(b'\n');
    bytes
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    address: Option<IpAddr>,
    policy: &'a str,
    dry_run: bool,
    problem: Option<String>,
    move_price: PriceLine,
    nodes: Nodes<'a>,
    jobs: Vec<JobSays>,
    decisions: Vec<Decision<'a>>,
    rejected_reports: Counts<'a>,
    rejected_offers: Counts<'a>,
}

/// All nodes of the table, with what is thought of them.
struct Nodes<'a> {
    about: &'a About<'a>,
    table: &'a NodeTable,
    says: BTreeMap<IpAddr, &'a NodeSays>,
}

impl Serialize for Nodes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nodes = self.table.iter();
        serializer.collect_seq(nodes.map(|node| Node::of(self.about, node, self.says.get(&node.address))))
    }
}

#[derive(Serialize)]
struct Node<'a> {
    address: IpAddr,
    here: bool,
    heard_ms_ago: u64,
    period_ms: u64,
    stale: bool,
    authenticated: bool,
    identity: Option<&'a Identity>,
    machine: Option<&'a Machine>,
    capacity: Option<&'a Capacity>,
    load: Option<&'a Load>,
    memory: Option<&'a Memory>,
    migration: Option<&'a Migration>,
    figures: Option<Figures>,
    refusal: Option<&'a str>,
}

impl<'a> Node<'a> {
    fn of(about: &About<'_>, node: &'a table::Node, thought: Option<&&'a NodeSays>) -> Self {
        Self {
            address: node.address,
            here: about.here == Some(node.address),
            heard_ms_ago: millis(node.silence(about.now)),
            period_ms: millis(node.period()),
            stale: node.is_stale(about.now),
            authenticated: node.authenticated,
            identity: node.identity.as_ref(),
            machine: node.machine.as_deref(),
            capacity: node.capacity.as_ref(),
            load: node.load.as_ref(),
            memory: node.memory.as_ref(),
            migration: node.migration.as_ref(),
            figures: thought.and_then(|thought| thought.figures),
            refusal: thought.and_then(|thought| thought.refusal.as_deref()),
        }
    }
}

#[derive(Serialize)]
struct Decision<'a> {
    #[serde(flatten)]
    decision: &'a history::Decision,
    decided_ms_ago: u64,
    changed_ms_ago: u64,
    text: String,
}

impl<'a> Decision<'a> {
    fn of(decision: &'a history::Decision, now: Time) -> Self {
        Self {
            decision,
            decided_ms_ago: millis(now.saturating_sub(decision.at)),
            changed_ms_ago: millis(now.saturating_sub(decision.changed)),
            text: decision.to_string(),
        }
    }
}

/// The reasons that occurred.
struct Counts<'a>(&'a Rejects);

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let occurred = self.0.iter().filter(|(_, count)| *count > 0);
        serializer.collect_map(occurred.map(|(reject, count)| (reject.to_string(), count)))
    }
}
