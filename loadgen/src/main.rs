//! The `loadgen` program: an open-loop load generator for servers with long-lived connections and rooms.
//!
//! The plan (who sends when) is laid out ahead; workers carry it out, each with its own ring and descriptors; every
//! subscriber audits what it receives; latency counts from the planned time. See `run` for the order of events,
//! `sampling` for what is recorded beside it each second, `report`, `html` and `hlog` for what comes out, and `compare` for
//! how two builds are told apart.

mod address;
mod attack;
mod audit;
mod client;
mod clock;
mod closed_loop;
mod compare;
mod crew;
mod curve;
mod dialect;
mod disturbance;
mod environment;
mod find_limit;
mod fleet;
mod hlog;
mod html;
mod layout;
mod ledger;
mod payload;
mod plan;
mod progress;
mod publishers;
mod ramp;
mod report;
mod resp;
mod run;
mod sampling;
mod scenario;
mod stats;
mod target;
mod thresholds;
mod tls;
mod users;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::compare::{MarginSetting, Margins};
use crate::fleet::agent;
use crate::report::Outcome;
use crate::run::Options;
use crate::scenario::{Kind, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Drives many long-lived connections and measures what arrives when.
///
/// Ends with 0; 1 when something was lost, came twice or out of order, or a connection was refused or closed; 98 when
/// the generator itself was too slow for the result to count; 99 when a threshold was missed; 2 when it could not run.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a scenario
    Run(Box<Run>),
    /// Lends this machine's workers to `run --agents`, until it is ended
    Agent(Agent),
    /// Does harm to a server on this machine, and counts what it answers
    Attack(Attack),
    /// Shows a result again, from its JSON alone
    Report(Report),
    /// Says whether one build differs from another, by their results
    ///
    /// Ends with 3 when B is worse in anything, else with 0; with 2 when it cannot compare.
    Compare(Compare),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The scenario, a TOML file; flags win over it
    scenario: PathBuf,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    outputs: Outputs,
    /// Measure CPU time and memory of this process, the server
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Read the server's metrics here once a second; http://HOST:9002/metrics by default when the target has hubbub's
    /// default port and they are there
    #[arg(long, value_name = "URL")]
    metrics_url: Option<String>,
    /// Agents that share the run, such as 192.0.2.7:9100
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    agents: Vec<String>,
    /// The token that the agents were started with; better in LOADGEN_TOKEN, where other users do not see it
    #[arg(long)]
    token: Option<String>,
    /// Load a machine other than this one
    #[arg(long)]
    allow_remote: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
struct Agent {
    /// Where coordinators find it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    listen: std::net::SocketAddr,
    /// What a coordinator must know; better in LOADGEN_TOKEN, where other users do not see it
    #[arg(long)]
    token: Option<String>,
    /// Load machines other than this one
    #[arg(long)]
    allow_remote: bool,
}

#[derive(Debug, clap::Args)]
struct Attack {
    /// Which attack
    kind: attack::Kind,
    /// The server's HTTP port, on loopback
    #[arg(long, value_name = "IP:PORT")]
    target: std::net::SocketAddr,
    /// Connections at a time; each attack has its own default, as for the next two
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Pieces per second, of all connections together
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Connections to try before it is enough
    #[arg(long, value_name = "N")]
    tries: Option<u64>,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: std::time::Duration,
    /// The address that connections come from
    #[arg(long, value_name = "IP", default_value = "127.9.9.9")]
    source: std::net::IpAddr,
    /// A token with which its connections get in, where names are not enough
    #[arg(long)]
    token: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Report {
    /// A result, as `run --json` wrote it
    result: PathBuf,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Debug, clap::Args)]
struct Compare {
    /// Results of the one build, separated by commas
    #[arg(value_name = "A.json[,…]", value_delimiter = ',', num_args = 1, required = true)]
    a: Vec<PathBuf>,
    /// Results of the other
    #[arg(value_name = "B.json[,…]", value_delimiter = ',', num_args = 1, required = true)]
    b: Vec<PathBuf>,
    /// The smallest change of a figure (cpu, p50, p99, p99_9, throughput, memory) that matters, as a share of A, an
    /// amount, or both: cpu=5%, p99=10%+100. Doubled when a side has a single run
    #[arg(long, value_name = "FIGURE=MARGIN")]
    margin: Vec<MarginSetting>,
    /// Decides what the bootstrap draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the comparison as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Files that a result is written to, beside the table on standard output.
#[derive(Debug, clap::Args)]
struct Outputs {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report for a browser, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each second's histograms as an HdrHistogram log
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => carry_out(*arguments),
        Command::Agent(arguments) => lend(arguments),
        Command::Attack(arguments) => do_harm(arguments),
        Command::Report(arguments) => show_again(&arguments),
        Command::Compare(arguments) => set_side_by_side(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(problem) => {
            // A closed standard error leaves the exit code to tell.
            let _ = writeln!(std::io::stderr(), "loadgen: {problem}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

fn carry_out(arguments: Run) -> Result<ExitCode, String> {
    let options = Options {
        allow_remote: arguments.allow_remote,
        server_pid: arguments.server_pid,
        metrics_url: arguments.metrics_url,
        agents: arguments.agents,
        token: token(arguments.token),
        quiet: arguments.quiet,
    };
    let (name, settings) =
        Settings::load(&arguments.scenario, arguments.settings).map_err(|error| error.to_string())?;
    let scenario = settings.clone().decide(name.clone()).map_err(|error| error.to_string())?;
    if scenario.kind == Kind::FindLimit {
        return find_the_limit(&name, &settings, &options, &arguments.outputs);
    }
    let outcome = Outcome::judge(run::run(scenario, options).map_err(|error| error.to_string())?);
    show(&outcome, &arguments.outputs)?;
    Ok(ExitCode::from(outcome.exit_code))
}

fn lend(arguments: Agent) -> Result<ExitCode, String> {
    let Agent { listen, allow_remote, .. } = arguments;
    let token = token(arguments.token);
    if token.is_empty() {
        return Err("LOADGEN_TOKEN: set it, or --token, to something that nobody guesses".to_owned());
    }
    agent::serve(&agent::Settings { listen, token, allow_remote })?;
    Ok(ExitCode::SUCCESS)
}

fn do_harm(arguments: Attack) -> Result<ExitCode, String> {
    let size = arguments.kind.size();
    let report = attack::run(&attack::Plan {
        kind: arguments.kind,
        target: arguments.target,
        source: arguments.source,
        connections: arguments.connections.unwrap_or(size.connections),
        rate: arguments.rate.unwrap_or(size.rate),
        tries_max: arguments.tries.unwrap_or(size.tries_max),
        duration: arguments.duration,
        token: arguments.token,
    })?;
    let mut text = serde_json::to_vec_pretty(&report).map_err(|error| error.to_string())?;
    text.push(b'\n');
    // A closed standard output leaves the exit code to tell.
    let _ = std::io::stdout().write_all(&text);
    Ok(ExitCode::SUCCESS)
}

fn token(asked: Option<String>) -> String {
    asked.or_else(|| std::env::var("LOADGEN_TOKEN").ok()).unwrap_or_default()
}

fn find_the_limit(name: &str, settings: &Settings, options: &Options, outputs: &Outputs) -> Result<ExitCode, String> {
    if outputs.html.is_some() || outputs.hlog.is_some() {
        return Err("find-limit is many runs: it writes --json, and neither --html nor --hlog".to_owned());
    }
    let limit = find_limit::find(name, settings, options).map_err(|error| error.to_string())?;
    // A closed standard output leaves the file and the exit code to tell.
    let _ = std::io::stdout().write_all(limit.table().as_bytes());
    if let Some(path) = &outputs.json {
        let mut text = serde_json::to_vec_pretty(&limit).map_err(|error| error.to_string())?;
        text.push(b'\n');
        write(path, &text)?;
    }
    Ok(ExitCode::from(limit.exit_code))
}

/// Ends with 0 whatever the result was: it is shown, not judged again.
fn show_again(arguments: &Report) -> Result<ExitCode, String> {
    show(&Outcome::load(&arguments.result)?, &arguments.outputs)?;
    Ok(ExitCode::SUCCESS)
}

fn set_side_by_side(arguments: &Compare) -> Result<ExitCode, String> {
    let mut margins = Margins::default();
    arguments.margin.iter().for_each(|setting| margins.set(*setting));
    let comparison = compare::compare(&arguments.a, &arguments.b, &margins, arguments.seed)?;
    // A closed standard output leaves the JSON and the exit code to tell.
    let _ = std::io::stdout().write_all(comparison.table().as_bytes());
    if let Some(path) = &arguments.json {
        write(path, comparison.json().as_bytes())?;
    }
    Ok(ExitCode::from(comparison.exit_code))
}

fn show(outcome: &Outcome, outputs: &Outputs) -> Result<(), String> {
    // A closed standard output leaves the files and the exit code to tell.
    let _ = std::io::stdout().write_all(outcome.table().as_bytes());
    if let Some(path) = &outputs.json {
        write(path, outcome.json().as_bytes())?;
    }
    if let Some(path) = &outputs.html {
        write(path, html::page(outcome).as_bytes())?;
    }
    if let Some(path) = &outputs.hlog {
        write(path, &hlog::interval_log(outcome).map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

const EXIT_UNUSABLE: u8 = 2;
