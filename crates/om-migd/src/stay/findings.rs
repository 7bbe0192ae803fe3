//! What has been found, one reason a word.

use super::Reason;

/// The reasons so far, in the order in which their words were first found.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<(Reason, usize)>,
}

impl Findings {
    /// Adds one more case of this word; only the first is told in full.
    pub fn add(&mut self, word: &'static str, detail: impl FnOnce() -> String) {
        match self.found.iter_mut().find(|(reason, _)| reason.word == word) {
            Some((_, count)) => *count += 1,
            None => self.found.push((Reason { word, detail: detail() }, 1)),
        }
    }

    /// All of them.
    pub fn into_reasons(self) -> Vec<Reason> {
        let tell = |(mut reason, count): (Reason, usize)| {
            if count > 1 {
                reason.detail.push_str(&format!(" (and {} more)", count - 1));
            }
            reason
        };
        self.found.into_iter().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_told_once_with_its_first_case_and_a_count() {
        let mut findings = Findings::default();
        findings.add("device", || "a".into());
        findings.add("socket", || "b".into());
        findings.add("device", || "c".into());
        let lines: Vec<String> = findings.into_reasons().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["device: a (and 1 more)", "socket: b"]);
    }
}
