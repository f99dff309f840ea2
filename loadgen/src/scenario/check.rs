//! What must hold of a scenario before it is run: each refusal names the key, the value and the remedy.

use std::fmt;

use super::{ConnectBy, DropWho, Kind, Scenario, ScenarioError};
use crate::payload::STAMP_BYTES;
use crate::plan::Arrivals;

type Checked = Result<(), ScenarioError>;

impl Scenario {
    pub(super) fn check(&self) -> Checked {
        self.check_people()?;
        self.check_messages()?;
        self.check_pace()?;
        self.check_disturbances()?;
        self.check_publishers()?;
        self.check_limit()
    }

    fn check_people(&self) -> Checked {
        let cells = self.layout.cells();
        if cells > AUDIT_CELLS_MAX {
            let problem =
                format!("auditing {cells} pairs of subscriber and sender takes too much memory: use fewer senders");
            return refuse("senders", &self.senders, &problem);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=ROOM_PREFIX_BYTES_MAX).contains(&self.room_prefix.len()) || !self.room_prefix.chars().all(plain) {
            return refuse("room_prefix", &self.room_prefix, "give 1 to 100 letters, digits, dots, dashes or _");
        }
        if self.workers == Some(0) {
            return refuse("workers", &0, "give at least 1");
        }
        Ok(())
    }

    fn check_messages(&self) -> Checked {
        if !(0.0..=RATE_MAX).contains(&self.rate) {
            return refuse("rate", &self.rate, "give 0 to 10,000,000 messages per second");
        }
        if !(STAMP_BYTES as u32..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes) {
            let problem = format!("give {STAMP_BYTES} (what the audit needs) to {PAYLOAD_BYTES_MAX} bytes");
            return refuse("payload_bytes", &self.payload_bytes, &problem);
        }
        if self.duration.0.is_zero() {
            return refuse("duration", &self.duration, "give more than 0");
        }
        if self.arrivals == Arrivals::Closed && (self.churn_per_s > 0.0 || self.drop_share > 0.0) {
            return refuse("arrivals", &"closed", "a closed loop waits for who is gone; use constant or poisson");
        }
        Ok(())
    }

    fn check_pace(&self) -> Checked {
        let paced = |rate: f64| rate > 0.0 && rate.is_finite();
        if !paced(self.connect_rate) {
            return refuse("connect_rate", &self.connect_rate, "give more than 0 connections per second");
        }
        if let Some(end) = self.connect_rate_end.filter(|&end| !paced(end)) {
            return refuse("connect_rate_end", &end, "give more than 0 connections per second");
        }
        if self.connect_in_flight == 0 {
            return refuse("connect_in_flight", &0, "give at least 1");
        }
        Ok(())
    }

    fn check_disturbances(&self) -> Checked {
        for (key, share) in [("churn_per_s", self.churn_per_s), ("drop_share", self.drop_share)] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(key, &share, "give a share of the connections, 0 to 1");
            }
        }
        if !(0.0..1.0).contains(&self.slow_share) {
            return refuse("slow_share", &self.slow_share, "give a share of the connections, 0 to less than 1");
        }
        if self.drop_share > 0.0 && self.drop_at >= self.duration {
            return refuse("drop_at", &self.drop_at, "give a time within the measured window (`duration`)");
        }
        if self.resume && self.connect_by == ConnectBy::Url {
            return refuse("connect_by", &"url", "a session is resumed by the command: leave connect_by out");
        }
        if self.backoff.0.is_zero() || self.backoff_max < self.backoff {
            return refuse("backoff", &self.backoff, "give more than 0, and at most `backoff_max`");
        }
        let which = [self.churn_per_s, self.drop_share, self.slow_share].iter().filter(|&&share| share > 0.0).count();
        if which > 1 {
            let problem = "give only one of churn_per_s, drop_share and slow_share more than 0";
            return refuse("churn_per_s", &self.churn_per_s, problem);
        }
        if self.drop_share > 0.0 && self.drop_who == DropWho::Listeners && self.layout.slow_candidates() == 0 {
            return refuse("senders", &self.senders, "leave members that do not send, who can be dropped");
        }
        if self.slow_share > 0.0 && self.layout.slow_candidates() == 0 {
            return refuse("senders", &self.senders, "leave members that do not send, who can be slow readers");
        }
        Ok(())
    }

    fn check_publishers(&self) -> Checked {
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight) {
            let problem = format!("give 1 to {IN_FLIGHT_MAX} (a server may refuse more unanswered commands)");
            return refuse("in_flight", &self.in_flight, &problem);
        }
        if self.kind == Kind::Publish && (self.is_disturbed() || self.rate > 0.0) {
            let problem =
                "leave rate, churn_per_s, drop_share and slow_share out: publishers stay, and are paced by answers";
            return refuse("kind", &"publish", problem);
        }
        if self.messages_each == Some(0) {
            return refuse("messages_each", &0, "give at least 1");
        }
        Ok(())
    }

    fn check_limit(&self) -> Checked {
        if self.kind != Kind::FindLimit {
            return Ok(());
        }
        if self.rate <= 0.0 {
            return refuse("rate", &self.rate, "give the rate to begin with, more than 0");
        }
        if !self.rate_max.is_finite() || self.rate_max < self.rate {
            return refuse("rate_max", &self.rate_max, "give at least `rate`");
        }
        if !(1.05..=10.0).contains(&self.growth) {
            return refuse("growth", &self.growth, "give the factor between two steps, 1.05 to 10");
        }
        if !(0.005..=0.5).contains(&self.precision) {
            return refuse("precision", &self.precision, "give how near the limit is to be found, 0.005 to 0.5");
        }
        Ok(())
    }
}

fn refuse(key: &'static str, value: &dyn fmt::Display, problem: &str) -> Checked {
    Err(ScenarioError::value(key, value, problem))
}

const ROOM_PREFIX_BYTES_MAX: usize = super::ROOM_PREFIX_BYTES_MAX;
const RATE_MAX: f64 = 10_000_000.0;
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// What hubbub allows a connection.
const IN_FLIGHT_MAX: u32 = hubbub::limits::UNANSWERED_MAX as u32;
/// Four bytes each.
const AUDIT_CELLS_MAX: u64 = 100_000_000;
