//! Bans, mutes and revocations as they are kept: one record for each whom and what.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `sanctions` | scope (1 byte) · kind (1 byte) · room · 0 · user, or user, or token | version · scope · room? · user or token · kind · flags · (until) · (before) · (by) · (reason) |

use std::collections::VecDeque;

use fjall::OwnedWriteBatch;

use super::encoding::{Cursor, Damaged, put_bytes, put_integer, put_room};
use super::engine::{Engine, EngineError, Space};
use crate::chat::log::{LogEvent, SanctionKind, SanctionRecord, Scope};
use crate::chat::placement;

pub(super) fn key(record: &SanctionRecord) -> Vec<u8> {
    let mut key = vec![0, record.kind as u8];
    match &record.scope {
        Scope::Room(room, user) => {
            put_room(&mut key, room);
            // No name has a zero byte.
            key.push(0);
            key.extend_from_slice(user.as_str().as_bytes());
        }
        Scope::User(user) => {
            key[0] = 1;
            key.extend_from_slice(user.as_str().as_bytes());
        }
        Scope::Token(token) => {
            key[0] = 2;
            key.extend_from_slice(token.as_bytes());
        }
    }
    key
}

pub(super) fn encode(record: &SanctionRecord) -> Vec<u8> {
    let mut out = vec![VERSION];
    match &record.scope {
        Scope::Room(room, user) => {
            let mut name = Vec::new();
            put_room(&mut name, room);
            out.push(0);
            put_bytes(&mut out, &name);
            put_bytes(&mut out, user.as_str().as_bytes());
        }
        Scope::User(user) => {
            out.push(1);
            put_bytes(&mut out, user.as_str().as_bytes());
        }
        Scope::Token(token) => {
            out.push(2);
            put_bytes(&mut out, token.as_bytes());
        }
    }
    out.push(record.kind as u8);
    let SanctionRecord { until_unix_ms: until, before_unix_ms: before, by, reason, .. } = record;
    let given = [until.is_some(), before.is_some(), by.is_some(), reason.is_some()];
    out.push(given.iter().rev().fold(0, |flags, &given| flags << 1 | u8::from(given)));
    [until, before].into_iter().flatten().for_each(|time| put_integer(&mut out, *time));
    let texts = [by.as_ref().map(|by| by.as_str()), reason.as_deref()];
    texts.into_iter().flatten().for_each(|text| put_bytes(&mut out, text.as_bytes()));
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<SanctionRecord, Damaged> {
    let mut cursor = Cursor::new(bytes);
    if cursor.byte()? != VERSION {
        return Err(Damaged);
    }
    let scope = match cursor.byte()? {
        0 => Scope::Room(Cursor::new(cursor.bytes()?).room()?, cursor.user()?),
        1 => Scope::User(cursor.user()?),
        2 => Scope::Token(cursor.label()?),
        _ => return Err(Damaged),
    };
    let kind = *KINDS.get(usize::from(cursor.byte()?)).ok_or(Damaged)?;
    let flags = cursor.byte()?;
    if flags > 0b1111 {
        return Err(Damaged);
    }
    let given = |bit: u8| flags & 1 << bit != 0;
    let record = SanctionRecord {
        scope,
        kind,
        until_unix_ms: given(0).then(|| cursor.integer()).transpose()?,
        before_unix_ms: given(1).then(|| cursor.integer()).transpose()?,
        by: given(2).then(|| cursor.user()).transpose()?,
        reason: given(3).then(|| cursor.label()).transpose()?,
        lifted: false,
    };
    cursor.end()?;
    Ok(record)
}

/// What is in force, for each shard what it has to know, in pieces. What is over is removed.
pub(super) fn take_stock(
    engine: &Engine,
    shards: usize,
    now_unix_ms: u64,
) -> Result<Vec<VecDeque<LogEvent>>, EngineError> {
    let mut of_shards: Vec<Vec<SanctionRecord>> = vec![Vec::new(); shards];
    let mut over = engine.batch(0);
    for guard in engine.space(Space::Sanctions).iter() {
        let (key, value) = guard.into_inner()?;
        let Ok(record) = decode(&value) else {
            tracing::error!("a kept ban, mute or revocation is damaged and is not in force: see `hubbub store check`");
            continue;
        };
        if record.until_unix_ms.is_some_and(|until| until <= now_unix_ms) {
            over.remove(engine.space(Space::Sanctions), key);
            continue;
        }
        match &record.scope {
            Scope::Room(room, _) => {
                of_shards[placement::owner(room.placement_hash(), shards as u16).index()].push(record);
            }
            Scope::User(_) | Scope::Token(_) => of_shards.iter_mut().for_each(|all| all.push(record.clone())),
        }
    }
    remove(engine, over)?;
    let pieces = |all: Vec<SanctionRecord>| {
        all.chunks(PIECE).map(|piece| LogEvent::Sanctions(piece.to_vec())).collect::<VecDeque<_>>()
    };
    Ok(of_shards.into_iter().map(pieces).collect())
}

fn remove(engine: &Engine, over: OwnedWriteBatch) -> Result<(), EngineError> {
    if !over.is_empty() {
        engine.write(over)?;
    }
    Ok(())
}

const VERSION: u8 = 1;
const KINDS: [SanctionKind; 3] = [SanctionKind::Ban, SanctionKind::Mute, SanctionKind::Revoke];
/// Sanctions that a shard is told of at once.
const PIECE: usize = 1_000;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{RoomName, UserName};

    fn ban(room: &str, name: &str) -> SanctionRecord {
        SanctionRecord {
            scope: Scope::Room(RoomName::chat(room).unwrap(), UserName::new(name).unwrap()),
            kind: SanctionKind::Ban,
            until_unix_ms: None,
            before_unix_ms: None,
            by: None,
            reason: None,
            lifted: false,
        }
    }

    fn some() -> Vec<SanctionRecord> {
        let ann = UserName::new("ann").unwrap();
        let everywhere = SanctionRecord {
            scope: Scope::User(ann.clone()),
            kind: SanctionKind::Revoke,
            before_unix_ms: Some(1_700_000_000_000),
            ..ban("a", "b")
        };
        let token =
            SanctionRecord { scope: Scope::Token("jti \0 ä".into()), reason: Some("".into()), ..ban("a", "b") };
        let full = SanctionRecord {
            kind: SanctionKind::Mute,
            until_unix_ms: Some(u64::MAX),
            by: Some(ann),
            reason: Some("spam".into()),
            ..ban("lobby", "bob")
        };
        vec![ban("lobby", "bob"), everywhere, token, full]
    }

    #[test]
    fn sanctions_come_back_and_no_shorter_record_does() {
        let records = some();
        for record in &records {
            let bytes = encode(record);
            assert_eq!(decode(&bytes).as_ref(), Ok(record));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), Err(Damaged), "{record:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn each_whom_and_what_has_a_key_of_its_own() {
        let mut keys: Vec<_> = some().iter().map(key).collect();
        keys.push(key(&ban("lobby", "bobby")));
        keys.push(key(&ban("lobby-bob", "b")));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
        let again = SanctionRecord { reason: Some("other".into()), ..ban("lobby", "bob") };
        assert_eq!(key(&again), key(&ban("lobby", "bob")));
    }

    proptest! {
        #[test]
        fn damaged_records_never_panic(mut bytes in vec(any::<u8>(), 0..60)) {
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Ok(record) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&record)), Ok(record));
            }
        }
    }
}
