//! Memory and swap, from `/proc/meminfo`.

use std::path::Path;

use super::file::KeptFile;

/// What the kernel tells, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryFigures {
    pub(super) total_kib: Option<u64>,
    pub(super) available_kib: Option<u64>,
    pub(super) swap_total_kib: Option<u64>,
    pub(super) swap_free_kib: Option<u64>,
}

#[derive(Debug)]
pub(super) struct MemoryInfo {
    meminfo: KeptFile,
}

impl MemoryInfo {
    pub(super) fn open(proc: &Path) -> Self {
        Self { meminfo: KeptFile::open(&proc.join("meminfo")) }
    }

    pub(super) fn read(&mut self) -> MemoryFigures {
        self.meminfo.read().map(parse).unwrap_or_default()
    }
}

fn parse(text: &str) -> MemoryFigures {
    let mut figures = MemoryFigures::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let slot = match name {
            "MemTotal" => &mut figures.total_kib,
            "MemAvailable" => &mut figures.available_kib,
            "SwapTotal" => &mut figures.swap_total_kib,
            "SwapFree" => &mut figures.swap_free_kib,
            _ => continue,
        };
        *slot = value.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok());
        if name == "SwapFree" {
            break;
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_interest_are_found() {
        let text = "MemTotal:       24684000 kB\nMemFree:        1 kB\nMemAvailable:   23344000 kB\n\
                    Buffers:        3 kB\nSwapTotal:      100 kB\nSwapFree:       40 kB\nDirty: 9 kB\n";
        let figures = MemoryFigures {
            total_kib: Some(24_684_000),
            available_kib: Some(23_344_000),
            swap_total_kib: Some(100),
            swap_free_kib: Some(40),
        };
        assert_eq!(parse(text), figures);
    }

    #[test]
    fn what_is_missing_or_odd_is_unknown() {
        assert_eq!(parse(""), MemoryFigures::default());
        assert_eq!(parse("MemTotal: lots\nMemAvailable: -1 kB\n"), MemoryFigures::default());
    }
}
