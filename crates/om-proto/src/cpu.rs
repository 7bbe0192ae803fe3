//! What programs can see of a CPU, and what a job that has seen one demands of another.
//!
//! A program looks at its CPU once, at its start, and uses what it has found for ever. So a job may only go where
//! everything is that it may have found: by default whatever its present node has, or, if it was started under a
//! [`Baseline`], what that names and nothing more.
//!
//! Vector registers are a matter of size too: the C library reserves room for them by the size that the CPU told it, and
//! a CPU that has more of them would write beyond it. That size is taken from the length of the kernel's signal
//! frames, which contain the very same area.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The key of the least size of a signal stack in a process's auxiliary vector (`AT_MINSIGSTKSZ`).
const AUXV_SIGNAL_FRAME: u64 = 51;

/// Names in x86's `/proc/cpuinfo` that stand for instructions which programs may use. The others tell of the kernel's own
/// affairs, of speed, and of flaws; they differ between machines that are alike for a program.
const X86_INSTRUCTIONS: &str = "\
    3dnow 3dnowext 3dnowprefetch abm adx aes amx_bf16 amx_complex amx_fp16 amx_int8 amx_tile apx avx \
    avx10 avx2 avx512_4fmaps avx512_4vnniw avx512_bf16 avx512_bitalg avx512_fp16 avx512_vbmi2 \
    avx512_vnni avx512_vp2intersect avx512_vpopcntdq avx512bw avx512cd avx512dq avx512er avx512f \
    avx512ifma avx512pf avx512vbmi avx512vl avx_ifma avx_ne_convert avx_vnni avx_vnni_int16 \
    avx_vnni_int8 bmi1 bmi2 cldemote clflush clflushopt clwb clzero cmov cmpccxadd cx16 cx8 enqcmd f16c \
    fma fma4 fpu fsgsbase fxsr gfni hle lahf_lm lwp misalignsse mmx mmxext movbe movdir64b movdiri mpx \
    mwaitx ospke pclmulqdq pni popcnt prefetchi raoint rdpid rdpru rdrand rdseed rdtscp rtm serialize \
    sha512 sha_ni sm3 sm4 sse sse2 sse4_1 sse4_2 sse4a ssse3 syscall tbm tsxldtrk user_shstk vaes \
    vpclmulqdq waitpkg xgetbv1 xop xsave xsavec xsaveopt";

/// What each level of the x86-64 psABI adds to the one below, by the names in `/proc/cpuinfo`.
const X86_LEVELS: [&[&str]; 4] = [
    &["cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2", "syscall"],
    &["cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"],
    &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"],
    &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"],
];

/// The level from which on a program uses vector registers whose number and size differ between CPUs.
const FIRST_LEVEL_WITH_VECTORS: u8 = 3;

/// What programs can see of this node's CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Names of what programs may use, as `/proc/cpuinfo` has them.
    features: BTreeSet<String>,
    /// Bytes of a signal frame, and with it of the vector registers; 0 if unknown.
    frame_bytes: u64,
    is_x86: bool,
}

/// What a job uses of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Baseline {
    /// Whatever is there.
    #[default]
    Native,
    /// What the x86-64 psABI gives this level, 1 to 4, and nothing more.
    X86(u8),
}

/// What a job demands of the CPU of a node where it is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Names as `/proc/cpuinfo` has them.
    pub features: Vec<String>,
    /// Bytes that a signal frame must have; 0 if that does not matter.
    pub frame_bytes: u64,
}

/// Why a CPU will not do. Nothing has been changed by asking.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Features are missing.
    #[error("this node's CPU lacks {}", .0.join(", "))]
    Lacks(Vec<String>),
    /// The vector registers differ in number or size.
    #[error(
        "this node's CPU has vector registers of another size ({here} bytes with all of them, not {there})"
    )]
    VectorSize {
        /// Signal frame here.
        here: u64,
        /// Signal frame that the job knows.
        there: u64,
    },
}

impl Cpu {
    /// Looks at the CPU through a `/proc`. What that does not tell is unknown.
    #[must_use]
    pub fn read(proc: &Path) -> Self {
        let info = fs::read_to_string(proc.join("cpuinfo")).unwrap_or_default();
        let auxv = fs::read(proc.join("self/auxv")).unwrap_or_default();
        Self::parse(&info, &auxv)
    }

    /// As [`Self::read`], from the contents of `cpuinfo` and `self/auxv`.
    #[must_use]
    pub fn parse(info: &str, auxv: &[u8]) -> Self {
        let list = |key: &str| {
            let values = info.lines().filter_map(|line| line.split_once(':'));
            values.filter(|(name, _)| name.trim() == key).map(|(_, list)| list).next()
        };
        let x86 = list("flags");
        let names = x86.or_else(|| list("Features")).unwrap_or_default().split_whitespace();
        let visible = |name: &&str| x86.is_none() || X86_INSTRUCTIONS.split(' ').any(|known| known == *name);
        Self {
            features: names.filter(visible).map(str::to_owned).collect(),
            frame_bytes: signal_frame(auxv).unwrap_or(0),
            is_x86: x86.is_some(),
        }
    }

    /// A number by which CPUs that are the same for every program can be known; 0 if nothing is known.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        if self.features.is_empty() {
            return 0;
        }
        let mut digest = Sha256::new();
        for name in &self.features {
            digest.update(name);
            digest.update(" ");
        }
        digest.update(self.frame_bytes.to_le_bytes());
        digest.finalize().first_chunk().copied().map_or(0, u64::from_le_bytes)
    }

    /// The highest x86-64 level that it has; 0 for other CPUs and where nothing is known.
    #[must_use]
    pub fn level(&self) -> u8 {
        let has = |names: &&&[&str]| self.is_x86 && names.iter().all(|name| self.features.contains(*name));
        u8::try_from(X86_LEVELS.iter().take_while(has).count()).unwrap_or(0)
    }

    /// What a job that runs here demands of other nodes.
    #[must_use]
    pub fn demand(&self, baseline: Baseline) -> Demand {
        match baseline {
            Baseline::Native => {
                Demand { features: self.features.iter().cloned().collect(), frame_bytes: self.frame_bytes }
            }
            Baseline::X86(level) => {
                let levels = X86_LEVELS.iter().take(usize::from(level));
                let frame_bytes = if level < FIRST_LEVEL_WITH_VECTORS { 0 } else { self.frame_bytes };
                Demand {
                    features: levels.flat_map(|names| names.iter().map(ToString::to_string)).collect(),
                    frame_bytes,
                }
            }
        }
    }

    /// Whether a job with this demand can run here.
    ///
    /// # Errors
    /// What is in the way.
    pub fn fits(&self, demand: &Demand) -> Result<(), Unfit> {
        let lacks = |name: &&String| !self.features.contains(*name);
        let missing: Vec<String> = demand.features.iter().filter(lacks).cloned().collect();
        if !missing.is_empty() {
            return Err(Unfit::Lacks(missing));
        }
        match (self.frame_bytes, demand.frame_bytes) {
            (here @ 1.., there @ 1..) if here != there => Err(Unfit::VectorSize { here, there }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::X86(1) => f.write_str("x86-64"),
            Self::X86(level) => write!(f, "x86-64-v{level}"),
        }
    }
}

/// What is no baseline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no baseline: native, x86-64, x86-64-v2, x86-64-v3 or x86-64-v4")]
pub struct NoBaseline(String);

impl FromStr for Baseline {
    type Err = NoBaseline;

    fn from_str(text: &str) -> Result<Self, NoBaseline> {
        let all = [Self::Native, Self::X86(1), Self::X86(2), Self::X86(3), Self::X86(4)];
        let found = all.into_iter().find(|baseline| baseline.to_string() == text);
        found.ok_or_else(|| NoBaseline(text.chars().take(40).collect()))
    }
}

impl From<Baseline> for String {
    fn from(baseline: Baseline) -> Self {
        baseline.to_string()
    }
}

impl TryFrom<String> for Baseline {
    type Error = NoBaseline;

    fn try_from(text: String) -> Result<Self, NoBaseline> {
        text.parse()
    }
}

/// The least size of a signal stack in an auxiliary vector: pairs of 64-bit numbers, key and value.
fn signal_frame(auxv: &[u8]) -> Option<u64> {
    let (pairs, _) = auxv.as_chunks::<16>();
    let number = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_ne_bytes);
    pairs
        .iter()
        .find(|pair| number(&pair[..8]) == Some(AUXV_SIGNAL_FRAME))
        .and_then(|pair| number(&pair[8..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auxv(frame_bytes: u64) -> Vec<u8> {
        [6_u64, 4096, AUXV_SIGNAL_FRAME, frame_bytes, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    fn x86(levels: usize, more: &str, frame_bytes: u64) -> Cpu {
        let names: Vec<&str> = X86_LEVELS[..levels].concat();
        let info =
            format!("processor : 0\nflags\t\t: {} {more} hypervisor ibrs\n\nflags : none\n", names.join(" "));
        Cpu::parse(&info, &auxv(frame_bytes))
    }

    #[test]
    fn a_native_job_goes_where_everything_is_that_it_may_have_seen() {
        let (old, new) = (x86(3, "", 2696), x86(3, "adx sha_ni", 2696));
        assert_eq!(new.fits(&old.demand(Baseline::Native)), Ok(()));
        let unfit = old.fits(&new.demand(Baseline::Native)).unwrap_err();
        assert_eq!(unfit.to_string(), "this node's CPU lacks adx, sha_ni");
    }

    #[test]
    fn a_job_that_knows_the_size_of_its_vectors_does_not_meet_others() {
        let (small, large) = (x86(3, "", 2696), x86(4, "", 3632));
        for baseline in [Baseline::Native, Baseline::X86(3)] {
            assert!(matches!(large.fits(&small.demand(baseline)), Err(Unfit::VectorSize { .. })));
        }
        assert_eq!(large.fits(&small.demand(Baseline::X86(2))), Ok(()));
        let unknown = x86(4, "", 0);
        assert_eq!(unknown.fits(&small.demand(Baseline::Native)), Ok(()));
    }

    #[test]
    fn a_job_under_a_baseline_demands_its_level_and_no_more() {
        let (full, lesser) = (x86(4, "aes", 3632), x86(2, "", 1776));
        assert_eq!(lesser.fits(&full.demand(Baseline::X86(2))), Ok(()));
        let unfit = lesser.fits(&full.demand(Baseline::X86(3))).unwrap_err().to_string();
        assert!(unfit.contains("avx2") && !unfit.contains("avx512f"), "{unfit}");
    }

    #[test]
    fn a_level_is_reached_with_all_below_it() {
        for level in 0..=4_u8 {
            assert_eq!(x86(usize::from(level), "", 0).level(), level);
        }
        assert_eq!(Cpu::parse("flags : avx512f sse4_2 fpu", &[]).level(), 0);
        assert_eq!(Cpu::parse("Features : fp asimd", &[]).level(), 0);
    }

    #[test]
    fn what_programs_cannot_see_does_not_tell_cpus_apart() {
        let plain = Cpu::parse("flags : fpu sse2", &auxv(1776));
        assert_eq!(
            Cpu::parse("flags : sse2 fpu pti hypervisor", &auxv(1776)).fingerprint(),
            plain.fingerprint()
        );
        assert_ne!(Cpu::parse("flags : fpu", &auxv(1776)).fingerprint(), plain.fingerprint());
        assert_ne!(Cpu::parse("flags : fpu sse2", &auxv(2696)).fingerprint(), plain.fingerprint());
        assert_eq!(Cpu::parse("", &auxv(1776)).fingerprint(), 0);
    }

    #[test]
    fn all_names_of_an_arm_cpu_count() {
        let (one, other) =
            (Cpu::parse("Features : fp asimd sve\n", &[]), Cpu::parse("Features : fp asimd\n", &[]));
        assert_eq!(one.fits(&other.demand(Baseline::Native)), Ok(()));
        assert!(other.fits(&one.demand(Baseline::Native)).is_err());
    }

    #[test]
    fn baselines_are_named_as_compilers_name_them() {
        for name in ["native", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"] {
            assert_eq!(name.parse::<Baseline>().unwrap().to_string(), name);
        }
        for name in ["", "x86-64-v1", "x86-64-v5", "Native", "x86-64-v0"] {
            assert!(name.parse::<Baseline>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn this_machine_is_told() {
        let here = Cpu::read(Path::new("/proc"));
        assert_eq!(here.fits(&here.demand(Baseline::Native)), Ok(()));
        assert_ne!(here.fingerprint(), 0);
    }

    #[test]
    fn a_broken_auxiliary_vector_tells_nothing() {
        for bytes in [&[][..], &[1, 2, 3], &auxv(5)[..20]] {
            assert_eq!(signal_frame(bytes), None);
        }
    }
}
