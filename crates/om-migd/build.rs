//! Builds `om-init`, the tiny static program that is PID 1 of every job, and hands its path to the crate,
//! which carries it inside: so it needs no place on a node's disk and travels with each job.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=init");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("om-init");
    let status = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["init/main.rs", "--crate-name", "om_init", "--crate-type", "bin", "--edition", "2024"])
        .args(["--target", &env::var("TARGET").unwrap_or_default()])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "relocation-model=static",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=none"])
        .arg("-o")
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => println!("cargo:rustc-env=OM_INIT={}", out.display()),
        other => {
            eprintln!("cannot build om-init: {other:?}");
            std::process::exit(1);
        }
    }
}
