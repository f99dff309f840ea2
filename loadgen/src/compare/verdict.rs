//! The verdict on two sides: figure by figure, with everything that should make a reader doubt it.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::compare::bootstrap::{Difference, differences};
use crate::compare::figure::{Figure, Margin, Margins};
use crate::compare::run::Run;
use crate::report::Outcome;

/// One result with the name of its file.
#[derive(Clone, Debug)]
pub struct Named {
    /// The file.
    pub file: String,
    /// What it holds.
    pub outcome: Outcome,
}

/// What came out of a comparison. `schema` names the layout of its JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `hubbub-loadgen-compare/1`.
    pub schema: &'static str,
    /// Both sides.
    pub a: Vec<Side>,
    /// Both sides.
    pub b: Vec<Side>,
    /// What should make one doubt the comparison.
    pub warnings: Vec<String>,
    /// Figure by figure.
    pub figures: Vec<Row>,
    /// Worse when any figure is; else better when any is.
    pub verdict: Verdict,
    /// 3 when anything is worse, else 0.
    pub exit_code: u8,
}

/// Where a run came from.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The file.
    pub file: String,
    /// The commit of its generator.
    pub commit: String,
    /// When it began.
    pub started: String,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub figure: Figure,
    /// On side A; the median when there are several runs.
    pub a: Option<f64>,
    /// On side B.
    pub b: Option<f64>,
    /// The ends of the 95 % interval of B − A.
    pub low: Option<f64>,
    /// The ends of the 95 % interval of B − A.
    pub high: Option<f64>,
    /// The change that matters.
    pub margin: Margin,
    /// What may be claimed.
    pub verdict: Verdict,
    /// Why it was not judged.
    pub why: Option<String>,
}

/// What may be claimed of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing that is both sure and large enough.
    NoDifference,
    /// It is better than A.
    Better,
    /// It is worse than A.
    Worse,
    /// It cannot be judged.
    NotJudged,
}

/// Reads both sides and compares them. Fails when a file cannot be read or holds no result.
pub fn compare(a: &[PathBuf], b: &[PathBuf], margins: &Margins, seed: u64) -> Result<Comparison, String> {
    let load = |files: &[PathBuf]| {
        files
            .iter()
            .map(|file| Ok(Named { file: file.display().to_string(), outcome: Outcome::load(file)? }))
            .collect::<Result<Vec<_>, String>>()
    };
    Comparison::of(&load(a)?, &load(b)?, margins, seed)
}

impl Comparison {
    /// Compares results.
    pub fn of(a: &[Named], b: &[Named], margins: &Margins, seed: u64) -> Result<Self, String> {
        let runs = |side: &[Named]| {
            let run = |named: &Named| Run::of(&named.outcome).map_err(|problem| format!("{}: {problem}", named.file));
            side.iter().map(run).collect::<Result<Vec<_>, _>>()
        };
        let (of_a, of_b) = (runs(a)?, runs(b)?);
        let shortest = of_a.iter().chain(&of_b).map(|run| run.pieces().0.min(run.pieces().1)).min().unwrap_or(0);
        // What runs of one build differ by is unknown when a side has only one.
        let factor = if a.len().min(b.len()) < 2 { SINGLE_RUN_FACTOR } else { 1.0 };
        let differences = differences(&of_a, &of_b, seed);
        let row = |figure: Figure| {
            let difference = differences[figure as usize];
            let too_short =
                || (shortest < PIECES_MIN).then(|| format!("a window of fewer than {PIECES_MIN} s says too little"));
            let unmeasured = || difference.is_none().then(|| "not measured on both sides".to_owned());
            let why =
                too_short().or_else(unmeasured).or_else(|| a.iter().chain(b).find_map(|named| named.doubt(figure)));
            Row::of(figure, difference, margins.of(figure).wider(factor), why)
        };
        let figures: Vec<Row> = Figure::ALL.into_iter().map(row).collect();
        let is = |verdict| figures.iter().any(|row| row.verdict == verdict);
        let verdict = [Verdict::Worse, Verdict::Better, Verdict::NoDifference].into_iter().find(|&verdict| is(verdict));
        let verdict = verdict.unwrap_or(Verdict::NotJudged);
        Ok(Self {
            schema: SCHEMA,
            a: a.iter().map(Side::of).collect(),
            b: b.iter().map(Side::of).collect(),
            warnings: warnings(a, b),
            figures,
            verdict,
            exit_code: if verdict == Verdict::Worse { EXIT_WORSE } else { 0 },
        })
    }
}

impl Named {
    /// Why this result says nothing about `figure`.
    fn doubt(&self, figure: Figure) -> Option<String> {
        let (outcome, file) = (&self.outcome, &self.file);
        if figure.needs_quiet() && !outcome.valid {
            return Some(format!("{file} is INVALID"));
        }
        if figure.needs_quiet() && server_wait(outcome) > WAIT_SHARE_MAX {
            return Some(format!("the server of {file} lacked a core"));
        }
        if figure == Figure::Memory && outcome.counts.joined < CONNECTIONS_MIN {
            return Some(format!("{file} has fewer than {CONNECTIONS_MIN} connections"));
        }
        let grown = outcome.server.as_ref().map_or(0.0, |server| server.rss_bytes_per_connection);
        (figure == Figure::Memory && grown <= 0.0).then(|| format!("the server of {file} was not fresh"))
    }
}

impl Side {
    fn of(named: &Named) -> Self {
        let environment = &named.outcome.environment;
        Self { file: named.file.clone(), commit: environment.commit.clone(), started: environment.started.clone() }
    }
}

impl Row {
    fn of(figure: Figure, difference: Option<Difference>, margin: Margin, why: Option<String>) -> Self {
        let verdict = match difference {
            Some(difference) if why.is_none() => judge(figure, difference, margin),
            _ => Verdict::NotJudged,
        };
        Self {
            figure,
            a: difference.map(|difference| difference.a),
            b: difference.map(|difference| difference.b),
            low: difference.map(|difference| difference.low),
            high: difference.map(|difference| difference.high),
            margin,
            verdict,
            why,
        }
    }
}

/// A difference is claimed when it is sure, by the interval, and large enough, by the margin.
fn judge(figure: Figure, difference: Difference, margin: Margin) -> Verdict {
    let change = difference.b - difference.a;
    let is_sure = difference.low > 0.0 || difference.high < 0.0;
    if !is_sure || change.abs() <= margin.at(difference.a) {
        return Verdict::NoDifference;
    }
    if (change > 0.0) == figure.is_cost() { Verdict::Worse } else { Verdict::Better }
}

fn warnings(a: &[Named], b: &[Named]) -> Vec<String> {
    let mut warnings = Vec::new();
    let all = || a.iter().chain(b);
    let Some(first) = all().next() else { return warnings };
    for named in all() {
        let outcome = &named.outcome;
        if !outcome.valid {
            warnings.push(format!("{} is INVALID: {}", named.file, outcome.invalid_reasons.join("; ")));
        }
        if !outcome.faults.is_empty() {
            warnings.push(format!("{} has faults: {}", named.file, outcome.faults.join("; ")));
        }
        let waited = server_wait(outcome);
        if waited > WAIT_SHARE_MAX {
            let percent = waited * 100.0;
            warnings
                .push(format!("{}: the server was ready but without a core {percent:.0} % of its time", named.file));
        }
    }
    for named in all().skip(1) {
        let mut differing = differing_keys(&first.outcome.scenario, &named.outcome.scenario);
        differing.retain(|key| !NOT_THE_LOAD.contains(&key.as_str()));
        if !differing.is_empty() {
            warnings.push(format!("{} ran another scenario than {}: {}", named.file, first.file, differing.join(", ")));
        }
        let (mine, its) = (&first.outcome.environment, &named.outcome.environment);
        let parts = [
            ("kernel", mine.kernel == its.kernel),
            ("processor", mine.cpu_model == its.cpu_model),
            ("cores", mine.cores == its.cores),
            ("memory", mine.memory_bytes.abs_diff(its.memory_bytes) <= mine.memory_bytes / 100),
            ("loadgen's version", mine.loadgen == its.loadgen),
            ("workers", first.outcome.generator.workers == named.outcome.generator.workers),
        ];
        let differing: Vec<&str> = parts.iter().filter(|(_, same)| !same).map(|(part, _)| *part).collect();
        if !differing.is_empty() {
            let parts = differing.join(", ");
            warnings.push(format!("{} ran in another environment than {}: {parts}", named.file, first.file));
        }
    }
    if a.len().min(b.len()) < 2 {
        warnings.push("a side has a single run: what runs differ by is unknown, so the margins are doubled".to_owned());
    }
    warnings
}

/// Share of the time that the server's threads wanted a core in which they had none.
fn server_wait(outcome: &Outcome) -> f64 {
    let threads = outcome.server.iter().flat_map(|server| &server.threads);
    let (waited, used) =
        threads.fold((0, 0), |(waited, used), thread| (waited + thread.waited_ns, used + thread.cpu_ns));
    waited as f64 / ((waited + used) as f64).max(1.0)
}

/// Names at the top of either scenario whose values differ.
fn differing_keys(a: &Value, b: &Value) -> Vec<String> {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return vec!["all of it".to_owned()] };
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().filter(|key| a.get(*key) != b.get(*key)).cloned().collect()
}

/// What may differ without the load being another.
const NOT_THE_LOAD: [&str; 6] = ["name", "target", "room_prefix", "thresholds", "validity", "sources"];
/// Fewer pieces than this give no interval worth the name.
const PIECES_MIN: usize = 5;
/// With fewer connections, what they cost drowns in what the process takes and gives back for itself.
const CONNECTIONS_MIN: u64 = 1_000;
const SINGLE_RUN_FACTOR: f64 = 2.0;
/// Share of its time that a server may have been without a core for its latency to count.
const WAIT_SHARE_MAX: f64 = 0.25;
const SCHEMA: &str = "hubbub-loadgen-compare/1";
const EXIT_WORSE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Random;
    use crate::report::tests::outcome;
    use crate::sampling::timeline::Timeline;
    use crate::stats::Interval;

    /// A run of 20 seconds with 1,000 messages each, whose CPU and latency wander as those of real runs do, and whose
    /// server spends `waste_us` more on every message.
    fn run(seed: u64, waste_us: u64) -> Named {
        let mut outcome = outcome();
        let mut random = Random::new(seed);
        let mut timeline = Timeline::new();
        let mut mood = 0;
        let template = outcome.looks[1].clone();
        outcome.looks.clear();
        for second in 0..20 {
            // Neighbours are alike: the mood of the machine changes slowly.
            mood = (mood * 3 + random.below(40)) / 4;
            let mut interval = Interval::new();
            for _ in 0..1_000 {
                let us = 200 + waste_us + random.below(60) + mood + if random.below(100) == 0 { 900 } else { 0 };
                interval.deliver.record(us).unwrap();
            }
            timeline.add(second, &interval);
            let mut look = template.clone();
            look.from_s = 1.0 + f64::from(second);
            look.until_s = look.from_s + 1.0;
            (look.received, look.connections) = (1_000, 2_000);
            let server = look.server.as_mut().unwrap();
            server.cpu_ns = 1_000 * (6_000 + mood * 20 + waste_us * 1_000);
            server.rss_bytes = 50_000_000;
            outcome.looks.push(look);
        }
        outcome.counts.joined = 2_000;
        outcome.server.as_mut().unwrap().rss_bytes_per_connection = 9_000.0;
        outcome.seconds = timeline.finish(1.0);
        outcome.phases.as_mut().unwrap().window_until_s = 21.0;
        Named { file: format!("{seed}-{waste_us}.json"), outcome }
    }

    fn verdict_on(comparison: &Comparison, figure: Figure) -> Verdict {
        comparison.figures[figure as usize].verdict
    }

    fn of(a: &[Named], b: &[Named]) -> Comparison {
        Comparison::of(a, b, &Margins::default(), 1).unwrap()
    }

    #[test]
    fn two_runs_of_one_build_show_no_difference() {
        for seed in 0..5 {
            let comparison = of(&[run(seed, 0)], &[run(seed + 100, 0)]);
            assert!(
                comparison.figures.iter().all(|row| row.verdict == Verdict::NoDifference),
                "{seed}: {:?}",
                comparison.figures
            );
            assert_eq!((comparison.verdict, comparison.exit_code), (Verdict::NoDifference, 0));
        }
    }

    #[test]
    fn twenty_microseconds_of_waste_per_message_are_told() {
        let comparison = of(&[run(1, 0)], &[run(2, 20)]);
        assert_eq!(verdict_on(&comparison, Figure::Cpu), Verdict::Worse);
        assert_eq!(verdict_on(&comparison, Figure::P50), Verdict::NoDifference, "20 µs of latency are no matter");
        assert_eq!((comparison.verdict, comparison.exit_code), (Verdict::Worse, 3));
        let row = &comparison.figures[Figure::Cpu as usize];
        assert!(row.low.unwrap() > 19.0 && row.high.unwrap() < 21.0, "{row:?}");
        let other_way = of(&[run(2, 20)], &[run(1, 0)]);
        assert_eq!((other_way.verdict, other_way.exit_code), (Verdict::Better, 0));
    }

    #[test]
    fn a_sure_change_within_the_margin_is_no_difference() {
        let (a, b) = ([run(1, 0), run(2, 0)], [run(3, 1), run(4, 1)]);
        let mut margins = Margins::default();
        margins.set("cpu=30%".parse().unwrap());
        let comparison = Comparison::of(&a, &b, &margins, 1).unwrap();
        assert!(comparison.figures[0].low.unwrap() > 0.5, "it is sure");
        assert_eq!(verdict_on(&comparison, Figure::Cpu), Verdict::NoDifference);
        assert_eq!(verdict_on(&of(&a, &b), Figure::Cpu), Verdict::Worse, "and told with the margin of 5 %");
    }

    #[test]
    fn several_runs_narrow_the_margin_and_bear_a_bad_one() {
        let a = [run(1, 0), run(2, 0), run(3, 0)];
        let comparison = of(&a, &[run(4, 0), run(5, 0), run(6, 500)]);
        assert_ne!(comparison.verdict, Verdict::Worse, "{:?}", comparison.figures);
        assert_eq!(comparison.figures[0].margin.share, 0.05);
        assert!(comparison.warnings.iter().all(|warning| !warning.contains("single run")), "{:?}", comparison.warnings);
    }

    #[test]
    fn an_invalid_run_says_nothing_about_latency() {
        let mut b = run(2, 20);
        b.outcome.valid = false;
        let comparison = of(&[run(1, 0)], &[b]);
        assert_eq!(verdict_on(&comparison, Figure::P99), Verdict::NotJudged);
        assert_eq!(verdict_on(&comparison, Figure::Cpu), Verdict::Worse);
        assert!(comparison.warnings.iter().any(|warning| warning.contains("2-20.json is INVALID")));
    }

    #[test]
    fn a_server_without_its_core_says_nothing_about_latency() {
        let mut b = run(2, 20);
        let thread = &mut b.outcome.server.as_mut().unwrap().threads[0];
        (thread.cpu_ns, thread.waited_ns) = (100, 90);
        let comparison = of(&[run(1, 0)], &[b]);
        assert_eq!(verdict_on(&comparison, Figure::P50), Verdict::NotJudged);
        assert_eq!(verdict_on(&comparison, Figure::Cpu), Verdict::Worse);
        assert!(comparison.warnings.iter().any(|warning| warning.contains("without a core 47 %")));
    }

    #[test]
    fn memory_is_judged_for_many_connections_to_a_fresh_server() {
        let (mut few, mut worn) = (run(2, 0), run(3, 0));
        few.outcome.counts.joined = 100;
        worn.outcome.server.as_mut().unwrap().rss_bytes_per_connection = 0.0;
        for (doubted, why) in [(few, "fewer than 1000 connections"), (worn, "was not fresh")] {
            let comparison = of(&[run(1, 0)], &[doubted]);
            let row = &comparison.figures[Figure::Memory as usize];
            assert_eq!(row.verdict, Verdict::NotJudged);
            assert!(row.why.as_ref().unwrap().ends_with(why), "{row:?}");
        }
    }

    #[test]
    fn what_is_short_or_unmeasured_is_not_judged() {
        let (mut a, mut b) = (run(1, 0), run(2, 20));
        b.outcome.server = None;
        let memory = of(&[a.clone()], &[b.clone()]);
        assert_eq!(verdict_on(&memory, Figure::Memory), Verdict::NotJudged);
        for named in [&mut a, &mut b] {
            named.outcome.seconds.truncate(3);
            named.outcome.looks.truncate(3);
        }
        let short = of(&[a], &[b]);
        assert_eq!((short.verdict, short.exit_code), (Verdict::NotJudged, 0));
    }

    #[test]
    fn what_was_not_the_same_is_warned_of() {
        let (a, mut b) = (run(1, 0), run(2, 0));
        b.outcome.scenario["rate"] = 7.into();
        b.outcome.scenario["target"] = "ws://elsewhere".into();
        b.outcome.environment.kernel = "Linux 0".to_owned();
        let warnings = of(&[a], &[b]).warnings.join("\n");
        assert!(warnings.contains("another scenario than 1-0.json: rate\n"), "{warnings}");
        assert!(warnings.contains("another environment than 1-0.json: kernel\n"), "{warnings}");
    }

    #[test]
    fn the_same_runs_give_the_same_answer() {
        let (a, b) = ([run(1, 0)], [run(2, 3)]);
        assert_eq!(of(&a, &b).json(), of(&a, &b).json());
    }
}
