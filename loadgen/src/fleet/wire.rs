//! What coordinator and agent say to each other: one JSON object a line, of bounded length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ledger::Closing;
use crate::scenario::Settings;
use crate::stats::{Counts, Interval};

/// From the coordinator.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToAgent {
    /// First: who speaks.
    Hello { protocol: u32, token: String },
    /// What time is it?
    Ping,
    /// Check that you can carry your share.
    Prepare { name: String, settings: Box<Settings>, processes: u32 },
    /// Connect. The offset is your clock minus mine; all times are mine.
    Go { first_worker: u32, workers_in_all: u32, run: u32, ramp_ns: u64, offset_ns: i64 },
    /// The load starts.
    Start { start_ns: u64 },
    /// Tell what your senders have sent.
    Stop,
    /// Close the books; this is what all senders have sent.
    Finish { sent: Vec<u32> },
}

/// From an agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromAgent {
    Welcome { version: String },
    Pong { now_ns: u64 },
    Ready { workers: u32, connections_per_worker_max: u32 },
    Counts { counts: Box<Counts>, faults: u64, has_sent_all: bool },
    Second { second: u32, interval: Box<Interval> },
    Sent { sent: Vec<(u32, u32)> },
    Closed { closing: Box<Closing> },
    Done { cpu: f64, busiest_worker_cpu: f64 },
    Failed { problem: String },
}

/// The reading side of a connection.
#[derive(Debug)]
pub(super) struct Reader(BufReader<TcpStream>);

impl Reader {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// The next message; an end is an error too.
    pub(super) fn next<M: DeserializeOwned>(&mut self) -> Result<M, String> {
        let mut line = Vec::new();
        let read = (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(_) if line.ends_with(b"\n") => {
                serde_json::from_slice(&line).map_err(|error| format!("it does not speak this protocol: {error}"))
            }
            Ok(read) if read as u64 >= LINE_BYTES_MAX => Err("it sent a line that is too long".to_owned()),
            Ok(_) => Err("it has hung up".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Sends one message.
pub(super) fn say(mut stream: &TcpStream, message: &impl Serialize) -> Result<(), String> {
    let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| error.to_string())
}

/// Whether two tokens are alike, in a time that does not tell where they differ.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && differences == 0
}

pub(super) const PROTOCOL: u32 = 1;
/// What all senders have sent is the longest: ten digits and a comma for each.
const LINE_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_survives_the_way() {
        let mut interval = Interval::new();
        interval.deliver.record_n(1_234, 7).unwrap();
        interval.sent = 9;
        let line = serde_json::to_string(&FromAgent::Second { second: 3, interval: Box::new(interval) }).unwrap();
        let FromAgent::Second { second: 3, interval } = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert_eq!((interval.deliver.count_at(1_234), interval.deliver.len(), interval.sent), (7, 7, 9));
        let damaged = line.replace("\"deliver\":\"", "\"deliver\":\"AAAA");
        assert!(serde_json::from_str::<FromAgent>(&damaged).is_err());
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_same("abc", "abc") && !is_same("abc", "abd") && !is_same("abc", "ab") && !is_same("", "a"));
    }
}
