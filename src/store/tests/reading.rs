//! What comes back of what was written, and when it is on the disk.

use super::*;

#[test]
fn pages_go_both_ways_over_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let blocks = [1..=1, 2..=4, 5..=5, 6..=9].map(|seqs| append(EPOCH, seqs.map(message).collect()));
    rig.write(std::iter::once(register(EPOCH)).chain(blocks).collect());
    assert_eq!(rig.page(after(0, 3, usize::MAX)), (vec![1, 2, 3], true));
    assert_eq!(rig.page(after(3, 3, usize::MAX)), (vec![4, 5, 6], true));
    assert_eq!(rig.page(after(6, 3, usize::MAX)), (vec![7, 8, 9], false));
    assert_eq!(rig.page(after(9, 3, usize::MAX)), (vec![], false));
    assert_eq!(rig.page(before(10, 2, usize::MAX)), (vec![8, 9], true));
    assert_eq!(rig.page(before(8, 4, usize::MAX)), (vec![4, 5, 6, 7], true));
    assert_eq!(rig.page(before(4, 9, usize::MAX)), (vec![1, 2, 3], false));
    assert_eq!(rig.page(before(1, 9, usize::MAX)), (vec![], false));
    let weight = message(1).weight();
    assert_eq!(rig.page(after(0, 9, 1)), (vec![1], true));
    assert_eq!(rig.page(after(0, 9, 2 * weight)), (vec![1, 2], true));
    assert_eq!(rig.page(before(10, 9, 2 * weight + 1)), (vec![7, 8, 9], true));
}

#[test]
fn logs_of_other_epochs_do_not_show() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let neighbours = [EPOCH.0 - 1, EPOCH.0 + 1].map(|epoch| append(Epoch(epoch), (1..=9).map(message).collect()));
    rig.write(std::iter::once(register(EPOCH)).chain(neighbours).collect());
    assert_eq!(rig.page(after(0, 9, usize::MAX)), (vec![], false));
    assert_eq!(rig.page(before(9, 9, usize::MAX)), (vec![], false));
    assert_eq!(rig.state().unwrap().last, Seq(0));
}

#[test]
fn the_buried_are_gone_whenever_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let keyed = |seq, key: &str| Message { key: Some(key.into()), ..message(seq) };
    let bury = |seq| LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(seq) };
    rig.write(vec![register(EPOCH), append(EPOCH, vec![keyed(1, "a"), keyed(2, "b")])]);
    // One from before, one of the same batch, twice the same block, and one that never was.
    rig.write(vec![bury(1), append(EPOCH, vec![keyed(3, "c"), keyed(4, "d")]), bury(3), bury(4), bury(9)]);
    let tombstone = |seq| Message { content: Bytes::from_static(b"null"), deleted: true, ..message(seq) };
    let expected = vec![tombstone(1), keyed(2, "b"), tombstone(3), tombstone(4)];
    assert_eq!(rig.all(), expected);
    let keys: Vec<(String, u64)> =
        rig.state().unwrap().keys.iter().map(|key| (key.key.to_string(), key.seq.0)).collect();
    assert_eq!(keys, [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(key, seq)| (key.to_owned(), seq)));
}

#[test]
fn only_keys_of_recent_messages_are_brought_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let keyed = |seq: u64| Message { key: Some(format!("key {seq}").into()), ..message(seq) };
    let blocks = [1..=2, 3..=5, 6..=6].map(|seqs| append(EPOCH, seqs.map(keyed).collect()));
    rig.write(std::iter::once(register(EPOCH)).chain(blocks).collect());
    let answer = rig.read(LogRead::Open { room: room(), keys_since_ms: 1_004 });
    let LogAnswer::Opened(Some(state)) = answer else { panic!("{answer:?}") };
    let key = |seq: u64| LogKey {
        user: user("ann"),
        key: format!("key {seq}").into(),
        seq: Seq(seq),
        timestamp: 1_000 + seq,
    };
    assert_eq!(state.keys, [4, 5, 6].map(key));
}

#[test]
fn what_waits_for_nobody_is_synced_after_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let ticket = rig.send(1, false, vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    rig.await_synced(1, ticket);
    assert_eq!(rig.metrics.fsync_us.snapshot().count(), 1);
    assert_eq!(rig.metrics.commit_messages.snapshot().sum, 1);
}

#[test]
fn many_messages_are_synced_before_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(StoreConfig { commit_interval: Duration::from_secs(3_600), ..config(dir.path()) }).unwrap();
    rig.send(0, false, vec![register(EPOCH), append(EPOCH, (1..=1_000).map(message).collect())]);
    let ticket = rig.send(0, false, vec![append(EPOCH, (1_001..=1_024).map(message).collect())]);
    rig.await_synced(0, ticket);
}

#[test]
fn a_line_admits_so_many_batches_and_no_more() {
    let (port, mut lines) = lines(1, Arc::new(|_| {}));
    let mut admitted = 0;
    while lines[0].try_write(LogBatch { ticket: admitted + 1, ..LogBatch::default() }).is_ok() {
        admitted += 1;
    }
    assert_eq!(admitted, 64);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path()), port, Box::leak(Box::default())).unwrap();
    store.close();
    assert!(lines[0].has_events());
    let event = lines[0].next_event();
    assert!(matches!(event, Some(LogEvent::Committed { applied: 64, synced: 64 })), "{event:?}");
    assert!(lines[0].next_event().is_none() && !lines[0].has_events());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Pages of any size, from anywhere, against a plain list.
    #[test]
    fn pages_are_what_a_list_would_give(
        lengths in proptest::collection::vec((1_u64..6, 0_u64..3), 1..20),
        questions in proptest::collection::vec((0_u64..120, 1_usize..12, 1_usize..200), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path());
        let mut list = Vec::new();
        let mut writes = vec![register(EPOCH)];
        let mut seq = 0;
        for (length, jump) in lengths {
            seq += jump;
            let block: Vec<Message> = (seq + 1..=seq + length).map(message).collect();
            seq += length;
            list.extend(block.iter().cloned());
            writes.push(append(EPOCH, block));
        }
        rig.write(writes);
        for (at, messages_max, bytes_max) in questions {
            let take = |candidates: Vec<&Message>| {
                let mut bytes = 0;
                let mut taken = Vec::new();
                for message in &candidates {
                    if taken.len() == messages_max || (!taken.is_empty() && bytes >= bytes_max) {
                        break;
                    }
                    bytes += message.weight();
                    taken.push(message.seq.0);
                }
                let more = taken.len() < candidates.len();
                (taken, more)
            };
            let later = take(list.iter().filter(|message| message.seq.0 > at).collect());
            prop_assert_eq!(rig.page(after(at, messages_max, bytes_max)), later);
            let mut earlier = take(list.iter().rev().filter(|message| message.seq.0 < at).collect());
            earlier.0.reverse();
            prop_assert_eq!(rig.page(before(at, messages_max, bytes_max)), earlier);
        }
    }
}
