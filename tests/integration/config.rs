//! What the operator says, where, and what the server answers when it cannot be done.

use std::process::Output;

use crate::harness::{DataDir, Launch, Server, run_to_end};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs with bad arguments; gives what it says.
fn refused(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = run_to_end(arguments);
    let said = text(&stderr);
    assert_eq!(status.code(), Some(2), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn bad_settings_end_with_two_and_name_key_value_and_remedy() {
    for (arguments, key, value, remedy) in [
        (&["--shards=0"][..], "shards", "0", "1"),
        (&["--shards=x"], "shards", "x", "digits"),
        (&["--listen=localhost"], "listen", "localhost", "127.0.0.1:9000"),
        (&["--listen=0.0.0.0:0"], "listen", "0.0.0.0:0", "--allow-anonymous"),
        (&["--tcp-listen=[::]:0"], "tcp_listen", "[::]:0", "--allow-anonymous"),
        (&["--max-connections=0"], "max_connections", "0", "1"),
        (&["--max-message-bytes=5"], "max_message_bytes", "5", "1024"),
        (&["--max-message-bytes=99999999999"], "max_message_bytes", "99999999999", "67108864"),
        (&["--cpus=999"], "cpus", "999", "choose"),
        (&["--drain-timeout=5"], "drain_timeout", "5", "8s"),
        (&["--auth=jwt"], "auth", "jwt", "open"),
        (&["--limits-heartbeat-interval=0s"], "limits.heartbeat_interval", "0s", "50ms"),
        (&["--limits-slow-consumer=wait"], "limits.slow_consumer", "wait", "disconnect"),
        (&["--history=disk"], "history", "disk", "durable, memory or off"),
        (&["--limits-history-size=0"], "limits.history_size", "0", "history = \"off\""),
        (&["--commit=never"], "commit", "never", "fsync or interval"),
        (&["--store-commit-interval=0s"], "store.commit_interval", "0s", "10ms"),
        (&["--ack-timeout=10m"], "ack.timeout_max", "5m", "10m"),
        (&["--log-format=xml"], "log_format", "xml", "json"),
        (&["--allowed-origins=*"], "allowed_origins", "*", "scheme"),
        (&["--listen=127.0.0.1:9777", "--tcp-listen=127.0.0.1:9777"], "tcp_listen", "127.0.0.1:9777", "listener"),
    ] {
        let said = refused(arguments);
        for part in [key, value, remedy] {
            assert!(said.contains(part), "{arguments:?}: {part:?} is not in: {said}");
        }
    }
}

#[test]
fn unknown_flags_commands_and_keys_end_with_two() {
    assert!(refused(&["--max-conections=5"]).contains("--max-connections"));
    refused(&["fly"]);
    assert!(refused(&["--config=/nonexistent/hubbub.toml"]).contains("/nonexistent/hubbub.toml"));
    let file = File::new("unknown", "shards = 1\n[limits]\nhistory_sise = 5\n");
    let said = refused(&["--config", &file.path()]);
    assert!(said.contains("limits.history_sise") && said.contains(&file.path()), "{said}");
    let file = File::new("rules", "[[rooms]]\npattern = \"a\"\n[[rooms]]\npattern = \"b\"\nhistory = \"tape\"\n");
    let said = refused(&["--config", &file.path()]);
    for part in ["rooms[1].history", "tape", &file.path(), "durable, memory or off"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let file = File::new("broken", "shards = = 1\n");
    assert!(refused(&["--config", &file.path()]).contains(&file.path()));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let server = Server::start();
    for (flag, address) in
        [("--listen", server.http()), ("--tcp-listen", server.lines()), ("--admin-listen", server.admin())]
    {
        let data = DataDir::new();
        let mut arguments = vec!["--shards=1".to_owned(), format!("--data-dir={}", data.path().display())];
        for other in ["--listen", "--tcp-listen", "--admin-listen"] {
            let address = if other == flag { address.to_string() } else { "127.0.0.1:0".to_owned() };
            arguments.push(format!("{other}={address}"));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Output { status, stderr, .. } = run_to_end(&arguments);
        let said = text(&stderr);
        assert!(matches!(status.code(), Some(1 | 2)), "{flag}: {status}: {said}");
        let key = flag.trim_start_matches("--").replace('-', "_");
        assert!(said.contains(flag) || said.contains(&key), "{flag}: {said}");
        assert!(said.contains(&address.to_string()), "{flag}: {said}");
    }
    // The first one has noticed nothing.
    server.ws_as("ann").fence();
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = File::new("order", "node = \"file\"\nmax_message_bytes = 3000\n[limits]\nhistory_size = 7\n");
    let launch = Launch::new().variable("HUBBUB_CONFIG", &file.path());
    let welcome = launch.start().ws().connect_as("ann");
    assert_eq!((&welcome["node"], &welcome["limits"]["message_bytes"]), (&"file".into(), &3000.into()));
    let launch = launch.variable("HUBBUB_NODE", "variable");
    assert_eq!(launch.start().ws().connect_as("ann")["node"], "variable");
    let launch = launch.arguments(["--node=flag"]);
    let welcome = launch.start().ws().connect_as("ann");
    assert_eq!((&welcome["node"], &welcome["limits"]["message_bytes"]), (&"flag".into(), &3000.into()));
}

#[test]
fn check_config_explains_where_values_come_from() {
    let file = File::new("explain", "node = \"file\"\n");
    let output = run_to_end(&["check-config", "--explain", "--config", &file.path(), "--shards=3"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    let origin = |key: &str| {
        let line = said.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("{said}"));
        line.split('#').nth(1).unwrap_or_default().trim().to_owned()
    };
    assert_eq!(origin("node"), file.path());
    assert_eq!(origin("shards"), "--shards");
    assert_eq!(origin("tcp_listen"), "default");
    // What it prints is a file that says the same.
    let again = File::new("explained", &said);
    let output = run_to_end(&["check-config", "--config", &again.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(run_to_end(&["check-config", "--shards=0"]).status.code(), Some(2));
    let without_key = run_to_end(&["check-config", "--admin-key-file=nowhere.key"]);
    let complaint = String::from_utf8(without_key.stderr).unwrap();
    assert_eq!(without_key.status.code(), Some(2), "{complaint}");
    let whole = std::env::current_dir().unwrap().join("nowhere.key");
    assert!(complaint.contains(&whole.display().to_string()), "{complaint}");
}

#[test]
fn the_doctor_looks_at_the_machine() {
    let output = run_to_end(&["doctor"]);
    let said = text(&output.stdout);
    for subject in ["kernel", "io_uring", "locked memory", "open files"] {
        assert!(said.to_lowercase().contains(subject), "{subject}: {said}{}", text(&output.stderr));
    }
}

#[test]
fn help_and_version_are_told() {
    let version = run_to_end(&["--version"]);
    assert_eq!(text(&version.stdout).trim(), concat!("hubbub ", env!("CARGO_PKG_VERSION")));
    let help = text(&run_to_end(&["--help"]).stdout);
    for name in ["--listen", "--tcp-listen", "--admin-listen", "--shards", "--max-connections", "doctor"] {
        assert!(help.contains(name), "{name}: {help}");
    }
}

/// A configuration file of one test, gone with it.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("hubbub-integration-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Someone may have cleaned up before.
        let _ = std::fs::remove_file(&self.0);
    }
}
