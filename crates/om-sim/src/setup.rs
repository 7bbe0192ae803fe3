//! What is simulated, apart from the jobs: the nodes, the network, the costs, and who decides.

use std::time::Duration;

use om_sched::policy::{PolicyError, Registry};
use om_sched::settings::Settings;

use crate::clock::Nanos;
use crate::network::Quality;
use crate::workload::Shape;

/// The nodes and what things cost.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The nodes.
    pub nodes: Vec<Shape>,
    /// Time between two reports of a node.
    pub period: Nanos,
    /// How the network behaves.
    pub quality: Quality,
    /// Seconds that every move takes.
    pub move_fixed_s: f64,
    /// Bytes that a node's link carries in a second, each way.
    pub link_bytes_per_s: f64,
    /// Seconds that a job starts later on another node than at home, beside the questions.
    pub start_elsewhere_s: f64,
    /// How often a node dies.
    pub failures_per_node_hour: f64,
    /// How often a node is blocked.
    pub blocks_per_node_hour: f64,
    /// What all cores go by.
    pub settings: Settings,
    /// Time between two readings of the om files.
    pub read_every: Nanos,
    /// The same while something is going on.
    pub read_every_busy: Nanos,
    /// The settings of policies, by name.
    pub policies: std::collections::BTreeMap<String, toml::Table>,
}

impl Setup {
    /// The usual set-up for these nodes: reports every second, moves at 0.2 s and a Gigabit, as the scheduler's own
    /// defaults have it.
    #[must_use]
    pub fn new(nodes: Vec<Shape>) -> Self {
        Self {
            nodes,
            period: 1_000_000_000,
            quality: Quality { delay_s: 0.000_3, loss: 0.0 },
            move_fixed_s: 0.2,
            link_bytes_per_s: 117e6,
            start_elsewhere_s: 0.01,
            failures_per_node_hour: 0.0,
            blocks_per_node_hour: 0.0,
            settings: Settings {
                allow_without_key: true,
                // Nobody reads the history of a simulated node.
                history: 32,
                // What moves and starts take is known from long ago.
                move_cost: Duration::from_millis(200),
                start_promise: Duration::from_millis(20),
                ..Settings::default()
            },
            read_every: 1_000_000_000,
            read_every_busy: 250_000_000,
            policies: std::collections::BTreeMap::new(),
        }
    }
}

/// Who decides.
pub enum Brain {
    /// A scheduler core on every node.
    Cores {
        /// Where policies come from.
        registry: Registry,
        /// The policy's name.
        policy: String,
    },
    /// One who sees all nodes as they are at this moment.
    Omniscient {
        /// How it decides on moves.
        rule: Rule,
        /// Chooses where jobs start, too.
        places: bool,
    },
}

/// What somebody makes of knowing everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Knows also how long jobs will take, and takes whatever is best at the moment.
    Greedy,
    /// The lifetime rule, without stale data and without questions.
    Lifetime,
}

impl Brain {
    /// Those who know more than anybody can.
    pub const YARDSTICKS: [&str; 2] = ["lifetime-fresh", "clairvoyant"];

    /// Who decides under this name: a policy of the registry, or a yardstick.
    ///
    /// # Errors
    /// If there is no such policy, or its settings make no sense.
    pub fn named(name: &str, registry: Registry, setup: &Setup) -> Result<Self, PolicyError> {
        let places = setup.settings.start_among > 0;
        match name {
            "clairvoyant" => return Ok(Self::Omniscient { rule: Rule::Greedy, places }),
            "lifetime-fresh" => return Ok(Self::Omniscient { rule: Rule::Lifetime, places }),
            _ => {}
        }
        let made = registry.make(name, setup.policies.get(name).cloned().unwrap_or_default());
        made.map_err(|error| match error {
            PolicyError::Unknown { name, known } => {
                PolicyError::Unknown { name, known: format!("{known}, {}", Self::YARDSTICKS.join(", ")) }
            }
            error => error,
        })?;
        Ok(Self::Cores { registry, policy: name.to_owned() })
    }
}
