//! Every setting with its origin, written so that it can be used as a configuration file.

use crate::config::load::Loaded;
use crate::config::settings::{self, Setting, Shape};
use crate::config::{permissions, rooms};

/// A setting, or a key of a rule of the file, as it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// As in the file; of a rule, `rooms[0].pattern`.
    pub key: String,
    /// As it would stand in the file.
    pub value: String,
    /// Where it was given.
    pub origin: String,
}

/// Every setting with its origin, then the rules of the file, complete.
#[must_use]
pub fn explained(loaded: &Loaded) -> Vec<Explained> {
    let section_of = |setting: &Setting| setting.key.split_once('.').map_or("", |(section, _)| section);
    let mut settings: Vec<_> = settings::all().collect();
    // Keys without a section come first in a file, and a section comes once.
    settings.sort_by_key(|setting| section_of(setting));
    let of_setting = |setting: &Setting| Explained {
        key: setting.key.to_owned(),
        value: literal(setting.shape, &(setting.write)(&loaded.config)),
        origin: loaded.given(setting).1,
    };
    let mut all: Vec<_> = settings.into_iter().map(of_setting).collect();
    let origin = loaded.origin_of_tables(rooms::KEY);
    for (index, (pattern, policy)) in loaded.config.policies.rules.iter().enumerate() {
        for (key, value) in rooms::write(pattern, policy) {
            let shape = if key == "pattern" { Shape::Text } else { Shape::Number };
            let key = format!("{}[{index}].{key}", rooms::KEY);
            all.push(Explained { key, value: literal(shape, &[value]), origin: origin.clone() });
        }
    }
    let origin = loaded.origin_of_tables(permissions::KEY);
    for (index, rule) in loaded.config.permissions.rules.iter().enumerate() {
        for (key, values) in permissions::write(rule) {
            let shape = if permissions::is_list(key) { Shape::List } else { Shape::Text };
            let key = format!("{}[{index}].{key}", permissions::KEY);
            all.push(Explained { key, value: literal(shape, &values), origin: origin.clone() });
        }
    }
    all
}

/// One line per setting: `key = value  # origin`, then the rules of the file. Reading the text as a file gives the same
/// configuration.
#[must_use]
pub fn explain(loaded: &Loaded) -> String {
    let mut table = String::new();
    let mut lines = Vec::new();
    for Explained { key, value, origin } in explained(loaded) {
        let (section, key) = key.split_once('.').unwrap_or(("", &key));
        if section != table {
            let head = match section.split_once('[') {
                Some((rules, _)) => format!("\n[[{rules}]]"),
                None => format!("\n[{section}]"),
            };
            lines.push((head, String::new()));
            table = section.to_owned();
        }
        lines.push((format!("{key} = {value}"), format!("# {origin}")));
    }
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(line, comment)| format!("{line:width$}  {comment}").trim_end().to_string() + "\n").collect()
}

fn literal(shape: Shape, values: &[String]) -> String {
    let quoted = |value: &String| toml::Value::from(value.as_str()).to_string();
    let number = |value: &String| value.parse::<i64>().map_or_else(|_| quoted(value), |number| number.to_string());
    match shape {
        Shape::List => format!("[{}]", values.iter().map(number).collect::<Vec<_>>().join(", ")),
        Shape::Switch => values.concat(),
        Shape::Number => values.iter().map(number).collect(),
        Shape::Text => values.iter().map(quoted).collect(),
    }
}
