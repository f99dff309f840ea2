//! What is judged, and how; and results for the tests of others.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::audit::Faults;
use crate::curve::CurvePoint;
use crate::environment::Environment;
use crate::fleet::coordinator::AgentPart;
use crate::fleet::offset::Offset;
use crate::ledger::{Closing, Tally};
use crate::report::outcome::Turnover;
use crate::sampling::process::{Sample, ThreadTime};
use crate::sampling::recorder::{Recorder, Recording};
use crate::sampling::scrape::{Page, Scrapes};
use crate::scenario::Settings;
use crate::stats::{Count, Counts, Handshakes, Interval};

/// The result of a faultless run of two connections, with three seconds recorded, one of them in the ramp.
pub fn outcome() -> Outcome {
    Outcome::judge(recorded("kind = 'echo'\nconnections = 2\nwarm_up = '0s'\nduration = '2s'"))
}

/// A faultless run in which each of two seconds of load delivered 500 messages in 1 to 500 µs, and one took 90 ms.
pub fn recorded(scenario: &str) -> Measured {
    const S: u64 = crate::clock::NS_PER_S;
    let mut measured = measured(scenario);
    let mut recorder = Recorder::begin(0, Some(std::process::id()), None);
    let mut counts = Counts::default();
    counts.add(Count::Connected, 2);
    counts.add(Count::Joined, 2);
    recorder.look(S, &counts);
    recorder.load_starts(S);
    measured.connect_curve = [(0.0, 0), (0.5, 1), (1.0, 2)]
        .map(|(at_s, joined)| CurvePoint { at_s, connected: joined, joined, refused: 0 })
        .to_vec();
    measured.total = Interval::new();
    for second in 0..2 {
        let mut interval = Interval::new();
        for us in 1..=500 {
            interval.deliver.record(us).unwrap();
            interval.service.record(us).unwrap();
        }
        interval.deliver.record(90_000).unwrap();
        interval.lag.record_n(30, 501).unwrap();
        (interval.sent, interval.received) = (501, 501);
        counts.add(Count::Sent, 501);
        counts.add(Count::Received, 501);
        recorder.measured(second, &interval);
        measured.total.add(&interval);
        recorder.look(S * u64::from(second + 2), &counts);
    }
    measured.counts = counts;
    measured.recording = recorder.finish(&counts);
    measured
}

/// A faultless run of two connections, in which 1,000 messages were delivered within 100 µs.
fn measured(scenario: &str) -> Measured {
    let mut total = Interval::new();
    total.deliver.record_n(100, 1_000).unwrap();
    total.lag.record_n(50, 500).unwrap();
    let thread = |cpu_ns| ThreadTime {
        tid: 1,
        name: "load-0".to_owned(),
        cpu_ns,
        waited_ns: 0,
        voluntary_switches: 0,
        involuntary_switches: 0,
    };
    let sample = |cpu_ns, rss_bytes| Sample { threads: vec![thread(cpu_ns)], rss_bytes, rss_anon_bytes: 0 };
    let mut counts = Counts::default();
    counts.add(Count::Joined, 2);
    counts.add(Count::Received, 1_000);
    Measured {
        scenario: Settings::parse(scenario).unwrap().decide("test".to_owned()).unwrap(),
        workers: 1,
        agents: Vec::new(),
        sources: Vec::new(),
        counts,
        handshakes: Handshakes::new(),
        total,
        recording: Recording::default(),
        connect_curve: Vec::new(),
        return_ns: 0,
        closings: vec![closing(Faults::default())],
        server_pid: Some(9),
        server: ServerSamples {
            before: Some(sample(0, 1_000_000)),
            from: Some(sample(1_000, 0)),
            until: Some(sample(3_001_000, 1_003_000)),
        },
        own: (sample(0, 0), sample(500_000_000, 0)),
        window: (Counts::default(), counts),
        window_ns: (0, 1_000_000_000),
        elapsed_ns: 2_000_000_000,
        environment: Environment::read(2, 1_024, None),
    }
}

fn closing(faults: Faults) -> Closing {
    Closing {
        faults,
        expected: 1_000,
        orders: BTreeMap::new(),
        pings_min: 0,
        last_caught_up_ns: 0,
        missed: 0,
        handshakes: Handshakes::new(),
        refusals: Tally::new(),
        closes: Tally::new(),
        local_faults: Tally::new(),
        errors: Tally::new(),
    }
}

#[test]
fn a_faultless_run_ends_with_0() {
    let outcome = Outcome::judge(measured("kind = 'echo'\nconnections = 2"));
    assert_eq!((outcome.exit_code, outcome.valid), (0, true));
    let server = outcome.server.as_ref().unwrap();
    assert_eq!(server.cpu_us_per_delivery, Some(3.0));
    assert_eq!(server.rss_bytes_per_connection, 1_500.0);
    assert_eq!((outcome.generator.busiest_worker_cpu, outcome.measured.received_per_s), (0.5, 1_000.0));
    assert!(outcome.table().ends_with("OK: nothing lost, nothing twice, nothing out of order\n"));
}

#[test]
fn faults_come_before_doubts_and_doubts_before_bounds() {
    let missed = "kind = 'echo'\n[thresholds]\ndeliver.p50_us = 99\nserver_cores = 0.1\n";
    let doubted = format!("{missed}[validity]\nworker_cpu = 0.4");
    let outcome = Outcome::judge(measured(missed));
    assert_eq!((outcome.exit_code, outcome.thresholds_missed.len()), (99, 1), "{:?}", outcome.thresholds_missed);
    let outcome = Outcome::judge(measured(&doubted));
    assert_eq!((outcome.exit_code, outcome.valid), (98, false), "{:?}", outcome.invalid_reasons);
    let mut faulty = measured(&doubted);
    faulty.closings.push(closing(Faults { lost: 2, ..Faults::default() }));
    let outcome = Outcome::judge(faulty);
    assert_eq!((outcome.exit_code, &outcome.faults[..]), (1, &["2 lost".to_owned()][..]));
}

#[test]
fn every_fault_of_a_server_counts_unless_allowed() {
    let lost = Faults { lost: 1, duplicate: 1, disordered: 1, room_seq: 1 };
    let mut measured = measured("kind = 'echo'");
    measured.closings = vec![closing(lost), closing(lost)];
    for (place, hash) in [(0, 1), (1, 2)] {
        measured.closings[place].orders.insert(3, BTreeSet::from([hash]));
    }
    for what in [Count::Refused, Count::Closed, Count::Misrouted, Count::Errors] {
        measured.counts.bump(what);
    }
    let allowing =
        Settings::parse("kind = 'echo'\n[thresholds]\nloss = 2\nduplicates = 2\ndisorder = 2\nrefused = 1\nclosed = 1");
    let allowing = allowing.unwrap().decide("test".to_owned()).unwrap();
    measured.scenario = allowing;
    let outcome = Outcome::judge(measured);
    assert_eq!(outcome.faults, ["1 in the wrong room", "1 errors from the server"]);
    assert_eq!(outcome.counts.rooms_disagreeing, 1, "members on two workers are compared");
}

#[test]
fn a_publishers_answers_are_judged() {
    let judge = |scenario: &str| {
        let mut measured = measured(scenario);
        measured.counts.add(Count::Sent, 10);
        measured.counts.add(Count::Answers, 9);
        measured.counts.add(Count::Acks, 8);
        measured.window.1 = measured.counts;
        measured.counts.add(Count::NotDurable, 3);
        measured.counts.add(Count::AckSeqFaults, 2);
        Outcome::judge(measured)
    };
    let outcome = judge("kind = 'publish'\n[thresholds]\nacks_per_s_min = 8.5");
    let always = ["2 answers out of turn, or with a number that did not follow", "1 sent and never answered"];
    assert_eq!(outcome.faults, always);
    assert_eq!(outcome.measured.acks_per_s, 8.0);
    assert_eq!(outcome.thresholds_missed, ["acks_per_s was 8.0, less than 8.5"]);
    let required = judge("kind = 'publish'\nrequire_durable = true");
    assert_eq!(required.faults[2..], ["3 answered without being on disk"]);
    assert!(required.table().contains("acknowledged 8 (8/s)   not on disk 3   out of turn 2"), "{}", required.table());
    assert!(required.summary.contains("100 publishers of 128 bytes"), "{}", required.summary);
}

#[test]
fn what_the_generator_left_out_makes_a_run_invalid() {
    let mut measured = measured("kind = 'echo'\n[validity]\nlag_p99_us = 49");
    measured.counts.add(Count::Skipped, 3);
    measured.closings[0].local_faults.insert("no local port".to_owned(), 2);
    let outcome = Outcome::judge(measured);
    assert_eq!((outcome.exit_code, outcome.invalid_reasons.len()), (98, 3), "{:?}", outcome.invalid_reasons);
}

/// The schema with every object closed, so that a field that it does not name is an error.
fn closed(schema: &serde_json::Value) -> serde_json::Value {
    match schema {
        serde_json::Value::Object(fields) => {
            let mut fields: serde_json::Map<_, _> =
                fields.iter().map(|(name, value)| (name.clone(), closed(value))).collect();
            if fields.contains_key("properties") && fields.contains_key("required") {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
            serde_json::Value::Object(fields)
        }
        serde_json::Value::Array(values) => values.iter().map(closed).collect(),
        other => other.clone(),
    }
}

#[test]
fn a_result_is_what_the_schema_says() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../schema/result-2.json")).unwrap();
    assert_eq!(schema["properties"]["schema"]["const"], crate::report::outcome::SCHEMA);
    let validator = jsonschema::validator_for(&closed(&schema)).unwrap();
    let mut full = outcome();
    full.server.as_mut().unwrap().threads.push(full.generator.threads[0].clone());
    full.generator.agents.push(AgentPart {
        address: "127.0.0.1:1".to_owned(),
        workers: 1,
        clock: Offset { offset_ns: -3, uncertainty_ns: 2 },
        cpu: 0.5,
        busiest_worker_cpu: 0.5,
    });
    full.turnover = Some(Turnover {
        left: 2,
        rejoined: 2,
        retried: 0,
        dropped: 2,
        resumed: 2,
        recovered: 2,
        missed: 100,
        caught_up: 2,
        all_caught_up_s: Some(0.5),
    });
    let mut scrapes = Scrapes { url: "http://127.0.0.1:1/metrics".to_owned(), ..Scrapes::default() };
    scrapes.add(1.0, Ok(Page::default()));
    scrapes.add(2.0, Err("no answer in time".to_owned()));
    full.scrapes = Some(scrapes);
    let sparse = Outcome::judge(measured("kind = 'hold'"));
    for outcome in [full, sparse] {
        let json: serde_json::Value = serde_json::from_str(&outcome.json()).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        let mut wrong = json.clone();
        wrong["latency_us"]["deliver"]["p98"] = 1.into();
        assert!(!validator.is_valid(&wrong), "a field that the schema does not name");
        let mut wrong = json;
        wrong.as_object_mut().unwrap().remove("counts");
        assert!(!validator.is_valid(&wrong), "a field that is missing");
    }
}

#[test]
fn a_result_reads_back_as_it_was_written() {
    let outcome = outcome();
    let read = Outcome::parse(&outcome.json()).unwrap();
    assert_eq!(read.json(), outcome.json());
    assert_eq!(read.table(), outcome.table());
    assert_eq!(crate::html::page(&read), crate::html::page(&outcome));
}

#[test]
fn what_is_no_result_of_ours_is_refused() {
    let json = outcome().json();
    let table = [
        ("", "no result"),
        ("[]", "no result"),
        ("{\"schema\": \"hubbub-loadgen/1\"}", "this program reads \"hubbub-loadgen/2\""),
        (&json.replace("\"summary\"", "\"sumary\""), "missing field `summary`"),
    ];
    for (text, expected) in table {
        let problem = Outcome::parse(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
}
