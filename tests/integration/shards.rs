//! Many shards and one truth: what is said in a room is one sequence for everyone, wherever they are connected.

use serde_json::json;

use crate::harness::{Client, Event, Server};

const SHARDS: u16 = 4;

/// Members over both transports, on every shard.
fn crowd(server: &Server, size: usize, room: &str) -> Vec<Client> {
    let mut crowd: Vec<Client> = (0..size)
        .map(|n| {
            let name = format!("user {n}");
            let mut client = if n % 3 == 0 { server.tcp_as(&name) } else { server.ws_as(&name) };
            client.join(room);
            client
        })
        .collect();
    while server.metrics().by_shard("hubbub_connections", &[]).contains(&0) {
        assert!(crowd.len() < size * 2, "the kernel leaves a shard without connections");
        crowd.push(server.member(&format!("user {}", crowd.len()), room));
    }
    crowd
}

#[test]
fn twenty_publishers_make_one_sequence_for_everyone() {
    let server = Server::with_shards(SHARDS);
    let mut members = crowd(&server, 40, "lobby");
    std::thread::scope(|scope| {
        for (n, publisher) in members.iter_mut().take(20).enumerate() {
            scope.spawn(move || {
                for round in 0..50 {
                    publisher.say("lobby", json!([n, round]));
                }
            });
        }
    });
    let heard: Vec<Vec<Event>> = members.iter_mut().map(|member| member.messages(1_000)).collect();
    for member in &mut members {
        assert!(member.fence_room("lobby").is_empty(), "nothing comes twice");
    }
    for (n, other) in heard.iter().enumerate() {
        assert!(other.iter().map(Event::seq).eq(1..=1_000), "member {n} missed something or saw it in disorder");
        let same = other.iter().zip(&heard[0]).all(|(a, b)| a.text == b.text);
        assert!(same, "member {n} heard something else than the first");
    }
    for sender in 0..20 {
        let own = heard[0].iter().filter(|message| message["content"][0] == sender);
        assert!(own.map(|message| message["content"][1].as_u64().unwrap()).eq(0..50), "sender {sender} out of order");
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_messages_in_total", &[]), 1_000);
    assert_eq!(metrics.sum("hubbub_messages_out_total", &[]), 1_000 * members.len() as u64);
    assert_eq!(metrics.sum("hubbub_rooms", &[]), 1);
    assert_eq!(metrics.sum("hubbub_audiences", &[]), u64::from(SHARDS));
}

#[test]
fn rooms_spread_over_the_shards_and_each_keeps_its_own_sequence() {
    let server = Server::with_shards(SHARDS);
    let rooms: Vec<String> = (0..40).map(|n| format!("room {n}")).collect();
    let mut clients: Vec<Client> = (0..6).map(|n| server.ws_as(&format!("user {n}"))).collect();
    for client in &mut clients {
        let ids: Vec<u64> =
            rooms.iter().map(|room| client.send_with_id(json!({"type": "join", "room": room}))).collect();
        for (id, room) in ids.into_iter().zip(&rooms) {
            assert_eq!(client.reply_to(id)["room"], room.as_str());
        }
    }
    let owners = server.metrics().by_shard("hubbub_rooms", &[]);
    assert!(owners.iter().all(|count| *count >= 3), "40 rooms on 4 shards: {owners:?}");
    for round in 0..5 {
        for client in &mut clients {
            for room in &rooms {
                client.say(room, round);
            }
        }
    }
    for client in &mut clients {
        let mut heads = vec![0; rooms.len()];
        for message in client.messages(5 * 6 * rooms.len()) {
            let room = rooms.iter().position(|room| *room == message["room"]).unwrap();
            heads[room] += 1;
            assert_eq!(message.seq(), heads[room], "{}", message.text);
        }
        assert!(heads.iter().all(|head| *head == 30));
    }
}

#[test]
fn a_flood_from_one_shard_to_another_is_held_up_and_not_lost() {
    let server = Server::with_shards(2);
    let mut members = crowd(&server, 8, "lobby");
    let mut flooder = server.member("flooder", "lobby");
    const FLOOD: u64 = 8_000;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..FLOOD {
                flooder.send_text(&format!(
                    "{{\"type\":\"message\",\"room\":\"lobby\",\"content\":{n},\"echo\":false,\"id\":{n}}}"
                ));
            }
            for n in 0..FLOOD {
                assert_eq!(flooder.expect("ok")["id"], n);
            }
        });
        for member in &mut members {
            scope.spawn(move || {
                for n in 0..FLOOD {
                    let message = member.expect("message");
                    assert_eq!((message.seq(), &message["content"]), (n + 1, &json!(n)));
                }
            });
        }
    });
}

#[test]
fn members_come_and_go_while_others_talk() {
    let server = Server::with_shards(SHARDS);
    let mut stayer = server.member("stayer", "lobby");
    std::thread::scope(|scope| {
        for n in 0..6 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..8 {
                    let name = format!("user {n}");
                    let mut client = if round % 2 == 0 { server.ws_as(&name) } else { server.tcp_as(&name) };
                    let head = client.join("lobby").seq();
                    let own = client.say_and_wait("lobby", json!([n, round]));
                    // All from the join on, its own message among it.
                    let messages = client.messages((own - head) as usize);
                    assert!(messages.iter().map(Event::seq).eq(head + 1..=own));
                    assert_eq!(messages.last().unwrap()["content"], json!([n, round]));
                    if round % 3 == 0 {
                        client.ok(json!({"type": "leave", "room": "lobby"}));
                    }
                }
            });
        }
    });
    assert!(stayer.messages(48).iter().map(Event::seq).eq(1..=48));
    let metrics = server.metrics_until("all others to be gone", |m| {
        m.sum("hubbub_connections", &[("kind", "chat_ws")]) + m.sum("hubbub_connections", &[("kind", "chat_tcp")]) == 1
    });
    assert_eq!(metrics.sum("hubbub_audiences", &[]), 1);
}
