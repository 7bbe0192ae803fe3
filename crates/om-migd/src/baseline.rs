//! Holds a program to a level of x86-64 by what the libraries that look at the CPU read from their environment: the C
//! library, which picks its string functions and the directories of libraries by it, and OpenSSL. A program that asks
//! the CPU itself is not held, and whoever sets these variables for other ends keeps what they say.

use om_proto::cpu::Baseline;

/// What glibc's `glibc.cpu.hwcaps` calls the features of each level above the first; names that a release does not know are
/// passed over.
const GLIBC: [&[&str]; 3] = [
    &["SSE3", "SSSE3", "SSE4_1", "SSE4_2", "POPCNT", "CMPXCHG16B", "LAHF64_SAHF64"],
    &["XSAVE", "XSAVEC", "OSXSAVE", "AVX", "AVX2", "BMI1", "BMI2", "F16C", "FMA", "LZCNT", "MOVBE"],
    &["AVX512F", "AVX512BW", "AVX512CD", "AVX512DQ", "AVX512VL"],
];
/// What no level has and glibc makes use of.
const GLIBC_BEYOND: &[&str] = &["FMA4", "RTM", "AVX512ER", "AVX512PF", "AVX_VNNI"];

/// The bits of OpenSSL's two capability words for the features of each level above the first: ECX of CPUID leaf 1 in the
/// upper half of the first word, EBX of leaf 7 in the lower half of the second.
const OPENSSL: [(u64, u64); 3] = [
    (bits(&[32, 41, 45, 51, 52, 55]), 0),
    (bits(&[44, 54, 58, 59, 60, 61]), bits(&[3, 5, 8])),
    (0, bits(&[16, 17, 28, 30, 31])),
];
/// The same for what no level has: PCLMULQDQ, XOP, AES, RDRAND, and all the rest of leaf 7.
const OPENSSL_BEYOND: (u64, u64) = (bits(&[33, 43, 57, 62]), !(OPENSSL[0].1 | OPENSSL[1].1 | OPENSSL[2].1));

const fn bits(numbers: &[u32]) -> u64 {
    let mut word = 0;
    let mut index = 0;
    while index < numbers.len() {
        word |= 1 << numbers[index];
        index += 1;
    }
    word
}

/// Adds to an environment what holds a program to the baseline.
pub fn apply(baseline: Baseline, env: &mut Vec<Vec<u8>>) {
    let Baseline::X86(level) = baseline else { return };
    let above = usize::from(level.saturating_sub(1));
    let names = GLIBC.iter().skip(above).copied().flatten().chain(GLIBC_BEYOND);
    let masked: Vec<String> = names.map(|name| format!("-{name}")).collect();
    extend(env, "GLIBC_TUNABLES", ':', &format!("glibc.cpu.hwcaps={}", masked.join(",")));
    let none = OPENSSL.iter().skip(above).fold(OPENSSL_BEYOND, |sum, more| (sum.0 | more.0, sum.1 | more.1));
    if !env.iter().any(|entry| entry.starts_with(b"OPENSSL_ia32cap=")) {
        env.push(format!("OPENSSL_ia32cap=~{:#x}:~{:#x}", none.0, none.1).into_bytes());
    }
}

/// Adds a member to a list in a variable. What is there already goes before it: of two values of one tunable
/// the C library takes the last.
fn extend(env: &mut Vec<Vec<u8>>, name: &str, separator: char, member: &str) {
    let start = format!("{name}=");
    match env.iter_mut().find(|entry| entry.starts_with(start.as_bytes())) {
        Some(entry) if entry.len() > start.len() => entry.extend(format!("{separator}{member}").bytes()),
        Some(entry) => entry.extend(member.bytes()),
        None => env.push(format!("{start}{member}").into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(level: u8, env: &[&str]) -> Vec<String> {
        let mut env: Vec<Vec<u8>> = env.iter().map(|entry| entry.as_bytes().to_vec()).collect();
        apply(Baseline::X86(level), &mut env);
        env.into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect()
    }

    #[test]
    fn a_level_masks_what_is_above_it_and_nothing_below() {
        let env = applied(2, &["HOME=/"]);
        assert!(env[1].contains("-AVX2,") && env[1].contains("-AVX512F"), "{env:?}");
        assert!(!env[1].contains("SSE4_2"), "{env:?}");
        assert!(applied(1, &[])[0].contains("-SSE4_2"));
        assert!(!applied(3, &[])[0].contains("-AVX2"));
        assert!(!applied(4, &[])[0].contains("-AVX512F"));
    }

    #[test]
    fn openssl_is_told_in_its_own_words() {
        // CPUID.1:ECX and CPUID.7:EBX of x86-64-v2 without AES: only what the level has is left.
        assert_eq!(applied(2, &[])[1], "OPENSSL_ia32cap=~0x7e40180200000000:~0xffffffffffffffff");
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let env = applied(2, &["GLIBC_TUNABLES=glibc.malloc.check=3", "OPENSSL_ia32cap=~0x1"]);
        assert!(env[0].starts_with("GLIBC_TUNABLES=glibc.malloc.check=3:glibc.cpu.hwcaps=-"), "{env:?}");
        assert_eq!(env[1..], ["OPENSSL_ia32cap=~0x1"]);
    }

    #[test]
    fn a_native_program_is_left_alone() {
        let mut env = vec![b"A=1".to_vec()];
        apply(Baseline::Native, &mut env);
        assert_eq!(env, [b"A=1"]);
    }
}
