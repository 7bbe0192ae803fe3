//! Figures as people read them.

/// Bytes in at most five characters: `740B`, `12.3M`, `118G`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = *next;
    }
    if value < 99.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// CPU time as top(1) has it: `0:07.42`, from an hour on `2:03:09`.
pub fn cpu_time(us: u64) -> String {
    let centis = us / 10_000;
    let (minutes, seconds, centis) = (centis / 6000, centis / 100 % 60, centis % 100);
    if minutes < 60 {
        format!("{minutes}:{seconds:02}.{centis:02}")
    } else {
        format!("{}:{:02}:{seconds:02}", minutes / 60, minutes % 60)
    }
}

/// How long ago: `0.3s`, `17s`, `5m`, `3h`, `2d`.
pub fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{}.{}s", seconds, ms % 1000 / 100),
        10..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1000), "1.0K");
        assert_eq!(bytes(12 << 20), "12.0M");
        assert_eq!(bytes(1023 << 10), "1.0M");
        assert_eq!(bytes(118 << 30), "118G");
        assert_eq!(bytes(u64::MAX), "16.0E");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(cpu_time(7_429_000), "0:07.42");
        assert_eq!(cpu_time(7_389_000_000), "2:03:09");
        assert_eq!(ago(349), "0.3s");
        assert_eq!(ago(17_000), "17s");
        assert_eq!(ago(7_199_000), "119m");
        assert_eq!(ago(200_000_000), "2d");
    }
}
