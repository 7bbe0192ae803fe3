//! Where a job may run, as the user says it, and where it is to begin, as om-sched advises.
//!
//! `om-sched` is asked before the job exists and has little time for its answer: a scheduler that is not there, or slow,
//! keeps nobody from working.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use om_proto::omfs::{Bounds, OmRoot};
use serde_json::{Value, json};

use crate::cli::RunArgs;
use crate::error::Failure;
use crate::scheduler::{NodeName, Status};

/// For so long an answer is waited for. Usually it takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(150);
/// So many characters of a command are told, none of which takes more than four bytes.
const LONGEST_COMMAND: usize = 64;
/// The longest answer that makes sense.
const LONGEST: usize = 256;

/// The bounds that the options stand for.
///
/// # Errors
/// A name that nobody knows, or too many of them.
pub fn bounds(args: &RunArgs) -> Result<Bounds, Failure> {
    if args.on.is_empty() && args.not_on.is_empty() {
        return Ok(Bounds { stay: args.stay, ..Bounds::default() });
    }
    let mut words = args.on.iter().chain(&args.not_on);
    let needs_names = words.any(|word| word.parse::<IpAddr>().is_err());
    // Of an address another of the same node may be meant: then the scheduler's list helps too, if there is one.
    let known = match Status::ask(&args.status_socket) {
        Ok(status) => status.nodes,
        Err(error) if needs_names => return Err(error),
        Err(_) => Vec::new(),
    };
    let resolve = |words: &[String]| words.iter().map(|word| resolve(word, &known)).collect::<Result<_, _>>();
    let bounds = Bounds { on: resolve(&args.on)?, not_on: resolve(&args.not_on)?, stay: args.stay };
    bounds.verify().map_err(Failure::Usage)?;
    Ok(bounds)
}

/// The node on which the job is to begin; `None`: this one.
#[must_use]
pub fn begin_on(root: &OmRoot, args: &RunArgs, bounds: &Bounds) -> Option<IpAddr> {
    let is_named = !bounds.on.is_empty();
    if args.here || bounds.stay || (args.lock && !is_named) {
        return None;
    }
    match ask(root, args, bounds) {
        Ok(node) => node,
        // Nobody knows better than the user.
        Err(_) => bounds.on.iter().copied().find(|node| !bounds.not_on.contains(node)),
    }
}

/// The command as people are shown it, if it is long its beginning.
fn told_command(args: &RunArgs) -> String {
    let words: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ").chars().take(LONGEST_COMMAND).collect()
}

fn ask(root: &OmRoot, args: &RunArgs, bounds: &Bounds) -> io::Result<Option<IpAddr>> {
    let deadline = Instant::now() + PATIENCE;
    // A scheduler that hangs must not hang its askers: connecting waits as well.
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
    connect(descriptor.as_raw_fd(), &UnixAddr::new(&args.start_socket)?)?;
    let mut stream = UnixStream::from(descriptor);
    stream.set_nonblocking(false)?;
    // Where files do not say it, on a kernel that has om files of its own, nobody has configured it either.
    let configured = || root.cpu_baseline().ok().flatten().unwrap_or_default();
    let question = json!({
        "command": told_command(args),
        "on": bounds.on,
        "not_on": bounds.not_on,
        "stay": bounds.stay,
        "cpu": args.cpu.unwrap_or_else(configured),
    });
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") && answer.len() < LONGEST {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; LONGEST];
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(answer["node"].as_str().and_then(|node| node.parse().ok()))
}

/// The address that names the node which a user calls by a name or by any of its addresses.
fn resolve(word: &str, known: &[NodeName]) -> Result<IpAddr, Failure> {
    if let Ok(address) = word.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(known.iter().find(|node| node.has(address)).map_or(address, |node| node.address));
    }
    let called: Vec<IpAddr> =
        known.iter().filter(|node| node.is_called(word)).map(|node| node.address).collect();
    match called.as_slice() {
        [address] => Ok(*address),
        [] => Err(Failure::Usage(format!("no node called {word} is heard; om nodes shows who is there"))),
        _ => Err(Failure::Usage(format!("several nodes are called {word}; name one by its address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<NodeName> {
        let text = r#"[{"address":"10.0.0.1","identity":{"host_name":"h1","addresses":["10.0.0.1","10.1.0.1"]}},
            {"address":"10.0.0.2","identity":{"host_name":"h2","addresses":["10.0.0.2"]}},
            {"address":"10.0.0.3","identity":{"host_name":"h2","addresses":["10.0.0.3"]}},
            {"address":"10.0.0.4","identity":null}]"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn nodes_are_called_by_name_and_by_any_address() {
        let address = |word| resolve(word, &known()).unwrap().to_string();
        assert_eq!(address("h1"), "10.0.0.1");
        assert_eq!(address("10.1.0.1"), "10.0.0.1");
        assert_eq!(address("10.9.9.9"), "10.9.9.9");
    }

    #[test]
    fn a_name_that_is_nobody_s_or_several_nodes_is_refused() {
        let refusal = |word| resolve(word, &known()).unwrap_err().to_string();
        assert_eq!(refusal("h3"), "no node called h3 is heard; om nodes shows who is there");
        assert!(refusal("h2").starts_with("several nodes are called h2"));
    }
}
