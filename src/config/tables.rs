//! Lists of tables, `[[rooms]]` and `[[permissions]]`: what only the file can say, for it has no place for it elsewhere.

use figment::value::{Dict, Value};

use crate::config::validate::Problem;
use crate::config::values::Unreadable;
use crate::config::{permissions, rooms};

/// The keys of all lists.
pub(super) const KEYS: [&str; 2] = [rooms::KEY, permissions::KEY];

/// Reads each table of a list, or says all that is wrong with them. A table's reader is handed what it calls for each key
/// that it cannot take.
pub(super) fn read<T>(
    key: &'static str,
    value: &Value,
    read_one: impl Fn(&Dict, &mut dyn FnMut(&str, Unreadable)) -> T,
) -> Result<Vec<T>, Vec<Problem>> {
    let tables: Option<Vec<&Dict>> = match value {
        Value::Array(_, tables) => tables.iter().map(Value::as_dict).collect(),
        _ => None,
    };
    let Some(tables) = tables else {
        let remedy = format!("write each as a table that begins with [[{key}]]");
        return Err(vec![Problem::new(key, "these are not rules", remedy)]);
    };
    let mut problems = Vec::new();
    let mut read = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let mut refuse = |name: &str, unreadable: Unreadable| {
            problems.push(Problem::new(format!("{key}[{index}].{name}"), unreadable.what, unreadable.remedy));
        };
        read.push(read_one(table, &mut refuse));
    }
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// The list that a key such as `rooms[0].history` belongs to.
pub(super) fn list_of(key: &str) -> Option<&'static str> {
    KEYS.into_iter().find(|list| key.strip_prefix(list).is_some_and(|rest| rest.starts_with('[')))
}

/// What stands at such a key.
pub(super) fn find<'a>(list: &'a Value, key: &str) -> Option<&'a Value> {
    let (index, name) = key.strip_prefix(list_of(key)?)?.strip_prefix('[')?.split_once("].")?;
    let Value::Array(_, tables) = list else { return None };
    tables.get(index.parse::<usize>().ok()?)?.as_dict()?.get(name)
}
