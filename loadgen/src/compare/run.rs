//! One result as it enters a comparison: the pieces of its measured window, from which its figures can be computed
//! again for any choice of pieces.

use crate::compare::figure::FIGURES;
use crate::hlog;
use crate::report::Outcome;
use crate::sampling::recorder::Look;

/// The pieces of one run. A piece is a second, or several in a row when there are more than [`PIECES_MAX`].
#[derive(Clone, Debug)]
pub struct Run {
    /// What was seen from outside, within the measured window.
    costs: Vec<Cost>,
    /// Every latency that was recorded anywhere in the run, lowest first.
    values: Vec<u64>,
    /// For each piece, how often each of these was recorded: places in `values`, and counts.
    latencies: Vec<Vec<(u32, u64)>>,
}

/// The figures of a run, in the order of [`crate::compare::figure::Figure::ALL`]; `None` for what was not measured.
pub type Figures = [Option<f64>; FIGURES];

#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    took_s: f64,
    received: u64,
    /// `None` when the server could not be read in some part of the piece.
    cpu_ns: Option<u64>,
    rss_per_connection: Option<f64>,
}

impl Run {
    /// Takes what a comparison needs.
    pub fn of(outcome: &Outcome) -> Result<Self, String> {
        let mut seconds = Vec::new();
        for second in &outcome.seconds {
            if let Some(packed) = second.histograms.get("deliver") {
                let histogram = hlog::unpack(packed).map_err(|error| error.to_string())?;
                let recorded = histogram.iter_recorded();
                seconds
                    .push(recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect::<Vec<_>>());
            }
        }
        let mut values: Vec<u64> = seconds.iter().flatten().map(|(value, _)| *value).collect();
        values.sort_unstable();
        values.dedup();
        let place = |value: &u64| values.binary_search(value).expect("every value was collected") as u32;
        let pieces = seconds.chunks(together(seconds.len()));
        let latencies = pieces.map(|piece| piece.iter().flatten().map(|(value, n)| (place(value), *n)).collect());
        Ok(Self { costs: costs(outcome), latencies: latencies.collect(), values })
    }

    /// How many pieces there are of what was seen from outside, and of latencies.
    #[must_use]
    pub fn pieces(&self) -> (usize, usize) {
        (self.costs.len(), self.latencies.len())
    }

    /// Its figures as they were measured.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        self.figures_of(&all(self.costs.len()), &all(self.latencies.len()))
    }

    /// Its figures had the window consisted of these pieces; a piece may be there several times.
    #[must_use]
    pub fn figures_of(&self, costs: &[usize], latencies: &[usize]) -> Figures {
        let picked = || costs.iter().map(|&at| &self.costs[at]);
        let received: u64 = picked().map(|cost| cost.received).sum();
        let took_s: f64 = picked().map(|cost| cost.took_s).sum();
        let cpu_ns: Option<u64> = picked().map(|cost| cost.cpu_ns).sum();
        let rss: Option<f64> = picked().map(|cost| cost.rss_per_connection).sum();
        let [p50, p99, p99_9] = self.quantiles(latencies);
        [
            cpu_ns.filter(|_| received > 0).map(|ns| ns as f64 / 1e3 / received as f64),
            p50,
            p99,
            p99_9,
            (took_s > 0.0).then(|| received as f64 / took_s),
            rss.filter(|_| !costs.is_empty()).map(|sum| sum / costs.len() as f64),
        ]
    }

    fn quantiles(&self, pieces: &[usize]) -> [Option<f64>; 3] {
        let mut counts = vec![0_u64; self.values.len()];
        for &piece in pieces {
            for &(place, n) in &self.latencies[piece] {
                counts[place as usize] += n;
            }
        }
        let total: u64 = counts.iter().sum();
        let mut ranks = [0.5, 0.99, 0.999].map(|share| (share * total as f64).ceil() as u64).into_iter().peekable();
        let mut found = [None; 3];
        let (mut below, mut at) = (0, 0);
        for (value, n) in self.values.iter().zip(&counts) {
            below += n;
            while total > 0 && ranks.next_if(|&rank| below >= rank).is_some() {
                found[at] = Some(*value as f64);
                at += 1;
            }
        }
        found
    }
}

fn costs(outcome: &Outcome) -> Vec<Cost> {
    let Some(phases) = outcome.phases else { return Vec::new() };
    let is_within =
        |look: &&Look| look.from_s >= phases.window_from_s - EDGE_S && look.until_s <= phases.window_until_s + EDGE_S;
    let looks: Vec<&Look> = outcome.looks.iter().filter(is_within).collect();
    let rss_before = outcome.server.as_ref().map(|server| server.rss_bytes_before);
    looks.chunks(together(looks.len())).map(|piece| Cost::of(piece, rss_before)).collect()
}

impl Cost {
    fn of(looks: &[&Look], rss_before: Option<u64>) -> Self {
        let last = looks.last().and_then(|look| Some((look.server.as_ref()?.rss_bytes, look.connections)));
        let grown = last.zip(rss_before).filter(|((_, connections), _)| *connections > 0);
        Self {
            took_s: looks.iter().map(|look| look.until_s - look.from_s).sum(),
            received: looks.iter().map(|look| look.received).sum(),
            cpu_ns: looks.iter().map(|look| Some(look.server.as_ref()?.cpu_ns)).sum(),
            rss_per_connection: grown.map(|((rss, n), before)| (rss as f64 - before as f64) / n as f64),
        }
    }
}

/// How many seconds make a piece.
fn together(seconds: usize) -> usize {
    seconds.div_ceil(PIECES_MAX).max(1)
}

/// Bounds the time that a comparison takes.
const PIECES_MAX: usize = 240;
/// A look happens when the coordinator gets to it, a little after its second is over.
const EDGE_S: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn figures_are_those_of_the_result() {
        let mut outcome = outcome();
        for look in &mut outcome.looks {
            let server = look.server.as_mut().unwrap();
            (server.cpu_ns, server.rss_bytes) = (2_004_000, 1_003_000);
        }
        let run = Run::of(&outcome).unwrap();
        assert_eq!(run.pieces(), (2, 2), "the second in the ramp is no part of the window");
        let deliver = outcome.latency_us.deliver.unwrap();
        let [cpu, p50, p99, p99_9, throughput, memory] = run.figures();
        assert_eq!((p50, p99), (Some(deliver.p50 as f64), Some(deliver.p99 as f64)));
        assert_eq!(p99_9, Some(deliver.p99_9 as f64));
        assert_eq!((cpu, throughput, memory), (Some(4.0), Some(501.0), Some(1_500.0)));
    }

    #[test]
    fn pieces_may_be_taken_more_than_once_or_not_at_all() {
        let run = Run::of(&outcome()).unwrap();
        let once = run.figures_of(&[0], &[0]);
        assert_eq!(run.figures_of(&[0, 0, 0], &[0, 0, 0])[1..5], once[1..5]);
        assert_eq!(run.figures_of(&[], &[]), [None; FIGURES]);
    }

    #[test]
    fn a_second_without_the_server_leaves_cpu_and_memory_unknown() {
        let mut outcome = outcome();
        outcome.looks[1].server = None;
        let [cpu, .., throughput, memory] = Run::of(&outcome).unwrap().figures();
        assert_eq!((cpu, memory), (None, None));
        assert!(throughput.is_some());
    }

    #[test]
    fn a_long_run_is_cut_into_a_bounded_number_of_pieces() {
        let mut outcome = outcome();
        let (look, second) = (outcome.looks[1].clone(), outcome.seconds[0].clone());
        outcome.looks = vec![look; 10_000];
        outcome.seconds = vec![second; 10_000];
        let (costs, latencies) = Run::of(&outcome).unwrap().pieces();
        assert!(costs <= PIECES_MAX && latencies <= PIECES_MAX, "{costs} {latencies}");
    }
}
