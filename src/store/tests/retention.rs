//! What retention takes, and what it leaves behind.

use super::*;

#[test]
fn retention_by_number_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(4), ..durable() });
    rig.write_blocks(&[1..=1, 2..=3, 4..=6, 7..=9]);
    rig.await_trimmed(5);
    assert_eq!(rig.page(after(0, 99, usize::MAX)), (vec![6, 7, 8, 9], false));
    assert_eq!(rig.page(before(7, 99, usize::MAX)), (vec![6], false));
    assert_eq!(rig.page(before(6, 99, usize::MAX)), (vec![], false));
    assert_eq!(rig.state().unwrap().trimmed, Seq(5));
    assert_eq!((rig.blocks_kept(), rig.metrics.trimmed_total.get()), (2, 5));
    rig.close();
    assert_eq!(Rig::open(dir.path()).page(after(0, 99, usize::MAX)), (vec![6, 7, 8, 9], false));
}

#[test]
fn retention_by_bytes_keeps_no_more_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let weight = message(1).weight() as u64;
    let mut rig = open_keeping(dir.path(), RoomPolicy { bytes: Some(3 * weight + 1), ..durable() });
    rig.write_blocks(&[1..=4, 5..=9]);
    rig.await_trimmed(6);
    assert_eq!(rig.page(after(0, 99, usize::MAX)), (vec![7, 8, 9], false));
    assert_eq!(rig.state().unwrap().bytes, 9 * weight);
}

#[test]
fn a_log_that_retention_took_whole_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // The messages are from 1970.
    let mut rig = open_keeping(dir.path(), RoomPolicy { ttl: Some(Duration::from_secs(3_600)), ..durable() });
    rig.write_blocks(&[1..=4, 5..=9]);
    rig.await_trimmed(9);
    assert_eq!((rig.all(), rig.blocks_kept()), (vec![], 0));
    let expected = rig.state().unwrap();
    assert_eq!((expected.last, expected.trimmed, expected.last_timestamp), (Seq(9), Seq(9), 1_009));
    assert_eq!(expected.bytes, 9 * message(1).weight() as u64);
    rig.close();
    assert_eq!(Rig::open(dir.path()).state(), Some(expected));
}

#[test]
fn retention_in_many_pieces_ends_where_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(10), ..durable() });
    let blocks: Vec<_> = (1..=1_000).map(|seq| seq..=seq).collect();
    rig.write_blocks(&blocks);
    rig.await_trimmed(990);
    assert_eq!((rig.all().len(), rig.blocks_kept()), (10, 10));
}

/// Dead letters as user and position, and the cursor of each of these users.
fn letters_and_cursors(rig: &mut Rig, users: &[&str]) -> (Vec<(String, u64)>, Vec<u64>) {
    let letters = rig.reader().letters(&room(), None, usize::MAX).unwrap();
    for letter in &letters {
        assert_eq!((letter.reason, letter.attempts, letter.replay), (DeadReason::Retention, 0, false));
        assert_eq!(*letter.message, message(letter.message.seq.0));
    }
    let cursors = users.iter().map(|name| {
        let answer = rig.read(LogRead::User { room: room(), epoch: EPOCH, user: user(name) });
        let LogAnswer::User { ack: Some(ack), .. } = answer else { panic!("{answer:?}") };
        ack.0
    });
    let cursors = cursors.collect();
    (letters.iter().map(|letter| (letter.user.as_str().to_owned(), letter.message.seq.0)).collect(), cursors)
}

impl Rig {
    /// Waits until retention has come to a position in a log that no shard has been told of.
    fn await_hidden(&mut self, upto: u64) {
        while self.state().unwrap().trimmed != Seq(upto) {}
    }
}

fn acked(name: &str, seq: u64) -> LogWrite {
    LogWrite::Cursor { epoch: EPOCH, user: user(name), kind: CursorKind::Ack, seq: Seq(seq) }
}

#[test]
fn what_retention_takes_unacknowledged_is_with_the_dead_letters_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let read = LogWrite::Cursor { epoch: EPOCH, user: user("eve"), kind: CursorKind::Read, seq: Seq(1) };
    let bury = LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(4) };
    rig.write(vec![register(EPOCH), acked("ann", 2), acked("bob", 5), acked("cat", 9), read]);
    rig.write_blocks(&[1..=1, 2..=3, 4..=6, 7..=9]);
    rig.write(vec![bury]);
    rig.close();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(3), ..durable() });
    rig.await_hidden(6);
    let expected = [("ann", 3), ("ann", 5), ("ann", 6), ("bob", 6)].map(|(name, seq)| (name.to_owned(), seq));
    let users = ["ann", "bob", "cat"];
    assert_eq!(letters_and_cursors(&mut rig, &users), (expected.to_vec(), vec![6, 6, 9]));
    assert_eq!(rig.metrics.retention_letters_total.get(), 4);
    // A cursor that comes late, from before the removal, brings no letter back; what goes from now on does.
    rig.write(vec![
        acked("ann", 3),
        LogWrite::DropLetter { epoch: EPOCH, seq: Seq(5), user: user("ann") },
        append(EPOCH, vec![message(10)]),
    ]);
    rig.await_hidden(7);
    let expected = [("ann", 3), ("ann", 6), ("ann", 7), ("bob", 6), ("bob", 7)];
    let expected = expected.map(|(name, seq)| (name.to_owned(), seq)).to_vec();
    assert_eq!(letters_and_cursors(&mut rig, &users), (expected, vec![7, 7, 9]));
}

#[test]
fn more_letters_than_fit_in_a_step_are_all_written_before_anything_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    // More users than a step takes, and more letters for each than a pass may write of all.
    let names: Vec<String> = (0..150).map(|n| format!("user {n:03}")).collect();
    let cursors = names.iter().map(|name| acked(name, 0));
    rig.write(std::iter::once(register(EPOCH)).chain(cursors).collect());
    rig.write_blocks(&[1..=50, 51..=100, 101..=110]);
    rig.close();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(10), ..durable() });
    rig.await_hidden(100);
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    let (letters, cursors) = letters_and_cursors(&mut rig, &users);
    let expected = names.iter().flat_map(|name| (1..=100).map(move |seq| (name.clone(), seq)));
    assert_eq!(letters, expected.collect::<Vec<_>>());
    assert!(cursors.iter().all(|cursor| *cursor == 100));
    assert_eq!(rig.metrics.retention_letters_total.get(), 15_000);
    assert_eq!(rig.metrics.retention_postponed_total.get(), 1, "10,000 in a pass");
}

#[test]
fn a_replaced_log_is_removed_with_all_that_belongs_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let cursor = LogWrite::Cursor { epoch: EPOCH, user: user("ann"), kind: CursorKind::Ack, seq: Seq(1) };
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)]), append(EPOCH, vec![message(2)]), cursor]);
    let next = Epoch(EPOCH.0 + 1);
    rig.write(vec![register(next), append(next, vec![message(1)])]);
    let reader = rig.reader();
    let is_erased = || {
        let lease = reader.lease().unwrap();
        let count = |space| lease.space(space).iter().count();
        let (log, cursors) = (count(crate::store::engine::Space::Log), count(crate::store::engine::Space::Cursors));
        (log, cursors, lease.space(crate::store::engine::Space::Meta).prefix("erase/").count()) == (1, 0, 0)
    };
    while !is_erased() {
        rig.write(vec![]);
    }
    assert_eq!(rig.state().unwrap().epoch, next);
}
