//! The program against a small relay server of our own, on an independent WebSocket implementation: one that is faithful,
//! and ones that lose, repeat, reorder, stall, refuse and hang up.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod publish;
mod relay;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use relay::{Fault, STALL_MS, serve};

#[test]
fn a_faithful_relay_passes() {
    let run = Run::against(Fault::None, "kind = 'rooms'\nconnections = 20\nroom_size = 5\nrate = 400");
    assert_eq!(run.exit_code, 0, "{}", run.output);
    assert_eq!(run.count("joined"), 20);
    assert_eq!(run.count("sent"), 200);
    assert_eq!((run.count("expected"), run.count("received")), (1_000, 1_000));
    assert_eq!(run.json["latency_us"]["deliver"]["count"], 1_000);
    assert_eq!(run.json["latency_us"]["connect"]["count"], 20);
    assert_eq!(run.json["latency_us"]["upgrade"]["count"], 20);
    assert_eq!(run.json["valid"], true);
    assert!(run.output.contains("OK: nothing lost"), "{}", run.output);
}

#[test]
fn pings_are_answered() {
    let run = Run::against(Fault::Ping, "kind = 'echo'\nconnections = 4\nrate = 100");
    assert_eq!(run.exit_code, 0, "{}", run.output);
    // The relay sends nothing on before all its pings are answered.
    assert_eq!((run.count("pings"), run.count("received")), (4, 50));
}

#[test]
fn a_lost_message_is_found() {
    let run = Run::against(Fault::Lose, SMALL_ROOM);
    assert_eq!((run.exit_code, run.faults()), (1, [1, 0, 0]), "{}", run.output);
}

#[test]
fn a_lost_last_message_is_found() {
    let run = Run::against(Fault::LoseLast, SMALL_ROOM);
    assert_eq!((run.exit_code, run.faults()), (1, [1, 0, 0]), "{}", run.output);
}

#[test]
fn a_repeated_message_is_found() {
    let run = Run::against(Fault::Repeat, SMALL_ROOM);
    assert_eq!((run.exit_code, run.faults()), (1, [0, 1, 0]), "{}", run.output);
}

#[test]
fn a_message_out_of_order_is_found() {
    let run = Run::against(Fault::Swap, "kind = 'fanout'\nconnections = 3\nsenders = 1\nrate = 200");
    assert_eq!((run.exit_code, run.faults()), (1, [0, 0, 1]), "{}", run.output);
}

#[test]
fn members_who_see_different_orders_are_found() {
    // Messages of two senders change places for one member: each sender's own order holds.
    let run = Run::against(Fault::Swap, "kind = 'fanout'\nconnections = 3\nsenders = 3\nrate = 200");
    assert_eq!((run.exit_code, run.faults(), run.count("rooms_disagreeing")), (1, [0, 0, 0], 1), "{}", run.output);
}

#[test]
fn a_stalled_server_cannot_hide() {
    let run = Run::against(Fault::Stall, "kind = 'echo'\nconnections = 1\nrate = 200");
    assert_eq!(run.exit_code, 0, "{}", run.output);
    let deliver = &run.json["latency_us"]["deliver"];
    assert_eq!(deliver["count"], 100);
    assert!(deliver["max"].as_u64() >= Some(STALL_MS * 1_000), "{deliver}");
    // A generator that waits for each answer would have met the stall in one message of many. Here six of ten were
    // planned within it, and count from when they should have been sent.
    assert!(deliver["p90"].as_u64() >= Some(STALL_MS * 1_000 / 2), "{deliver}");
    assert!(deliver["p50"].as_u64() >= Some(10_000), "{deliver}");
}

#[test]
fn refusals_are_counted_and_named() {
    let run = Run::against(Fault::Refuse, "kind = 'echo'\nconnections = 3\nrate = 100");
    assert_eq!((run.exit_code, run.count("refused"), run.count("joined")), (1, 3, 0), "{}", run.output);
    assert_eq!(run.json["refusals"]["the server answered 503"], 3);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = Run::at(free, "kind = 'echo'\nconnections = 3\nrate = 100", &[]);
    assert_eq!((run.exit_code, run.count("refused")), (1, 3), "{}", run.output);
    assert!(run.output.contains("3 × connect: Connection refused"), "{}", run.output);
}

#[test]
fn a_connection_that_is_hung_up_on_is_counted() {
    let run = Run::against(Fault::HangUp, "kind = 'fanout'\nconnections = 2\nsenders = 1\nrate = 100\ndrain = '500ms'");
    assert_eq!((run.exit_code, run.count("closed")), (1, 1), "{}", run.output);
    assert!(run.count("lost") > 0 && run.count("duplicate") == 0, "{}", run.output);
}

#[test]
fn a_missed_threshold_ends_with_99() {
    let run = Run::against(Fault::None, "kind = 'echo'\nconnections = 1\nrate = 100\n[thresholds]\ndeliver.p99_us = 1");
    assert_eq!(run.exit_code, 99, "{}", run.output);
    assert!(run.output.contains("MISSED: deliver.p99_us was"), "{}", run.output);
}

#[test]
fn a_late_generator_is_invalid() {
    let address = serve(Fault::None);
    let run = Run::at_with(address, "kind = 'echo'\nconnections = 1\nrate = 100\n[validity]\nlag_p99_us = 0", &[]);
    assert_eq!((run.exit_code, &run.json["valid"]), (98, &Value::Bool(false)), "{}", run.output);
    assert!(run.output.contains("INVALID: the generator was late"), "{}", run.output);
    assert!(run.count("sent_late") > 0 && run.count("sent") == 50, "late messages are sent all the same");
}

#[test]
fn two_workers_share_the_connections() {
    let run = Run::at(serve(Fault::None), "kind = 'fanout'\nconnections = 9\nrate = 90", &["--workers", "2"]);
    assert_eq!((run.exit_code, run.count("received")), (0, 9 * 45), "{}", run.output);
    assert_eq!(run.json["generator"]["workers"], 2);
}

#[test]
fn a_result_can_be_shown_again_from_its_json_alone() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = |name: &str| folder.join(format!("shown-{name}")).display().to_string();
    let (first, again) = (["a.json", "a.html", "a.hlog"].map(file), ["b.json", "b.html", "b.hlog"].map(file));
    let flags = ["--json", &first[0], "--html", &first[1], "--hlog", &first[2]];
    let scenario = folder.join("shown.toml");
    let target = format!("target = 'ws://{}/room/{{room}}'", serve(Fault::None));
    std::fs::write(&scenario, target + "\nkind = 'echo'\nconnections = 4\nrate = 100\nduration = '500ms'").unwrap();
    let run = loadgen(&[&["run", &scenario.display().to_string()][..], &flags].concat());
    let shown = loadgen(&["report", &first[0], "--json", &again[0], "--html", &again[1], "--hlog", &again[2]]);
    // A generator that was late says so again.
    assert_eq!(run.0, shown.0, "{}{}", run.1, shown.1);
    assert!(run.1.ends_with(&shown.1), "the same table: {} {}", run.1, shown.1);
    for (first, again) in first.iter().zip(&again) {
        assert!(std::fs::read(first).unwrap() == std::fs::read(again).unwrap(), "{first} and {again} differ");
    }
}

#[test]
fn two_runs_against_one_server_show_no_difference_in_throughput() {
    let address = serve(Fault::None);
    let scenario = "kind = 'echo'\nconnections = 4\nrate = 200\n[validity]\nlag_p99_us = 60000000\nworker_cpu = 9.0";
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let files = ["pair-a.json", "pair-b.json"].map(|name| folder.join(name).display().to_string());
    for file in &files {
        let run = Run::at_with(address, scenario, &["--duration", "6s"]);
        assert_eq!(run.exit_code, 0, "{}", run.output);
        std::fs::write(file, run.json.to_string()).unwrap();
    }
    let json = folder.join("pair.json").display().to_string();
    let (code, output) = loadgen(&["compare", &files[0], &files[1], "--json", &json]);
    let compared: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rows = compared["figures"].as_array().unwrap();
    let throughput = rows.iter().find(|row| row["figure"] == "throughput").unwrap();
    assert_eq!(throughput["verdict"], "no_difference", "{output}");
    assert!((throughput["a"].as_f64().unwrap() - 200.0).abs() < 20.0, "{output}");
    let is_worse = rows.iter().any(|row| row["verdict"] == "worse");
    assert_eq!(code, if is_worse { 3 } else { 0 }, "{output}");
    assert!(output.contains("not measured on both sides"), "nobody knew the server's process: {output}");
}

#[test]
fn what_cannot_run_ends_with_2_and_a_reason() {
    let table = [
        (vec!["--target", "http://127.0.0.1:1"], "neither ws nor tcp"),
        (vec!["--target", "ws://192.0.2.1:9000"], "give --allow-remote"),
        (vec!["--sources", "192.0.2.1"], "cannot be bound"),
        (vec!["--cpus", "4095"], "cpus = 4095"),
        (vec!["--server-pid", "4294967295"], "there is no such process"),
        (vec!["--rate=-1"], "rate = -1"),
        (vec!["--duration", "9"], "is not a time"),
    ];
    for (flags, expected) in table {
        let run = Run::at(SocketAddr::from(([127, 0, 0, 1], 1)), "kind = 'echo'", &flags);
        assert_eq!(run.exit_code, 2, "{flags:?}: {}", run.output);
        assert!(run.output.contains(expected), "{flags:?}: {}", run.output);
    }
}

const SMALL_ROOM: &str = "kind = 'fanout'\nconnections = 3\nrate = 200";

/// What a run of the program came to.
/// Runs the program: how it ended, and all it wrote.
fn loadgen(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap();
    let text = [output.stderr, output.stdout].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

struct Run {
    exit_code: i32,
    json: Value,
    output: String,
}

impl Run {
    fn against(fault: Fault, scenario: &str) -> Self {
        Self::at(serve(fault), scenario, &[])
    }

    /// A machine that is busy with other tests may be slow without the run being in doubt.
    fn at(address: SocketAddr, scenario: &str, flags: &[&str]) -> Self {
        let (before, tables) = scenario.find("\n[").map_or((scenario, ""), |at| scenario.split_at(at));
        let patient = format!("{before}\n{tables}\n[validity]\nlag_p99_us = 10000000\nworker_cpu = 9.0\n");
        Self::at_with(address, &patient, flags)
    }

    fn at_with(address: SocketAddr, scenario: &str, flags: &[&str]) -> Self {
        let name = format!("{}-{}", address.port(), thread::current().name().unwrap_or("test").replace(':', "-"));
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (file, json) = (folder.join(format!("{name}.toml")), folder.join(format!("{name}.json")));
        let defaults = format!("target = 'ws://{address}/room/{{room}}'\nwarm_up = '0s'\nduration = '500ms'\n");
        std::fs::write(&file, defaults + scenario).unwrap();
        let _ = std::fs::remove_file(&json);
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.arg("run").arg(&file).arg("--json").arg(&json).args(flags);
        let output = command.output().unwrap();
        let json = std::fs::read(&json).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        Self { exit_code: output.status.code().unwrap(), json, output: text }
    }

    fn count(&self, name: &str) -> u64 {
        self.json["counts"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {}: {}", self.json, self.output))
    }

    fn faults(&self) -> [u64; 3] {
        ["lost", "duplicate", "disordered"].map(|name| self.count(name))
    }
}

#[test]
fn a_server_that_was_stopped_for_a_second_shows_it() {
    let run = Run::of_a_stopped_server("constant");
    assert_eq!((run.exit_code, run.count("lost")), (0, 0), "{}", run.output);
    let deliver = &run.json["latency_us"]["deliver"];
    assert!(deliver["p99_9"].as_u64() > Some(900_000), "{deliver}");
    assert_eq!(deliver["count"], 5_000, "nothing planned was left out");
}

#[test]
fn a_closed_loop_hides_that_a_server_was_stopped() {
    let run = Run::of_a_stopped_server("closed");
    let deliver = &run.json["latency_us"]["deliver"];
    assert!(deliver["p99_9"].as_u64() < Some(500_000), "{deliver}");
    assert!(deliver["max"].as_u64() > Some(900_000), "the one message that waited shows it: {deliver}");
    assert!(deliver["count"].as_u64() < Some(4_500), "what was never sent cannot be late: {deliver}");
}

/// A relay in a process of its own, which can be stopped: this test's own program, called again for this test alone.
#[test]
fn a_relay_can_be_a_process() {
    if std::env::var_os(RELAY_PROCESS).is_none() {
        assert_eq!(RelayProcess::start().address.ip(), SocketAddr::from(([127, 0, 0, 1], 0)).ip());
        return;
    }
    let mut output = std::io::stdout().lock();
    writeln!(output, "\nRELAY {}", serve(Fault::None)).unwrap();
    output.flush().unwrap();
    // Until whoever started it goes away.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

const RELAY_PROCESS: &str = "LOADGEN_TEST_RELAY_PROCESS";

struct RelayProcess {
    process: std::process::Child,
    address: SocketAddr,
}

impl RelayProcess {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_relay_can_be_a_process", "--nocapture"]).env(RELAY_PROCESS, "1");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("RELAY ")?.parse().ok());
        Self { process, address: address.unwrap() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Run {
    /// Five seconds of echo at 1,000 messages/s, in the middle of which the server is stopped for one.
    fn of_a_stopped_server(arrivals: &str) -> Self {
        let relay = RelayProcess::start();
        let scenario = format!("kind = 'echo'\nconnections = 1\nrate = 1000\narrivals = '{arrivals}'");
        let address = relay.address;
        let run = thread::spawn(move || Self::at(address, &scenario, &["--duration", "5s"]));
        pause(Duration::from_millis(2_500));
        relay.signal(Signal::STOP);
        pause(Duration::from_millis(1_000));
        relay.signal(Signal::CONT);
        run.join().unwrap()
    }
}

/// Lets time pass where time is what is tested.
fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the stall is what is tested")]
    thread::sleep(time);
}

#[test]
fn the_limit_of_a_server_is_found_and_named() {
    let scenario = "kind = 'find-limit'\nbase = 'echo'\nconnections = 4\nrate = 50\ngrowth = 2\nprecision = 0.5\n\
                    rate_max = 200\n[thresholds]\ndeliver.max_us = 10000000";
    let run = Run::at(serve(Fault::None), scenario, &[]);
    assert_eq!(run.exit_code, 0, "{}", run.output);
    assert_eq!((&run.json["highest"]["rate"], run.json["steps"].as_array().unwrap().len()), (&200.0.into(), 3));
    let refusing = Run::at(serve(Fault::Refuse), &scenario.replace("rate = 50", "rate = 1"), &[]);
    assert_eq!(refusing.exit_code, 99, "{}", refusing.output);
    assert_eq!(refusing.json["gave_out"][0]["what"], "refused");
}

#[test]
fn members_of_a_relay_that_leave_and_come_back_are_audited() {
    let run = Run::against(
        Fault::None,
        "kind = 'churn'\nconnections = 20\nroom_size = 5\nsenders = 1\nrate = 400\nchurn_per_s = 0.8\naway = '50ms'",
    );
    assert_eq!((run.exit_code, run.count("lost")), (0, 0), "{}", run.output);
    assert!(run.json["turnover"]["left"].as_u64() >= Some(7), "{}", run.output);
    assert!(run.json["turnover"]["rejoined"].as_u64() >= Some(5), "{}", run.output);
    assert_eq!(run.count("expected"), run.count("received"));
}

/// `loadgen agent`, until it goes out of scope.
struct AgentProcess {
    process: std::process::Child,
    address: String,
}

impl AgentProcess {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args(["agent", "--listen", "127.0.0.1:0"]).env("LOADGEN_TOKEN", TOKEN).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| Some(line.split_once("listening on ")?.1.to_owned())).unwrap();
        // What it says later must not stop it.
        thread::spawn(move || lines.count());
        Self { process, address }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const TOKEN: &str = "a token for tests";

#[test]
fn two_processes_share_a_run() {
    let agent = AgentProcess::start();
    let flags = ["--workers", "1", "--agents", &agent.address, "--token", TOKEN];
    let scenario = "kind = 'fanout'\nconnections = 10\nrate = 100";
    // One agent serves one run after the other.
    for _ in 0..2 {
        let run = Run::at(serve(Fault::None), scenario, &flags);
        assert_eq!((run.exit_code, run.count("joined"), run.count("received")), (0, 10, 500), "{}", run.output);
        assert_eq!((run.count("expected"), &run.json["latency_us"]["deliver"]["count"]), (500, &500.into()));
        let part = &run.json["generator"]["agents"][0];
        assert_eq!((&part["workers"], &part["clock"]["offset_ns"]), (&1.into(), &0.into()), "one machine, one clock");
        assert!(part["clock"]["uncertainty_ns"].as_u64() > Some(0), "{part}");
    }
    let lossy = Run::at(serve(Fault::LoseLast), "kind = 'fanout'\nconnections = 3\nrate = 200", &flags);
    assert_eq!((lossy.exit_code, lossy.faults()), (1, [1, 0, 0]), "{}", lossy.output);
}

#[test]
fn an_agent_that_cannot_take_part_ends_the_run() {
    let agent = AgentProcess::start();
    let scenario = "kind = 'echo'\nconnections = 4\nrate = 100";
    let address = serve(Fault::None);
    let stranger = Run::at(address, scenario, &["--agents", &agent.address, "--token", "guessed"]);
    assert_eq!(stranger.exit_code, 2, "{}", stranger.output);
    assert!(stranger.output.contains("the token is not mine"), "{}", stranger.output);
    let nobody = Run::at(address, scenario, &["--agents", "127.0.0.1:1", "--token", TOKEN]);
    assert!(nobody.exit_code == 2 && nobody.output.contains("agent 127.0.0.1:1: Connection refused"));
    let churn = Run::at(address, "kind = 'churn'", &["--agents", &agent.address, "--token", TOKEN]);
    assert!(churn.exit_code == 2 && churn.output.contains("audited within one process"), "{}", churn.output);
}

#[test]
fn an_agent_that_is_lost_fails_the_run() {
    let mut agent = AgentProcess::start();
    let flags = ["--duration", "20s", "--agents", &agent.address, "--token", TOKEN].map(str::to_owned);
    let (address, began) = (serve(Fault::Ping), std::time::SystemTime::now());
    let run = thread::spawn(move || {
        let flags = flags.each_ref().map(String::as_str);
        Run::at(address, "kind = 'echo'\nconnections = 4\nrate = 100", &flags)
    });
    pause(Duration::from_millis(1_500));
    agent.process.kill().unwrap();
    let run = run.join().unwrap();
    assert_eq!(run.exit_code, 2, "{}", run.output);
    assert!(run.output.contains("is lost"), "{}", run.output);
    assert!(began.elapsed().unwrap() < Duration::from_secs(15), "it does not wait for the end of the run");
}
