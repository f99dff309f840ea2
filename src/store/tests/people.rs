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
