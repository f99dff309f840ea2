//! Disks that fail, are full or give back something else.

use super::*;

#[test]
fn a_failed_fsync_is_no_success_and_loses_nothing() {
    use std::sync::atomic::Ordering::Relaxed;
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    rig.shared.failing_syncs.store(2, Relaxed);
    let ticket = rig.send(0, true, vec![append(EPOCH, vec![message(2)])]);
    let mut failed = 0;
    loop {
        match rig.event(0) {
            LogEvent::Health(LogHealth::Failed) => failed += 1,
            LogEvent::Committed { synced, .. } if synced == ticket => break,
            _ => {}
        }
    }
    assert!(failed > 0);
    assert_eq!((rig.metrics.reopenings_total.get(), rig.shared.failing_syncs.load(Relaxed)), (2, 0));
    assert_eq!(rig.all(), [message(1), message(2)]);
    let image = crash_image(dir.path());
    assert_eq!(Rig::open(image.path()).all(), [message(1), message(2)]);
    rig.write(vec![append(EPOCH, vec![message(3)])]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.all(), [message(1), message(2), message(3)]);
    assert_eq!(rig.state().unwrap().crashes, 0);
}

#[test]
fn a_full_disk_takes_no_writes_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(StoreConfig { min_free_bytes: u64::MAX, ..config(dir.path()) }).unwrap();
    rig.send(0, true, vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    let event = rig.event(0);
    assert!(matches!(event, LogEvent::Health(LogHealth::Full)), "{event:?}");
    assert!(rig.metrics.disk_free_bytes.get() > 0);
    assert_eq!(rig.state(), None);
    // There is room for this in truth, so the end succeeds.
    rig.close();
    assert_eq!(Rig::open(dir.path()).all(), [message(1)]);
}

#[test]
fn a_damaged_block_is_unreadable_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    let lease = rig.reader().lease().unwrap();
    let mut batch = lease.batch(1);
    batch.insert(
        lease.space(crate::store::engine::Space::Log),
        crate::store::records::log_key(EPOCH, Seq(2)),
        [1, 1, 1],
    );
    lease.write(batch).unwrap();
    drop(lease);
    rig.lines[0].try_read(5, after(0, 9, usize::MAX)).unwrap();
    let event = rig.event(0);
    let LogEvent::Read { token: 5, outcome: Err(LogFailure::Unreadable) } = event else { panic!("{event:?}") };
    assert_eq!(rig.metrics.readers.iter().map(|reader| reader.errors_total.get()).sum::<u64>(), 1);
    rig.write(vec![LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(2) }]);
    assert_eq!(rig.page(after(0, 1, usize::MAX)), (vec![1], true));
}
