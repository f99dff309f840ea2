//! Text of peers, made harmless and fitted to columns. Pure.
//!
//! Whatever a server or another user says may hold characters that steer a terminal or change the order in which a line is
//! read. None of them leaves [`harmless`]; everything that is shown or printed goes through it first.

use serde_json::Value;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// `text` without what could steer a terminal, `bytes_max` bytes of it at most: line ends stay, tabs become spaces,
/// control characters, marks of direction and the like become U+FFFD.
pub fn harmless(text: &str, bytes_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes_max));
    let (mut marks, mut after_return) = (0, false);
    for c in text.chars() {
        if out.len() + c.len_utf8() > bytes_max {
            out.push('…');
            break;
        }
        if after_return && c == '\n' {
            after_return = false;
            continue;
        }
        after_return = c == '\r';
        // Piles of marks on one letter reach into the lines above it.
        marks = if is_zero_width(c) { marks + 1 } else { 0 };
        if marks > MARKS_MAX {
            continue;
        }
        match c {
            '\n' | '\r' => out.push('\n'),
            '\t' => out.push_str("  "),
            c if steers(c) => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

/// The same in one line: line ends become a sign.
pub fn harmless_line(text: &str, bytes_max: usize) -> String {
    harmless(text, bytes_max).replace('\n', "↵")
}

/// What to show of a message's content: a string, or an object's `text`, as it is; anything else as compact JSON.
pub fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Object(fields) => match fields.get("text") {
            Some(Value::String(text)) => text.clone(),
            _ => content.to_string(),
        },
        other => other.to_string(),
    }
}

/// Columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// As much of `text` as fits into so many columns, with an ellipsis where something is missing.
pub fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for cluster in text.graphemes(true) {
        if used + width(cluster) + 1 > columns {
            break;
        }
        used += width(cluster);
        out.push_str(cluster);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Lines of at most `columns`, broken between words where that is possible. There is always at least one.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut used = 0;
        for word in words(paragraph) {
            let wide = width(word);
            if used + wide <= columns {
                line.push_str(word);
                used += wide;
                continue;
            }
            if word.trim().is_empty() {
                // A space that ends a line is not carried over to the next one.
                lines.push(std::mem::take(&mut line));
                used = 0;
                continue;
            }
            // What fits no line begins in this one.
            if used > 0 && wide <= columns {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
                used = 0;
            }
            for cluster in word.graphemes(true) {
                if used + width(cluster) > columns {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                line.push_str(cluster);
                used += width(cluster);
            }
        }
        lines.push(line);
    }
    lines
}

/// Words and the spaces between them, in turn.
fn words(paragraph: &str) -> impl Iterator<Item = &str> {
    let mut rest = paragraph;
    std::iter::from_fn(move || {
        let is_space = rest.starts_with(char::is_whitespace);
        let end = rest.find(|c: char| c.is_whitespace() != is_space).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

fn is_zero_width(c: char) -> bool {
    unicode_width::UnicodeWidthChar::width(c) == Some(0)
}

/// Control characters (C0, DEL, C1), and format characters that reorder, hide or end what is around them. Joiners stay:
/// emoji and several scripts need them.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Characters without a width that may follow one another.
const MARKS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let mut bad: String = (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32).collect();
        bad.push_str("\u{202e}\u{2066}\u{200f}\u{61c}\u{feff}\u{e0041}\u{2028}\u{200b}");
        let left = harmless(&format!("a{bad}\x1b]0;title\x07\x1b[2Jb"), 10_000);
        assert!(left.chars().all(|c| c == '\n' || (!c.is_control() && !steers(c))), "{left:?}");
        assert!(left.starts_with('a') && left.ends_with("[2Jb"));
        assert!(!harmless_line(&bad, 1_000).contains('\n'));
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["héllo, wörld", "日本語", "👩‍👩‍👧 ok", "شكرا", "a\nb"] {
            assert_eq!(harmless(text, 1_000), text);
        }
        assert_eq!(harmless("a\r\nb\rc\td", 100), "a\nb\nc  d");
        assert_eq!(harmless_line("a\r\nb", 100), "a↵b");
    }

    #[test]
    fn lengths_and_piles_of_marks_are_bounded() {
        assert_eq!(harmless("ééé", 4), "éé…");
        let pile = format!("e{}", "\u{301}".repeat(1_000));
        assert_eq!(harmless(&pile, 10_000).chars().count(), 1 + MARKS_MAX);
    }

    #[test]
    fn lines_break_between_words_and_within_long_ones() {
        assert_eq!(wrap("one two, three", 8), ["one two,", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("a\n\nb", 5), ["a", "", "b"]);
        assert_eq!(wrap("", 5), [""]);
        for line in wrap("some words, 日本語 and averyveryverylongone 👩‍👩‍👧", 7) {
            assert!(width(&line) <= 7, "{line:?}");
        }
    }

    #[test]
    fn fitting_counts_columns() {
        assert_eq!(fit("lobby", 5), "lobby");
        assert_eq!(fit("lobbying", 5), "lobb…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn contents_of_any_kind_have_a_text() {
        assert_eq!(content_text(&json!("hi")), "hi");
        assert_eq!(content_text(&json!({"text": "hi", "x": 1})), "hi");
        assert_eq!(content_text(&json!({"x": [1, null]})), r#"{"x":[1,null]}"#);
        assert_eq!(content_text(&json!(7)), "7");
    }
}
