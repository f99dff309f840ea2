//! The `hubbub` program: reads what it is told and hands over to the library.
//!
//! Exit codes: 0 done, 1 it cannot run or broke off, 2 the command line or the configuration is unusable.

use std::path::Path;
use std::process::ExitCode;

use hubbub::admin::AdminKeys;
use hubbub::admin::client::{self, ClientError};
use hubbub::config::layout::{Layout, Machine};
use hubbub::config::{AdminCall, Config, ConfigError, Invocation, Loaded, StoreAction, Subcommand, TokenAction};
use hubbub::doctor::{self, Verdict};
use hubbub::shard::{self, ServeError, Surroundings};
use hubbub::store::offline::{self, Epochs, OfflineError};
use hubbub::telemetry::log;
use hubbub::terminal;
use hubbub::tls::TlsConfigs;
use hubbub::token::{self, cli};

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
    if let Subcommand::Chat(options) = &invocation.subcommand {
        return Ok(terminal::run(options));
    }
    let loaded = hubbub::config::load(invocation, std::env::vars_os())?;
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    match &invocation.subcommand {
        Subcommand::Serve => serve(invocation, &loaded),
        Subcommand::CheckConfig { explain } => check_config(&loaded, *explain),
        Subcommand::Doctor => Ok(examine(&loaded)),
        Subcommand::Store(action) => Ok(tend_store(&loaded.config, action)),
        Subcommand::Admin(call) => Ok(operate(&loaded.config, call)),
        Subcommand::Chat(_) => unreachable!("it needs no configuration and has run"),
        Subcommand::Token(action) => Ok(work_on_tokens(&loaded.config, action)),
    }
}

fn serve(invocation: &Invocation, loaded: &Loaded) -> Result<ExitCode, ConfigError> {
    let config = &loaded.config;
    let log = match log::start(config.log_format, config.log_level, config.audit_file.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::FAILURE);
        }
    };
    let invocation = invocation.clone();
    let read = Box::new(move || hubbub::config::load(&invocation, std::env::vars_os()));
    match shard::serve(loaded, Surroundings { read, log: log.control.clone() }) {
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
    token::check_files(&loaded.config.token).map_err(|problem| loaded.blame(problem))?;
    TlsConfigs::load(&loaded.config).map_err(|problem| loaded.blame(problem))?;
    AdminKeys::of(&loaded.config).map_err(|problem| loaded.blame(problem))?;
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

fn operate(config: &Config, call: &AdminCall) -> ExitCode {
    match client::run(config, call) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            if matches!(error, ClientError::Unusable(_)) { ExitCode::from(UNUSABLE) } else { ExitCode::FAILURE }
        }
    }
}

fn work_on_tokens(config: &Config, action: &TokenAction) -> ExitCode {
    match cli::run(action, config) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn tend_store(config: &Config, action: &StoreAction) -> ExitCode {
    try_tend_store(config, action).unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

fn try_tend_store(config: &Config, action: &StoreAction) -> Result<ExitCode, OfflineError> {
    let dir = &config.data_dir;
    match action {
        StoreAction::Check { output } => {
            let checked = offline::write_output(output.as_deref(), |out| offline::check(dir, out))?;
            return Ok(if checked.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        StoreAction::Backup { admin: Some(address), output } => {
            let key = authorization(address, config.admin_key_file.as_deref())?;
            let counts = offline::write_output(output.as_deref(), |out| offline::fetch(address, &key, out))?;
            complain(&format_args!("wrote {counts}"));
        }
        StoreAction::Backup { admin: None, output } => {
            let counts = offline::write_output(output.as_deref(), |out| offline::backup(dir, out))?;
            complain(&format_args!("wrote {counts}"));
        }
        StoreAction::Export { output } => {
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

/// The header for the server at this address.
fn authorization(address: &str, key_file: Option<&Path>) -> Result<Vec<u8>, OfflineError> {
    let Some(path) = key_file else {
        let what = "it wants the admin key: name its file with --admin-key-file".to_owned();
        return Err(OfflineError::Server { address: address.to_owned(), what });
    };
    let keys = AdminKeys::read(path).map_err(|source| OfflineError::Io { what: path.display().to_string(), source })?;
    Ok(keys.header())
}

#[expect(clippy::print_stderr, reason = "before there is a log, and after it")]
fn complain(what: &impl std::fmt::Display) {
    eprintln!("hubbub: {what}");
}

const UNUSABLE: u8 = 2;
