//! The result as a table, for people at a terminal.

use std::fmt::Write;

use crate::progress::{thousands, time};
use crate::report::Outcome;

impl Outcome {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let (scenario, counts) = (&self.scenario, &self.counts);
        let text = |key: &str| scenario[key].as_str().unwrap_or_default();
        writeln!(out, "{} → {}\n{}\n", text("name"), text("target"), self.summary)?;
        writeln!(
            out,
            "{:8} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        let latencies = &self.latency_us;
        let rows = [
            ("connect", latencies.connect),
            ("upgrade", latencies.upgrade),
            ("join", latencies.join),
            ("resume", latencies.resume),
            ("ack", latencies.ack),
            ("durable", latencies.durable_ack),
            ("deliver", latencies.deliver),
            ("service", latencies.service),
            ("lag", self.lag_us),
        ];
        for (name, row) in rows {
            let Some(p) = row else { continue };
            let cells = [p.p50, p.p90, p.p99, p.p99_9, p.p99_99, p.max].map(|us| format!("{:>9}", time(us))).join(" ");
            writeln!(out, "{name:8} {:>12} {cells}", thousands(p.count))?;
        }
        writeln!(
            out,
            "\nsent {}   received {} of {}   lost {}   twice {}   disordered {}   refused {}   closed {}   pings {}",
            thousands(counts.sent),
            thousands(counts.received),
            thousands(counts.expected),
            thousands(counts.lost),
            thousands(counts.duplicate),
            thousands(counts.disordered),
            thousands(counts.refused),
            thousands(counts.closed),
            thousands(counts.pings)
        )?;
        writeln!(
            out,
            "window {:.1} s: {}/s sent, {}/s received; generator {:.2} cores (busiest worker {:.2}, waited {:.2})",
            self.measured.seconds,
            thousands(self.measured.sent_per_s.round() as u64),
            thousands(self.measured.received_per_s.round() as u64),
            self.generator.cpu,
            self.generator.busiest_worker_cpu,
            self.generator.longest_worker_wait
        )?;
        self.write_acks(out)?;
        self.write_turnover(out)?;
        if let Some(server) = &self.server {
            let per_delivery = server.per_message();
            writeln!(
                out,
                "server {:.3} cores, {per_delivery}, resident {:.1} MiB ({:.0} bytes more per connection)",
                server.cpu,
                server.rss_bytes as f64 / f64::from(1 << 20),
                server.rss_bytes_per_connection
            )?;
        }
        self.write_verdict(out)
    }

    fn write_acks(&self, out: &mut String) -> std::fmt::Result {
        let counts = &self.counts;
        if counts.acks + counts.deferred + counts.unanswered == 0 {
            return Ok(());
        }
        writeln!(
            out,
            "acknowledged {} ({}/s)   not on disk {}   out of turn {}   refused for now {}   unanswered {}",
            thousands(counts.acks),
            thousands(self.measured.acks_per_s.round() as u64),
            thousands(counts.not_durable),
            thousands(counts.ack_seq_faults),
            thousands(counts.deferred),
            thousands(counts.unanswered)
        )
    }

    fn write_turnover(&self, out: &mut String) -> std::fmt::Result {
        if let Some(turnover) = &self.turnover {
            let all = turnover.all_caught_up_s.map_or_else(String::new, |s| format!(", all within {s:.2} s"));
            writeln!(
                out,
                "left {}   back {}   failed attempts {}   dropped {}   resumed {}   missed {}   caught up {}{all}",
                thousands(turnover.left),
                thousands(turnover.rejoined),
                thousands(turnover.retried),
                thousands(turnover.dropped),
                thousands(turnover.resumed),
                thousands(turnover.missed),
                thousands(turnover.caught_up)
            )?;
        }
        let counts = &self.counts;
        if counts.slow_closed + counts.presence_pushes > 0 {
            let (slow, pushes) = (thousands(counts.slow_closed), thousands(counts.presence_pushes));
            writeln!(out, "slow readers closed {slow}   presence pushes {pushes}")?;
        }
        Ok(())
    }

    fn write_verdict(&self, out: &mut String) -> std::fmt::Result {
        let details = [("refused", &self.refusals), ("closed", &self.closes), ("error", &self.errors)];
        for (what, reasons) in details {
            for (why, count) in reasons {
                writeln!(out, "  {what}: {} × {why}", thousands(*count))?;
            }
        }
        writeln!(out)?;
        for reason in &self.invalid_reasons {
            writeln!(out, "INVALID: {reason}")?;
        }
        for missed in &self.thresholds_missed {
            writeln!(out, "MISSED: {missed}")?;
        }
        for fault in &self.faults {
            writeln!(out, "FAULT: {fault}")?;
        }
        if self.exit_code == 0 {
            writeln!(out, "OK: nothing lost, nothing twice, nothing out of order")?;
        }
        Ok(())
    }
}
