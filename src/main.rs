//! The `hubbub` program: reads what it is told and hands over to the library.
//!
//! Exit codes: 0 done, 1 it cannot run or broke off, 2 the command line or the configuration is unusable.

use std::path::Path;
use std::process::ExitCode;

use hubbub::config::layout::{Layout, Machine};
use hubbub::config::{ConfigError, Invocation, Loaded, StoreAction, Subcommand};
use hubbub::doctor::{self, Verdict};
use hubbub::shard::{self, ServeError};
use hubbub::store::offline::{self, Epochs, OfflineError};
use hubbub::telemetry::log;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let invocation = hubbub::config::parse_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit());
    run(&invocation).unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(UNUSABLE)
    })
}

fn run(invocation: &Invocation) -> Result<ExitCode, ConfigError> {
    let loaded = hubbub::config::load(invocation, std::env::vars_os())?;
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    match &invocation.subcommand {
        Subcommand::Serve => serve(&loaded),
        Subcommand::CheckConfig { explain } => check_config(&loaded, *explain),
        Subcommand::Doctor => Ok(examine(&loaded)),
        Subcommand::Store(action) => Ok(tend_store(&loaded.config.data_dir, action)),
    }
}

fn serve(loaded: &Loaded) -> Result<ExitCode, ConfigError> {
    let config = &loaded.config;
    let _log = match log::start(config.log_format, config.log_level) {
        Ok(guard) => guard,
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::FAILURE);
        }
    };
    match shard::serve(config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ServeError::Config(problem)) => Err(loaded.blame(problem)),
        Err(error) => {
            complain(&error);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn check_config(loaded: &Loaded, explain: bool) -> Result<ExitCode, ConfigError> {
    let layout = Layout::decide(&loaded.config, &Machine::detect()).map_err(|problem| loaded.blame(problem))?;
    if explain {
        print!("{}", hubbub::config::explain(loaded));
        println!();
    }
    // Comments, so that what is printed may be used as a file as it is.
    println!("# The configuration is good: {}.", layout.explanation);
    println!("# Durable history is kept in {}.", loaded.config.data_dir.display());
    Ok(ExitCode::SUCCESS)
}

fn examine(loaded: &Loaded) -> ExitCode {
    let checks = doctor::examine(&doctor::facts(), &loaded.config);
    print!("{}", doctor::report(&checks));
    if checks.iter().any(|check| check.verdict == Verdict::Fatal) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn tend_store(dir: &Path, action: &StoreAction) -> ExitCode {
    try_tend_store(dir, action).unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

fn try_tend_store(dir: &Path, action: &StoreAction) -> Result<ExitCode, OfflineError> {
    match action {
        StoreAction::Check { output } => {
            let checked = offline::write_output(output.as_deref(), |out| offline::check(dir, out))?;
            return Ok(if checked.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        StoreAction::Export { output } | StoreAction::Backup { output } => {
            let counts = offline::write_output(output.as_deref(), |out| offline::export(dir, out))?;
            complain(&format_args!("wrote {counts}"));
        }
        StoreAction::Import { input, keep_epochs } => {
            let epochs = if *keep_epochs { Epochs::Keep } else { Epochs::New };
            let counts = offline::read_input(input.as_deref(), |input| offline::import(dir, input, epochs))?;
            complain(&format_args!("read {counts}"));
        }
        StoreAction::Compact => {
            let sizes = offline::compact(dir)?;
            println!("{} bytes before, {} bytes after", sizes.before, sizes.after);
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "before there is a log, and after it")]
fn complain(what: &impl std::fmt::Display) {
    eprintln!("hubbub: {what}");
}

const UNUSABLE: u8 = 2;
