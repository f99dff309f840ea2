//! The command line: subcommands, and one flag per setting.

mod token;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

pub use token::{MintRequest, TokenAction};

use crate::config::Config;
use crate::config::admin_args::{self, AdminCall};
use crate::config::settings::{self, Setting, Shape};
use crate::terminal;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub subcommand: Subcommand,
    /// The file named by `--config`.
    pub config_file: Option<PathBuf>,
    /// The settings given as flags, by key, as they were written.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Do something to the store of a server that does not run.
    Store(StoreAction),
    /// Ask a running server something, or have it do something.
    Admin(AdminCall),
    /// Talk from this terminal.
    Chat(terminal::Options),
    /// Make keys and tokens, or check tokens.
    Token(TokenAction),
}

/// What to do to a store. A file that is not named is standard output or input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAction {
    /// Walk over everything and say what is there and what is wrong.
    Check {
        /// Where the findings go.
        output: Option<PathBuf>,
    },
    /// Write everything as lines of JSON.
    Export {
        /// Where to.
        output: Option<PathBuf>,
    },
    /// The same, also of a server that runs.
    Backup {
        /// The admin port to ask, as `http://host:port`; otherwise `data_dir` is read.
        admin: Option<String>,
        /// Where to.
        output: Option<PathBuf>,
    },
    /// Make a store of such lines.
    Import {
        /// Where from.
        input: Option<PathBuf>,
        /// Whether rooms keep their epochs: only right if the exported store was not used since.
        keep_epochs: bool,
    },
    /// Have it take as little room as it can.
    Compact,
}

/// Reads the command line, the program's name first. The error may be a wish for help: [`clap::Error::exit`] knows.
pub fn parse_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // A client takes none of the server's settings.
    if arguments.get(1).is_some_and(|first| first == "chat") {
        let command = Command::new("hubbub").version(env!("CARGO_PKG_VERSION")).subcommand(terminal::subcommand());
        let matches = command.try_get_matches_from(arguments)?;
        let options = terminal::Options::from_matches(matches.subcommand_matches("chat").expect("it was just seen"));
        return Ok(Invocation { subcommand: Subcommand::Chat(options), config_file: None, flags: Vec::new() });
    }
    let matches = command().try_get_matches_from(arguments)?;
    let (subcommand, inner) = match matches.subcommand() {
        Some(("check-config", inner)) => (Subcommand::CheckConfig { explain: inner.get_flag("explain") }, inner),
        Some(("doctor", inner)) => (Subcommand::Doctor, inner),
        Some(("store", inner)) => match inner.subcommand() {
            Some((name, inner)) => (Subcommand::Store(store_action(name, inner)), inner),
            None => unreachable!("clap asks for one"),
        },
        Some(("admin", inner)) => (Subcommand::Admin(admin_args::call(inner)), inner),
        Some(("chat", _)) => {
            let said = "chat comes first: hubbub chat [URL], see hubbub chat --help";
            return Err(command().error(clap::error::ErrorKind::ArgumentConflict, said));
        }
        Some(("token", inner)) => match inner.subcommand() {
            Some((name, inner)) => (Subcommand::Token(token::action(name, inner)), inner),
            None => unreachable!("clap asks for one"),
        },
        Some((_, inner)) => (Subcommand::Serve, inner),
        None => (Subcommand::Serve, &matches),
    };
    Ok(Invocation {
        subcommand,
        config_file: inner.get_one::<PathBuf>("config").cloned(),
        flags: settings::all().filter_map(|setting| Some((setting.key, given(setting, inner)?))).collect(),
    })
}

fn store_action(name: &str, matches: &ArgMatches) -> StoreAction {
    let file = |name| matches.get_one::<PathBuf>(name).cloned();
    match name {
        "check" => StoreAction::Check { output: file("output") },
        "export" => StoreAction::Export { output: file("output") },
        "backup" => StoreAction::Backup { admin: matches.get_one("admin").cloned(), output: file("output") },
        "import" => StoreAction::Import { input: file("input"), keep_epochs: matches.get_flag("keep_epochs") },
        _ => StoreAction::Compact,
    }
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
        .args(settings::all().map(argument))
        .subcommand(Command::new("serve").about("Run the server (also when nothing is said)"))
        .subcommand(Command::new("check-config").about("Check the configuration and end").arg(explain))
        .subcommand(Command::new("doctor").about("Check kernel and machine, and say what to mend"))
        .subcommand(store_command())
        .subcommand(admin_args::command())
        .subcommand(Command::new("chat").about("Talk from this terminal, or from a script"))
        .subcommand(token::command())
}

fn store_command() -> Command {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    let output = || file("output", "Write to this file instead of standard output");
    let input = file("input", "Read from this file instead of standard input");
    let keep = Arg::new("keep_epochs")
        .long("keep-epochs")
        .action(ArgAction::SetTrue)
        .help("Keep the rooms' epochs: only if the exported store was not used since");
    let admin = Arg::new("admin")
        .long("admin")
        .value_name("URL")
        .help("Ask the server with this admin port, http://HOST:PORT; needs --admin-key-file");
    let action = |name: &'static str, about: &'static str| Command::new(name).about(about);
    Command::new("store")
        .about("Look after the store in data_dir; only backup does while a server runs on it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            action("check", "Walk over everything and name what is wrong; ends with 1 if anything is").arg(output()),
        )
        .subcommand(action("export", "Write everything but sessions as lines of JSON").arg(output()))
        .subcommand(action("backup", "Like export, also of a server that runs").arg(admin).arg(output()))
        .subcommand(action("import", "Make a store of exported lines in an empty data_dir").arg(input).arg(keep))
        .subcommand(action("compact", "Merge files and give back what removed messages took"))
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
    fn the_store_has_commands_of_its_own() {
        let action = |arguments: &[&str]| parse(&[&["store"], arguments].concat()).unwrap().subcommand;
        let output = Some(PathBuf::from("f"));
        assert_eq!(action(&["check"]), Subcommand::Store(StoreAction::Check { output: None }));
        assert_eq!(
            action(&["export", "--output", "f"]),
            Subcommand::Store(StoreAction::Export { output: output.clone() })
        );
        assert_eq!(
            action(&["backup", "--output", "f"]),
            Subcommand::Store(StoreAction::Backup { admin: None, output: output.clone() })
        );
        let remote = Subcommand::Store(StoreAction::Backup { admin: Some("http://h:1".to_owned()), output: None });
        assert_eq!(action(&["backup", "--admin", "http://h:1"]), remote);
        let import = Subcommand::Store(StoreAction::Import { input: output, keep_epochs: true });
        assert_eq!(action(&["import", "--input", "f", "--keep-epochs"]), import);
        assert_eq!(action(&["compact"]), Subcommand::Store(StoreAction::Compact));
        let flags = parse(&["store", "check", "--data-dir", "d"]).unwrap().flags;
        assert_eq!(flags, [("data_dir", vec!["d".to_string()])]);
        assert_eq!(parse(&["store"]).unwrap_err().exit_code(), 2);
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
    fn chat_takes_none_of_the_servers_settings() {
        let chat = parse(&["chat", "tcp://h:5", "--room", "lobby", "--history", "9"]).unwrap();
        let Subcommand::Chat(options) = chat.subcommand else { panic!("{chat:?}") };
        assert_eq!((options.rooms, options.history), (vec!["lobby".to_owned()], Some(9)));
        for arguments in [&["chat", "--shards", "3"][..], &["--shards", "3", "chat"], &["chat", "http://h"]] {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
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
        for name in [
            "serve",
            "check-config",
            "doctor",
            "store",
            "admin",
            "token",
            "--tcp-listen",
            "--limits-history-size",
            "HUBBUB_CONFIG",
        ] {
            assert!(help.contains(name), "{name}");
        }
        assert!(help.contains("  chat "), "{help}");
    }
}
