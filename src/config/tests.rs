//! Configuration as an operator meets it: four sources in, a configuration or a list of findings out.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Config, ConfigError, Loaded, explain, load, parse_arguments};
use crate::access::{Action, PermissionRule, Who};
use crate::ids::UserName;
use crate::message::event::Role;
use crate::policy::{Commit, HistoryMode, Pattern, RoomPolicy};
use crate::telemetry::log::LogFormat;

/// A configuration file that goes when the test ends.
struct File(PathBuf);

impl File {
    fn with(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("hubbub-config-{}-{}.toml", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let arguments = std::iter::once("hubbub").chain(arguments.iter().copied()).map(OsString::from);
    let invocation = parse_arguments(arguments).unwrap();
    load(&invocation, environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(read(&[], &[("PATH", "/bin")]).unwrap().config, Config::default());
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = File::with("shards = 1\nnode = 'file'\nlog_format = 'json'\n[limits]\nhistory_size = 5\n");
    let variables = [("HUBBUB_SHARDS", "2"), ("HUBBUB_NODE", "variable")];
    let config = read(&["--config", file.path(), "--shards", "3"], &variables).unwrap().config;
    assert_eq!(config.shards, Some(3));
    assert_eq!(config.node, "variable");
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.policies.default.size, Some(5));
    assert_eq!(config.policies.default.bytes, Config::default().policies.default.bytes);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let file = File::with("node = 'one'");
    let other = File::with("node = 'two'");
    let variables = [("HUBBUB_CONFIG", file.path())];
    assert_eq!(read(&[], &variables).unwrap().config.node, "one");
    assert_eq!(read(&["--config", other.path()], &variables).unwrap().config.node, "two");
}

#[test]
fn lists_of_a_stronger_source_replace_those_of_a_weaker() {
    let file = File::with("listen = ['127.0.0.1:1', '127.0.0.1:2']");
    let config = read(&["--config", file.path(), "--listen", "[::1]:3"], &[]).unwrap().config;
    assert_eq!(config.listen, ["[::1]:3".parse().unwrap()]);
}

#[test]
fn the_explanation_names_each_origin_and_is_a_file_itself() {
    let file = File::with("allowed_origins = ['https://a.example']\nmax_message_bytes = 2048");
    let arguments = ["--config", file.path(), "--cpus", "0,1", "--tcp-listen", "off", "--node", "007 \"x\""];
    let loaded = read(&arguments, &[("HUBBUB_LIMITS_HEARTBEAT_INTERVAL", "1m 30s")]).unwrap();
    let text = explain(&loaded);
    let line =
        |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
    assert!(line("max_message_bytes = 2048 ").ends_with(&format!("# {}", file.path())));
    assert!(line("cpus = [0, 1] ").ends_with("# --cpus"));
    assert!(line("heartbeat_interval = \"1m 30s\" ").ends_with("# HUBBUB_LIMITS_HEARTBEAT_INTERVAL"));
    assert!(line("listen = [\"127.0.0.1:9000\"] ").ends_with("# default"));
    let again = File::with(&text);
    assert_eq!(read(&["--config", again.path()], &[]).unwrap().config, loaded.config);
}

#[test]
fn limits_follow_the_mode_unless_they_are_said() {
    let default = |arguments: &[&str]| read(arguments, &[]).unwrap().config.policies.default;
    assert_eq!(default(&[]), RoomPolicy::new(HistoryMode::Durable));
    assert_eq!(default(&["--history=memory"]), RoomPolicy::new(HistoryMode::Memory));
    assert_eq!(default(&["--history=off"]), RoomPolicy::new(HistoryMode::Off));
    let sized = ["--limits-history-size=7", "--limits-history-bytes=9"];
    let limits = |policy: RoomPolicy| (policy.history, policy.size, policy.bytes);
    assert_eq!(limits(default(&sized)), (HistoryMode::Durable, Some(7), Some(9)));
    let memory = default(&[sized[0], "--history=memory"]);
    assert_eq!(limits(memory), (HistoryMode::Memory, Some(7), RoomPolicy::new(HistoryMode::Memory).bytes));
    let policy = default(&["--commit=interval", "--history-ttl=1h"]);
    assert_eq!((policy.commit, policy.ttl), (Commit::Interval, Some(Duration::from_secs(3600))));
}

const RULES: &str = "
    history_ttl = '30d'
    [[rooms]]
    pattern = 'audit-*'
    history_bytes = 1_000_000_000_000
    commit = 'interval'
    [[rooms]]
    history_size = 50
    pattern = 'game-*'
    history = 'memory'
    [[rooms]]
    pattern = '*-\"x\"'
    history = 'off'
";

#[test]
fn rules_for_rooms_stand_in_order_and_alone() {
    let file = File::with(RULES);
    let policies = read(&["--config", file.path(), "--history=off"], &[]).unwrap().config.policies;
    let durable = RoomPolicy::new(HistoryMode::Durable);
    let memory = RoomPolicy::new(HistoryMode::Memory);
    let expected = [
        ("audit-*", RoomPolicy { bytes: Some(1_000_000_000_000), commit: Commit::Interval, ..durable }),
        ("game-*", RoomPolicy { size: Some(50), ..memory }),
        ("*-\"x\"", RoomPolicy::new(HistoryMode::Off)),
    ];
    let found: Vec<_> = policies.rules.iter().map(|(pattern, policy)| (pattern.as_str(), *policy)).collect();
    assert_eq!(found, expected);
    assert_eq!(policies.default.history, HistoryMode::Off);
}

#[test]
fn rules_for_rooms_are_explained_as_a_file() {
    let file = File::with(RULES);
    let loaded = read(&["--config", file.path()], &[]).unwrap();
    let text = explain(&loaded);
    let again = File::with(&text);
    assert_eq!(read(&["--config", again.path()], &[]).unwrap().config, loaded.config, "{text}");
    let lines: Vec<&str> = text.lines().skip_while(|line| *line != "[[rooms]]").collect();
    let said = |line: &str| lines.iter().any(|l| l.starts_with(line) && l.ends_with(&format!("# {}", file.path())));
    for line in ["pattern = \"game-*\" ", "history_size = 50 ", "history_bytes = 1048576 ", "history_ttl = \"off\" "] {
        assert!(said(line), "{line}: {text}");
    }
}

#[test]
fn unusable_rules_name_their_place_value_and_remedy() {
    let file = File::with(
        "[[rooms]]\npattern = 'a'\nhistory = 'disk'\n[[rooms]]\ncommit = 5\nsize = 3\n
         [[rooms]]\npattern = ['a', 'b']\nhistory_ttl = 8\nhistory_size = -1",
    );
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    let found: Vec<_> = error.findings.iter().map(|f| (f.key.as_str(), f.value.as_str(), f.origin.as_str())).collect();
    let expected = [
        ("rooms[0].history", "disk"),
        ("rooms[1].size", "3"),
        ("rooms[1].pattern", "nothing"),
        ("rooms[1].commit", "5"),
        ("rooms[2].pattern", "a,b"),
        ("rooms[2].history_size", "-1"),
        ("rooms[2].history_ttl", "8"),
    ];
    assert_eq!(found, expected.map(|(key, value)| (key, value, file.path())));
    assert_eq!(error.findings[0].remedy, "write durable, memory or off");
    // Also what only shows once all are read.
    let file = File::with("[[rooms]]\npattern = '*'\n[[rooms]]\npattern = 'a'");
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    let [finding] = error.findings.as_slice() else { panic!("{error}") };
    assert_eq!((finding.key.as_str(), finding.value.as_str()), ("rooms[1].pattern", "a"));
    assert_eq!(finding.remedy, "put it before rooms[0]");
    for text in ["rooms = 3", "rooms = ['a']", "[rooms]\npattern = 'a'"] {
        let file = File::with(text);
        let error = read(&["--config", file.path()], &[]).unwrap_err();
        let [finding] = error.findings.as_slice() else { panic!("{error}") };
        assert!(finding.key.starts_with("rooms") && finding.remedy.contains("[[rooms]]"), "{finding}");
    }
}

const PERMISSIONS: &str = "
    [[permissions]]
    rooms = 'staff-*'
    role = 'none'
    join = ['role:staff', 'user:zoe, the boss', 'host']
    [[permissions]]
    rooms = 'news'
    role = 'guest'
    send = []
    history = 'anyone'
    [[permissions]]
    rooms = '*'
";

#[test]
fn permissions_stand_in_order_and_are_explained_as_a_file() {
    let file = File::with(PERMISSIONS);
    let loaded = read(&["--config", file.path()], &[]).unwrap();
    let zoe = UserName::new("zoe, the boss").unwrap();
    let staff = vec![Who::Claimed("staff".into()), Who::User(zoe), Who::AtLeast(Role::Host)];
    let rule = |rooms, role, allowed| PermissionRule { rooms: Pattern::new(rooms), role, allowed };
    let expected = [
        rule("staff-*", None, vec![(Action::Join, staff)]),
        rule("news", Some(Role::Guest), vec![(Action::Send, vec![]), (Action::History, vec![Who::Anyone])]),
        rule("*", Some(Role::Member), vec![]),
    ];
    assert_eq!(loaded.config.permissions.rules, expected);
    let text = explain(&loaded);
    let again = File::with(&text);
    assert_eq!(read(&["--config", again.path()], &[]).unwrap().config, loaded.config, "{text}");
}

#[test]
fn unusable_permissions_name_their_place_value_and_remedy() {
    let file = File::with(
        "[[permissions]]\nrooms = 'a'\nrole = 'king'\nsend = ['nobody']\njion = ['anyone']\n
         [[permissions]]\nrole = 'host'\nmoderate = ['role: x', 'user:']",
    );
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    let found: Vec<_> = error.findings.iter().map(|f| (f.key.as_str(), f.value.as_str(), f.origin.as_str())).collect();
    let expected = [
        ("permissions[0].jion", "anyone"),
        ("permissions[0].role", "king"),
        ("permissions[0].send", "nobody"),
        ("permissions[1].rooms", "nothing"),
        ("permissions[1].moderate", "role: x,user:"),
    ];
    assert_eq!(found, expected.map(|(key, value)| (key, value, file.path())));
    assert!(error.findings[0].what.contains("did you mean join?"), "{error}");
    assert!(error.findings[1].remedy.contains("guest, member, host or none"), "{error}");
    assert!(error.findings[2].remedy.contains("role:NAME"), "{error}");
    let file = File::with("[[permissions]]\nrooms = 'a*'\n[[permissions]]\nrooms = 'ab'\n[[permissions]]\nrooms = ''");
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    let found: Vec<_> = error.findings.iter().map(|f| (f.key.as_str(), f.remedy.as_str())).collect();
    let expected = [
        ("permissions[1].rooms", "put it before permissions[0]"),
        ("permissions[2].rooms", "name a room, with * for any text"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn tokens_are_checked_with_what_is_named() {
    let read_keys = |arguments: &[&str]| {
        let error = read(&[&["--auth=token"], arguments].concat(), &[]).map(|loaded| loaded.config.token);
        error.map_err(|error| error.findings.iter().map(|finding| finding.key.clone()).collect::<Vec<_>>())
    };
    assert_eq!(read_keys(&[]), Err(vec!["auth".to_owned()]));
    for source in ["--token-secret-file=s", "--token-key-files=a.pem,b.pem", "--token-jwks-url=https://id.example/keys"]
    {
        assert!(read_keys(&[source]).unwrap().has_keys(), "{source}");
    }
    // A server that knows who comes may listen anywhere.
    assert!(read_keys(&["--token-secret-file=s", "--listen=0.0.0.0:9000"]).is_ok());
    for url in ["id.example/keys", "ftp://id.example", "https://", "https://ann:pass@id.example/", "http://a b/"] {
        assert_eq!(read_keys(&["--token-jwks-url", url]), Err(vec!["token.jwks_url".to_owned()]), "{url}");
    }
    assert_eq!(
        read_keys(&[
            "--token-secret-file=s",
            "--token-jwks-ca-file=c",
            "--token-leeway=1h",
            "--token-jwks-cooldown=0s"
        ]),
        Err(["token.jwks_ca_file", "token.jwks_cooldown", "token.leeway"].map(String::from).to_vec())
    );
    let open = read(&["--listen=0.0.0.0:9000"], &[]).unwrap_err();
    assert!(open.findings[0].remedy.contains("auth = \"token\""), "{open}");
}

#[test]
fn bad_values_name_key_value_origin_and_remedy() {
    let file = File::with("drain_timeout = 8\n[limits]\nslow_consumer = 'kill'");
    let flags =
        ["--config", file.path(), "--listen", "localhost:9000", "--max-message-bytes", "64k", "--shards", "65536"];
    let variables = [("HUBBUB_COALESCE_MAX", "soon"), ("HUBBUB_AUTH", "jwt"), ("HUBBUB_LOG_LEVEL", "loud")];
    let error = read(&flags, &variables).unwrap_err();
    let expected = [
        ("listen", "localhost:9000", "--listen"),
        ("shards", "65536", "--shards"),
        ("coalesce_max", "soon", "HUBBUB_COALESCE_MAX"),
        ("drain_timeout", "8", file.path()),
        ("log_level", "loud", "HUBBUB_LOG_LEVEL"),
        ("auth", "jwt", "HUBBUB_AUTH"),
        ("max_message_bytes", "64k", "--max-message-bytes"),
        ("limits.slow_consumer", "kill", file.path()),
    ];
    let found: Vec<_> = error.findings.iter().map(|f| (f.key.as_str(), f.value.as_str(), f.origin.as_str())).collect();
    assert_eq!(found, expected);
    let text = error.to_string();
    assert!(
        text.contains(
            "listen = localhost:9000 (--listen): \"localhost:9000\" is not an address\n  remedy: write IP:PORT"
        )
    );
}

#[test]
fn rules_between_settings_name_their_origin_too() {
    let error = read(&["--listen", "0.0.0.0:9000"], &[]).unwrap_err();
    let [finding] = error.findings.as_slice() else { panic!("{error}") };
    assert_eq!((finding.key.as_str(), finding.origin.as_str()), ("listen", "--listen"));
    assert!(finding.remedy.contains("--allow-anonymous"));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known() {
    let file =
        File::with("lisen = 'x'\nhistory_size = 3\n[limits]\nmax_message_bytes = 5\n[limits.deep]\nx = 1\n[cluster]");
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    let mut hints: Vec<_> = error.findings.iter().map(|f| (f.key.as_str(), f.remedy.as_str())).collect();
    hints.sort_unstable();
    assert_eq!(
        hints[..3],
        [("cluster", hints[0].1), ("history_size", "did you mean limits.history_size?"), ("limits.deep.x", hints[2].1)]
    );
    assert_eq!(
        hints[3..],
        [("limits.max_message_bytes", "did you mean max_message_bytes?"), ("lisen", "did you mean listen?")]
    );
}

#[test]
fn a_setting_in_the_place_of_a_table_is_refused() {
    let file = File::with("limits = 3");
    let error = read(&["--config", file.path()], &[]).unwrap_err();
    assert_eq!(error.findings[0].key, "limits");
}

#[test]
fn misspelt_variables_are_refused_and_strangers_are_mentioned() {
    let error = read(&[], &[("HUBBUB_MAX_CONECTIONS", "5")]).unwrap_err();
    assert_eq!(error.findings[0].remedy, "did you mean HUBBUB_MAX_CONNECTIONS?");
    let loaded = read(&[], &[("HUBBUB_PORT", "tcp://10.0.0.1:9000")]).unwrap();
    assert_eq!(loaded.warnings, ["HUBBUB_PORT is set but names no setting of this server"]);
    let loaded = read(&[], &[("HUBBUB_FAULT", "store.after_sync:1")]).unwrap();
    assert_eq!(loaded.warnings.is_empty(), cfg!(debug_assertions), "only debug builds have points of failure");
}

#[test]
fn a_file_that_cannot_be_used_is_an_error() {
    let missing = read(&["--config", "/nonexistent/hubbub.toml"], &[]).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("config = /nonexistent/hubbub.toml (--config or HUBBUB_CONFIG): cannot be read")
    );
    let file = File::with("listen = [");
    let broken = read(&["--config", file.path()], &[]).unwrap_err();
    assert!(broken.to_string().contains("is not TOML"), "{broken}");
}
