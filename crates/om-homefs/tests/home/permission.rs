//! A guest may do at home what its user may do there, and nothing else, whoever asks on the guest's node.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::unistd::{AccessFlags, access};

use crate::rig::{NOBODY, Rig, Wire, cannot_mount};

fn make(path: &Path, owner: u32, mode: u32) {
    fs::write(path, "#!/bin/sh\nexit 7\n").unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn make_dir(path: &Path, owner: u32, mode: u32) {
    fs::create_dir(path).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn denied<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// The test itself is root on the guest's node; that must not matter.
#[test]
fn files_of_others_are_as_closed_as_at_home() {
    if cannot_mount("files_of_others_are_as_closed_as_at_home") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let (home, guest) = (|name: &str| rig.home.join(name), |name: &str| rig.guest.join(name));
    make(&home("secret"), 0, 0o600);
    make(&home("readable"), 0, 0o644);
    make(&home("own"), NOBODY, 0o600);
    make(&home("own unreadable"), NOBODY, 0o000);
    make(&home("of the group"), 0, 0o640);
    chown(home("of the group"), Some(0), Some(NOBODY)).unwrap();

    assert!(denied(fs::read(guest("secret"))));
    assert!(denied(OpenOptions::new().write(true).open(guest("secret"))));
    assert!(denied(OpenOptions::new().write(true).open(guest("readable"))));
    assert!(denied(OpenOptions::new().append(true).open(guest("readable"))));
    assert!(denied(File::options().write(true).truncate(true).open(guest("readable"))));
    assert!(fs::read(guest("readable")).is_ok());
    assert!(fs::write(guest("own"), "x").is_ok());
    assert!(denied(fs::read(guest("own unreadable"))));
    assert!(fs::read(guest("of the group")).is_ok());
    assert!(denied(OpenOptions::new().write(true).open(guest("of the group"))));

    assert!(denied(fs::set_permissions(guest("readable"), Permissions::from_mode(0o666))));
    assert!(denied(chown(guest("readable"), Some(NOBODY), None)));
    assert!(denied(chown(guest("own"), Some(0), None)), "giving away is for root");
    assert!(
        denied(File::open(guest("readable")).unwrap().set_len(0))
            || fs::metadata(home("readable")).unwrap().len() > 0
    );
    assert_eq!(access(&guest("secret"), AccessFlags::R_OK), Err(nix::Error::EACCES));
    assert_eq!(access(&guest("readable"), AccessFlags::R_OK), Ok(()));
    assert_eq!(access(&guest("readable"), AccessFlags::W_OK), Err(nix::Error::EACCES));
    assert_eq!(fs::read(home("readable")).unwrap(), b"#!/bin/sh\nexit 7\n");
}

#[test]
fn directories_of_others_are_as_closed_as_at_home() {
    if cannot_mount("directories_of_others_are_as_closed_as_at_home") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let (home, guest) = (|name: &str| rig.home.join(name), |name: &str| rig.guest.join(name));
    make_dir(&home("closed"), 0, 0o700);
    make_dir(&home("search only"), 0, 0o711);
    make_dir(&home("list only"), 0, 0o744);
    make_dir(&home("sticky"), 0, 0o1777);
    for directory in ["closed", "search only", "list only", "sticky"] {
        make(&home(&format!("{directory}/file")), 0, 0o644);
    }
    assert!(denied(fs::read(guest("closed/file"))));
    assert!(denied(fs::read_dir(guest("closed"))));
    assert!(fs::read(guest("search only/file")).is_ok());
    assert!(denied(fs::read_dir(guest("search only"))));
    assert!(denied(fs::write(guest("search only/new"), "")));
    assert!(denied(fs::read(guest("list only/file"))));
    let listed: Vec<_> = fs::read_dir(guest("list only")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed, ["file"]);
    fs::write(guest("sticky/own"), "x").unwrap();
    assert_eq!(fs::metadata(home("sticky/own")).unwrap().uid(), NOBODY);
    assert_eq!(fs::remove_file(guest("sticky/file")).unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
    assert!(fs::rename(guest("sticky/own"), guest("sticky/file")).is_err());
    fs::remove_file(guest("sticky/own")).unwrap();
    assert!(denied(fs::create_dir(guest("closed/new"))));
    assert!(denied(fs::remove_dir(guest("search only"))) || home("search only").exists());
}

#[test]
fn programs_run_if_home_would_run_them_and_gain_nothing() {
    if cannot_mount("programs_run_if_home_would_run_them_and_gain_nothing") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    make(&rig.home.join("run"), 0, 0o755);
    make(&rig.home.join("not for others"), 0, 0o744);
    fs::copy("/usr/bin/id", rig.home.join("id")).unwrap();
    fs::set_permissions(rig.home.join("id"), Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(Command::new(rig.guest.join("run")).status().unwrap().code(), Some(7));
    assert!(denied(Command::new(rig.guest.join("not for others")).status()));
    use std::os::unix::process::CommandExt;
    let who = Command::new(rig.guest.join("id")).arg("-u").uid(1).gid(1).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&who.stdout).trim(), "1", "set-user-id has no power");
    // Root's other privileges are not had either.
    assert!(nix::unistd::chroot("/").is_ok(), "the test itself keeps them");
    let trusted =
        Command::new("setfattr").args(["-n", "trusted.x", "-v", "1"]).arg(rig.guest.join("run")).output();
    assert!(trusted.is_err() || !trusted.unwrap().status.success());
}

#[test]
fn set_group_id_directories_hand_on_their_group() {
    if cannot_mount("set_group_id_directories_hand_on_their_group") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    make_dir(&rig.home.join("shared"), 0, 0o777);
    chown(rig.home.join("shared"), Some(0), Some(100)).unwrap();
    fs::set_permissions(rig.home.join("shared"), Permissions::from_mode(0o2777)).unwrap();
    fs::write(rig.guest.join("shared/file"), "").unwrap();
    fs::create_dir(rig.guest.join("shared/dir")).unwrap();
    let seen = |name: &str| fs::metadata(rig.home.join(name)).map(|m| (m.uid(), m.gid(), m.mode() & 0o7000));
    assert_eq!(seen("shared/file").unwrap(), (NOBODY, 100, 0));
    assert_eq!(seen("shared/dir").unwrap(), (NOBODY, 100, 0o2000));
}

#[test]
fn a_default_acl_takes_the_place_of_the_umask() {
    if cannot_mount("a_default_acl_takes_the_place_of_the_umask") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    make_dir(&rig.home.join("acl"), NOBODY, 0o755);
    let set =
        Command::new("setfacl").args(["-d", "-m", "u::rwx,g::rwx,o::rx"]).arg(rig.home.join("acl")).status();
    if !set.is_ok_and(|status| status.success()) {
        println!(
            "skipped a_default_acl_takes_the_place_of_the_umask: needs setfacl and a file system with ACLs"
        );
        return;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    fs::write(rig.home.join("acl/home"), "").unwrap();
    fs::write(rig.guest.join("acl/guest"), "").unwrap();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mode = |name: &str| fs::metadata(rig.home.join("acl").join(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("guest"), mode("home"));
    assert_eq!(mode("guest"), 0o664);
}
