//! What happens when the disk does not do as it should: someone else has it, it cannot be written to, it is full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Client, DataDir, Launch, Server, http, until};

/// A small file system in memory, gone with the test.
struct SmallDisk(DataDir);

impl SmallDisk {
    /// Of so many MiB, with these options; `None`, and a word why, where mounting is not allowed.
    fn mount(options: &str) -> Option<Self> {
        let folder = DataDir::new();
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "hubbub-test"]).arg(folder.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(folder)),
            _ => {
                // Told past the test's own output, so that it is seen though the test passes.
                let _ = writeln!(std::io::stderr(), "\nskipped: a small disk: mounting a tmpfs is not permitted");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn launch(&self) -> Launch {
        Launch::new().arguments([&format!("--data-dir={}", self.path().join("data").display())])
    }

    /// Leaves so many bytes free, and gives what takes the others.
    fn fill(&self, free: u64) -> PathBuf {
        let path = self.path().join("filler");
        let file = fs::File::create(&path).unwrap();
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let taken = (stat.f_bavail * stat.f_frsize).saturating_sub(free);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while its server is still going down.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn ready(server: &Server) -> (u16, String) {
    let response = http(server.admin(), "GET", "/readyz", &[]);
    (response.status, response.text())
}

/// Everything in a room, by seq and content.
fn all(client: &mut Client, room: &str) -> Vec<(u64, Value)> {
    let mut all: Vec<(u64, Value)> = Vec::new();
    loop {
        let after = all.last().map_or(0, |(seq, _)| *seq);
        let page = client.ok(json!({"type": "history", "room": room, "after": after, "limit": 1000}));
        let messages = page["messages"].as_array().unwrap().iter();
        all.extend(messages.map(|message| (message["seq"].as_u64().unwrap(), message["content"].clone())));
        if page["more"] == false {
            return all;
        }
    }
}

fn includes(all: &[(u64, Value)], kept: &[(u64, Value)]) {
    for message in kept {
        assert!(all.contains(message), "{} was answered and is not there", message.0);
    }
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let launch = Launch::new();
    let server = launch.start();
    let mut ann = server.member("ann", "lobby");
    let (status, said) = launch.try_start().expect_err("one process has the directory");
    assert_eq!(status.code(), Some(1), "{said}");
    let dir = launch.data_dir().display().to_string();
    assert!(said.contains(&dir) && said.contains("in use") && said.contains("data_dir"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    // The first has noticed nothing.
    assert_eq!(ann.say_and_wait("lobby", "a"), 1);
}

#[test]
fn a_directory_that_cannot_be_written_to_is_refused() {
    let folder = DataDir::new();
    let file = folder.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let refused = |dir: &Path| {
        let launch = Launch::new().arguments([&format!("--data-dir={}", dir.display())]);
        let (status, said) = launch.try_start().expect_err("nothing can be stored there");
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&dir.display().to_string()) && said.contains("data_dir"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    refused(&file);
    refused(&file.join("below"));
    if let Some(disk) = SmallDisk::mount("size=1m,ro") {
        refused(&disk.path().join("data"));
        refused(disk.path());
    }
}

#[test]
fn a_store_that_was_readable_once_is_refused_on_a_read_only_disk() {
    let Some(disk) = SmallDisk::mount("size=200m") else { return };
    let launch = disk.launch();
    let server = launch.start();
    server.member("ann", "lobby").say_and_wait("lobby", "a");
    server.stop();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status().unwrap();
    assert!(remounted.success());
    let (status, said) = launch.try_start().expect_err("nothing can be stored there");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be written to"), "{said}");
}

/// Says things until the disk is full, and then until it is not, what was refused again under its key; readyz tells the
/// state meanwhile. `min_free` is what the server leaves free, `free` what others leave it.
fn full_and_free_again(min_free: u64, free: u64, state: &str) {
    let Some(disk) = SmallDisk::mount("size=200m") else { return };
    let rules = disk.path().join("hubbub.toml");
    fs::write(&rules, "[[rooms]]\npattern = 'memory'\nhistory = 'memory'\n").unwrap();
    let launch = disk.launch().arguments([
        &format!("--store-min-free-bytes={min_free}"),
        &format!("--config={}", rules.display()),
        "--shards=2",
    ]);
    let server = launch.start();
    let mut ann = server.tcp_as("ann");
    let mut bob = server.tcp_as("bob");
    for room in ["lobby", "memory"] {
        ann.join(room);
        bob.join(room);
    }
    let filler = disk.fill(free);
    // What was answered `ok`, by its seq.
    let mut kept: Vec<(u64, Value)> = Vec::new();
    let mut said = 1;
    let mut say = |ann: &mut Client, kept: &mut Vec<(u64, Value)>| {
        let content = json!({"n": said, "filler": "x".repeat(20_000)});
        let command =
            json!({"type": "message", "room": "lobby", "content": content, "key": format!("k{said}"), "echo": false});
        let reply = ann.ask(command);
        if reply.kind() == "ok" {
            assert_eq!(reply["durable"], true, "{}", reply.text);
            kept.push((reply.seq(), content));
            said += 1;
            return true;
        }
        assert_eq!((&reply["code"], &reply["temporary"]), (&json!("overloaded"), &json!(true)), "{}", reply.text);
        false
    };
    until("the disk to be full", || (!say(&mut ann, &mut kept)).then_some(()));
    until("readyz to say so", || {
        Some(ready(&server)).filter(|(status, text)| *status == 503 && text.starts_with(state))
    });
    // The others go on, and what was said is there.
    bob.fence();
    ann.say("memory", "still here");
    assert_eq!(bob.expect("message")["content"], "still here");
    if state == "disk_full" {
        includes(&all(&mut bob, "lobby"), &kept);
    } else {
        cannot_be_read(&mut bob);
    }
    fs::remove_file(filler).unwrap();
    until("the store to go on", || say(&mut ann, &mut kept).then_some(()));
    bob.join("new 1");
    includes(&all(&mut bob, "lobby"), &kept);
    until("readyz to say so", || Some(ready(&server)).filter(|(status, _)| *status == 200));
    for _ in 0..10 {
        assert!(say(&mut ann, &mut kept));
    }
    let check = |server: &Server| {
        let mut eve = server.tcp_as("eve");
        eve.join("lobby");
        let all = all(&mut eve, "lobby");
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        includes(&all, &kept);
        let mut numbers: Vec<u64> = all.iter().map(|(_, content)| content["n"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "something is there twice");
    };
    check(&server);
    server.stop();
    check(&launch.start());
}

/// A store that is closed answers all the same: more questions than may be unanswered at once, each with an error that
/// passes.
fn cannot_be_read(client: &mut Client) {
    let questions = (0..100).map(|n| json!({"type": "join", "room": format!("new {n}")}));
    let ids: Vec<u64> = questions.map(|question| client.send_with_id(question)).collect();
    for id in ids {
        let reply = client.reply_to(id);
        assert_eq!((&reply["code"], &reply["temporary"]), (&json!("overloaded"), &json!(true)), "{}", reply.text);
    }
    // This may be all in memory.
    let reply = client.ask(json!({"type": "history", "room": "lobby", "after": 0}));
    assert!(reply.kind() == "ok" || reply["code"] == "overloaded", "{}", reply.text);
}

#[test]
fn a_disk_nearly_full_refuses_messages_until_there_is_space() {
    full_and_free_again(8 << 20, 4 << 20, "disk_full");
}

#[test]
fn a_disk_that_is_full_refuses_messages_until_there_is_space() {
    full_and_free_again(0, 1 << 20, "failed");
}
