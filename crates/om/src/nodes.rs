//! `om nodes`: the nodes that can be heard.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::cli::NodesArgs;
use crate::columns::{Columns, harmless};
use crate::ear::{Ear, KeyState};
use crate::error::Failure;
use crate::node::NodeSeen;
use crate::units;

const HEADS: [&str; 9] =
    ["NODE", "NAME", ">AGE", ">LOAD", ">CPUS", ">SPEED", ">MEM FREE/TOTAL", ">GUESTS", "ROLES"];
/// Between two tables or lines of `--follow`.
const EVERY: Duration = Duration::from_secs(1);

/// Lists the nodes, once or again and again.
pub fn run(args: &NodesArgs) -> Result<ExitCode, Failure> {
    let mut ear = Ear::open(&args.hearing)?;
    ear.listen(Duration::from_millis(args.wait));
    loop {
        let nodes = ear.nodes();
        print_nodes(&nodes, ear.key_state(), args.json).map_err(Failure::io("print the nodes"))?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        if !args.json {
            println!();
        }
        ear.listen(EVERY);
    }
}

fn print_nodes(nodes: &[NodeSeen], key: KeyState, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", json!({ "key": key.name(), "nodes": nodes }))?;
    } else if nodes.is_empty() {
        writeln!(out, "no node is heard; start omd (systemctl start omd) on each node of this network")?;
    } else {
        write!(out, "{}", table(nodes).cut_at_terminal())?;
        match key {
            KeyState::Present => {}
            KeyState::None => {
                writeln!(out, "unverified: this node has no cluster key (om keygen makes one)")?
            }
            KeyState::Unreadable => writeln!(out, "unverified: you may not read the cluster key")?,
        }
    }
    out.flush()
}

/// The nodes, a line each; a star marks this one.
pub fn table(nodes: &[NodeSeen]) -> Columns {
    let mut table = Columns::new(&HEADS);
    for node in nodes {
        table.row(vec![
            format!("{}{}", node.address, if node.here { " *" } else { "" }),
            or_dash(node.host_name.as_deref().map(harmless)),
            units::ago(node.heard_ms_ago),
            or_dash(node.load.map(|load| format!("{load:.2}"))),
            or_dash(node.effective_cpus.map(cpus)),
            or_dash(node.speed),
            match (node.mem_available_bytes, node.mem_total_bytes) {
                (None, None) => "-".to_owned(),
                (free, total) => {
                    format!("{}/{}", or_dash(free.map(units::bytes)), or_dash(total.map(units::bytes)))
                }
            },
            or_dash(node.guests),
            // Said once below the table instead of on each line.
            node.roles.iter().filter(|role| **role != "unverified").copied().collect::<Vec<_>>().join(","),
        ]);
    }
    table
}

/// A number of CPUs without needless zeros.
fn cpus(cpus: f64) -> String {
    let text = format!("{cpus:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
