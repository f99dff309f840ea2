//! Tests of what an operator does to a store.

use std::path::Path;

use bytes::Bytes;

use super::{Epochs, OfflineError, check, compact, export, import, write_output};
use crate::chat::log::{CursorKind, DeadLetter, DeadReason, Jump, LogWrite, SanctionKind, SanctionRecord, Scope};
use crate::ids::{Epoch, Seq};
use crate::message::event::Message;
use crate::policy::RoomPolicy;
use crate::store::StoreError;
use crate::store::engine::{Engine, Space};
use crate::store::records::log_key;
use crate::store::tests::{EPOCH, Rig, append, durable, message, open_keeping, register, room, user};

/// A store with a bit of everything, cleanly closed.
fn fill(dir: &Path) {
    let mut rig = open_keeping(dir, RoomPolicy { size: Some(7), ..durable() });
    let keyed = Message { key: Some("k".into()), tag: Some("t".into()), ..message(4) };
    let odd = Message { content: Bytes::from_static(b"no JSON \xff"), ..message(5) };
    let jumped = Message { prev: Some(Seq(6)), ..message(4_103) };
    let jumps = vec![Jump { prev: Seq(6), next: Seq(4_103) }];
    let letter = DeadLetter {
        epoch: EPOCH,
        user: user("ben"),
        message: message(2).into(),
        reason: DeadReason::Retention,
        attempts: 3,
        at_ms: 9,
        replay: true,
    };
    let weights = |messages: &[Message]| messages.iter().map(|message| message.weight() as u64).sum::<u64>();
    let blocks =
        [vec![message(1)], vec![message(2), message(3), keyed, odd], vec![message(6)], vec![jumped, message(4_104)]];
    let mut bytes_before = 0;
    let mut writes = vec![LogWrite::Register { room: room(), epoch: EPOCH, jumps }];
    for block in blocks {
        let bytes = weights(&block);
        writes.push(LogWrite::Append {
            epoch: EPOCH,
            bytes_before,
            messages: block.into_iter().map(Into::into).collect(),
        });
        bytes_before += bytes;
    }
    writes.push(LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(4) });
    for (name, kind, seq) in [("ann", CursorKind::Ack, 3), ("ann", CursorKind::Read, 4), ("ben", CursorKind::Ack, 1)] {
        writes.push(LogWrite::Cursor { epoch: EPOCH, user: user(name), kind, seq: Seq(seq) });
    }
    writes.push(LogWrite::AddLetter(Box::new(letter)));
    writes.extend(sanctions().into_iter().map(|record| LogWrite::Sanction(Box::new(record))));
    let ticket = rig.send(0, true, writes);
    rig.await_trimmed(1);
    assert_eq!(ticket, 1);
    rig.close();
}

/// One of each scope.
fn sanctions() -> Vec<SanctionRecord> {
    let sanction = |scope, kind| SanctionRecord {
        scope,
        kind,
        until_unix_ms: None,
        before_unix_ms: None,
        by: None,
        reason: None,
        lifted: false,
    };
    let mut ban = sanction(Scope::Room(room(), user("ben")), SanctionKind::Ban);
    (ban.until_unix_ms, ban.by, ban.reason) = (Some(u64::MAX), Some(user("ann")), Some("spam".into()));
    let mut revoked = sanction(Scope::User(user("ben")), SanctionKind::Revoke);
    revoked.before_unix_ms = Some(5);
    vec![ban, revoked, sanction(Scope::Token("jti".into()), SanctionKind::Revoke)]
}

fn exported(dir: &Path) -> String {
    let mut out = Vec::new();
    export(dir, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn checked(dir: &Path) -> (u64, String) {
    let mut out = Vec::new();
    let checked = check(dir, &mut out).unwrap();
    (checked.findings, String::from_utf8(out).unwrap())
}

#[test]
fn what_was_exported_can_be_imported_and_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("a"));
    let text = exported(&dir.path().join("a"));
    assert_eq!(text.lines().count(), 17, "{text}");
    let counts = import(&dir.path().join("b"), &mut text.as_bytes(), Epochs::Keep).unwrap();
    assert_eq!((counts.rooms, counts.messages, counts.cursors, counts.letters), (1, 7, 3, 1));
    // Blocks are packed anew, so only what they hold must agree.
    let plain = |text: &str| -> Vec<serde_json::Value> {
        let value = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let mut lines: Vec<_> = text.lines().map(value).collect();
        for message in lines.iter_mut().filter_map(|line| line.get_mut("message")?.as_object_mut()) {
            message.remove("block");
        }
        lines
    };
    assert_eq!(plain(&exported(&dir.path().join("b"))), plain(&text));
    let state = |name: &str| Rig::open(&dir.path().join(name)).state();
    assert_eq!(state("b"), state("a"));
    assert!(state("a").is_some());
}

#[test]
fn a_backup_begins_new_epochs() {
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("a"));
    let text = exported(&dir.path().join("a"));
    import(&dir.path().join("b"), &mut text.as_bytes(), Epochs::New).unwrap();
    let (a, b) = (exported(&dir.path().join("a")), exported(&dir.path().join("b")));
    let epoch = |text: &str| {
        let room: serde_json::Value = serde_json::from_str(text.lines().nth(4).unwrap()).unwrap();
        room["room"]["epoch"].as_str().unwrap().parse::<Epoch>().unwrap()
    };
    assert_eq!(epoch(&a), EPOCH);
    assert_ne!(epoch(&b), EPOCH);
    assert_eq!(a.lines().count(), b.lines().count());
}

#[test]
fn lines_that_make_no_store_leave_none() {
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("a"));
    let text = exported(&dir.path().join("a"));
    let lines: Vec<&str> = text.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    let cases = [
        (without(lines.len() - 1), "the end is missing"),
        (without(0), "the first line"),
        (without(1), "the counts"),
        (without(4), "before any room"),
        (without(6), "too few messages"),
        (without(lines.len() - 2), "the counts"),
        ([&lines[..5], &lines[4..]].concat().join("\n"), "twice"),
        (text.replace("\"token\":", "\"user\":\"ann\",\"token\":"), "a sanction is of"),
        (text.replace("\"sender\":\"ann\"", "\"sender\":\"\""), "the name is empty"),
        (text.clone() + "\n{}", "follows the end"),
        (text.replace("\"format\":1", "\"format\":2"), "another version"),
        ("\u{0}".to_owned(), "line 1"),
    ];
    for (text, expected) in cases {
        let target = dir.path().join("b");
        let error = import(&target, &mut text.as_bytes(), Epochs::New).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!target.exists());
    }
    let taken = import(dir.path(), &mut text.as_bytes(), Epochs::New);
    assert!(matches!(taken, Err(OfflineError::NotEmpty(_))), "{taken:?}");
}

#[test]
fn a_store_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let refused = |result: Result<(), OfflineError>| {
        let is_locked = matches!(result, Err(OfflineError::Store(StoreError::Locked(_))));
        assert!(is_locked, "{result:?}");
    };
    refused(check(dir.path(), &mut Vec::new()).map(drop));
    refused(export(dir.path(), &mut Vec::new()).map(drop));
    refused(compact(dir.path()).map(drop));
    rig.close();
    let nowhere = check(&dir.path().join("nowhere"), &mut Vec::new());
    assert!(matches!(nowhere, Err(OfflineError::Store(StoreError::Missing(_)))), "{nowhere:?}");
}

#[test]
fn a_running_store_is_backed_up_as_it_is_at_that_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&dir.path().join("a"));
    rig.write(vec![register(EPOCH), append(EPOCH, (1..=5).map(message).collect())]);
    let reader = rig.reader();
    let mut out = Vec::new();
    let counts = reader.backup(&mut out).unwrap();
    assert_eq!((counts.rooms, counts.messages), (1, 5));
    rig.write(vec![append(EPOCH, vec![message(6)])]);
    import(&dir.path().join("b"), &mut out.as_slice(), Epochs::Keep).unwrap();
    assert_eq!(Rig::open(&dir.path().join("b")).all(), (1..=5).map(message).collect::<Vec<_>>());
    rig.close();
    assert!(matches!(reader.backup(&mut Vec::new()), Err(OfflineError::Interrupted)));
}

#[test]
fn a_sound_store_has_no_findings() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, (1..=3).map(message).collect()), append(EPOCH, vec![message(4)])]);
    rig.close();
    let (findings, text) = checked(dir.path());
    assert_eq!(findings, 0, "{text}");
    assert!(text.contains("4 messages in 2 blocks, 1 to 4"), "{text}");
}

#[test]
fn what_is_not_as_it_should_be_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let stranger = Epoch(EPOCH.0 + 1);
    rig.write(vec![
        register(EPOCH),
        append(EPOCH, vec![message(1)]),
        append(EPOCH, vec![message(3)]),
        append(stranger, vec![message(1)]),
        append(EPOCH, vec![Message { content: Bytes::from_static(b"{"), ..message(4) }]),
    ]);
    rig.close();
    let engine = Engine::open(dir.path()).unwrap();
    let mut batch = engine.batch(1);
    batch.insert(engine.space(Space::Log), log_key(EPOCH, Seq(9)), [1, 200, 0]);
    batch.insert(engine.space(Space::Letters), "short", [1]);
    engine.write(batch).unwrap();
    drop(engine);
    let (findings, text) = checked(dir.path());
    for expected in [
        "message 3: messages before it are missing",
        "bytes come before 3",
        "message 4: its content is no JSON",
        "the block at 9 is damaged",
        "no room has the log of epoch 0123456789abcdf0",
        "a dead letter is damaged",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(findings, 6, "{text}");
}

#[test]
fn a_compacted_store_takes_little_more_than_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    // Letters that do not compress much.
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = |len: usize| {
        let mut text = String::from("\"");
        while text.len() < len {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            text.push(char::from(b'0' + (bits % 64) as u8 + u8::from(bits % 64 > 42)));
        }
        Bytes::from(text.replace(['"', '\\'], "_"))
    };
    let mut payload = 0;
    rig.write(vec![register(EPOCH)]);
    for seq in 1..=2_000 {
        let message = Message { content: content(1_000), ..message(seq) };
        payload += message.weight() as u64;
        let ticket = rig.send(0, false, vec![append(EPOCH, vec![message])]);
        if seq % 50 == 0 {
            rig.await_synced(0, ticket);
        }
    }
    rig.close();
    let sizes = compact(dir.path()).unwrap();
    assert!(sizes.after >= payload / 2 && sizes.after < 2 * payload, "{sizes:?} {payload}");
    assert_eq!(Rig::open(dir.path()).all().len(), 2_000);
}

#[test]
fn an_output_file_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let broken = write_output(Some(&file), |out| {
        out.write_all(b"half").unwrap();
        Err::<(), _>(OfflineError::Interrupted)
    });
    assert!(broken.is_err() && !file.exists());
    write_output(Some(&file), |out| {
        out.write_all(b"whole").unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"whole");
}
