//! The JSON document that the status socket gives: what this scheduler hears, thinks and has decided.
//!
//! Fields are only ever added; `version` changes if one has to change its meaning. Times are told as "so many
//! milliseconds ago", since nodes do not share a clock.

use std::net::IpAddr;

use om_proto::table::{self, NodeTable};
use om_proto::wire::Rejects;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Time;
use crate::core::{Core, NodeSays};
use crate::guard::millis;

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

/// Makes the document.
#[must_use]
pub fn document(about: &About<'_>, core: &Core, table: &NodeTable) -> Vec<u8> {
    let now = about.now;
    let says = core.explain_nodes(now);
    let nodes: Vec<Value> = table
        .iter()
        .map(|node| {
            let thought = says.iter().find(|says| says.address == node.address);
            node_value(about, node, thought)
        })
        .collect();
    let decisions: Vec<Value> = core
        .history()
        .iter()
        .map(|decision| {
            let mut value = plain(decision);
            value["decided_ms_ago"] = json!(millis(now.saturating_sub(decision.at)));
            value["changed_ms_ago"] = json!(millis(now.saturating_sub(decision.changed)));
            value["text"] = json!(decision.to_string());
            value
        })
        .collect();
    let value = json!({
        "version": 1,
        "address": about.here,
        "policy": about.policy,
        "dry_run": about.dry_run,
        "problem": core.explain_here(now),
        "move_price": core.price(),
        "nodes": nodes,
        "jobs": core.explain_jobs(now),
        "decisions": decisions,
        "rejected_reports": counts(table.rejects()),
        "rejected_offers": counts(about.rejected_offers),
    });
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn node_value(about: &About<'_>, node: &table::Node, thought: Option<&NodeSays>) -> Value {
    json!({
        "address": node.address,
        "here": about.here == Some(node.address),
        "heard_ms_ago": millis(node.silence(about.now)),
        "period_ms": millis(node.period()),
        "stale": node.is_stale(about.now),
        "authenticated": node.authenticated,
        "identity": plain(&node.identity),
        "machine": plain(&node.machine.as_deref()),
        "capacity": plain(&node.capacity),
        "load": plain(&node.load),
        "memory": plain(&node.memory),
        "migration": plain(&node.migration),
        "figures": plain(&thought.and_then(|thought| thought.figures)),
        "refusal": thought.and_then(|thought| thought.refusal.clone()),
    })
}

/// The reasons that occurred.
fn counts(rejects: &Rejects) -> Value {
    let occurred = rejects.iter().filter(|(_, count)| *count > 0);
    occurred
        .map(|(reject, count)| (reject.to_string(), json!(count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// As JSON; what cannot be said in JSON is null.
fn plain<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
