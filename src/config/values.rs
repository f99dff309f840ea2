//! How the values of settings are read from text and written as they would be read.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::gate::Network;

/// Why a text is no value of its setting: what it is not, and what to write instead.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

pub(super) fn one(values: &[String]) -> Result<&str, Unreadable> {
    match values {
        [value] => Ok(value),
        _ => Err(Unreadable { what: "takes one value".into(), remedy: "give it once, and not as a list" }),
    }
}

pub(super) fn list(values: &[String]) -> Vec<String> {
    values
        .iter()
        .flat_map(|value| value.split(','))
        .map(|part| part.trim().to_string())
        .filter(|p| !p.is_empty())
        .collect()
}

/// Texts without control characters, which no name that people write has.
pub(super) fn printable(values: &[String]) -> Result<Vec<String>, Unreadable> {
    let values = list(values);
    match values.iter().find(|value| value.chars().any(char::is_control)) {
        Some(value) => Err(Unreadable { what: format!("{value:?} has a control character"), remedy: "leave it out" }),
        None => Ok(values),
    }
}

pub(super) fn one_printable(values: &[String]) -> Result<&str, Unreadable> {
    printable(values).and_then(|_| one(values))
}

/// A file, or `off` for none.
pub(super) fn file_or_off(values: &[String]) -> Result<Option<PathBuf>, Unreadable> {
    one_printable(values).map(|value| (value != OFF).then(|| PathBuf::from(value)))
}

pub(super) fn addresses(values: &[String]) -> Result<Vec<SocketAddr>, Unreadable> {
    let parts = list(values);
    if parts == [OFF] {
        return Ok(Vec::new());
    }
    parts
        .iter()
        .map(|part| read_as(part, "an address", "write IP:PORT, such as 127.0.0.1:9000 or [::1]:9000"))
        .collect()
}

pub(super) fn cpus(values: &[String]) -> Result<Option<Vec<usize>>, Unreadable> {
    let parts = list(values);
    if parts == [AUTO] {
        return Ok(None);
    }
    parts
        .iter()
        .map(|part| read_as(part, "a CPU number", "write numbers, such as 0,1"))
        .collect::<Result<_, _>>()
        .map(Some)
}

pub(super) fn number<T: FromStr>(values: &[String]) -> Result<T, Unreadable> {
    read_as(one(values)?, "a whole number of that size", "write digits only, such as 65536")
}

pub(super) fn number_or_auto<T: FromStr>(values: &[String]) -> Result<Option<T>, Unreadable> {
    let value = one(values)?;
    if value == AUTO {
        return Ok(None);
    }
    read_as(value, "a whole number of that size", "write digits only, or leave it out").map(Some)
}

/// A number, or `off` for none.
pub(super) fn number_or_off<T: FromStr>(values: &[String]) -> Result<Option<T>, Unreadable> {
    let value = one(values)?;
    if value == OFF {
        return Ok(None);
    }
    read_as(value, "a whole number of that size", "write digits only, or off for no limit").map(Some)
}

pub(super) fn networks(values: &[String]) -> Result<Vec<Network>, Unreadable> {
    let parts = list(values);
    if parts == [OFF] {
        return Ok(Vec::new());
    }
    parts
        .iter()
        .map(|part| read_as(part, "an address or a network", "write IP or IP/BITS, such as 10.0.0.0/8 or 2001:db8::1"))
        .collect()
}

pub(super) fn time(values: &[String]) -> Result<Duration, Unreadable> {
    let value = one(values)?;
    humantime::parse_duration(value).map_err(|_| Unreadable {
        what: format!("{value:?} is not a time"),
        remedy: "write a number and a unit, such as 8s or 2ms",
    })
}

/// A time, or `off` for none.
pub(super) fn time_or_off(values: &[String]) -> Result<Option<Duration>, Unreadable> {
    if one(values)? == OFF { Ok(None) } else { time(values).map(Some) }
}

/// A limit, or `auto` for the one given.
pub(super) fn limit(values: &[String], auto: Option<u64>) -> Result<Option<u64>, Unreadable> {
    number_or_auto(values).map(|value| value.or(auto))
}

pub(super) fn word<T: Copy>(values: &[String], words: &[(T, &str)], remedy: &'static str) -> Result<T, Unreadable> {
    let value = one(values)?;
    let found = words.iter().find(|(_, name)| *name == value);
    found
        .map(|(meaning, _)| *meaning)
        .ok_or_else(|| Unreadable { what: format!("{value:?} is not one of its words"), remedy })
}

pub(super) fn read_as<T: FromStr>(value: &str, what: &str, remedy: &'static str) -> Result<T, Unreadable> {
    value.parse().map_err(|_| Unreadable { what: format!("{value:?} is not {what}"), remedy })
}

pub(super) fn written<T: Copy + PartialEq>(value: T, words: &[(T, &str)]) -> Vec<String> {
    words.iter().filter(|(meaning, _)| *meaning == value).map(|(_, name)| (*name).to_string()).take(1).collect()
}

pub(super) fn written_time(time: Duration) -> Vec<String> {
    texts([humantime::format_duration(time)])
}

pub(super) fn written_time_or_off(time: Option<Duration>) -> Vec<String> {
    time.map_or_else(|| vec![OFF.to_string()], written_time)
}

pub(super) fn written_file_or_off(file: Option<&PathBuf>) -> Vec<String> {
    texts_or(file.map(|path| path.display()), OFF)
}

pub(super) fn texts<T: Display>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

pub(super) fn texts_or<T: Display>(values: impl IntoIterator<Item = T>, none: &str) -> Vec<String> {
    let values = texts(values);
    if values.is_empty() { vec![none.to_string()] } else { values }
}

/// Stands for nothing: no address, no file, no end.
pub(super) const OFF: &str = "off";
/// Leaves the choice to the server.
pub(super) const AUTO: &str = "auto";
