//! The `loadgen` program: an open-loop load generator for servers with long-lived connections and rooms.
//!
//! The plan (who sends when) is laid out ahead; workers carry it out, each with its own ring and descriptors; every
//! subscriber audits what it receives; latency counts from the planned time. See `run` for the order of events and
//! `report` for what comes out.

mod address;
mod audit;
mod client;
mod clock;
mod closed_loop;
mod cpu;
mod curve;
mod disturbance;
mod find_limit;
mod layout;
mod ledger;
mod payload;
mod plan;
mod progress;
mod ramp;
mod report;
mod run;
mod scenario;
mod stats;
mod target;
mod thresholds;
mod timeline;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The scenario, a TOML file; flags win over it
    scenario: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure CPU time and memory of this process, the server
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Load a machine other than this one
    #[arg(long)]
    allow_remote: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let Command::Run(arguments) = Arguments::parse().command;
    match carry_out(arguments) {
        Ok(code) => code,
        Err(problem) => {
            // A closed standard error leaves the exit code to tell.
            let _ = writeln!(std::io::stderr(), "loadgen: {problem}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

fn carry_out(arguments: Run) -> Result<ExitCode, String> {
    let options =
        Options { allow_remote: arguments.allow_remote, server_pid: arguments.server_pid, quiet: arguments.quiet };
    let (name, settings) =
        Settings::load(&arguments.scenario, arguments.settings).map_err(|error| error.to_string())?;
    let scenario = settings.clone().decide(name.clone()).map_err(|error| error.to_string())?;
    if scenario.kind == Kind::FindLimit {
        let limit = find_limit::find(&name, &settings, options).map_err(|error| error.to_string())?;
        let _ = std::io::stdout().write_all(limit.table().as_bytes());
        if let Some(path) = arguments.json {
            write_json(&path, &limit).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        return Ok(ExitCode::from(limit.exit_code));
    }
    let outcome = Outcome::judge(run::run(scenario, options).map_err(|error| error.to_string())?);
    // A closed standard output leaves the JSON and the exit code to tell.
    let _ = std::io::stdout().write_all(outcome.table().as_bytes());
    if let Some(path) = arguments.json {
        write_json(&path, &outcome).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(ExitCode::from(outcome.exit_code))
}

fn write_json(path: &Path, outcome: &impl serde::Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(outcome)?;
    text.push(b'\n');
    std::fs::write(path, text)
}

const EXIT_UNUSABLE: u8 = 2;
