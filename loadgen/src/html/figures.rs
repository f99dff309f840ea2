//! The charts of a report, each made from a result where the result has something to show.

use crate::curve::CurvePoint;
use crate::hlog;
use crate::html::axis::Axis;
use crate::html::chart::{Chart, Line, tell_second};
use crate::html::text::Unit;
use crate::report::Outcome;
use crate::sampling::recorder::{Look, Usage};
use crate::sampling::scrape::Scrapes;
use crate::sampling::timeline::Second;
use crate::stats::Percentiles;

/// Latency: over time, and by percentile.
#[must_use]
pub fn latency(outcome: &Outcome) -> Vec<Chart> {
    [latency_over_time(outcome), acks_over_time(outcome), latency_by_percentile(outcome)]
        .into_iter()
        .flatten()
        .collect()
}

/// Connections and messages over time.
#[must_use]
pub fn traffic(outcome: &Outcome) -> Vec<Chart> {
    [connect_curve(outcome), connections(outcome), messages(outcome)].into_iter().flatten().collect()
}

/// What the server and the generator used.
#[must_use]
pub fn resources(outcome: &Outcome) -> Vec<Chart> {
    let server = |look: &'static str, of: fn(&Look) -> Option<&Usage>| {
        let of_server = look == "server";
        [cores(outcome, of_server, of), memory(outcome, of_server, of), switches(outcome, of_server, of)]
    };
    let of_server = server("server", |look| look.server.as_ref()).into_iter().flatten();
    let [generator, ..] = server("generator", |look| Some(&look.generator));
    of_server.chain(generator).collect()
}

/// The server's own figures.
#[must_use]
pub fn metrics(outcome: &Outcome) -> Vec<Chart> {
    let Some(scrapes) = outcome.scrapes.as_ref().filter(|scrapes| !scrapes.at_s.is_empty()) else { return Vec::new() };
    let rates = |names: &[(&str, &str)]| lines(names.iter().map(|(name, family)| rate(scrapes, name, family)));
    let levels = |names: &[(&str, &str)]| lines(names.iter().map(|(name, family)| level(scrapes, name, family)));
    let means = |names: &[(&str, &str)]| lines(names.iter().map(|(name, family)| mean_us(scrapes, name, family)));
    let in_and_out = [("in", "hubbub_messages_in_total"), ("out", "hubbub_messages_out_total")];
    let bytes = [("in", "hubbub_in_bytes_total"), ("out", "hubbub_out_bytes_total")];
    let means_of = [
        ("from reading a message to its receiver's socket", "hubbub_delivery_latency_seconds"),
        ("one turn of the loop", "hubbub_turn_seconds"),
    ];
    let calls = [
        ("io_uring_enter", "hubbub_enters_total"),
        ("writes", "hubbub_sends_total"),
        ("writes that waited to carry more", "hubbub_coalesced_total"),
        ("sleeps", "hubbub_sleeps_total"),
    ];
    let charts = [
        ("Messages, by the server's count", Unit::Rate, rates(&in_and_out)),
        ("Bytes per second, by the server's count", Unit::Bytes, rates(&bytes)),
        ("Mean times inside the server", Unit::Time, means(&means_of)),
        ("Bytes that wait for slow readers", Unit::Bytes, levels(&[("outboxes", "hubbub_outbox_bytes")])),
        ("Batches that wait between shards", Unit::Count, levels(&[("mailboxes", "hubbub_mailbox_depth")])),
        ("Calls into the kernel", Unit::Rate, rates(&calls)),
    ];
    charts.into_iter().filter_map(|(title, unit, lines)| over_time(outcome, title, unit, lines)).collect()
}

fn latency_over_time(outcome: &Outcome) -> Option<Chart> {
    type Read = fn(&Second) -> Option<f64>;
    let rows: [(&str, Read); 4] = [
        ("p50", |second| second.deliver_us.map(|p| p.p50 as f64)),
        ("p99", |second| second.deliver_us.map(|p| p.p99 as f64)),
        ("max", |second| second.deliver_us.map(|p| p.max as f64)),
        ("generator's lag, p99", |second| second.lag_us.map(|p| p.p99 as f64)),
    ];
    let line = |(name, read): (&str, Read)| {
        Line::through(name, outcome.seconds.iter().map(|second| (second.at_s + 0.5, read(second))), GAP_S)
    };
    let lines = lines(rows.into_iter().map(line));
    let (low, high) = bounds(&lines)?;
    let (worst_at, worst) = peak(&lines[..lines.len().min(3)])?;
    let caption = format!(
        "From the planned send time to arrival, second by second, on a logarithmic scale. The slowest delivery took {} and \
         arrived in the second around {}.{}",
        Unit::Time.show(worst),
        Unit::Seconds.show(worst_at),
        window_note(outcome)
    );
    let y = Axis::log("latency", Unit::Time, low, high);
    Some(chart(outcome, "Delivery latency over time", caption, y, lines))
}

/// Publishers hear of nothing but their acknowledgements; elsewhere these stand beside delivery.
fn acks_over_time(outcome: &Outcome) -> Option<Chart> {
    let name = acks_of(outcome);
    let seconds: Vec<(f64, Option<Percentiles>)> = outcome
        .seconds
        .iter()
        .map(|second| {
            let acks = second.histograms.get(name).and_then(|packed| hlog::unpack(packed).ok());
            (second.at_s + 0.5, acks.as_ref().and_then(Percentiles::of))
        })
        .collect();
    let line = |name: &str, read: fn(&Percentiles) -> u64| {
        Line::through(name, seconds.iter().map(|(at_s, p)| (*at_s, p.as_ref().map(|p| read(p) as f64))), GAP_S)
    };
    let lines = lines([line("p50", |p| p.p50), line("p99", |p| p.p99), line("max", |p| p.max)].into_iter());
    let (low, high) = bounds(&lines)?;
    let (worst_at, worst) = peak(&lines)?;
    let caption = format!(
        "From sending to the server's ok{}, second by second, on a logarithmic scale. The slowest took {} and came in the \
         second around {}.{}",
        if name == "durable_ack" { " that says durable" } else { "" },
        Unit::Time.show(worst),
        Unit::Seconds.show(worst_at),
        window_note(outcome)
    );
    let y = Axis::log("latency", Unit::Time, low, high);
    Some(chart(outcome, "Acknowledgement latency over time", caption, y, lines))
}

/// The histogram that says most of acknowledgements.
fn acks_of(outcome: &Outcome) -> &'static str {
    if outcome.latency_us.durable_ack.is_some() { "durable_ack" } else { "ack" }
}

fn latency_by_percentile(outcome: &Outcome) -> Option<Chart> {
    let rows = [
        ("planned → received", "deliver", outcome.latency_us.deliver),
        ("sent → received", "service", outcome.latency_us.service),
        ("generator's lag", "lag", outcome.lag_us),
        ("message → ok", acks_of(outcome), outcome.latency_us.durable_ack.or(outcome.latency_us.ack)),
    ];
    let lines = lines(rows.iter().filter_map(|(name, key, _)| distribution(outcome, name, key)));
    let (low, high) = bounds(&lines)?;
    let measured: Vec<(&str, Percentiles)> = rows.iter().filter_map(|(name, _, p)| Some((*name, (*p)?))).collect();
    let count = measured.iter().map(|(_, p)| p.count).max()?;
    let told: Vec<String> = measured
        .iter()
        .map(|(name, p)| {
            let shown = [p.p50, p.p99, p.p99_99, p.max].map(|us| Unit::Time.show(us as f64));
            format!(
                "{name}: half within {}, 99 % within {}, 99.99 % within {}, all within {}",
                shown[0], shown[1], shown[2], shown[3]
            )
        })
        .collect();
    Some(Chart {
        title: "Latency by percentile",
        caption: format!("{}. Each step to the right is ten times rarer.", told.join("; ")),
        x: Axis::tail("share of all messages", count),
        y: Axis::log("latency", Unit::Time, low, high),
        lines,
        window: None,
        tell_x: |share| format!("{:.4} %", share * 100.0),
    })
}

/// A histogram's values by quantile, as HdrHistogram's plots have them.
fn distribution(outcome: &Outcome, name: &str, key: &str) -> Option<Line> {
    let histogram = hlog::unpack(outcome.histograms.get(key)?).ok()?;
    let steps = histogram.iter_quantiles(STEPS_PER_HALVING);
    let points = steps.map(|step| (step.quantile_iterated_to(), Some(step.value_iterated_to() as f64)));
    Some(Line::through(name, points, 2.0))
}

fn connect_curve(outcome: &Outcome) -> Option<Chart> {
    let curve = &outcome.connect_curve;
    let last = curve.last()?;
    let line = |name: &str, of: fn(&CurvePoint) -> u64| {
        Line::through(name, curve.iter().map(|point| (point.at_s, Some(of(point) as f64))), f64::INFINITY)
    };
    let mut lines = vec![line("connected", |point| point.connected), line("joined", |point| point.joined)];
    if last.refused > 0 {
        lines.push(line("refused", |point| point.refused));
    }
    let per_s = last.joined as f64 / last.at_s.max(1e-3);
    let caption = format!(
        "{} connections had joined after {}, {} on average; {} failed.",
        Unit::Count.show(last.joined as f64),
        Unit::Seconds.show(last.at_s),
        Unit::Rate.show(per_s.round()),
        Unit::Count.show(last.refused as f64),
    );
    let y = Axis::linear("connections", Unit::Count, 0.0, last.connected as f64);
    let x = Axis::span("time since the first connect", Unit::Seconds, 0.0, last.at_s);
    Some(Chart { title: "Connect curve", caption, x, y, lines, window: None, tell_x: tell_second })
}

fn connections(outcome: &Outcome) -> Option<Chart> {
    let seen = Line::through(
        "that stand",
        outcome.looks.iter().map(|look| (look.until_s, Some(look.connections as f64))),
        GAP_S,
    );
    let told = outcome.scrapes.as_ref().map(|scrapes| level(scrapes, "by the server's count", "hubbub_connections"));
    over_time(outcome, "Connections", Unit::Count, lines([seen].into_iter().chain(told)))
}

fn messages(outcome: &Outcome) -> Option<Chart> {
    let per_s = |look: &Look, n: u64| Some(n as f64 / (look.until_s - look.from_s).max(1e-3));
    let through = |name: &str, of: fn(&Look) -> u64| {
        Line::through(name, outcome.looks.iter().map(|look| (middle(look), per_s(look, of(look)))), GAP_S)
    };
    let lines = vec![through("sent", |look| look.sent), through("received", |look| look.received)];
    over_time(outcome, "Messages", Unit::Rate, lines)
}

/// Cores by thread; those that use the least are added up.
fn cores(outcome: &Outcome, of_server: bool, of: fn(&Look) -> Option<&Usage>) -> Option<Chart> {
    let mut used: Vec<(&str, f64)> = Vec::new();
    for (name, cores) in outcome.looks.iter().filter_map(of).flat_map(|usage| &usage.cores) {
        match used.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += cores,
            None => used.push((name, *cores)),
        }
    }
    used.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (shown, rest) = used.split_at(used.len().min(THREADS_SHOWN));
    let through = |name: &str, read: &dyn Fn(&Usage) -> f64| {
        Line::through(name, outcome.looks.iter().map(|look| (middle(look), of(look).map(read))), GAP_S)
    };
    let mut lines = vec![through("all threads", &|usage| usage.cores.values().sum())];
    for (name, _) in shown {
        lines.push(through(name, &|usage| usage.cores.get(*name).copied().unwrap_or(0.0)));
    }
    if !rest.is_empty() {
        lines.push(through("all others", &|usage| rest.iter().filter_map(|(name, _)| usage.cores.get(*name)).sum()));
    }
    let title = if of_server { "Server: CPU by thread, in cores" } else { "Generator: CPU by thread, in cores" };
    over_time(outcome, title, Unit::Cores, lines.into_iter().filter(|line| !line.parts.is_empty()).collect())
}

fn memory(outcome: &Outcome, of_server: bool, of: fn(&Look) -> Option<&Usage>) -> Option<Chart> {
    let through = |name: &str, read: fn(&Usage) -> u64| {
        Line::through(
            name,
            outcome.looks.iter().map(|look| (look.until_s, of(look).map(|usage| read(usage) as f64))),
            GAP_S,
        )
    };
    let rows =
        [through("resident", |usage| usage.rss_bytes), through("of it in no file", |usage| usage.rss_anon_bytes)];
    over_time(
        outcome,
        if of_server { "Server: memory" } else { "Generator: memory" },
        Unit::Bytes,
        lines(rows.into_iter()),
    )
}

fn switches(outcome: &Outcome, of_server: bool, of: fn(&Look) -> Option<&Usage>) -> Option<Chart> {
    let through = |name: &str, read: fn(&Usage) -> u64| {
        let per_s = |look: &Look| of(look).map(|usage| read(usage) as f64 / (look.until_s - look.from_s).max(1e-3));
        Line::through(name, outcome.looks.iter().map(|look| (middle(look), per_s(look))), GAP_S)
    };
    let rows = [
        through("voluntary: a thread waits", |usage| usage.voluntary_switches),
        through("involuntary: its core is taken", |usage| usage.involuntary_switches),
    ];
    let title = if of_server { "Server: context switches" } else { "Generator: context switches" };
    over_time(outcome, title, Unit::Rate, lines(rows.into_iter()))
}

/// A level as it was read.
fn level(scrapes: &Scrapes, name: &str, family: &str) -> Line {
    let column = scrapes.series.get(family).map_or(&[][..], Vec::as_slice);
    Line::through(name, scrapes.at_s.iter().copied().zip(column.iter().copied()), GAP_S)
}

/// How fast a counter grew between two scrapes that follow each other.
fn rate(scrapes: &Scrapes, name: &str, family: &str) -> Line {
    let grown = growth(scrapes, family).map(|(at, grown, took)| (at, grown.map(|grown| grown / took)));
    Line::through(name, grown, GAP_S)
}

/// The mean, in microseconds, of what a histogram in seconds recorded between two scrapes.
fn mean_us(scrapes: &Scrapes, name: &str, family: &str) -> Line {
    let (sum, count) = (format!("{family}_sum"), format!("{family}_count"));
    let both = growth(scrapes, &sum).zip(growth(scrapes, &count));
    let means = both.map(|((at, sum, _), (_, count, _))| {
        (at, sum.zip(count).filter(|(_, count)| *count > 0.0).map(|(sum, count)| sum * 1e6 / count))
    });
    Line::through(name, means, GAP_S)
}

/// Between two scrapes: the middle, by how much a family grew, and the seconds it took. A counter that fell began anew.
fn growth<'a>(scrapes: &'a Scrapes, family: &str) -> impl Iterator<Item = (f64, Option<f64>, f64)> + use<'a> {
    let column = scrapes.series.get(family).map_or(&[][..], Vec::as_slice);
    let read: Vec<(f64, Option<f64>)> = scrapes.at_s.iter().copied().zip(column.iter().copied()).collect();
    let pairs: Vec<_> = read.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.into_iter().map(|((from, before), (until, now))| {
        let took = (until - from).max(1e-3);
        let grown = before.zip(now).map(|(before, now)| now - before).filter(|grown| *grown >= 0.0 && took <= GAP_S);
        (f64::midpoint(from, until), grown, took)
    })
}

/// A chart over the whole run with a linear axis from 0; `None` when nothing was read.
fn over_time(outcome: &Outcome, title: &'static str, unit: Unit, lines: Vec<Line>) -> Option<Chart> {
    let (_, high) = bounds(&lines)?;
    let (at, most) = peak(&lines)?;
    let caption = if most > 0.0 {
        format!("At most {} at {}.{}", unit.show(most), Unit::Seconds.show(at), window_note(outcome))
    } else {
        format!("Nothing at any time.{}", window_note(outcome))
    };
    Some(chart(outcome, title, caption, Axis::linear("", unit, 0.0, high), lines))
}

fn chart(outcome: &Outcome, title: &'static str, caption: String, y: Axis, lines: Vec<Line>) -> Chart {
    let looks_end = outcome.looks.last().map_or(0.0, |look| look.until_s);
    let load_end = outcome.seconds.last().map_or(0.0, |second| second.at_s + 1.0);
    let x = Axis::span("time since the first connect", Unit::Seconds, 0.0, looks_end.max(load_end));
    let window = outcome.phases.map(|phases| (phases.window_from_s, phases.window_until_s));
    Chart { title, caption, x, y, lines, window, tell_x: tell_second }
}

fn window_note(outcome: &Outcome) -> &'static str {
    if outcome.phases.is_some() { " Shaded: the measured window." } else { "" }
}

fn lines(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    lines.filter(|line| !line.parts.is_empty()).collect()
}

fn bounds(lines: &[Line]) -> Option<(f64, f64)> {
    let low = lines.iter().filter_map(Line::min).reduce(f64::min)?;
    Some((low, lines.iter().filter_map(Line::max).reduce(f64::max)?))
}

/// Where the highest point of all lines is, and how high.
fn peak(lines: &[Line]) -> Option<(f64, f64)> {
    lines.iter().flat_map(Line::points).max_by(|a, b| a.1.total_cmp(&b.1))
}

fn middle(look: &Look) -> f64 {
    f64::midpoint(look.from_s, look.until_s)
}

/// Points further apart than this have a second between them in which nothing could be read.
const GAP_S: f64 = 1.75;
const STEPS_PER_HALVING: u32 = 10;
const THREADS_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    fn scrapes(at_s: &[f64], values: &[Option<f64>]) -> Scrapes {
        let mut scrapes = Scrapes { at_s: at_s.to_vec(), ..Scrapes::default() };
        scrapes.series.insert("hubbub_messages_in_total".to_owned(), values.to_vec());
        scrapes
    }

    #[test]
    fn a_rate_is_not_made_up_over_a_missed_second() {
        let at = [0.0, 1.0, 3.0, 4.0, 5.0];
        let values = [Some(0.0), Some(10.0), Some(30.0), Some(50.0), Some(5.0)];
        let line = rate(&scrapes(&at, &values), "in", "hubbub_messages_in_total");
        assert_eq!(line.parts, [vec![(0.5, 10.0)], vec![(3.5, 20.0)]], "one gap, and one counter that began anew");
        assert!(rate(&scrapes(&at, &values), "in", "nothing").parts.is_empty());
    }

    #[test]
    fn every_part_of_a_result_has_its_chart() {
        let mut outcome = outcome();
        let at = [0.5, 1.5, 2.5];
        outcome.scrapes = Some(scrapes(&at, &[Some(0.0), Some(1.0), Some(5.0)]));
        let all = [latency(&outcome), traffic(&outcome), resources(&outcome), metrics(&outcome)].concat();
        let titles: Vec<_> = all.iter().map(|chart| chart.title).collect();
        assert_eq!(
            titles,
            [
                "Delivery latency over time",
                "Latency by percentile",
                "Connect curve",
                "Connections",
                "Messages",
                "Server: CPU by thread, in cores",
                "Server: memory",
                "Server: context switches",
                "Generator: CPU by thread, in cores",
                "Messages, by the server's count",
            ]
        );
        let percentiles = &all[1];
        assert_eq!(percentiles.lines[0].points().last().map(|(share, _)| share), Some(1.0));
        assert!(percentiles.lines[0].max().unwrap() >= 90_000.0, "the tail is on it");
        assert!(all[0].caption.contains("The slowest delivery took 90.0 ms"), "{}", all[0].caption);
    }

    #[test]
    fn publishers_have_the_latency_of_their_acknowledgements() {
        let mut outcome = outcome();
        let mut acks = crate::stats::latency_histogram();
        (1..=100).for_each(|us| acks.record(us * 100).unwrap());
        for second in &mut outcome.seconds {
            second.deliver_us = None;
            second.lag_us = None;
            second.histograms = [("durable_ack".to_owned(), hlog::pack(&acks))].into();
        }
        outcome.latency_us.durable_ack = Percentiles::of(&acks);
        let chart = latency(&outcome).swap_remove(0);
        assert_eq!((chart.title, chart.lines.len()), ("Acknowledgement latency over time", 3));
        assert!(chart.caption.contains("ok that says durable"), "{}", chart.caption);
        assert!(chart.caption.contains("The slowest took 10.0 ms"), "{}", chart.caption);
    }

    #[test]
    fn a_result_without_load_has_fewer_charts_and_no_panic() {
        let mut outcome = outcome();
        outcome.seconds.clear();
        outcome.looks.clear();
        outcome.connect_curve.clear();
        outcome.histograms.clear();
        outcome.phases = None;
        assert!([latency(&outcome), traffic(&outcome), resources(&outcome), metrics(&outcome)].concat().is_empty());
    }
}
