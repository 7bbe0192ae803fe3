//! What seldom changes: names, kernel, CPU.

use std::path::Path;

use om_proto::cpu::Cpu;
use om_proto::report::Machine;

use super::{cpu, read_text};

/// Characters of a name that are told; what is longer would crowd a datagram.
const NAME_LIMIT: usize = 64;

/// The host name as the kernel has it.
#[must_use]
pub fn host_name(proc: &Path) -> String {
    line(proc, "sys/kernel/hostname").unwrap_or_default()
}

/// The kernel's random boot id; zeros if it does not tell.
#[must_use]
pub fn boot_id(proc: &Path) -> [u8; 16] {
    let text = line(proc, "sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}

/// The machine as `/proc` describes it.
#[must_use]
pub fn machine(proc: &Path) -> Machine {
    let cpuinfo = read_text(&proc.join("cpuinfo")).unwrap_or_default();
    let stat = read_text(&proc.join("stat")).unwrap_or_default();
    Machine {
        arch: line(proc, "sys/kernel/arch").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernel_release: line(proc, "sys/kernel/osrelease").unwrap_or_default(),
        cpu_model: cpu_model(&cpuinfo).chars().take(NAME_LIMIT).collect(),
        cpu_features: Cpu::read(proc).fingerprint(),
        online_cpus: u16::try_from(cpu::online(&stat)).unwrap_or(u16::MAX),
        om_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What tells one CPU model from another: its name where there is one, else the numbers that ARM kernels give.
fn cpu_model(cpuinfo: &str) -> String {
    let value = |key| cpuinfo_value(cpuinfo, key);
    match value("model name") {
        Some(name) => name.split_whitespace().collect::<Vec<_>>().join(" "),
        None => ["CPU implementer", "CPU part", "CPU variant", "CPU revision"]
            .into_iter()
            .filter_map(value)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// The first CPU's value of a key.
fn cpuinfo_value<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

fn line(proc: &Path, file: &str) -> Option<String> {
    let text = read_text(&proc.join(file))?;
    Some(text.trim().chars().take(NAME_LIMIT).collect()).filter(|text: &String| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const X86: &str = "processor\t: 0\nmodel name\t: AMD  EPYC  7B13\nflags\t\t: sse2 avx fpu\n\n\
                       processor\t: 1\nmodel name\t: other\nflags\t\t: none\n";
    const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";

    #[test]
    fn a_cpu_model_is_named_on_x86_and_arm() {
        assert_eq!(cpu_model(X86), "AMD EPYC 7B13");
        assert_eq!(cpu_model(ARM), "0x41 0xd0c");
        assert_eq!(cpu_model(""), "");
    }

    #[test]
    fn names_come_from_the_given_proc() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sys/kernel/random")).unwrap();
        fs::write(dir.path().join("sys/kernel/hostname"), "heron\n").unwrap();
        fs::write(dir.path().join("sys/kernel/osrelease"), "6.18.0\n").unwrap();
        fs::write(dir.path().join("sys/kernel/random/boot_id"), "01020304-0506-0708-090a-0b0c0d0e0f10\n")
            .unwrap();
        assert_eq!(host_name(dir.path()), "heron");
        assert_eq!(machine(dir.path()).kernel_release, "6.18.0");
        assert_eq!(boot_id(dir.path()), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    }

    #[test]
    fn a_host_without_names_has_empty_ones() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((host_name(dir.path()), boot_id(dir.path())), (String::new(), [0; 16]));
        assert_eq!(machine(dir.path()).cpu_model, "");
    }
}
