//! What a mount promises over its life: numbers that stay, changes that are seen, ends that are clean.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use om_homefs::server::SessionId;

use crate::rig::{NOBODY, Rig, Wire, as_user, cannot_mount};

#[test]
fn a_file_has_the_same_number_in_every_session() {
    if cannot_mount("a_file_has_the_same_number_in_every_session") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    fs::create_dir(rig.home.join("mount")).unwrap();
    mount(Some("tmpfs"), &rig.home.join("mount"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(rig.home.join("file"), "").unwrap();
    fs::write(rig.home.join("mount/file"), "").unwrap();
    let (place, session) = rig.second_mount(SessionId(2));
    let number = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    let on_root = number(rig.guest.join("file"));
    let below = number(rig.guest.join("mount/file"));
    assert_eq!(on_root, number(rig.home.join("file")));
    assert_eq!(on_root, number(place.join("file")));
    assert_eq!(below, number(place.join("mount/file")));
    assert_ne!(below, number(rig.home.join("mount/file")), "two devices, one number space");
    assert_eq!(number(rig.guest.join("mount")), number(place.join("mount")));
    let moved = fs::rename(rig.guest.join("file"), rig.guest.join("mount/moved"));
    assert_eq!(moved.unwrap_err().kind(), std::io::ErrorKind::CrossesDevices);
    umount2(&place, MntFlags::MNT_DETACH).unwrap();
    session.close();
}

#[test]
fn what_others_change_at_home_is_seen() {
    if cannot_mount("what_others_change_at_home_is_seen") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let (home, guest) = (rig.home.join("file"), rig.guest.join("file"));
    assert!(fs::read(&guest).is_err());
    fs::write(&home, "one").unwrap();
    assert_eq!(fs::read_to_string(&guest).unwrap(), "one", "a missing name is not remembered");
    fs::write(&home, "two").unwrap();
    assert_eq!(fs::read_to_string(&guest).unwrap(), "two", "same size, opened anew");
    let mut open = File::open(&guest).unwrap();
    let mut seen = String::new();
    open.read_to_string(&mut seen).unwrap();
    OpenOptions::new().append(true).open(&home).unwrap().write_all(b" and three").unwrap();
    assert_eq!(fs::metadata(&guest).unwrap().size(), 13, "attributes are never remembered");
    assert_eq!(open.metadata().unwrap().size(), 13);
    open.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "two and three", "grown while open");
    fs::write(&home, "new").unwrap();
    thread::sleep(Duration::from_millis(150));
    let mut again = [0; 3];
    open.read_exact_at(&mut again, 0).unwrap();
    assert_eq!(&again, b"new", "changed in place while open");
    fs::write(rig.home.join("other"), "replaced").unwrap();
    fs::rename(rig.home.join("other"), &home).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(fs::read_to_string(&guest).unwrap(), "replaced");
    fs::remove_file(&home).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert!(fs::read(&guest).is_err());
}

#[test]
fn several_processes_append_without_losing_a_line() {
    if cannot_mount("several_processes_append_without_losing_a_line") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let append = |path: std::path::PathBuf, who: &'static str| {
        let script = format!("for i in $(seq 300); do echo {who} $i >> {}; done", path.display());
        Command::new("sh").args(["-c", &script]).spawn().unwrap()
    };
    File::create(rig.home.join("log")).unwrap();
    std::os::unix::fs::chown(rig.home.join("log"), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut children = [
        append(rig.guest.join("log"), "guest one"),
        append(rig.guest.join("log"), "guest two"),
        append(rig.home.join("log"), "home"),
    ];
    children.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    let log = fs::read_to_string(rig.guest.join("log")).unwrap();
    assert_eq!(log, fs::read_to_string(rig.home.join("log")).unwrap());
    for who in ["guest one", "guest two", "home"] {
        let lines: Vec<_> = log.lines().filter_map(|line| line.strip_prefix(who)).collect();
        let expected: Vec<_> = (1..=300).map(|number| format!(" {number}")).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_closed_session_fails_requests_at_once() {
    if cannot_mount("a_closed_session_fails_requests_at_once") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let file = File::create(rig.guest.join("file")).unwrap();
    rig.session.close();
    let start = Instant::now();
    assert!(file.sync_all().is_err());
    assert!(fs::metadata(rig.guest.join("other")).is_err());
    assert!(fs::read_dir(&rig.guest).is_err());
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(rig.session.is_over());
}

#[test]
fn an_ended_session_is_refused_and_lets_go() {
    if cannot_mount("an_ended_session_is_refused_and_lets_go") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let file = File::create(rig.guest.join("file")).unwrap();
    let whole =
        nix::libc::flock { l_type: nix::libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    assert_eq!(rig.server.locks_held(SessionId(1)), 1);
    let part = nix::libc::flock { l_type: nix::libc::F_UNLCK as i16, l_len: 10, ..whole };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&part)).unwrap();
    assert_eq!(rig.server.locks_held(SessionId(1)), 1);
    let rest = nix::libc::flock { l_start: 10, l_len: 0, ..part };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&rest)).unwrap();
    assert_eq!(rig.server.locks_held(SessionId(1)), 0);
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    let at_home = OpenOptions::new().write(true).open(rig.home.join("file")).unwrap();
    assert!(fcntl(&at_home, FcntlArg::F_OFD_SETLK(&whole)).is_err(), "home sees the guest's locks");
    rig.server.end_session(SessionId(1));
    fcntl(&at_home, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    assert!(fs::metadata(rig.guest.join("file")).is_err());
    assert!(rig.session.is_over(), "told by home, not by time-out");
    let before = rig.connections.load(Ordering::Relaxed);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.connections.load(Ordering::Relaxed), before, "it stops trying");
}

#[test]
fn any_number_of_waiters_for_a_lock_starve_nobody() {
    if cannot_mount("any_number_of_waiters_for_a_lock_starve_nobody") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let path = rig.guest.join("lock");
    let mut holder = Command::new("flock").arg(&path).args(["sleep", "3"]).spawn().unwrap();
    let mut is_held = || holder.try_wait().unwrap().is_none();
    thread::sleep(Duration::from_millis(300));
    let waiters: Vec<_> =
        (0..60).map(|_| Command::new("flock").args(["-s"]).arg(&path).arg("true").spawn().unwrap()).collect();
    let gives_up = Command::new("flock").args(["-w", "0.1"]).arg(&path).arg("true").status().unwrap();
    assert_eq!(gives_up.code(), Some(1), "a signal ends the wait");
    assert!(is_held());
    fs::write(rig.guest.join("other"), "served meanwhile").unwrap();
    let mut killed = Command::new("flock").arg(&path).arg("true").spawn().unwrap();
    thread::sleep(Duration::from_millis(100));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(is_held(), "all that while others waited");
    for mut waiter in waiters {
        assert!(waiter.wait().unwrap().success());
    }
    assert!(holder.wait().unwrap().success());
}

#[test]
fn a_guest_may_know_more_files_than_home_may_open() {
    if cannot_mount("a_guest_may_know_more_files_than_home_may_open") {
        return;
    }
    const FILES: u32 = 5_000;
    let rig = Rig::new(NOBODY, Wire::Pair);
    for number in 0..10 {
        let directory = rig.home.join(number.to_string());
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(NOBODY), None).unwrap();
    }
    for number in 0..FILES {
        fs::write(rig.home.join(format!("{}/{number}", number % 10)), number.to_string()).unwrap();
    }
    let check = |number: u32| {
        let path = format!("{}/{number}", number % 10);
        let (home, guest) = (rig.home.join(&path), rig.guest.join(&path));
        assert_eq!(fs::metadata(&home).unwrap().ino(), fs::metadata(&guest).unwrap().ino());
        assert_eq!(fs::read_to_string(&guest).unwrap(), number.to_string());
    };
    // Looked at but not open: home need not keep these at hand, only find them again.
    let looked: Vec<_> = (0..50)
        .map(|number| {
            let path = rig.guest.join(format!("{}/{number}", number % 10));
            openat(AT_FDCWD, &path, OFlag::O_PATH, Mode::empty()).unwrap()
        })
        .collect();
    for number in 0..FILES {
        fs::metadata(rig.guest.join(format!("{}/{number}", number % 10))).unwrap();
    }
    for (number, fd) in looked.iter().enumerate() {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        assert_eq!(fs::read_to_string(path).unwrap(), number.to_string());
    }
    let is_held = |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&rig.home));
    let held = fs::read_dir("/proc/self/fd").unwrap().filter(|fd| is_held(fd.as_ref().unwrap())).count();
    assert!(held < 4_300, "{held} descriptors");
    (0..FILES).step_by(7).for_each(check);
    // Removed by the guest itself: still there for whoever looks at it.
    for number in 0..25 {
        fs::remove_file(rig.guest.join(format!("{}/{number}", number % 10))).unwrap();
    }
    // Removed at home and its number taken by another file: gone, never mistaken for it.
    for number in 25..50 {
        let path = rig.home.join(format!("{}/{number}", number % 10));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
    }
    (50..FILES).step_by(5).for_each(check);
    thread::sleep(Duration::from_millis(1100));
    for (number, fd) in looked.iter().enumerate() {
        match nix::sys::stat::fstat(fd) {
            Ok(stat) => assert_eq!(stat.st_nlink, 0),
            Err(error) => assert!(error == nix::Error::ESTALE && number >= 25, "{number}: {error}"),
        }
        let path = rig.guest.join(format!("{}/{number}", number % 10));
        assert_eq!(fs::read_to_string(path).ok().as_deref(), (number >= 25).then_some("another"));
    }
}

#[test]
fn file_systems_that_the_kernel_makes_up_are_empty() {
    if cannot_mount("file_systems_that_the_kernel_makes_up_are_empty") {
        return;
    }
    let rig = Rig::new(0, Wire::Pair);
    fs::create_dir(rig.home.join("mount")).unwrap();
    mount(Some("proc"), &rig.home.join("mount"), Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
    assert!(rig.home.join("mount/self").exists());
    let at_guest = rig.guest.join("mount");
    assert!(fs::metadata(&at_guest).unwrap().is_dir());
    assert_eq!(fs::read_dir(&at_guest).unwrap().count(), 0);
    assert!(!at_guest.join("self").exists());
    assert!(fs::write(at_guest.join("x"), "").is_err());
    mount(Some("tmpfs"), &at_guest, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(at_guest.join("x"), "the guest node's own").unwrap();
    umount2(&at_guest, MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_shared_mapping_reaches_home() {
    if cannot_mount("a_shared_mapping_reaches_home") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    fs::write(rig.home.join("mapped"), vec![b'.'; 100_000]).unwrap();
    std::os::unix::fs::chown(rig.home.join("mapped"), Some(NOBODY), Some(NOBODY)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(rig.guest.join("mapped")).unwrap();
    let (shared, private) = (Mapping::new(&file, true), Mapping::new(&file, false));
    shared.set(50_000, b'S');
    private.set(60_000, b'P');
    assert_eq!((private.get(60_000), shared.get(60_000), shared.get(99_999)), (b'P', b'.', b'.'));
    // The mapping stays: as with a job that is frozen, nobody tells the kernel to write it back but us.
    let root = File::open(&rig.guest).unwrap();
    rig.session.flush(std::os::fd::AsFd::as_fd(&root)).unwrap();
    let at_home = fs::read(rig.home.join("mapped")).unwrap();
    assert_eq!((at_home[50_000], at_home[60_000], at_home.len()), (b'S', b'.', 100_000));
}

use mapping::Mapping;

#[expect(unsafe_code, reason = "mappings are what is tested")]
mod mapping {
    use std::fs::File;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap};

    /// The first 100,000 bytes of a file, never unmapped.
    pub struct Mapping(NonNull<u8>);

    impl Mapping {
        pub fn new(file: &File, shared: bool) -> Mapping {
            let flags = if shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
            let length = NonZeroUsize::new(100_000).unwrap();
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            Mapping(unsafe { mmap(None, length, access, flags, file, 0) }.unwrap().cast())
        }

        pub fn get(&self, at: usize) -> u8 {
            assert!(at < 100_000);
            unsafe { self.0.add(at).read_volatile() }
        }

        pub fn set(&self, at: usize, byte: u8) {
            assert!(at < 100_000);
            unsafe { self.0.add(at).write_volatile(byte) }
        }
    }
}

#[test]
fn devices_are_refused() {
    if cannot_mount("devices_are_refused") {
        return;
    }
    let rig = Rig::new(0, Wire::Pair);
    use nix::sys::stat::{SFlag, makedev, mknod};
    let made = mknod(&rig.guest.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3));
    assert_eq!(made, Err(nix::Error::EPERM));
    mknod(&rig.home.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    assert!(File::open(rig.guest.join("null")).is_err());
    as_user(0, || ());
}
