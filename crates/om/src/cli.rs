//! The command line: one definition for the parser, `--help`, the man pages and the completions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use om_proto::cpu::Baseline;
use om_proto::ports;

/// Runs programs on a cluster as if it were one machine, shows where they are, and moves them.
///
/// Start a program with `om run`; the cluster moves it to where it runs fastest. Exit status: 0 done, 1 it could not be
/// done, 2 wrong usage; `om run` exits as the command does.
#[derive(Debug, Parser)]
#[command(name = "om", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// Where the om files are [default: $OM_ROOT, /proc if this kernel has them, else /run/om/proc]
    #[arg(long, value_name = "DIR", global = true)]
    pub om_root: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `om` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Ps(PsArgs),
    Nodes(NodesArgs),
    Top(TopArgs),
    Move(MoveArgs),
    /// Pin a job where it is
    Lock(LockArgs),
    /// Let a pinned job go
    Unlock(LockArgs),
    /// Take no guests (off: take them again)
    Block(SwitchArgs),
    /// Keep this node's own jobs here (off: let them go)
    Stay(SwitchArgs),
    /// Send guests away, and take none (off: take them again)
    Expel(SwitchArgs),
    /// Call this node's own jobs home (off: let them go again)
    Bring(SwitchArgs),
    Drain(DrainArgs),
    Why(WhyArgs),
    History(HistoryArgs),
    Keygen(KeygenArgs),
    #[command(hide = true)]
    Completions(CompletionsArgs),
    #[command(hide = true)]
    Man(ManArgs),
}

/// Run a command that may move between the nodes of the cluster.
///
/// The command has the caller's user, groups, environment, working directory, file mode mask, priority and limits. Its
/// stdin, stdout and stderr are those of om run wherever it runs, and so is its terminal; signals sent to om run
/// reach it; stopping or killing om run stops or kills it.
///
/// Exit status: the command's; if a signal ended it, om run ends by the same signal, which a shell shows as 128+n.
/// 125: om failed, 126: the command cannot be executed, 127: there is no such command.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// At the end, print to stderr the time used on all nodes, and how often the job has moved
    #[arg(long)]
    pub time: bool,
    /// Start it pinned: it stays where it starts until om unlock
    ///
    /// That is here, unless --on says otherwise.
    #[arg(long)]
    pub lock: bool,
    /// Have it use no more of the CPU than this level of x86-64 gives, so that it may go to every node that has the level
    ///
    /// native, x86-64, x86-64-v2, x86-64-v3 or x86-64-v4; default: as om-migd is configured, which is native unless
    /// somebody has changed it. The C library and OpenSSL heed it; a program that asks the CPU itself does not.
    #[arg(long, value_name = "LEVEL")]
    pub cpu: Option<Baseline>,
    /// Start it on this node, even if another one is better
    ///
    /// Otherwise om-sched is asked, which asks some nodes, and the command is executed for the first time where it runs
    /// best. Its home is this node all the same.
    #[arg(long)]
    pub here: bool,
    /// Run it on these nodes only, names or addresses
    ///
    /// Until one of them takes it, it runs here.
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    pub on: Vec<String>,
    /// Never run it on these nodes
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    pub not_on: Vec<String>,
    /// Never let it leave this node
    #[arg(long, conflicts_with_all = ["on", "not_on"])]
    pub stay: bool,
    /// The socket of om-migd
    #[arg(long, value_name = "FILE", default_value = ports::CONTROL_SOCKET)]
    pub socket: PathBuf,
    /// The socket on which om-sched is asked where to start
    #[arg(long, value_name = "FILE", default_value = ports::START_SOCKET)]
    pub start_socket: PathBuf,
    /// The socket on which om-sched tells the nodes' names
    #[arg(long, value_name = "FILE", default_value = ports::STATUS_SOCKET)]
    pub status_socket: PathBuf,
    /// The command and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, required = true)]
    pub command: Vec<OsString>,
}

/// How the nodes are heard.
#[derive(Clone, Debug, Args)]
pub struct HearingArgs {
    /// UDP port on which the nodes tell
    #[arg(long, value_name = "PORT", default_value_t = ports::INFO_PORT)]
    pub port: u16,
    /// Listen on this network interface only; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub interface: Vec<String>,
    /// The cluster's key; where it cannot be read, what nodes say is shown unverified
    #[arg(long, value_name = "FILE", default_value = ports::KEY_FILE)]
    pub key_file: PathBuf,
}

/// List the jobs of this node: its own wherever they run, and its guests.
///
/// A guest is a job of another node that runs here; its pid is the one that it has here.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Every column, and nothing shortened
    #[arg(short, long)]
    pub all: bool,
}

/// List the nodes that can be heard.
///
/// A star marks this node. `monitor`: the node only tells; `migrates`: it has a migration daemon.
#[derive(Debug, Args)]
pub struct NodesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Go on, once a second; with --json one line each time
    #[arg(short, long)]
    pub follow: bool,
    /// Milliseconds to wait for the nodes' answers
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub wait: u64,
    /// How to listen.
    #[command(flatten)]
    pub hearing: HearingArgs,
}

/// Show nodes and jobs, live.
///
/// Keys: q quits, a blank draws at once.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// How to listen.
    #[command(flatten)]
    pub hearing: HearingArgs,
}

/// Move a job to another node, or home, and wait until it is there.
///
/// A job that may not move, or cannot, stays where it is and runs on; the reason is printed.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The job, by the pid that om ps shows
    pub pid: u32,
    /// An address, a node's name, `home`, or `best`: the node with the most CPU time to spare
    #[arg(value_name = "ADDR|home|best")]
    pub to: String,
    /// Let it run on as soon as it can, and fetch its memory while it runs
    ///
    /// It stands still for the shortest time. Until all of its memory has come it cannot move on, and it is lost if the
    /// node that it has left dies.
    #[arg(long)]
    pub lazy: bool,
    /// Only ask for the move; do not wait for it
    #[arg(long)]
    pub no_wait: bool,
    /// Wait for the move's end; that is the default
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// How to listen, for names and `best`.
    #[command(flatten)]
    pub hearing: HearingArgs,
}

/// Pins a job, or lets it go.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The job, by the pid that om ps shows
    pub pid: u32,
}

/// On, off, or how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SwitchTo {
    /// Switch it on.
    On,
    /// Switch it off.
    Off,
    /// Only say how it stands.
    Show,
}

/// Throws a switch of this node.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// What to do with the switch
    #[arg(value_enum, default_value_t = SwitchTo::On)]
    pub to: SwitchTo,
    /// Wait until it has taken effect: until the last guest has left, or the last own job is home
    #[arg(long)]
    pub wait: bool,
}

/// Empty this node before om-migd is stopped for good: guests go home, or elsewhere if home does not take them, and own
/// jobs come home.
///
/// Until om-migd ends, or om drain off, the node takes no guests and lets none of its own jobs go. What cannot move in
/// time is named, with exit status 1, and runs on for as long as the node does.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// What to do
    #[arg(value_enum, default_value_t = SwitchTo::On)]
    pub to: SwitchTo,
    /// It may take so long [default: stop-grace-s of om-migd]
    #[arg(long, value_name = "SECONDS")]
    pub within: Option<u32>,
    /// Do nothing if systemd is just restarting this unit: jobs outlive that
    #[arg(long, value_name = "UNIT")]
    pub unless_restarting: Option<String>,
    /// How to listen, for nodes where guests can go.
    #[command(flatten)]
    pub hearing: HearingArgs,
}

/// How the scheduler is asked.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// The scheduler's status socket
    #[arg(long, value_name = "FILE", default_value = ports::STATUS_SOCKET)]
    pub socket: PathBuf,
}

/// Say why a job is where it is, as the scheduler of this node sees it.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The job, by the pid that om ps shows
    pub pid: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub scheduler: SchedulerArgs,
}

/// Show what the scheduler of this node has decided lately, the oldest first.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only the last N
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Whom to ask.
    #[command(flatten)]
    pub scheduler: SchedulerArgs,
}

/// Make the cluster's key: 32 random bytes in a file that only its owner can read.
///
/// A file that exists is left alone. Every node of the cluster needs the same file. Bring it there by a way that you
/// trust; over ssh it is in no argument and no log:
///
/// ssh root@NODE 'umask 077; cd /etc/om && cat >key.new && chown om: key.new && mv key.new key' </etc/om/key
///
/// To change the key of a cluster that goes on working, do each step of --rotate on one node, and after each bring the file
/// to all others in the same way. The daemons take it over by themselves within two seconds.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// The file
    #[arg(long, value_name = "FILE", default_value = ports::KEY_FILE)]
    pub file: PathBuf,
    /// Change the key, step by step: add, sign, drop
    #[arg(long, value_name = "STEP")]
    pub rotate: Option<Rotation>,
}

/// The steps in which a key is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rotation {
    /// Make a second key, which is accepted and does not sign yet.
    Add,
    /// Let the second key sign; the first is still accepted.
    Sign,
    /// Drop the key that does not sign any more.
    Drop,
}

/// Print what a shell needs to complete om's arguments.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Write om's man pages into a directory.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        let cli = Cli::parse_from(["om", "run", "--time", "sort", "--lock", "-n", "--", "x"]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert!(args.time && !args.lock);
        assert_eq!(args.command, ["sort", "--lock", "-n", "--", "x"]);
        let cli = Cli::parse_from(["om", "run", "--", "--odd"]);
        assert!(matches!(cli.command, Command::Run(args) if args.command == ["--odd"]));
        assert!(Cli::try_parse_from(["om", "run", "--tmie", "sort"]).is_err());
        assert!(Cli::try_parse_from(["om", "run"]).is_err());
    }
}
