//! The command line: subcommands, and one flag per setting.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::Config;
use crate::config::settings::{SETTINGS, Setting, Shape};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub subcommand: Subcommand,
    /// The file named by `--config`.
    pub config_file: Option<PathBuf>,
    /// The settings given as flags, by key, as they were written.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcommand {
    /// Run the server. Also when none is named.
    Serve,
    /// Check the configuration and end.
    CheckConfig {
        /// Print every setting with its origin.
        explain: bool,
    },
    /// Check the machine and end.
    Doctor,
}

/// Reads the command line, the program's name first. The error may be a wish for help: [`clap::Error::exit`] knows.
pub fn parse_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let (subcommand, inner) = match matches.subcommand() {
        Some(("check-config", inner)) => (Subcommand::CheckConfig { explain: inner.get_flag("explain") }, inner),
        Some(("doctor", inner)) => (Subcommand::Doctor, inner),
        Some((_, inner)) => (Subcommand::Serve, inner),
        None => (Subcommand::Serve, &matches),
    };
    Ok(Invocation {
        subcommand,
        config_file: inner.get_one::<PathBuf>("config").cloned(),
        flags: SETTINGS.iter().filter_map(|setting| Some((setting.key, given(setting, inner)?))).collect(),
    })
}

fn given(setting: &Setting, matches: &ArgMatches) -> Option<Vec<String>> {
    Some(matches.get_many::<String>(setting.key)?.cloned().collect())
}

fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help("Read settings from this TOML file [env: HUBBUB_CONFIG]");
    let explain = Arg::new("explain")
        .long("explain")
        .action(ArgAction::SetTrue)
        .help("Print every setting with where it came from, as TOML");
    Command::new("hubbub")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A chat server: rooms over WebSocket and TCP, on one io_uring shard per core")
        .after_help("Each setting is also a key of the file and a variable HUBBUB_…; flags win over variables, those over the file.")
        .arg(config)
        .args(SETTINGS.iter().map(argument))
        .subcommand(Command::new("serve").about("Run the server (also when nothing is said)"))
        .subcommand(Command::new("check-config").about("Check the configuration and end").arg(explain))
        .subcommand(Command::new("doctor").about("Check kernel and machine, and say what to mend"))
}

fn argument(setting: &'static Setting) -> Arg {
    let default = (setting.write)(&Config::default()).join(",");
    let default = if default.is_empty() { "none".to_string() } else { default };
    let argument = Arg::new(setting.key)
        .long(setting.flag().trim_start_matches('-').to_string())
        .value_name(setting.value_name)
        .help(format!("{} [default: {default}]", setting.help))
        .global(true)
        .help_heading(if setting.key.starts_with("limits.") { "Limits" } else { "Settings" });
    match setting.shape {
        Shape::Text | Shape::Number => argument,
        Shape::List => argument.action(ArgAction::Append),
        Shape::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Invocation, clap::Error> {
        parse_arguments(std::iter::once("hubbub").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn serving_is_the_default() {
        assert_eq!(parse(&[]).unwrap().subcommand, Subcommand::Serve);
        assert_eq!(parse(&["serve"]).unwrap(), parse(&[]).unwrap());
        assert_eq!(parse(&["doctor"]).unwrap().subcommand, Subcommand::Doctor);
        assert_eq!(parse(&["check-config"]).unwrap().subcommand, Subcommand::CheckConfig { explain: false });
        let explain = parse(&["check-config", "--explain"]).unwrap();
        assert_eq!(explain.subcommand, Subcommand::CheckConfig { explain: true });
    }

    #[test]
    fn flags_stand_before_or_after_the_subcommand() {
        let expected = vec![("shards", vec!["3".to_string()])];
        assert_eq!(parse(&["--shards", "3"]).unwrap().flags, expected);
        assert_eq!(parse(&["--shards=3", "serve"]).unwrap().flags, expected);
        assert_eq!(parse(&["serve", "--shards", "3"]).unwrap().flags, expected);
    }

    #[test]
    fn lists_repeat_and_switches_need_no_value() {
        let flags = parse(&["--listen", "a", "--listen", "b", "--allow-anonymous", "doctor"]).unwrap().flags;
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(flags, [("listen", texts(&["a", "b"])), ("allow_anonymous", texts(&["true"]))]);
        let off = parse(&["--allow-anonymous=false"]).unwrap().flags;
        assert_eq!(off, [("allow_anonymous", texts(&["false"]))]);
    }

    #[test]
    fn unknown_flags_end_with_two() {
        let error = parse(&["--max-conections", "5"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--max-connections"), "{error}");
    }

    #[test]
    fn help_names_what_exists_and_nothing_else() {
        let help = parse(&["--help"]).unwrap_err().to_string();
        for name in ["serve", "check-config", "doctor", "--tcp-listen", "--limits-history-size", "HUBBUB_CONFIG"] {
            assert!(help.contains(name), "{name}");
        }
        assert!(!help.contains("token") && !help.contains("  chat "), "{help}");
    }
}
