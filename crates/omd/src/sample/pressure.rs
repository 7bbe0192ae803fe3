//! Pressure stall information: for how long, in all, some task had to wait. The averages in the same files are
//! refreshed every two seconds only; the totals are exact. A kernel may lack the files or refuse to read them.

use std::path::Path;

use super::file::KeptFile;

/// Totals in microseconds since the host was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) cpu_us: Option<u64>,
    pub(super) memory_us: Option<u64>,
    pub(super) io_us: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Pressure {
    cpu: KeptFile,
    memory: KeptFile,
    io: KeptFile,
}

impl Pressure {
    pub(super) fn open(proc: &Path) -> Self {
        let file = |name| KeptFile::open(&proc.join("pressure").join(name));
        Self { cpu: file("cpu"), memory: file("memory"), io: file("io") }
    }

    pub(super) fn read(&mut self) -> Totals {
        Totals {
            cpu_us: self.cpu.read().and_then(some_total),
            memory_us: self.memory.read().and_then(some_total),
            io_us: self.io.read().and_then(some_total),
        }
    }
}

fn some_total(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_some_is_read() {
        let text = "some avg10=0.00 avg60=1.23 avg300=0.00 total=123456789\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        assert_eq!(some_total(text), Some(123_456_789));
        assert_eq!(some_total("full avg10=0.00 total=5\n"), None);
        assert_eq!(some_total(""), None);
    }
}
