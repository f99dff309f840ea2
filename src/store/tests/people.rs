//! What is kept of users: cursors, letters, sessions.

use super::*;

#[test]
fn users_find_their_cursors_and_letters_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let letter = |name: &str, seq, replay| DeadLetter {
        epoch: EPOCH,
        user: user(name),
        message: Arc::new(message(seq)),
        reason: DeadReason::Attempts,
        attempts: 10,
        at_ms: 5,
        replay,
    };
    let cursor = |kind, seq| LogWrite::Cursor { epoch: EPOCH, user: user("ann"), kind, seq: Seq(seq) };
    let add = |letter| LogWrite::AddLetter(Box::new(letter));
    rig.write(vec![
        register(EPOCH),
        cursor(CursorKind::Ack, 3),
        cursor(CursorKind::Read, 5),
        cursor(CursorKind::Ack, 4),
        add(letter("ann", 2, true)),
        add(letter("ann", 300, true)),
        add(letter("ann", 7, false)),
        add(letter("anna", 3, true)),
        add(letter("ann", 8, true)),
        LogWrite::DropLetter { epoch: EPOCH, seq: Seq(8), user: user("ann") },
    ]);
    let answer = rig.read(LogRead::User { room: room(), epoch: EPOCH, user: user("ann") });
    let LogAnswer::User { ack, read, letters } = answer else { panic!("{answer:?}") };
    assert_eq!((ack, read), (Some(Seq(4)), Some(Seq(5))));
    assert_eq!(letters, [letter("ann", 2, true), letter("ann", 300, true)]);
    let reader = rig.reader();
    let first = reader.letters(&room(), None, 3).unwrap();
    assert_eq!(first, [letter("ann", 2, true), letter("ann", 7, false), letter("ann", 300, true)]);
    let rest = reader.letters(&room(), Some((&user("ann"), Seq(300))), 3).unwrap();
    assert_eq!(rest, [letter("anna", 3, true)]);
    assert_eq!(reader.rooms(None, 9).unwrap(), [room()]);
    assert_eq!(reader.rooms(Some(&room()), 9).unwrap(), []);
}

#[test]
fn sessions_come_back_to_the_shard_their_first_bits_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let session = |id: u128| {
        let room = SessionRoom { room: room(), tags: vec!["a".into()], presence: true, ack: false };
        SessionRecord { id: SessionId(id), user: user("ann"), rooms: vec![room] }
    };
    let put = |id| LogWrite::PutSession(Box::new(session(id)));
    let odd = 1 << 112 | 5;
    rig.write(vec![put(7), put(odd), put(9), LogWrite::DropSession(SessionId(9))]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    for (shard, id) in [7, odd].into_iter().enumerate() {
        let event = rig.event(shard);
        assert!(matches!(&event, LogEvent::Sessions(kept) if *kept == [session(id)]), "{event:?}");
    }
}

#[test]
fn sanctions_come_back_before_sessions_to_who_must_know_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let sanction = |scope, kind, until_unix_ms| SanctionRecord {
        scope,
        kind,
        until_unix_ms,
        before_unix_ms: None,
        by: None,
        reason: None,
        lifted: false,
    };
    let in_room = |name: &str| Scope::Room(room(), user(name));
    let ban = sanction(in_room("ann"), SanctionKind::Ban, None);
    let lifted = sanction(in_room("bob"), SanctionKind::Mute, None);
    let over = sanction(in_room("cat"), SanctionKind::Ban, Some(5));
    let everywhere = sanction(Scope::Token("jti".into()), SanctionKind::Revoke, Some(u64::MAX));
    let put = |record: &SanctionRecord| LogWrite::Sanction(Box::new(record.clone()));
    let lift = LogWrite::Sanction(Box::new(SanctionRecord { lifted: true, ..lifted.clone() }));
    let session = SessionRecord { id: SessionId(7), user: user("ann"), rooms: Vec::new() };
    rig.write(vec![
        LogWrite::PutSession(Box::new(session)),
        put(&ban),
        put(&lifted),
        put(&over),
        put(&everywhere),
        lift,
    ]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    let owner = crate::chat::placement::owner(room().placement_hash(), 2).index();
    for shard in 0..2 {
        let event = rig.event(shard);
        let LogEvent::Sanctions(kept) = event else { panic!("{event:?}") };
        let expected = if shard == owner { vec![ban.clone(), everywhere.clone()] } else { vec![everywhere.clone()] };
        assert_eq!(kept, expected);
    }
    assert!(matches!(rig.event(0), LogEvent::Sessions(_)));
}
