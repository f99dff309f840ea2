//! The result of a run, as it is written to JSON and read back. `loadgen/schema/result-2.json` says the same for
//! programs in other languages, and a test holds the two together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::curve::CurvePoint;
use crate::environment::Environment;
use crate::fleet::coordinator::AgentPart;
use crate::ledger::Tally;
use crate::sampling::process::ThreadTime;
use crate::sampling::recorder::Look;
use crate::sampling::scrape::Scrapes;
use crate::sampling::timeline::Second;
use crate::stats::Percentiles;
use crate::thresholds::Missed;

/// A judged result. `schema` names the layout; a field is added without a new number, changed only with one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub schema: String,
    /// What was run, in a sentence.
    pub summary: String,
    pub valid: bool,
    pub invalid_reasons: Vec<String>,
    pub faults: Vec<String>,
    pub thresholds_missed: Vec<Missed>,
    pub exit_code: u8,
    pub latency_us: Latencies,
    pub lag_us: Option<Percentiles>,
    pub counts: Tallied,
    pub measured: Window,
    pub refusals: Tally,
    pub closes: Tally,
    pub errors: Tally,
    pub generator: Generator,
    pub server: Option<Server>,
    pub environment: Environment,
    /// The scenario as it was run, every key decided.
    pub scenario: serde_json::Value,
    pub elapsed_s: f64,
    /// Where the phases lie on the time axis; `null` when there was no load.
    pub phases: Option<Phases>,
    /// Histograms of the whole run by name, as `hlog::pack` writes them; those that hold nothing are left out.
    pub histograms: BTreeMap<String, String>,
    /// The load second by second, as the workers measured it.
    pub seconds: Vec<Second>,
    /// The run second by second, as it was seen from outside.
    pub looks: Vec<Look>,
    /// Connections over time while the ramp went on.
    pub connect_curve: Vec<CurvePoint>,
    pub turnover: Option<Turnover>,
    /// The server's own figures; `null` when none were read.
    pub scrapes: Option<Scrapes>,
}

impl Outcome {
    /// Reads a result from its JSON. The error names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    /// Reads a result from its JSON.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Marked {
            schema: String,
        }
        let marked: Marked = serde_json::from_str(text).map_err(|error| format!("this is no result: {error}"))?;
        if marked.schema != SCHEMA {
            return Err(format!("its schema is {:?}, and this program reads {SCHEMA:?}", marked.schema));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The result as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a result is plain data") + "\n"
    }
}

/// Members that left and came back; absent where none did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turnover {
    pub left: u64,
    pub rejoined: u64,
    /// Attempts to come back that failed.
    pub retried: u64,
    /// Of those that left, how many were dropped without a farewell, and what became of them.
    pub dropped: u64,
    /// Of those dropped, those whose session went on.
    #[serde(default)]
    pub resumed: u64,
    pub recovered: u64,
    /// Messages that these had missed, all together.
    #[serde(default)]
    pub missed: u64,
    pub caught_up: u64,
    /// From the moment at which they were to begin to come back until the last one had caught up; absent unless all have.
    pub all_caught_up_s: Option<f64>,
}

/// One set of percentiles for each thing that was timed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latencies {
    pub connect: Option<Percentiles>,
    pub upgrade: Option<Percentiles>,
    pub join: Option<Percentiles>,
    pub deliver: Option<Percentiles>,
    pub service: Option<Percentiles>,
    pub ack: Option<Percentiles>,
    pub durable_ack: Option<Percentiles>,
    pub resume: Option<Percentiles>,
}

/// Counts of the whole run, warm-up and drain included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tallied {
    pub connections: u64,
    pub connected: u64,
    pub joined: u64,
    pub refused: u64,
    pub closed: u64,
    pub sent: u64,
    pub sent_late: u64,
    pub skipped: u64,
    pub unsent: u64,
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicate: u64,
    pub disordered: u64,
    /// Numbers of a room that did not follow by one.
    pub room_seq_faults: u64,
    /// Rooms whose complete members saw different orders.
    pub rooms_disagreeing: u64,
    pub misrouted: u64,
    pub slow_closed: u64,
    pub presence_pushes: u64,
    pub presence_changes: u64,
    pub foreign: u64,
    pub errors: u64,
    pub gaps_told: u64,
    pub acks: u64,
    /// Of these, those that did not say that the message is on disk.
    #[serde(default)]
    pub not_durable: u64,
    /// Of these, those that nobody waited for or whose number did not follow.
    #[serde(default)]
    pub ack_seq_faults: u64,
    /// Messages of publishers that were refused for now, and sent again.
    #[serde(default)]
    pub deferred: u64,
    /// Messages of publishers without any answer.
    #[serde(default)]
    pub unanswered: u64,
    pub pings: u64,
    pub pings_per_connection_min: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// The measured window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    pub seconds: f64,
    pub sent: u64,
    pub received: u64,
    #[serde(default)]
    pub acks: u64,
    pub sent_per_s: f64,
    pub received_per_s: f64,
    #[serde(default)]
    pub acks_per_s: f64,
}

/// Where the phases lie on the time axis, in seconds since the first connect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// The first message was planned for.
    pub load_from_s: f64,
    /// The measured window began, and ended.
    pub window_from_s: f64,
    pub window_until_s: f64,
}

/// What the generator itself used within the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generator {
    pub workers: u32,
    pub sources: Vec<IpAddr>,
    /// In cores.
    pub cpu: f64,
    /// Of the busiest worker, in cores.
    pub busiest_worker_cpu: f64,
    /// Other processes that shared the run.
    #[serde(default)]
    pub agents: Vec<AgentPart>,
    /// Share of the window that some worker was ready and another thread had its core.
    pub longest_worker_wait: f64,
    pub threads: Vec<ThreadTime>,
}

/// What the server used within the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    pub pid: u32,
    /// In cores.
    pub cpu: f64,
    pub cpu_us_per_delivery: Option<f64>,
    #[serde(default)]
    pub cpu_us_per_ack: Option<f64>,
    pub rss_bytes_before: u64,
    pub rss_bytes: u64,
    pub rss_anon_bytes: u64,
    /// Growth since before the first connection.
    pub rss_bytes_per_connection: f64,
    /// Growth over the measured window; negative where it shrank.
    pub rss_growth_bytes: f64,
    pub threads: Vec<ThreadTime>,
}

impl Server {
    /// What the server spent on what it did, for people.
    #[must_use]
    pub fn per_message(&self) -> String {
        match (self.cpu_us_per_delivery, self.cpu_us_per_ack) {
            (None, Some(us)) => format!("{us:.3} µs per ack"),
            (None, None) => "- per delivery".to_owned(),
            (Some(us), _) => format!("{us:.3} µs per delivery"),
        }
    }
}

/// Layout of the JSON.
pub const SCHEMA: &str = "hubbub-loadgen/2";
