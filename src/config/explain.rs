//! Every setting with its origin, written so that it can be used as a configuration file.

use crate::config::load::Loaded;
use crate::config::settings::{self, Setting, Shape};
use crate::config::{permissions, rooms};

/// One line per setting: `key = value  # origin`, then the rules of the file, complete. Reading the text as a file gives
/// the same configuration.
#[must_use]
pub fn explain(loaded: &Loaded) -> String {
    let mut table = "";
    let mut lines = Vec::new();
    let section_of = |setting: &Setting| setting.key.split_once('.').map_or("", |(section, _)| section);
    let mut settings: Vec<_> = settings::all().collect();
    // Keys without a section come first in a file, and a section comes once.
    settings.sort_by_key(|setting| section_of(setting));
    for setting in settings {
        let (section, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if section != table {
            lines.push((format!("\n[{section}]"), String::new()));
            table = section;
        }
        let values = (setting.write)(&loaded.config);
        let (_, origin) = loaded.given(setting);
        lines.push((format!("{key} = {}", literal(setting.shape, &values)), format!("# {origin}")));
    }
    let origin = loaded.origin_of_tables(rooms::KEY);
    for (pattern, policy) in &loaded.config.policies.rules {
        lines.push((format!("\n[[{}]]", rooms::KEY), String::new()));
        for (key, value) in rooms::write(pattern, policy) {
            let shape = if key == "pattern" { Shape::Text } else { Shape::Number };
            lines.push((format!("{key} = {}", literal(shape, &[value])), format!("# {origin}")));
        }
    }
    let origin = loaded.origin_of_tables(permissions::KEY);
    for rule in &loaded.config.permissions.rules {
        lines.push((format!("\n[[{}]]", permissions::KEY), String::new()));
        for (key, values) in permissions::write(rule) {
            let shape = if permissions::is_list(key) { Shape::List } else { Shape::Text };
            lines.push((format!("{key} = {}", literal(shape, &values)), format!("# {origin}")));
        }
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
