//! Answers for people: fields on lines of their own, lists as tables.

use serde_json::{Map, Value};

/// An answer as text. What could command a terminal is left out.
pub(super) fn render(answer: &Value) -> String {
    let Value::Object(fields) = answer else {
        return cell(answer) + "\n";
    };
    let mut text = String::new();
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in fields {
        match value {
            Value::Array(rows) if rows.iter().any(Value::is_object) => text += &rows_of(rows),
            Value::Array(_) if value.as_array().is_some_and(Vec::is_empty) => text += &format!("{name:width$}  none\n"),
            Value::Null => {}
            value => text += &format!("{name:width$}  {}\n", cell(value)),
        }
    }
    text
}

/// A text without control characters.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Objects as lines under the names of their fields.
fn rows_of(rows: &[Value]) -> String {
    let rows: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    let mut columns: Vec<&String> = Vec::new();
    for name in rows.iter().flat_map(|row| row.keys()) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|name| name.to_uppercase()).collect()];
    for row in rows {
        lines.push(columns.iter().map(|name| row.get(*name).map(cell).unwrap_or_default()).collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(padded).collect()
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_tables_and_fields_are_lines() {
        let answer = json!({"rooms": [{"members": 2, "room": "größe"}, {"room": "b", "x": [1, "y"]}], "next": "b"});
        assert_eq!(render(&answer), "next   b\nMEMBERS  ROOM   X\n2        größe\n         b      1 y\n");
        assert_eq!(render(&json!({"count": 3, "none": null})), "count  3\n");
        assert_eq!(render(&json!({"rooms": []})), "rooms  none\n");
    }

    #[test]
    fn what_members_say_does_not_reach_the_terminal_as_a_command() {
        let shown = render(&json!({"messages": [{"content": "\u{1b}[2J\u{9b}x\ny"}]}));
        assert_eq!(shown, "CONTENT\n\u{fffd}[2J\u{fffd}x\u{fffd}y\n");
    }
}
