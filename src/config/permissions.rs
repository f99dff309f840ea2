//! Who may do what in which rooms: the `[[permissions]]` tables of the file, which no flag and no variable can say.
//!
//! What an action leaves out is decided by the role. Whether a rule can work is for [`super::validate`] to say.

use figment::value::{Dict, Value};

use crate::access::{Action, PermissionRule, Who};
use crate::config::load::as_texts;
use crate::config::tables;
use crate::config::validate::Problem;
use crate::config::values::{Unreadable, one};
use crate::ids::UserName;
use crate::message::event::Role;
use crate::policy::Pattern;

/// The key of all rules in the file.
pub(super) const KEY: &str = "permissions";

/// Reads the rules, or says all that is wrong with them.
pub(super) fn read(value: &Value) -> Result<Vec<PermissionRule>, Vec<Problem>> {
    tables::read(KEY, value, read_rule)
}

/// A rule as lines of the file: each a key and its values; those of actions are lists.
pub(super) fn write(rule: &PermissionRule) -> Vec<(&'static str, Vec<String>)> {
    let role = rule.role.map_or(NO_ROLE, Role::as_str);
    let head = [(ROOMS, vec![rule.rooms.as_str().to_owned()]), (ROLE, vec![role.to_owned()])];
    let written = |who: &Who| match who {
        Who::Anyone => ANYONE.to_owned(),
        Who::AtLeast(role) => role.as_str().to_owned(),
        Who::Claimed(name) => format!("{CLAIMED}{name}"),
        Who::User(user) => format!("{USER}{}", user.as_str()),
    };
    let allowed = rule.allowed.iter().map(|(action, who)| (action.as_str(), who.iter().map(written).collect()));
    head.into_iter().chain(allowed).collect()
}

/// Whether the key of a rule has a list.
pub(super) fn is_list(key: &str) -> bool {
    key != ROOMS && key != ROLE
}

fn read_rule(table: &Dict, refuse: &mut dyn FnMut(&str, Unreadable)) -> PermissionRule {
    let mut rule = PermissionRule { rooms: Pattern::new(""), role: Some(Role::Member), allowed: Vec::new() };
    let is_key = |name: &str| name == ROOMS || name == ROLE || action(name).is_some();
    for name in table.keys().filter(|name| !is_key(name)) {
        let what = format!("there is no such key in a rule; did you mean {}?", nearest(name));
        refuse(name, Unreadable { what, remedy: "a rule has rooms, role, join, send, presence, history and moderate" });
    }
    match table.get(ROOMS).map(as_texts) {
        Some(values) => match one(&values) {
            Ok(pattern) => rule.rooms = Pattern::new(pattern),
            Err(unreadable) => refuse(ROOMS, unreadable),
        },
        None => {
            let what = "the rule does not say which rooms it is for".to_owned();
            refuse(ROOMS, Unreadable { what, remedy: "name a room, with * for any text, such as \"team-*\"" });
        }
    }
    if let Some(value) = table.get(ROLE) {
        match read_role(&as_texts(value)) {
            Ok(role) => rule.role = role,
            Err(unreadable) => refuse(ROLE, unreadable),
        }
    }
    for action in Action::ALL {
        let Some(value) = table.get(action.as_str()) else { continue };
        match as_texts(value).iter().map(|text| read_who(text)).collect() {
            Ok(who) => rule.allowed.push((action, who)),
            Err(unreadable) => refuse(action.as_str(), unreadable),
        }
    }
    rule
}

fn read_role(values: &[String]) -> Result<Option<Role>, Unreadable> {
    let word = one(values)?;
    if word == NO_ROLE {
        return Ok(None);
    }
    let what = || format!("{word:?} is no role");
    let role = Role::named(word);
    role.map(Some).ok_or_else(|| Unreadable { what: what(), remedy: "write guest, member, host or none" })
}

fn read_who(text: &str) -> Result<Who, Unreadable> {
    let remedy = "write anyone, guest, member, host, role:NAME or user:NAME, as a list";
    if text == ANYONE {
        return Ok(Who::Anyone);
    }
    if let Some(role) = Role::named(text) {
        return Ok(Who::AtLeast(role));
    }
    let (make, name): (fn(UserName) -> Who, _) = match (text.strip_prefix(CLAIMED), text.strip_prefix(USER)) {
        (Some(name), _) => (|name| Who::Claimed(name.as_str().into()), name),
        (None, Some(name)) => (Who::User, name),
        (None, None) => return Err(Unreadable { what: format!("{text:?} is nobody"), remedy }),
    };
    UserName::new(name).map(make).map_err(|error| Unreadable { what: format!("{text:?} is nobody: {error}"), remedy })
}

fn action(name: &str) -> Option<Action> {
    Action::ALL.into_iter().find(|action| action.as_str() == name)
}

fn nearest(name: &str) -> &'static str {
    let keys = [ROOMS, ROLE].into_iter().chain(Action::ALL.map(Action::as_str));
    let likeness = |key: &&str| strsim::jaro_winkler(key, name);
    keys.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).expect("there are keys")
}

const ROOMS: &str = "rooms";
const ROLE: &str = "role";
const NO_ROLE: &str = "none";
const ANYONE: &str = "anyone";
const CLAIMED: &str = "role:";
const USER: &str = "user:";
