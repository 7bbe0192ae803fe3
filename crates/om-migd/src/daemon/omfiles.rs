//! The om files, served by FUSE: `$pid/om/{where,stay,lock,nmigs,home,stat,result}` and `hpc/admin/…`.
//!
//! What a file says is made when it is opened, so a reader sees one moment. A write is carried out at once or refused
//! with the error that the 2.6 text has for it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, IoctlFlags, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyWrite, ReplyXattr, Request, Session,
    SessionACL, TimeOrNow, WriteFlags,
};
use om_proto::omfs::MoveRequest;

use super::access::Access;
use super::jobs::{Jobs, stat_of};
use super::node::SWITCHES;
use crate::snapshot::{Command, Snapshot};

/// Nothing is cached: everything changes by itself.
const VALID: Duration = Duration::ZERO;
/// The longest write that is looked at, bytes.
const LONGEST_WRITE: usize = 128;

/// The files of a job.
const FILES: [&str; 7] = ["where", "stay", "lock", "nmigs", "home", "stat", "result"];
const WRITABLE: [&str; 2] = ["where", "lock"];
/// Beside the switches: that the node is about to leave; how many guests it takes at most; how many seconds it may take
/// to leave; what its jobs use of CPUs if their users do not say.
const MORE_ADMIN: [&str; 4] = ["drain", "guest_limit", "stop_grace", "cpu_baseline"];
const DRAIN: usize = 0;
const GUEST_LIMIT: usize = 1;
const STOP_GRACE: usize = 2;

/// What an inode number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Root,
    Hpc,
    Admin,
    Switch(usize),
    MoreAdmin(usize),
    Process(u32),
    Om(u32),
    File(u32, usize),
}

impl Node {
    fn number(self) -> INodeNo {
        let per_process = |pid: u32, index: usize| (u64::from(pid) << 8) | (0x10 + index as u64);
        INodeNo(match self {
            Self::Root => 1,
            Self::Hpc => 2,
            Self::Admin => 3,
            Self::Switch(index) => 4 + index as u64,
            Self::MoreAdmin(index) => 8 + index as u64,
            Self::Process(pid) => per_process(pid, 0),
            Self::Om(pid) => per_process(pid, 1),
            Self::File(pid, file) => per_process(pid, 2 + file),
        })
    }

    fn from_number(number: INodeNo) -> Option<Self> {
        let number = number.0;
        let Ok(pid) = u32::try_from(number >> 8) else { return None };
        let low = usize::try_from(number & 0xff).ok()?;
        match (pid, low) {
            (0, 1) => Some(Self::Root),
            (0, 2) => Some(Self::Hpc),
            (0, 3) => Some(Self::Admin),
            (0, 4..8) => Some(Self::Switch(low - 4)),
            (0, 8..) if low - 8 < MORE_ADMIN.len() => Some(Self::MoreAdmin(low - 8)),
            (1.., 0x10) => Some(Self::Process(pid)),
            (1.., 0x11) => Some(Self::Om(pid)),
            (1.., 0x12..) if low - 0x12 < FILES.len() => Some(Self::File(pid, low - 0x12)),
            _ => None,
        }
    }

    fn is_directory(self) -> bool {
        !matches!(self, Self::Switch(_) | Self::MoreAdmin(_) | Self::File(..))
    }
}

/// An open file: what it says, and who opened it. As with other files the right to write is that of who opened it, not of the
/// program that it was given to as stdout.
struct Opened {
    content: Vec<u8>,
    uid: u32,
    /// Root, or a member of the group.
    administers: bool,
}

/// The file system.
struct OmFiles {
    jobs: Jobs,
    access: Access,
    started: SystemTime,
    open: Mutex<HashMap<u64, Opened>>,
    next_handle: AtomicU64,
}

/// Mounts the om files; they are there until the session is dropped.
pub fn mount(jobs: Jobs, access: Access, root: &Path) -> io::Result<BackgroundSession> {
    // An om-migd that was killed leaves its mount behind.
    while nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    std::fs::create_dir_all(root)?;
    let files = OmFiles {
        jobs,
        access,
        started: SystemTime::now(),
        open: Mutex::default(),
        next_handle: AtomicU64::new(1),
    };
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.mount_options = vec![
        MountOption::FSName("om".into()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    Session::new(files, root, &config)?.spawn()
}

impl OmFiles {
    fn attributes(&self, node: Node) -> Option<FileAttr> {
        let jobs = self.jobs.lock();
        let owner = match node {
            Node::Process(pid) | Node::Om(pid) | Node::File(pid, _) => jobs.by_pid(pid)?.uid,
            _ => 0,
        };
        let perm = match node {
            Node::File(_, file) if WRITABLE.contains(&FILES[file]) => 0o666,
            // Who may write is decided at the write; the group's members must get that far.
            Node::Switch(_) | Node::MoreAdmin(DRAIN) => 0o666,
            Node::File(..) | Node::MoreAdmin(_) => 0o444,
            _ => 0o555,
        };
        Some(FileAttr {
            ino: node.number(),
            size: 0,
            blocks: 0,
            atime: self.started,
            mtime: self.started,
            ctime: self.started,
            crtime: self.started,
            kind: if node.is_directory() { FileType::Directory } else { FileType::RegularFile },
            perm,
            nlink: if node.is_directory() { 2 } else { 1 },
            uid: owner,
            gid: self.access.group.unwrap_or(0),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn child(&self, parent: Node, name: &str) -> Option<Node> {
        match parent {
            Node::Root if name == "hpc" => Some(Node::Hpc),
            Node::Root => {
                let pid = name.parse().ok().filter(|pid: &u32| pid.to_string() == name)?;
                self.jobs.lock().by_pid(pid).map(|_| Node::Process(pid))
            }
            Node::Hpc if name == "admin" => Some(Node::Admin),
            Node::Admin => {
                let place = |names: &[&str]| names.iter().position(|known| *known == name);
                place(&SWITCHES).map(Node::Switch).or_else(|| place(&MORE_ADMIN).map(Node::MoreAdmin))
            }
            Node::Process(pid) if name == "om" => Some(Node::Om(pid)),
            Node::Om(pid) => FILES.iter().position(|file| *file == name).map(|file| Node::File(pid, file)),
            _ => None,
        }
    }

    fn children(&self, parent: Node) -> Vec<(Node, String)> {
        match parent {
            Node::Root => {
                let jobs = self.jobs.lock();
                let processes = jobs.entries().map(|(pid, _)| (Node::Process(pid), pid.to_string()));
                std::iter::once((Node::Hpc, "hpc".to_owned())).chain(processes).collect()
            }
            Node::Hpc => vec![(Node::Admin, "admin".to_owned())],
            Node::Admin => {
                let switches = (0..SWITCHES.len()).map(|n| (Node::Switch(n), SWITCHES[n].to_owned()));
                let more = (0..MORE_ADMIN.len()).map(|n| (Node::MoreAdmin(n), MORE_ADMIN[n].to_owned()));
                switches.chain(more).collect()
            }
            Node::Process(pid) => vec![(Node::Om(pid), "om".to_owned())],
            Node::Om(pid) => (0..FILES.len()).map(|n| (Node::File(pid, n), FILES[n].to_owned())).collect(),
            _ => Vec::new(),
        }
    }

    /// What the file says now.
    fn content(&self, node: Node) -> Option<String> {
        match node {
            Node::Switch(index) => Some(flag(self.jobs.lock().node.is_on(index))),
            Node::MoreAdmin(DRAIN) => Some(flag(self.jobs.lock().node.draining)),
            Node::MoreAdmin(GUEST_LIMIT) => Some(format!("{}\n", self.jobs.lock().guest_limit)),
            Node::MoreAdmin(STOP_GRACE) => Some(format!("{}\n", self.jobs.lock().stop_grace_s)),
            Node::MoreAdmin(_) => Some(format!("{}\n", self.jobs.lock().cpu_baseline)),
            Node::File(pid, file) => {
                let job: Snapshot = self.jobs.lock().by_pid(pid)?.clone();
                Some(match FILES[file] {
                    "where" => format!("{}\n", job.location),
                    "stay" => self
                        .jobs
                        .lock()
                        .stay_reasons(&job)
                        .iter()
                        .map(|reason| format!("{reason}\n"))
                        .collect(),
                    "lock" => format!("{}\n", u8::from(job.locked)),
                    "nmigs" => format!("{}\n", job.moves),
                    "home" => format!("{}\n", job.home),
                    "stat" => stat_of(&job).to_string(),
                    _ => job.result.map(|result| result + "\n").unwrap_or_default(),
                })
            }
            _ => None,
        }
    }

    fn change(&self, node: Node, handle: FileHandle, text: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let (uid, administers) = {
            let open = self.open.lock().map_err(|_| Errno::EIO)?;
            let opened = open.get(&handle.0).ok_or(Errno::EBADF)?;
            (opened.uid, opened.administers)
        };
        match node {
            Node::Switch(_) | Node::MoreAdmin(_) if !administers => Err(Errno::EPERM),
            Node::Switch(index) => {
                self.jobs.lock().set_switch(index, parse_switch(text)?);
                Ok(())
            }
            Node::MoreAdmin(DRAIN) => {
                self.jobs.lock().set_draining(parse_switch(text)?);
                Ok(())
            }
            Node::File(entry, file) => {
                let mut jobs = self.jobs.lock();
                let job = jobs.by_pid(entry).cloned().ok_or(Errno::ESRCH)?;
                let parsed: Result<MoveRequest, _> = text.parse();
                match FILES[file] {
                    _ if uid != job.uid && !administers => Err(Errno::EPERM),
                    "where" => {
                        let request = parsed.map_err(|_| Errno::EINVAL)?;
                        jobs.request_move(&job, request).map_err(|errno| Errno::from_i32(errno as i32))
                    }
                    "lock" => {
                        let lock = parse_switch(text)?;
                        jobs.command(job.job, &Command::Lock(lock)).map_err(|_| Errno::ENOTCONN)
                    }
                    _ => Err(Errno::EACCES),
                }
            }
            _ => Err(Errno::EISDIR),
        }
    }
}

fn flag(on: bool) -> String {
    if on { "1\n" } else { "0\n" }.to_owned()
}

fn parse_switch(text: &str) -> Result<bool, Errno> {
    match text.strip_suffix('\n').unwrap_or(text) {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

impl Filesystem for OmFiles {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let node =
            Node::from_number(parent).zip(name.to_str()).and_then(|(parent, name)| self.child(parent, name));
        match node.and_then(|node| self.attributes(node)) {
            Some(attributes) => reply.entry(&VALID, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match Node::from_number(number).and_then(|node| self.attributes(node)) {
            Some(attributes) => reply.attr(&VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// The shell's `>` truncates before it writes; that changes nothing here.
    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size {
            Some(_) => self.getattr(request, number, handle, reply),
            None => reply.error(Errno::EPERM),
        }
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(node) = Node::from_number(number) else { return reply.error(Errno::ENOENT) };
        let writes = flags.acc_mode() != fuser::OpenAccMode::O_RDONLY;
        let read_only = match node {
            Node::File(_, file) => !WRITABLE.contains(&FILES[file]),
            Node::MoreAdmin(index) => index != DRAIN,
            _ => false,
        };
        if writes && read_only {
            return reply.error(Errno::EACCES);
        }
        let Some(content) = self.content(node) else { return reply.error(Errno::ENOENT) };
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut open) = self.open.lock() {
            let (uid, gid, pid) = (request.uid(), request.gid(), request.pid());
            let administers = writes && self.access.may_administer(uid, gid, pid);
            open.insert(handle, Opened { content: content.into_bytes(), uid, administers });
        }
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let open = self.open.lock();
        let content =
            open.as_ref().ok().and_then(|open| open.get(&handle.0)).map_or(&[][..], |file| &file.content);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(usize::try_from(size).unwrap_or(0)).min(content.len());
        reply.data(&content[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(node) = Node::from_number(number) else { return reply.error(Errno::ENOENT) };
        if data.len() > LONGEST_WRITE {
            return reply.error(Errno::EINVAL);
        }
        match self.change(node, handle, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    /// There are no extended attributes; the kernel asks once.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    // Many a program asks of each file that it opens whether it is a terminal.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Ok(mut open) = self.open.lock() {
            open.remove(&handle.0);
        }
        reply.ok();
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(node) = Node::from_number(number).filter(|node| node.is_directory()) else {
            return reply.error(Errno::ENOTDIR);
        };
        let mut entries = vec![(node, ".".to_owned()), (Node::Root, "..".to_owned())];
        entries.extend(self.children(node));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (entry, name)) in (1_u64..).zip(&entries).skip(skip) {
            let kind = if entry.is_directory() { FileType::Directory } else { FileType::RegularFile };
            if reply.add(entry.number(), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_number_stands_for_one_node() {
        let nodes = [
            Node::Root,
            Node::Hpc,
            Node::Admin,
            Node::Switch(0),
            Node::Switch(3),
            Node::MoreAdmin(0),
            Node::MoreAdmin(MORE_ADMIN.len() - 1),
            Node::Process(1),
        ];
        let more = [Node::Om(1), Node::File(1, 0), Node::File(u32::MAX >> 1, FILES.len() - 1)];
        for node in nodes.into_iter().chain(more) {
            assert_eq!(Node::from_number(node.number()), Some(node));
        }
        assert_eq!(Node::from_number(INodeNo(0)), None);
        assert_eq!(Node::from_number(INodeNo(8 + MORE_ADMIN.len() as u64)), None);
        assert_eq!(Node::from_number(INodeNo((1 << 8) | 0xff)), None);
    }
}
