//! Free text in a file of lines: control characters are escaped, so that a command's arguments can neither begin
//! a line of their own nor reach a person's terminal.

use std::fmt::Write as _;

/// `text` with every control character as `\u{HEX}` and every backslash doubled.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\\' {
            out.push_str("\\\\");
        } else if c.is_control() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Undoes [`escape`]; `None` if `text` holds a control character or an escape that `escape` never writes.
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c.is_control() {
            return None;
        }
        if c != '\\' {
            out.push(c);
        } else if let Some(after) = rest.strip_prefix('\\') {
            out.push('\\');
            rest = after;
        } else {
            let (hex, after) = rest.strip_prefix("u{")?.split_once('}')?;
            let escaped = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)?;
            if !escaped.is_control() {
                return None;
            }
            out.push(escaped);
            rest = after;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_escaped_is_one_line_and_comes_back(text in ".*") {
            let escaped = escape(&text);
            prop_assert!(!escaped.chars().any(char::is_control));
            prop_assert_eq!(unescape(&escaped), Some(text));
        }

        #[test]
        fn only_one_text_stands_for_a_value(text in r"[a\\u{}0-9\n]{0,12}") {
            if let Some(value) = unescape(&text) {
                prop_assert!(unescape(&escape(&value)) == Some(value));
            }
        }
    }

    #[test]
    fn a_newline_in_a_command_begins_no_line() {
        assert_eq!(escape("sh -c 'a\nb'"), "sh -c 'a\\u{a}b'");
        assert_eq!(unescape("a\\n"), None);
        assert_eq!(unescape("a\\u{41}"), None);
        assert_eq!(unescape("a\nb"), None);
    }
}
