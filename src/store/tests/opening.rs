//! Opening, closing, and who may.

use super::*;

#[test]
fn a_log_survives_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.state(), None);
    rig.write(vec![register(EPOCH), append(EPOCH, (1..=3).map(message).collect())]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    let bytes = (1..=3).map(|seq| message(seq).weight() as u64).sum();
    let expected = LogState {
        epoch: EPOCH,
        last: Seq(3),
        crashes: 0,
        trimmed: Seq(0),
        last_timestamp: 1_003,
        bytes,
        jumps: Vec::new(),
        keys: Vec::new(),
    };
    assert_eq!(rig.state(), Some(expected));
    assert_eq!(rig.all(), (1..=3).map(message).collect::<Vec<_>>());
}

#[test]
fn an_unclean_stop_counts_until_the_room_is_registered_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    let image = crash_image(dir.path());
    let mut rig = Rig::open(image.path());
    let state = rig.state().unwrap();
    assert_eq!((state.crashes, state.last), (1, Seq(1)));
    let second = crash_image(image.path());
    let mut rig = Rig::open(second.path());
    assert_eq!(rig.state().unwrap().crashes, 2);
    let jumps = vec![Jump { prev: Seq(1), next: Seq(8_196) }];
    rig.write(vec![LogWrite::Register { room: room(), epoch: EPOCH, jumps: jumps.clone() }]);
    let state = rig.state().unwrap();
    assert_eq!((state.crashes, state.jumps), (0, jumps));
    rig.close();
    assert_eq!(Rig::open(second.path()).state().unwrap().crashes, 0);
}

#[test]
fn a_directory_in_use_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let error = Rig::with(config(dir.path())).err().unwrap().to_string();
    assert!(error.contains("in use by another process") && error.contains(dir.path().to_str().unwrap()), "{error}");
    rig.close();
    Rig::open(dir.path()).close();
}

#[test]
fn a_directory_that_cannot_be_made_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Rig::with(config(&file.join("data"))).err().unwrap();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
}

#[test]
fn the_directory_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    Rig::open(&data).close();
    assert_eq!(std::fs::metadata(data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Rig::open(dir.path()).close();
    let engine = crate::store::engine::Engine::open(dir.path()).unwrap();
    let mut batch = engine.batch(1);
    batch.insert(engine.space(crate::store::engine::Space::Meta), "format", [9]);
    engine.write(batch).unwrap();
    drop(engine);
    let error = Rig::with(config(dir.path())).err().unwrap();
    assert!(matches!(&error, StoreError::Format { found, .. } if found == "format 9"), "{error}");
}
