//! The line a person writes: text, cursor and what was written before. Pure.
//!
//! The cursor always stands between two grapheme clusters. The text is bounded, and so is the memory of earlier ones.

use std::collections::VecDeque;

use unicode_segmentation::UnicodeSegmentation;

use super::text;

/// One line that is edited.
#[derive(Clone, Debug, Default)]
pub struct Editor {
    text: String,
    /// In bytes, between two clusters.
    cursor: usize,
    /// Earlier lines, the newest last.
    past: VecDeque<String>,
    /// Which of them is shown, counted from the newest, and what was being written before.
    recalled: Option<(usize, String)>,
}

/// Where the cursor goes, or what is removed between here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One cluster back.
    Back,
    /// One cluster on.
    Forward,
    /// To the start of this or the last word.
    WordBack,
    /// To the end of this or the next word.
    WordForward,
    /// To the start.
    Start,
    /// To the end.
    End,
}

impl Editor {
    /// Puts text at the cursor: what a person typed or pasted. Line ends become spaces, for a message is sent by Enter alone.
    pub fn insert(&mut self, typed: &str) {
        for c in typed.chars() {
            let c = if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c };
            if c.is_control() || self.text.len() + c.len_utf8() > LINE_BYTES_MAX {
                continue;
            }
            self.text.insert(self.cursor, c);
            self.cursor += c.len_utf8();
        }
    }

    /// Moves the cursor.
    pub fn go(&mut self, step: Step) {
        self.cursor = self.target(step);
    }

    /// Removes what lies between the cursor and there.
    pub fn remove(&mut self, step: Step) {
        let target = self.target(step);
        let (from, to) = (self.cursor.min(target), self.cursor.max(target));
        self.text.replace_range(from..to, "");
        self.cursor = from;
    }

    /// Takes the line, which is remembered, and begins a new one.
    pub fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.text);
        self.cursor = 0;
        self.recalled = None;
        if !line.trim().is_empty() && self.past.back() != Some(&line) {
            self.past.push_back(line.clone());
            if self.past.len() > PAST_MAX {
                self.past.pop_front();
            }
        }
        line
    }

    /// Shows an earlier line.
    pub fn earlier(&mut self) {
        let at = self.recalled.as_ref().map_or(0, |(at, _)| at + 1);
        let Some(line) = self.past.len().checked_sub(at + 1).and_then(|index| self.past.get(index)) else { return };
        let begun = self.recalled.take().map_or_else(|| self.text.clone(), |(_, begun)| begun);
        self.text.clone_from(line);
        self.recalled = Some((at, begun));
        self.cursor = self.text.len();
    }

    /// Shows a later line, at the end what was being written.
    pub fn later(&mut self) {
        match self.recalled.take() {
            None => {}
            Some((0, begun)) => self.text = begun,
            Some((at, begun)) => {
                self.text.clone_from(&self.past[self.past.len() - at]);
                self.recalled = Some((at - 1, begun));
            }
        }
        self.cursor = self.text.len();
    }

    /// The part that fits into so many columns, and the cursor's column in it.
    pub fn window(&self, columns: usize) -> (String, usize) {
        let columns = columns.max(2);
        let (before, after) = self.text.split_at(self.cursor);
        let (mut start, mut used) = (before.len(), 0);
        for (at, cluster) in before.grapheme_indices(true).rev() {
            // The cursor needs a column of its own behind the text.
            if used + text::width(cluster) + 1 > columns {
                break;
            }
            used += text::width(cluster);
            start = at;
        }
        let cursor = used;
        let mut shown = before[start..].to_owned();
        for cluster in after.graphemes(true) {
            used += text::width(cluster);
            if used > columns {
                break;
            }
            shown.push_str(cluster);
        }
        (shown, cursor)
    }

    fn target(&self, step: Step) -> usize {
        let (before, after) = self.text.split_at(self.cursor);
        match step {
            Step::Back => before.grapheme_indices(true).next_back().map_or(0, |(at, _)| at),
            Step::Forward => self.cursor + after.graphemes(true).next().map_or(0, str::len),
            Step::WordBack => before.unicode_word_indices().next_back().map_or(0, |(at, _)| at),
            Step::WordForward => {
                let end = after.unicode_word_indices().next().map(|(at, word)| at + word.len());
                self.cursor + end.unwrap_or(after.len())
            }
            Step::Start => 0,
            Step::End => self.text.len(),
        }
    }
}

/// Longest line, in bytes: with JSON's quoting it still fits a message of the default size.
const LINE_BYTES_MAX: usize = 16 * 1024;
const PAST_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(text);
        editor
    }

    #[test]
    fn the_cursor_moves_by_what_is_seen_as_one_letter() {
        let mut editor = with("a👩‍👩‍👧e\u{301}");
        editor.remove(Step::Back);
        assert_eq!(editor.text, "a👩‍👩‍👧");
        editor.go(Step::Back);
        editor.insert("b");
        assert_eq!(editor.text, "ab👩‍👩‍👧");
        editor.remove(Step::Forward);
        assert_eq!(editor.text, "ab");
        editor.go(Step::Start);
        editor.remove(Step::Back);
        editor.remove(Step::End);
        assert_eq!(editor.text, "");
    }

    #[test]
    fn words_are_walked_over_and_removed() {
        let mut editor = with("one two, three");
        editor.remove(Step::WordBack);
        assert_eq!(editor.text, "one two, ");
        editor.go(Step::WordBack);
        editor.insert("X");
        assert_eq!(editor.text, "one Xtwo, ");
        editor.go(Step::Start);
        editor.remove(Step::WordForward);
        assert_eq!(editor.text, " Xtwo, ");
    }

    #[test]
    fn earlier_lines_come_back_and_what_was_begun_is_kept() {
        let mut editor = with("first");
        assert_eq!(editor.take(), "first");
        editor.insert("second");
        editor.take();
        editor.insert("begun");
        editor.earlier();
        assert_eq!(editor.text, "second");
        editor.earlier();
        editor.earlier();
        assert_eq!(editor.text, "first");
        editor.later();
        assert_eq!(editor.text, "second");
        editor.later();
        assert_eq!(editor.text, "begun");
        editor.later();
        assert_eq!(editor.text, "begun");
    }

    #[test]
    fn what_is_pasted_stays_one_line_of_bounded_length() {
        assert_eq!(with("a\nb\x1b[31m").text, "a b[31m");
        assert_eq!(with(&"é".repeat(LINE_BYTES_MAX)).text.len(), LINE_BYTES_MAX);
    }

    #[test]
    fn the_window_follows_the_cursor() {
        let mut editor = with("abcdefgh");
        assert_eq!(editor.window(5), ("efgh".to_owned(), 4));
        editor.go(Step::Start);
        assert_eq!(editor.window(5), ("abcde".to_owned(), 0));
        assert_eq!(with("日本語").window(5), ("本語".to_owned(), 4));
    }
}
