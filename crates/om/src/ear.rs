//! Hears the nodes: asks them all to tell how they are, and listens for as long as the caller wants.
//!
//! Beside the daemons any number of listeners hear everything, so this needs no daemon on this host and no
//! privilege. With the cluster's key each node is shown once it has answered; without it nothing that is heard can be
//! verified, and is shown all the same, marked.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use om_proto::key::{ClusterKeys, KeyError, random};
use om_proto::net::{Interface, Listener, Selection, Speaker, select};
use om_proto::proof::Challenge;
use om_proto::table::NodeTable;
use om_proto::wire::{DatagramWriter, Header, Kind, MAX_DATAGRAM};

use crate::cli::HearingArgs;
use crate::error::Failure;
use crate::node::NodeSeen;

/// Datagrams taken in one turn, so that a flood cannot hold everything else up.
const DATAGRAMS_A_TURN: usize = 4096;

/// Nodes answer a question within 0.2 s, and what they answer takes a while.
const ANSWERS_TAKE: Duration = Duration::from_millis(400);

/// What is known of the cluster's key here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is there, and what it does not vouch for is marked.
    Present,
    /// This node has none.
    None,
    /// There is one, and this user may not read it.
    Unreadable,
}

impl KeyState {
    /// As the JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::None => "none",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The sockets, and what was heard on them.
pub struct Ear {
    listener: Listener,
    selection: Selection,
    speaker: Speaker,
    questions: u64,
    addresses: Vec<IpAddr>,
    table: NodeTable,
    keys: ClusterKeys,
    key_state: KeyState,
    started: Instant,
}

impl Ear {
    /// Opens the sockets and asks every node to tell how it is.
    ///
    /// # Errors
    /// The network's, or a key file that cannot be used.
    pub fn open(args: &HearingArgs) -> Result<Self, Failure> {
        let (keys, key_state) = match ClusterKeys::load(&args.key_file) {
            Ok(keys) if keys.is_empty() => (keys, KeyState::None),
            Ok(keys) => (keys, KeyState::Present),
            Err(KeyError::Unreadable { .. }) => (ClusterKeys::none(), KeyState::Unreadable),
            Err(error) => return Err(Failure::Refused(error.to_string())),
        };
        let selection = match args.interface.as_slice() {
            [] => Selection::All,
            names => Selection::Named(names.to_vec()),
        };
        let listener = Listener::open(args.port, selection.clone())?;
        let seed = random().map_err(|source| Failure::Io { what: "make random numbers".into(), source })?;
        let mut ear = Self {
            listener,
            selection,
            speaker: Speaker::open(args.port)?,
            questions: 0,
            addresses: Vec::new(),
            table: NodeTable::new(seed),
            keys,
            key_state,
            started: Instant::now(),
        };
        ear.ask()?;
        Ok(ear)
    }

    /// Opens, and listens for as long as the answers take.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn hear(args: &HearingArgs) -> Result<Self, Failure> {
        let mut ear = Self::open(args)?;
        ear.listen(ANSWERS_TAKE);
        Ok(ear)
    }

    /// What is known of the key.
    pub fn key_state(&self) -> KeyState {
        self.key_state
    }

    /// The nodes that were heard and are not forgotten, by address.
    pub fn nodes(&mut self) -> Vec<NodeSeen> {
        let now = self.started.elapsed();
        self.table.expire(now);
        let has_key = self.key_state == KeyState::Present;
        self.table.iter().map(|node| NodeSeen::new(now, node, has_key, &self.addresses)).collect()
    }

    /// Listens for this long.
    pub fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up, so that the last millisecond is not spun through.
            let timeout =
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            let mut descriptors: Vec<PollFd<'_>> =
                self.sockets().map(|socket| PollFd::new(socket, PollFlags::POLLIN)).collect();
            // Interrupted or not: what has come is taken.
            let _ = poll(&mut descriptors, timeout);
            self.take();
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// The sockets, to wait on together with others; then [`Self::take`].
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listener.sockets().map(AsFd::as_fd)
    }

    /// Takes in what has come, and asks the nodes that have yet to prove themselves.
    pub fn take(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for _ in 0..DATAGRAMS_A_TURN {
            let Ok(Some((length, from))) = self.listener.receive(&mut buffer) else { break };
            // A bad datagram is counted by the table; anybody can send one.
            let _ = self.table.receive(self.started.elapsed(), &buffer[..length], from.ip(), &self.keys);
        }
        while let Some((node, challenge)) = self.table.poll_question(self.started.elapsed()) {
            let question = self.question(&challenge);
            let _ = self.speaker.unicast(&question, node);
        }
    }

    /// Asks on all interfaces, also on those that have come since the last time.
    ///
    /// # Errors
    /// If there is no network at all.
    pub fn ask(&mut self) -> Result<(), Failure> {
        let interfaces = Interface::all()?;
        self.listener.refresh(&interfaces);
        self.addresses = interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect();
        let challenge = self.table.challenge(self.started.elapsed());
        let question = self.question(&challenge);
        // A question that cannot be sent is no failure: the nodes tell by themselves, a little later.
        let _ = self.speaker.multicast(&question, &select(&interfaces, &self.selection));
        Ok(())
    }

    fn question(&mut self, challenge: &Challenge) -> Vec<u8> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.questions += 1;
        let header = Header {
            kind: Kind::Ask,
            flags: 0,
            key_id: 0,
            epoch: u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX),
            sequence: self.questions,
            sender: IpAddr::from([0, 0, 0, 0]),
        };
        let mut buffer = [0; MAX_DATAGRAM];
        let mut writer = DatagramWriter::new(&mut buffer, header);
        // There is room for one section.
        let _ = writer.section(challenge);
        writer.finish(&self.keys).to_vec()
    }
}
