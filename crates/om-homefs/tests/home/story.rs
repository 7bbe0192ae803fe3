//! The same story told on two directories: what each step brings must not depend on which it is told on.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{
    DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::Path;
use std::thread;

use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, OFlag, RenameFlags, copy_file_range, fallocate, fcntl,
    openat, renameat2,
};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, mknod, umask, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, Gid, Uid, Whence, chown, faccessat, linkat, lseek, mkfifo, truncate};

/// What happened, a step a line.
pub struct Story(pub Vec<String>);

impl Story {
    fn tell(&mut self, what: &str, outcome: impl Debug) {
        self.0.push(format!("{what}: {outcome:?}"));
    }

    /// A step whose error is told by its number.
    fn step<T: Debug>(&mut self, what: &str, result: std::io::Result<T>) {
        let outcome = result.map_err(|error| error.raw_os_error().map(nix::errno::Errno::from_raw));
        self.tell(what, outcome);
    }

    fn nix<T: Debug>(&mut self, what: &str, result: nix::Result<T>) {
        self.tell(what, result);
    }

    /// What programs see of a file; not its times and number, which are two files' even if all is well.
    fn stat(&mut self, what: &str, path: &Path) {
        let known = fs::symlink_metadata(path).map(|m| {
            let is_sparse = m.is_file() && m.blocks() * 512 + 65_536 < m.size();
            (format!("{:o}", m.mode()), m.size(), m.nlink(), m.uid(), m.gid(), is_sparse)
        });
        self.step(what, known);
    }
}

/// Every kind of operation, in a directory that is empty at first.
pub fn tell(root: &Path) -> Story {
    let mut story = Story(Vec::new());
    umask(Mode::from_bits_truncate(0o022));
    files(&mut story, root);
    names(&mut story, root);
    links(&mut story, root);
    attributes(&mut story, root);
    holes(&mut story, root);
    xattrs(&mut story, root);
    directories(&mut story, root);
    special(&mut story, root);
    nameless(&mut story, root);
    locks(&mut story, root);
    story
}

fn files(story: &mut Story, root: &Path) {
    let path = root.join("file");
    story.step("read nothing", fs::read(&path));
    story.step("write", fs::write(&path, "hello world"));
    story.step("read", fs::read_to_string(&path));
    story.stat("stat", &path);
    story.step("make again", File::create_new(&path).map(drop));
    let append = || OpenOptions::new().append(true).open(&path).unwrap();
    let (mut one, mut two) = (append(), append());
    for round in 0..5 {
        story.step("append", one.write_all(format!("one {round}\n").as_bytes()));
        story.step("append", two.write_all(format!("two {round}\n").as_bytes()));
    }
    story.step("position after appending", two.stream_position());
    story.step("write at, but appending", two.write_at(b"!", 3));
    fcntl(&two, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    story.step("write at, no longer appending", two.write_at(b"!", 3));
    story.step("read appended", fs::read_to_string(&path));
    let mut both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    story.step("seek to the end", both.seek(SeekFrom::End(-3)));
    let mut rest = String::new();
    story.step("read the end", both.read_to_string(&mut rest));
    story.tell("the end", rest);
    story.step("truncate", both.set_len(4));
    story.step("extend", both.set_len(8));
    story.step("read extended", fs::read(&path));
    story.step("sync", both.sync_all());
    story.step("sync data", both.sync_data());
    story.step("open with O_TRUNC", File::create(&path).map(drop));
    story.stat("stat truncated", &path);
    story.step("write only, then read", File::create(&path).and_then(|mut file| file.read(&mut [0; 8])));
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    story.step("write a large file", fs::write(root.join("large"), &large));
    story.tell("read it", fs::read(root.join("large")).unwrap() == large);
    let direct = OpenOptions::new().read(true).custom_flags(libc_flags::O_DIRECT).open(root.join("large"));
    story.step("open with O_DIRECT", direct.map(drop));
    story.stat("stat the large file", &root.join("large"));
    story.step("read a directory", File::open(root).and_then(|mut file| file.read(&mut [0; 8])));
    story.step("write a directory", OpenOptions::new().write(true).open(root).map(drop));
    story.step("open below a file", File::open(path.join("x")).map(drop));
    story.step("a name too long", fs::write(root.join("n".repeat(256)), ""));
    story.step("the longest name", fs::write(root.join("n".repeat(255)), ""));
    story.step("any byte", fs::write(root.join("\u{1}\n \\\"*"), "x"));
}

mod libc_flags {
    pub const O_DIRECT: i32 = nix::libc::O_DIRECT;
}

fn names(story: &mut Story, root: &Path) {
    let (a, b, c) = (root.join("a"), root.join("b"), root.join("c"));
    story.step("mkdir", fs::create_dir(&a));
    story.step("mkdir again", fs::create_dir(&a));
    story.step("mkdir below nothing", fs::create_dir(root.join("none/x")));
    story.step("rmdir nothing", fs::remove_dir(root.join("none")));
    story.step("write below", fs::write(a.join("x"), "x"));
    story.step("rmdir full", fs::remove_dir(&a));
    story.step("unlink a directory", fs::remove_file(&a));
    story.step("rename", fs::rename(&a, &b));
    story.step("rename into itself", fs::rename(&b, b.join("y")));
    story.step("read renamed", fs::read_to_string(b.join("x")));
    story.step("mkdir", fs::create_dir(&c));
    story.step("rename over an empty directory", fs::rename(&b, &c));
    story.step("rename nothing", fs::rename(&b, &c));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    let rename2 = |flags| renameat2(AT_FDCWD, &a, AT_FDCWD, &b, flags);
    story.nix("rename without replacing", rename2(RenameFlags::RENAME_NOREPLACE));
    story.nix("exchange", rename2(RenameFlags::RENAME_EXCHANGE));
    story.step("read exchanged", fs::read_to_string(&a));
    story.step("replace", fs::rename(&a, &b));
    story.step("read replaced", fs::read_to_string(&b));
    story.step("rename a file over a directory", fs::rename(&b, &c));
    story.step("rename a directory over a file", fs::rename(&c, &b));
    story.step("rmdir a file", fs::remove_dir(&b));
    story.step("unlink", fs::remove_file(&b));
    story.step("unlink again", fs::remove_file(&b));
}

fn links(story: &mut Story, root: &Path) {
    let (file, hard, soft) = (root.join("linked"), root.join("hard"), root.join("soft"));
    fs::write(&file, "content").unwrap();
    story.step("link", fs::hard_link(&file, &hard));
    story.step("link again", fs::hard_link(&file, &hard));
    story.step("link nothing", fs::hard_link(root.join("none"), root.join("none2")));
    story.step("link a directory", fs::hard_link(root.join("c"), root.join("c2")));
    story.stat("stat linked", &file);
    story.stat("stat the link", &hard);
    story.step("symlink", symlink("linked", &soft));
    story.step("symlink again", symlink("linked", &soft));
    story.stat("stat the symlink", &soft);
    story.step("readlink", fs::read_link(&soft));
    story.step("readlink of a file", fs::read_link(&file));
    story.step("read through it", fs::read_to_string(&soft));
    story.step("a long symlink", symlink("x/".repeat(2000), root.join("long")));
    story.step("read the long symlink", fs::read_link(root.join("long")));
    story.step("follow it", fs::read(root.join("long")));
    story.step("a circle", symlink("circle", root.join("circle")));
    story.step("follow the circle", fs::read(root.join("circle")));
    story.step("link a symlink", fs::hard_link(&soft, root.join("soft2")));
    story.stat("stat the linked symlink", &soft);
    story.step("unlink one", fs::remove_file(&file));
    story.stat("stat the other", &hard);
    story.step("read the other", fs::read_to_string(&hard));
    story.step("follow dangling", fs::read_to_string(&soft));
}

fn attributes(story: &mut Story, root: &Path) {
    let path = root.join("attributes");
    fs::write(&path, "0123456789").unwrap();
    for mode in [0o600, 0o4755, 0o2755, 0o1777, 0o000, 0o644] {
        story.step("chmod", fs::set_permissions(&path, Permissions::from_mode(mode)));
        story.stat("stat", &path);
    }
    story.step("make set-user-id", fs::set_permissions(&path, Permissions::from_mode(0o6777)));
    story.step("write it", OpenOptions::new().write(true).open(&path).and_then(|mut f| f.write_all(b"x")));
    story.stat("stat after writing", &path);
    for (uid, gid) in [(Some(1), None), (None, Some(1)), (Some(65534), Some(65534)), (None, Some(0))] {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        story.nix("chown", chown(&path, uid, gid));
        story.stat("stat", &path);
    }
    let at = |seconds, ns| TimeSpec::new(seconds, ns);
    let times = |a: TimeSpec, m: TimeSpec| utimensat(AT_FDCWD, &path, &a, &m, UtimensatFlags::FollowSymlink);
    story.nix("set times", times(at(1_000_000_000, 123_456_789), at(-5, 7)));
    let seen = || fs::metadata(&path).map(|m| (m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec()));
    story.step("times", seen());
    story.nix("set one", times(TimeSpec::UTIME_OMIT, at(4_000_000_000, 1)));
    story.step("times", seen());
    story.nix("set now", times(TimeSpec::UTIME_NOW, TimeSpec::UTIME_NOW));
    story.tell("now is late", seen().is_ok_and(|(a, _, m, _)| a > 1_600_000_000 && m > 1_600_000_000));
    story.nix("truncate by name", truncate(&path, 3));
    story.stat("stat", &path);
    story.nix("truncate nothing", truncate(&root.join("none"), 3));
    story.nix("truncate a directory", truncate(&root.join("c"), 3));
    for mask in [AccessFlags::R_OK, AccessFlags::W_OK, AccessFlags::X_OK, AccessFlags::F_OK] {
        story.nix("access", faccessat(AT_FDCWD, &path, mask, AtFlags::AT_EACCESS));
    }
    story.nix(
        "access nothing",
        faccessat(AT_FDCWD, &root.join("none"), AccessFlags::F_OK, AtFlags::AT_EACCESS),
    );
    let free = nix::sys::statvfs::statvfs(&path).unwrap();
    story.tell("file system", (free.block_size(), free.fragment_size(), free.blocks(), free.name_max()));
    umask(Mode::from_bits_truncate(0o077));
    fs::write(root.join("private"), "").unwrap();
    fs::create_dir(root.join("private.d")).unwrap();
    umask(Mode::from_bits_truncate(0o022));
    story.stat("a file under umask 077", &root.join("private"));
    story.stat("a directory under umask 077", &root.join("private.d"));
    story.step("a sticky directory", DirBuilder::new().mode(0o1777).create(root.join("sticky")));
    story.stat("stat", &root.join("sticky"));
    fs::create_dir(root.join("setgid")).unwrap();
    story.nix("chown", chown(&root.join("setgid"), None, Some(Gid::from_raw(65534))));
    story.step("chmod", fs::set_permissions(root.join("setgid"), Permissions::from_mode(0o2777)));
    fs::write(root.join("setgid/file"), "").unwrap();
    fs::create_dir(root.join("setgid/dir")).unwrap();
    story.stat("a file in a setgid directory", &root.join("setgid/file"));
    story.stat("a directory in a setgid directory", &root.join("setgid/dir"));
}

fn holes(story: &mut Story, root: &Path) {
    let path = root.join("holes");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    story.step("write far out", file.write_all_at(b"data", 1 << 20));
    for (what, offset, whence) in [
        ("data", 0, Whence::SeekData),
        ("hole", 0, Whence::SeekHole),
        ("hole behind data", 1 << 20, Whence::SeekHole),
        ("data behind the end", 2 << 20, Whence::SeekData),
    ] {
        story.nix(what, lseek(&file, offset, whence));
    }
    let allocate = |mode, offset, length| fallocate(&file, mode, offset, length);
    story.nix("allocate", allocate(FallocateFlags::empty(), 0, 4 << 20));
    story.stat("stat", &path);
    story.nix("allocate beyond", allocate(FallocateFlags::FALLOC_FL_KEEP_SIZE, 4 << 20, 1 << 20));
    story.stat("stat", &path);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    story.nix("punch", allocate(punch, 1 << 20, 1 << 20));
    story.stat("stat", &path);
    let mut seen = [1; 4];
    story.step("read punched", file.read_exact_at(&mut seen, 1 << 20));
    story.tell("zeroes", seen);
    story.nix("allocate nothing", allocate(FallocateFlags::empty(), 0, 0));
    file.write_all_at(b"to be copied", 100).unwrap();
    let target = File::create(root.join("copied")).unwrap();
    story.nix("copy", copy_file_range(&file, Some(&mut 100), &target, Some(&mut 5), 12));
    story.step("read the copy", fs::read(root.join("copied")));
    story.nix("copy at the end", copy_file_range(&file, Some(&mut (4 << 20)), &target, Some(&mut 5), 12));
    story.step("copy a file", fs::copy(&path, root.join("copied2")));
    story.tell("the same", fs::read(&path).unwrap() == fs::read(root.join("copied2")).unwrap());
}

fn xattrs(story: &mut Story, root: &Path) {
    let path = root.join("xattr");
    fs::write(&path, "").unwrap();
    symlink("xattr", root.join("xattr.link")).unwrap();
    for path in [&path, &root.join("c"), &root.join("xattr.link")] {
        story.nix("set", xattr::set(path, c"user.one", b"1", 0));
        story.nix("set", xattr::set(path, c"user.two", &[7; 2000], 0));
        story.nix("create again", xattr::set(path, c"user.one", b"x", nix::libc::XATTR_CREATE));
        story.nix("replace missing", xattr::set(path, c"user.three", b"x", nix::libc::XATTR_REPLACE));
        story.nix("size", xattr::get(path, c"user.two", 0));
        story.nix("get", xattr::get(path, c"user.one", 100));
        story.nix("too small", xattr::get(path, c"user.two", 100));
        story.nix("get missing", xattr::get(path, c"user.none", 100));
        let list = xattr::list(path, 1000).map(|names| {
            let mut names: Vec<_> = names.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
            names.sort();
            names
        });
        story.nix("list", list);
        story.nix("remove", xattr::remove(path, c"user.one"));
        story.nix("remove again", xattr::remove(path, c"user.one"));
    }
    story.nix("another space", xattr::set(&path, c"other.one", b"1", 0));
}

#[expect(unsafe_code, reason = "nix has no extended attributes; strings and lengths as the calls want them")]
mod xattr {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use nix::errno::Errno;
    use nix::libc;

    fn text(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    pub fn set(path: &Path, name: &CStr, value: &[u8], flags: i32) -> nix::Result<()> {
        let path = text(path);
        let value = (value.as_ptr().cast(), value.len());
        Errno::result(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.0, value.1, flags) })
            .map(drop)
    }

    pub fn get(path: &Path, name: &CStr, size: usize) -> nix::Result<(isize, Vec<u8>)> {
        let (path, mut value) = (text(path), vec![0_u8; size]);
        let count = Errno::result(unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), size)
        })?;
        Ok((count, value))
    }

    pub fn list(path: &Path, size: usize) -> nix::Result<Vec<u8>> {
        let (path, mut value) = (text(path), vec![0_u8; size]);
        let count =
            Errno::result(unsafe { libc::llistxattr(path.as_ptr(), value.as_mut_ptr().cast(), size) })?;
        value.truncate(count as usize);
        Ok(value)
    }

    pub fn remove(path: &Path, name: &CStr) -> nix::Result<()> {
        let path = text(path);
        Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
    }
}

/// The names in a directory, and which are directories. Each must have one number, however it is asked for.
fn entries(path: &Path) -> std::io::Result<Vec<(OsString, bool)>> {
    use std::os::unix::fs::DirEntryExt;
    let entry = |entry: fs::DirEntry| {
        assert_eq!(entry.ino(), entry.metadata()?.ino());
        Ok((entry.file_name(), entry.file_type()?.is_dir()))
    };
    let mut entries = fs::read_dir(path)?.map(|e| entry(e?)).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn directories(story: &mut Story, root: &Path) {
    let path = root.join("directory");
    fs::create_dir(&path).unwrap();
    for number in 0..1500 {
        fs::write(path.join(format!("{number}{}", "n".repeat(number % 200))), "").unwrap();
    }
    fs::create_dir(path.join("sub")).unwrap();
    story.step("list", entries(&path));
    story.step("list a file", entries(&root.join("xattr")));
    let mut removed = 0;
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
            removed += 1;
        }
    }
    story.tell("removed while listing", removed);
    story.step("list", entries(&path).map(|entries| entries.len()));
    story.stat("stat", &path);
    let directory = File::open(&path).unwrap();
    story.step("sync a directory", directory.sync_all());
    story.nix(
        "open relative",
        openat(&directory, "new", OFlag::O_CREAT, Mode::from_bits_truncate(0o640)).map(drop),
    );
    story.stat("stat", &path.join("new"));
}

fn special(story: &mut Story, root: &Path) {
    let fifo = root.join("fifo");
    story.nix("mkfifo", mkfifo(&fifo, Mode::from_bits_truncate(0o600)));
    story.stat("stat", &fifo);
    story.tell("a fifo", fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let passed = thread::scope(|scope| {
        scope.spawn(|| fs::write(&fifo, "through the pipe").unwrap());
        fs::read_to_string(&fifo)
    });
    story.step("through the fifo", passed);
    story.nix(
        "mknod of a file",
        mknod(&root.join("node"), SFlag::S_IFREG, Mode::from_bits_truncate(0o666), 0),
    );
    story.stat("stat", &root.join("node"));
    let socket = std::os::unix::net::UnixListener::bind(root.join("socket"));
    story.step("bind", socket.as_ref().map(drop).map_err(|e| std::io::Error::from(e.kind())));
    story.stat("stat", &root.join("socket"));
    story.step("connect", std::os::unix::net::UnixStream::connect(root.join("socket")).map(drop));
    story.step("open a socket", File::open(root.join("socket")).map(drop));
}

fn nameless(story: &mut Story, root: &Path) {
    let path = root.join("nameless");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"before").unwrap();
    let looked = openat(AT_FDCWD, &path, OFlag::O_PATH, Mode::empty()).unwrap();
    story.step("unlink", fs::remove_file(&path));
    story.nix("stat by a handle", fstat(&file).map(|s| (s.st_nlink, s.st_size)));
    story.nix("stat by a mere look", fstat(&looked).map(|s| (s.st_nlink, s.st_size)));
    story.step("write", file.write_all(b" and after"));
    story.nix("stat", fstat(&file).map(|s| (s.st_nlink, s.st_size)));
    story.step("chmod", file.set_permissions(Permissions::from_mode(0o400)));
    story.step("rewind", file.rewind());
    let mut content = String::new();
    story.step("read", file.read_to_string(&mut content));
    story.tell("content", content);
    let dir = root.join("nameless.d");
    fs::create_dir(&dir).unwrap();
    let inside = File::open(&dir).unwrap();
    story.step("rmdir", fs::remove_dir(&dir));
    story.nix("make inside", openat(&inside, "x", OFlag::O_CREAT, Mode::empty()).map(drop));
    story.nix("stat", fstat(&inside).map(|s| s.st_nlink));

    let how = OFlag::O_TMPFILE | OFlag::O_RDWR;
    let made = openat(AT_FDCWD, root, how, Mode::from_bits_truncate(0o644)).map(File::from);
    if let Ok(mut file) = made {
        story.step("write without a name", file.write_all(b"came late"));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let late = root.join("late");
        story.nix("name it", linkat(AT_FDCWD, path.as_str(), AT_FDCWD, &late, AtFlags::AT_SYMLINK_FOLLOW));
        story.step("read it", fs::read_to_string(root.join("late")));
        story.stat("stat it", &root.join("late"));
    }
}

fn locks(story: &mut Story, root: &Path) {
    let path = root.join("locks");
    fs::write(&path, "0123456789").unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (one, two) = (open(), open());
    let part = |kind: i32, start, len| nix::libc::flock {
        l_type: kind as i16,
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    let set = |file: &File, kind, start, len| fcntl(file, FcntlArg::F_OFD_SETLK(&part(kind, start, len)));
    let get = |file: &File, kind, start, len| {
        let mut found = part(kind, start, len);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map(|_| (found.l_type, found.l_start, found.l_len))
    };
    use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK};
    story.nix("lock", set(&one, F_WRLCK, 0, 5));
    story.nix("lock the same", set(&two, F_WRLCK, 3, 5));
    story.nix("what is in the way", get(&two, F_WRLCK, 3, 5));
    story.nix("own locks are not", get(&one, F_WRLCK, 3, 5));
    story.nix("lock elsewhere", set(&two, F_WRLCK, 5, 0));
    story.nix("release a part", set(&one, F_UNLCK, 2, 3));
    story.nix("lock that", set(&two, F_RDLCK, 2, 3));
    story.nix("share it", set(&one, F_RDLCK, 2, 1));
    story.nix("not alone", set(&one, F_WRLCK, 2, 1));
    drop(two);
    story.nix("closing released it", set(&one, F_WRLCK, 0, 0));
    let two = open();
    story.nix("all of it", get(&two, F_RDLCK, 7, 1));
    drop(one);
    let waited = thread::scope(|scope| {
        let three = open();
        set(&three, F_WRLCK, 0, 0).unwrap();
        let two = &two;
        let waiter = scope.spawn(move || fcntl(two, FcntlArg::F_OFD_SETLKW(&part(F_WRLCK, 0, 0))));
        thread::sleep(std::time::Duration::from_millis(50));
        drop(three);
        waiter.join().unwrap()
    });
    story.nix("waited", waited);
    #[expect(deprecated, reason = "the wrapper hides what is to be tested")]
    {
        use nix::fcntl::{FlockArg, flock};
        use std::os::fd::AsRawFd;
        let (one, two) = (open(), open());
        story.nix("flock", flock(one.as_raw_fd(), FlockArg::LockExclusiveNonblock));
        story.nix("flock again", flock(two.as_raw_fd(), FlockArg::LockSharedNonblock));
        story.nix("share", flock(one.as_raw_fd(), FlockArg::LockSharedNonblock));
        story.nix("shared", flock(two.as_raw_fd(), FlockArg::LockSharedNonblock));
        drop(one);
        story.nix("alone", flock(two.as_raw_fd(), FlockArg::LockExclusiveNonblock));
        story.nix("done", flock(two.as_raw_fd(), FlockArg::Unlock));
    }
}
