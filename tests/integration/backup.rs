//! Backups of a server that runs.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{DataDir, Launch, http, until};

const KEY: &str = "a key of this test alone";

fn hubbub(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hubbub")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server with an admin key, whose file is in this directory.
fn launch(folder: &DataDir) -> (Launch, String) {
    let path = folder.path().join("key");
    std::fs::write(&path, KEY).unwrap();
    let key = format!("--admin-key-file={}", path.display());
    (Launch::new().arguments(["--shards=2", &key]), key)
}

fn backup(admin: SocketAddr, key: &str, output: &Path) -> Output {
    let admin = format!("--admin=http://{admin}");
    hubbub(&["store", "backup", &admin, key, "--output", &output.display().to_string()])
}

#[test]
fn a_backup_of_a_server_under_load_is_one_moment_of_it() {
    let folder = DataDir::new();
    let (launch, key) = launch(&folder);
    let server = launch.start();
    let rooms = ["a", "b", "c"];
    let mut ann = server.tcp_as("ann");
    for room in rooms {
        ann.join(room);
        for n in 0..300 {
            ann.send(&json!({"type": "message", "room": room, "content": format!("{n:01000}"), "echo": false}));
        }
        assert_eq!(ann.say_and_wait(room, "before"), 301);
    }
    let file = folder.path().join("backup.ndjson");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut said = 0;
            while !is_over.load(Ordering::Relaxed) || said == 0 {
                said = ann.say_and_wait(rooms[said as usize % 3], "meanwhile");
            }
        });
        for _ in 0..5 {
            let output = backup(server.admin(), &key, &file);
            assert!(output.status.success(), "{}", said(&output));
            assert!(said(&output).contains("wrote 3 rooms"), "{}", said(&output));
        }
        is_over.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    server.stop();
    let copy = folder.path().join("copy");
    let copied = format!("--data-dir={}", copy.display());
    let output = hubbub(&["store", "import", &copied, "--input", &file.display().to_string()]);
    assert!(output.status.success(), "{}", said(&output));
    let output = hubbub(&["store", "check", &copied]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let server = Launch::new().arguments([&copied]).start();
    let mut bob = server.tcp_as("bob");
    for room in rooms {
        assert!(bob.join(room).seq() >= 301, "all that was answered before is there");
        let page = bob.ok(json!({"type": "history", "room": room, "after": 300, "limit": 1}));
        assert_eq!(page["messages"][0]["content"], "before");
    }
    server.stop();
}

#[test]
fn a_backup_needs_the_key_and_the_right_way() {
    let folder = DataDir::new();
    let (launch, key) = launch(&folder);
    let server = launch.start();
    server.member("ann", "lobby").say_and_wait("lobby", "a");
    let file = folder.path().join("backup.ndjson");
    let refused = |output: Output, why: &str| {
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(why), "{}", said(&output));
        assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
        assert!(!file.exists());
    };
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "another key than that one").unwrap();
    refused(backup(server.admin(), &format!("--admin-key-file={}", wrong.display()), &file), "401");
    refused(hubbub(&["store", "backup", &format!("--admin=http://{}", server.admin())]), "--admin-key-file");
    let data = format!("--data-dir={}", launch.data_dir().display());
    refused(hubbub(&["store", "backup", &data]), "--admin http://HOST:PORT");
    assert_eq!(http(server.admin(), "GET", "/api/v1/store/backup", &[]).status, 401);
    let admin = server.admin();
    server.stop();
    refused(backup(admin, &key, &file), &admin.to_string());
    let output = hubbub(&["store", "backup", &data]);
    assert!(output.status.success() && output.stdout.ends_with(b"}}\n"), "{}", said(&output));
}

#[test]
fn who_asks_for_a_backup_and_goes_away_is_in_nobodys_way() {
    let folder = DataDir::new();
    let (launch, key) = launch(&folder);
    let server = launch.start();
    let mut ann = server.member("ann", "lobby");
    // More than lies between the store and a client that reads nothing.
    for _ in 0..20 {
        for n in 0..50 {
            ann.send(&json!({"type": "message", "room": "lobby", "content": format!("{n:020000}"), "echo": false}));
        }
        ann.say_and_wait("lobby", Value::Null);
    }
    let mut idle = TcpStream::connect(server.admin()).unwrap();
    let request = format!("GET /api/v1/store/backup HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    idle.write_all(request.as_bytes()).unwrap();
    let file = folder.path().join("backup.ndjson");
    until("the backup to run", || {
        let output = backup(server.admin(), &key, &file);
        said(&output).contains("409").then_some(())
    });
    drop(idle);
    until("the next backup", || backup(server.admin(), &key, &file).status.success().then_some(()));
    // One that nobody reads does not keep the server from stopping either.
    let mut idle = TcpStream::connect(server.admin()).unwrap();
    idle.write_all(request.as_bytes()).unwrap();
    until("the backup to run", || {
        let output = backup(server.admin(), &key, &file);
        said(&output).contains("409").then_some(())
    });
    server.stop();
    let data = format!("--data-dir={}", launch.data_dir().display());
    assert!(hubbub(&["store", "check", &data]).status.success());
}
