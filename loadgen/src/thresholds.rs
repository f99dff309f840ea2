//! What a result must meet, and what the generator must meet for a result to count at all.

use serde::{Deserialize, Serialize};

use crate::stats::Percentiles;

/// Bounds on the result. A missed bound on latency or rate ends the run with 99.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    pub connect: Caps,
    pub upgrade: Caps,
    pub join: Caps,
    pub deliver: Caps,
    pub service: Caps,
    pub ack: Caps,
    pub durable_ack: Caps,
    pub resume: Caps,
    /// Messages that may be lost, received twice, received out of order, and connections that may be refused or closed
    /// before the run ends with 1; each 0 by default.
    pub loss: u64,
    pub duplicates: u64,
    pub disorder: u64,
    pub refused: u64,
    pub closed: u64,
    /// Deliveries per second that the measured window must reach.
    pub deliveries_per_s_min: Option<f64>,
    /// Acknowledgements per second that the measured window must reach.
    pub acks_per_s_min: Option<f64>,
    /// Seconds from the end of the drop (`drop_for`) until all that were dropped have had what they missed.
    pub all_caught_up_s: Option<f64>,
    /// Growth of the server's resident memory over the measured window, in bytes; needs `--server-pid`.
    pub server_rss_growth_bytes: Option<f64>,
    /// Pings that every connection must have received by the end.
    pub pings_per_connection_min: Option<u32>,
    /// CPU time of the server per delivery; needs `--server-pid`.
    pub server_cpu_us_per_delivery: Option<f64>,
    /// CPU of the server in cores; needs `--server-pid`.
    pub server_cores: Option<f64>,
    /// Growth of the server's resident memory from the first connection to the last, per connection, in bytes; needs
    /// `--server-pid` of a server that nobody was connected to.
    pub server_rss_bytes_per_connection: Option<f64>,
}

/// Upper bounds of one histogram, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    pub p50_us: Option<u64>,
    pub p90_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub p99_9_us: Option<u64>,
    pub p99_99_us: Option<u64>,
    pub max_us: Option<u64>,
}

/// Bounds on the generator itself. A run that misses one is invalid and ends with 98.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Validity {
    /// 99 of 100 messages must have been handed over this soon after their planned time.
    pub lag_p99_us: u64,
    /// Share of its core that the busiest worker may have used.
    pub worker_cpu: f64,
}

impl Default for Validity {
    fn default() -> Self {
        Self { lag_p99_us: 2_000, worker_cpu: 0.9 }
    }
}

/// One bound that was missed, as a sentence.
pub type Missed = String;

impl Caps {
    /// Appends what `measured` exceeds. A bound on something that was never measured is missed as well.
    pub fn check(&self, name: &str, measured: Option<&Percentiles>, missed: &mut Vec<Missed>) {
        type Read = fn(&Percentiles) -> u64;
        let rows: [(&str, Option<u64>, Read); 6] = [
            ("p50_us", self.p50_us, |p| p.p50),
            ("p90_us", self.p90_us, |p| p.p90),
            ("p99_us", self.p99_us, |p| p.p99),
            ("p99_9_us", self.p99_9_us, |p| p.p99_9),
            ("p99_99_us", self.p99_99_us, |p| p.p99_99),
            ("max_us", self.max_us, |p| p.max),
        ];
        for (column, cap, read) in rows {
            let Some(cap) = cap else { continue };
            match measured.map(read) {
                Some(value) if value <= cap => {}
                Some(value) => missed.push(format!("{name}.{column} was {value}, more than {cap}")),
                None => missed.push(format!("{name}.{column} was not measured, and should be at most {cap}")),
            }
        }
    }
}

/// Appends a sentence when `value` is above `cap`, or was not measured though it is bounded.
pub fn check_at_most(name: &str, value: Option<f64>, cap: Option<f64>, missed: &mut Vec<Missed>) {
    let Some(cap) = cap else { return };
    match value {
        Some(value) if value <= cap => {}
        Some(value) => missed.push(format!("{name} was {value:.3}, more than {cap}")),
        None => missed.push(format!("{name} was not measured, and should be at most {cap}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bound_is_told_with_both_numbers() {
        let caps = Caps { p50_us: Some(100), p99_us: Some(900), ..Caps::default() };
        let measured =
            Percentiles { count: 9, mean: 1.0, p50: 100, p90: 200, p99: 901, p99_9: 950, p99_99: 960, max: 970 };
        let mut missed = Vec::new();
        caps.check("deliver", Some(&measured), &mut missed);
        assert_eq!(missed, ["deliver.p99_us was 901, more than 900"]);
    }

    #[test]
    fn a_bound_on_what_was_not_measured_is_missed() {
        let mut missed = Vec::new();
        Caps { max_us: Some(5), ..Caps::default() }.check("join", None, &mut missed);
        check_at_most("server_cores", None, Some(0.5), &mut missed);
        check_at_most("server_cores", Some(0.5), Some(0.5), &mut missed);
        check_at_most("server_cores", None, None, &mut missed);
        assert_eq!(missed.len(), 2);
        assert!(missed[0].contains("join.max_us was not measured"));
        assert!(missed[1].contains("server_cores was not measured"));
    }
}
