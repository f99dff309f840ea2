//! Who is let in, what tokens open, and what the application is asked.

use std::sync::Arc;
use std::time::Duration;

use super::{only, owned_by};
use crate::access::{Action, Grants, Identity, PermissionRule, Permissions, Who};
use crate::chat::driver::{Held, World, join, message};
use crate::chat::log::{SanctionKind, SanctionRecord, Scope};
use crate::chat::{ConnKind, Consults, Input, Question, Refusal, Rules};
use crate::ids::{Member, ShardId, UserName};
use crate::limits::CONNECT_REFUSALS_MAX;
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::command::{CommandBody, Connect, HistoryFrom, Join, Resume};
use crate::message::event::Role;
use crate::policy::Pattern;

const ASKED: Consults = Consults { connect: true, join: false, message: false };
const REFUSED: Refusal = Refusal::new(ErrorCode::Unauthorized, "the token is no good");

impl World {
    /// Changes what every shard allows.
    pub(super) fn rule(&mut self, consults: Consults, permissions: Permissions) {
        let permissions = Arc::new(permissions);
        for shard in 0..self.states.len() as u16 {
            let config = &self.states[usize::from(shard)].config;
            let rules = Rules {
                limits: config.limits.clone(),
                policies: config.policies.clone(),
                permissions: permissions.clone(),
                consults,
            };
            self.input(ShardId(shard), Input::Rules(Box::new(rules)));
        }
    }

    /// Says who the one is that was asked about first.
    fn identify(&mut self, outcome: Result<Identity, Refusal>) -> Member {
        let (member, ..) = self.strangers.pop_front().expect("someone is to be identified");
        self.input(member.shard, Input::Identified { conn: member.conn, outcome: outcome.map(Arc::new) });
        member
    }

    /// Says what the application thinks of what it was asked first.
    pub(super) fn verdict(&mut self, verdict: Result<(), Refusal>) -> Question {
        let (member, question) = self.questions.pop_front().expect("something was asked");
        self.input(member.shard, Input::Consulted { conn: member.conn, verdict });
        question
    }

    /// A client that has shown a token, with an empty log.
    fn proven(&mut self, shard: u16, identity: Identity) -> Member {
        let connect = Connect { token: Some("ey".into()), ..Connect::default() };
        let member = self.open(shard, ConnKind::Chat { connect: Some(connect), ping_as_event: true });
        self.identify(Ok(identity));
        self.log(member);
        member
    }
}

fn token(user: &str, rooms: &[(&str, Role)]) -> Identity {
    let rooms = Grants::new(rooms.iter().map(|(pattern, role)| (Pattern::new(pattern), *role)));
    Identity { proven: true, rooms: Some(rooms), ..Identity::named(UserName::new(user).unwrap()) }
}

fn connect_with(token: &str) -> CommandBody<'static> {
    CommandBody::Connect(Connect { token: Some(token.to_owned().into()), ..Connect::default() })
}

fn unconnected(world: &mut World, shard: u16) -> Member {
    world.open(shard, ConnKind::Chat { connect: None, ping_as_event: true })
}

fn guarded(shards: u16) -> World {
    let mut world = World::new(shards);
    world.rule(ASKED, Permissions::default());
    world
}

#[test]
fn what_comes_behind_a_connect_waits_until_it_is_known_who_it_is() {
    let mut world = guarded(2);
    let room = owned_by(1, 2);
    let ann = unconnected(&mut world, 0);
    world.command(ann, Some(1), connect_with("ey.1"));
    world.join(ann, &room);
    world.command(ann, Some(3), message(&room, "hi"));
    world.pump();
    assert!(world.log(ann).is_empty());
    let (asked, shown, name, refresh) = world.strangers[0].clone();
    assert_eq!((asked, shown.as_deref(), name, refresh), (ann, Some("ey.1"), None, false));
    let named =
        Identity { name: Some("Ann".into()), expires_unix_ms: Some(9_000_000), ..token("ann", &[("*", Role::Guest)]) };
    world.identify(Ok(named));
    world.pump();
    let expected = ["welcome 1 ann s0-0-7", &format!("ok 1 {room}@0 1 guest"), "error 3 forbidden"];
    assert_eq!(world.log(ann), expected);
    world.check();
}

#[test]
fn who_is_turned_away_may_try_again_but_not_for_ever() {
    let mut world = guarded(1);
    let ann = unconnected(&mut world, 0);
    for attempt in 1..=u64::from(CONNECT_REFUSALS_MAX) {
        world.command(ann, Some(attempt), connect_with("ey"));
        world.identify(Err(REFUSED));
        let mut expected = vec![format!("error {attempt} unauthorized")];
        if attempt == u64::from(CONNECT_REFUSALS_MAX) {
            expected.push("close unauthorized".into());
        }
        assert_eq!(world.log(ann), expected);
    }
    let bob = unconnected(&mut world, 0);
    world.command(bob, None, connect_with("ey"));
    world.identify(Err(REFUSED));
    world.command(bob, None, connect_with("ey"));
    world.identify(Ok(token("bob", &[])));
    assert_eq!(world.log(bob), ["error unauthorized", "welcome bob s0-1-7"]);
    world.check();
}

#[test]
fn credentials_of_the_url_have_one_try() {
    let mut world = guarded(1);
    let busy = Refusal::new(ErrorCode::Overloaded, "the keys are not there yet");
    for (refusal, closed) in [(REFUSED, CloseReason::Unauthorized), (busy, CloseReason::TryAgainLater)] {
        let connect = Connect { token: Some("ey".into()), ..Connect::default() };
        let ann = world.open(0, ConnKind::Chat { connect: Some(connect), ping_as_event: true });
        world.give(ann, Held::Url("lobby".into()));
        let code = refusal.code.as_str();
        world.identify(Err(refusal));
        assert_eq!(world.log(ann), [format!("error {code}"), format!("close {}", closed.label())]);
    }
    world.check();
}

#[test]
fn a_token_s_session_is_resumed_by_its_user_alone() {
    let mut world = guarded(2);
    let room = owned_by(1, 2);
    let ann = world.proven(0, token("ann", &[("*", Role::Member)]));
    world.join(ann, &room);
    world.pump();
    let session = world.states[0].sessions.get(ann.conn).unwrap().id.unwrap();
    let position = world.position(ann, &room, 0).unwrap();
    let resume = || Some(Resume { session, rooms: vec![(room.clone().into(), position)] });
    for (user, lines) in [("eve", 1), ("ann", 2)] {
        let member = unconnected(&mut world, 1);
        let connect = Connect { token: Some("ey".into()), name: None, resume: resume() };
        world.command(member, Some(1), CommandBody::Connect(connect));
        world.identify(Ok(token(user, &[("*", Role::Member)])));
        world.pump();
        let log = world.log(member);
        assert_eq!((log.len(), log[0].starts_with(&format!("welcome 1 {user}"))), (lines, true), "{log:?}");
    }
    assert_eq!(world.log(ann).last().unwrap(), "close session_resumed");
    world.check();
}

#[test]
fn a_resumed_session_enters_only_what_its_token_opens_now() {
    let mut world = guarded(1);
    let ann = world.proven(0, token("ann", &[("*", Role::Member)]));
    world.join(ann, "lobby");
    world.join(ann, "staff");
    let session = world.states[0].sessions.get(ann.conn).unwrap().id.unwrap();
    let again = unconnected(&mut world, 0);
    let resume = Some(Resume { session, rooms: Vec::new() });
    world.command(again, None, CommandBody::Connect(Connect { token: Some("ey".into()), name: None, resume }));
    world.identify(Ok(token("ann", &[("lobby", Role::Member)])));
    world.pump();
    let mut log = world.log(again);
    log.sort();
    assert_eq!(log[..2], ["error forbidden", "ok lobby@0 1 member"]);
    world.check();
}

#[test]
fn a_fresh_token_changes_what_its_user_may_do_and_where() {
    let mut world = guarded(2);
    let rooms = [owned_by(0, 2), owned_by(1, 2)];
    let grants = |rights: &[(usize, Role)]| -> Vec<(String, Role)> {
        rights.iter().map(|(room, role)| (rooms[*room].clone(), *role)).collect()
    };
    let of = |rights: &[(usize, Role)]| {
        let grants = grants(rights);
        token("ann", &grants.iter().map(|(room, role)| (room.as_str(), *role)).collect::<Vec<_>>())
    };
    for (kept, lost) in [(0, 1), (1, 0)] {
        let ann = world.proven(0, of(&[(0, Role::Member), (1, Role::Member)]));
        rooms.iter().for_each(|room| world.join(ann, room));
        world.pump();
        world.log(ann);
        world.command(ann, Some(5), connect_with("ey.2"));
        world.command(ann, Some(6), message(&rooms[kept], "now only a guest"));
        assert!(world.strangers[0].3, "it is a refresh");
        world.identify(Ok(of(&[(kept, Role::Guest)])));
        world.pump();
        let expected = ["ok 5".to_owned(), format!("kicked {} forbidden", rooms[lost]), "error 6 forbidden".to_owned()];
        assert_eq!(world.log(ann), expected);
        world.join(ann, &rooms[lost]);
        world.pump();
        assert_eq!(world.log(ann), ["error 1 forbidden"]);
        world.check();
        world.close(ann);
    }
}

#[test]
fn a_fresh_token_of_another_user_changes_nothing() {
    let mut world = guarded(1);
    let ann = world.proven(0, token("ann", &[("lobby", Role::Host)]));
    world.command(ann, Some(1), connect_with("ey.2"));
    world.identify(Ok(token("eve", &[])));
    world.command(ann, Some(2), CommandBody::Connect(Connect { name: Some("ann".into()), ..Connect::default() }));
    world.join(ann, "lobby");
    assert_eq!(world.log(ann), ["error 1 forbidden", "error 2 bad_request", "ok 1 lobby@0 1 host"]);
    world.check();
}

#[test]
fn a_connection_ends_with_its_token_unless_a_fresh_one_came() {
    let mut world = guarded(1);
    world.answers_pings = true;
    let until = |world: &World, seconds: u64| Some(world.now.unix_ms + seconds * 1_000);
    for seconds in [1, 3, 100] {
        let expires = |world: &World, seconds| Identity { expires_unix_ms: until(world, seconds), ..token("ann", &[]) };
        let (ann, bob) = (expires(&world, seconds), expires(&world, seconds));
        let (ann, bob) = (world.proven(0, ann), world.proven(0, bob));
        world.command(bob, None, connect_with("ey.2"));
        let fresh = expires(&world, seconds + 200);
        world.identify(Ok(fresh));
        world.advance(Duration::from_millis(seconds * 1_000 - 100));
        assert!(only(&world.log(ann), &["close"]).is_empty());
        world.advance(Duration::from_millis(200));
        assert_eq!(only(&world.log(ann), &["close"]), ["close token_expired"]);
        world.advance(Duration::from_secs(190));
        assert!(only(&world.log(bob), &["close"]).is_empty());
        world.advance(Duration::from_secs(20));
        assert_eq!(only(&world.log(bob), &["close"]), ["close token_expired"]);
        world.close(ann);
        world.close(bob);
    }
}

#[test]
fn the_relay_asks_for_a_token_and_for_the_rights_to_enter_and_to_send() {
    let mut world = guarded(2);
    let open = |world: &mut World, outcome: Result<Identity, Refusal>| {
        let member = world.open(0, ConnKind::Relay { room: "tv".into(), token: Some("ey".into()) });
        world.give(member, Held::Relay("early".into()));
        world.identify(outcome);
        world.pump();
        member
    };
    let ann = open(&mut world, Ok(token("ann", &[("tv", Role::Member)])));
    assert_eq!(world.log(ann), ["relay early"]);
    let eve = open(&mut world, Err(REFUSED));
    assert_eq!(world.log(eve), ["close unauthorized"]);
    let bob = open(&mut world, Ok(token("bob", &[("lobby", Role::Member)])));
    assert_eq!(world.log(bob), ["close forbidden"]);
    let guest = open(&mut world, Ok(token("gus", &[("*", Role::Guest)])));
    assert_eq!(
        (world.log(guest), world.log(ann)),
        (vec!["close forbidden".to_owned()], vec![]),
        "a guest only listens"
    );
    world.check();
}

#[test]
fn rules_of_rooms_hold_in_open_mode_too() {
    let mut world = World::new(2);
    let (news, room) = (owned_by(0, 2), owned_by(1, 2));
    let rule = |name: &str, allowed| PermissionRule { rooms: Pattern::new(name), role: Some(Role::Member), allowed };
    let host = || vec![Who::AtLeast(Role::Host)];
    let rules = vec![
        rule(&news, vec![(Action::Send, host()), (Action::History, host()), (Action::Presence, host())]),
        rule(&room, vec![(Action::Join, vec![Who::User(UserName::new("ann").unwrap())])]),
    ];
    world.rule(Consults::default(), Permissions { rules });
    for shard in 0..2 {
        let ann = world.joined(shard, "ann", &[&news, &room]);
        world.say(ann, &news, "first");
        let bob = world.client(shard, "bob");
        world.pump();
        world.log(ann);
        world.log(bob);
        let all = Join { history: 9, presence: true, ..join(&news) };
        world.command(bob, Some(1), CommandBody::Join(all));
        world.command(bob, Some(2), message(&news, "no"));
        let signal = CommandBody::Signal { room: news.clone().into(), content: b"1"[..].into() };
        world.command(bob, Some(3), signal);
        let page = CommandBody::History { room: news.clone().into(), from: HistoryFrom::Latest, limit: None };
        world.command(bob, Some(4), page.clone());
        world.command(bob, Some(5), CommandBody::Presence { room: news.clone().into(), after: None, limit: None });
        world.command(bob, Some(6), CommandBody::Join(join(&room)));
        world.command(ann, Some(7), page);
        world.pump();
        let head = format!("ok 1 {news}@{} 2 member", shard + 1);
        let mut heard = world.log(bob);
        heard.sort();
        let refused = [2, 3, 4, 5, 6].map(|id| format!("error {id} forbidden"));
        assert_eq!(heard, [&refused[..], &[head]].concat(), "no replay");
        assert!(world.log(ann)[0].starts_with(&format!("ok 7 {news} ")), "the host reads it");
        world.advance(Duration::from_secs(3));
        assert!(world.log(bob).is_empty(), "nor presence");
        world.check();
        world.close(bob);
        world.close(ann);
        world.advance(Duration::from_secs(10));
    }
}

#[test]
fn a_list_shows_what_its_reader_may_enter_and_no_more() {
    let mut world = guarded(3);
    let host = world.proven(0, token("host", &[("*", Role::Host)]));
    for n in 0..100 {
        world.join(host, &format!("staff-{n:03}"));
    }
    world.join(host, "team-a");
    world.join(host, "team-b");
    world.pump();
    let ann = world.proven(1, token("ann", &[("team-*", Role::Guest)]));
    let list = |limit| CommandBody::Rooms { after: None, limit: Some(limit) };
    world.command(ann, Some(1), list(1));
    world.command(ann, Some(2), list(5));
    world.pump();
    let expected = [r#"ok 1 [team-a=1] next=Some("team-a")"#, "ok 2 [team-a=1 team-b=1] next=None"];
    assert_eq!(world.log(ann), expected);
}

#[test]
fn a_list_of_many_hidden_rooms_is_made_in_steps() {
    let mut world = guarded(2);
    let host = token("host", &[("*", Role::Host)]);
    let rooms = 3 * crate::limits::ROOMS_LISTED_PER_STEP;
    let mut member = world.proven(0, host.clone());
    for n in 0..rooms {
        if n % 120 == 0 {
            member = world.proven((n / 120 % 2) as u16, host.clone());
        }
        world.join(member, &format!("hidden-{n:05}"));
    }
    world.join(member, "zoo");
    world.pump();
    let ann = world.proven(1, token("ann", &[("zoo", Role::Guest)]));
    world.command(ann, Some(1), CommandBody::Rooms { after: None, limit: None });
    world.exchange();
    assert!(world.log(ann).is_empty(), "it takes more than one step");
    world.advance(Duration::from_secs(1));
    assert_eq!(world.log(ann), ["ok 1 [zoo=1] next=None"]);
    world.check();
}

#[test]
fn the_application_is_asked_once_about_each_join_and_message() {
    let mut world = World::new(2);
    let consults = Consults { connect: false, join: true, message: true };
    world.rule(consults, Permissions::default());
    let no = Refusal::new(ErrorCode::Forbidden, "the application says no");
    for shard in 0..2 {
        let room = owned_by(0, 2);
        let ann = world.client(shard, "ann");
        world.join(ann, &room);
        world.command(ann, Some(2), message(&room, "hi"));
        world.command(ann, Some(3), message(&room, "bad word"));
        world.command(ann, Some(4), message(&room, "bye"));
        world.pump();
        assert_eq!(world.questions.len(), 1, "one thing after the other");
        assert!(matches!(world.verdict(Ok(())), Question::Join { room: asked } if asked.as_str() == room));
        world.pump();
        for verdict in [Ok(()), Err(no.clone()), Ok(())] {
            world.pump();
            assert!(matches!(world.verdict(verdict), Question::Message { .. }));
        }
        world.pump();
        let log = only(&world.log(ann), &["ok", "error"]);
        assert_eq!(log[1..], [format!("ok 2 {room}:{}", 1), "error 3 forbidden".into(), format!("ok 4 {room}:{}", 2)]);
        let bob = world.client(shard, "bob");
        world.give(bob, Held::Url(room.clone()));
        world.verdict(Err(no.clone()));
        world.pump();
        assert_eq!(world.log(bob).last().unwrap(), "error forbidden");
        assert!(world.questions.is_empty());
        world.check();
        world = World::new(2);
        world.rule(consults, Permissions::default());
    }
}

#[test]
fn who_is_banned_or_revoked_is_put_out_everywhere_and_kept_out() {
    let mut world = guarded(2);
    let user = |name| UserName::new(name).unwrap();
    let issued = |name: &str, at, id: &str| Identity {
        issued_unix_ms: Some(at),
        token_id: Some(id.into()),
        ..token(name, &[("*", Role::Member)])
    };
    let table = [
        (Scope::User(user("ann")), SanctionKind::Ban, None, [true, true, false]),
        (Scope::User(user("ann")), SanctionKind::Revoke, Some(500), [true, false, false]),
        (Scope::Token("t2".into()), SanctionKind::Revoke, None, [false, true, false]),
    ];
    for (scope, kind, before_unix_ms, hit) in table {
        let identities = [issued("ann", 100, "t1"), issued("ann", 500, "t2"), issued("bob", 100, "t3")];
        let members: Vec<Member> =
            identities.iter().enumerate().map(|(n, who)| world.proven(n as u16 % 2, who.clone())).collect();
        let until_unix_ms = Some(world.now.unix_ms + 10_000);
        let record =
            SanctionRecord { scope, kind, until_unix_ms, before_unix_ms, by: None, reason: None, lifted: false };
        world.sanction(&record);
        for ((member, identity), hit) in members.iter().zip(&identities).zip(hit) {
            let expected = if hit { vec!["close revoked".to_owned()] } else { Vec::new() };
            assert_eq!(world.log(*member), expected, "{record:?}");
            let again = unconnected(&mut world, 0);
            world.command(again, None, connect_with("ey"));
            world.identify(Ok(identity.clone()));
            assert_eq!(world.log(again)[0].starts_with("error"), hit, "{record:?}");
        }
        world.advance(Duration::from_secs(70));
        assert_eq!(world.states[1].counts().sanctions, 0, "it is forgotten when it is over");
        world.proven(1, identities[0].clone());
        members.into_iter().for_each(|member| world.close(member));
        world.check();
    }
}

impl World {
    /// Gives an operator's order to every shard.
    pub(super) fn sanction(&mut self, record: &SanctionRecord) {
        for shard in 0..self.states.len() {
            assert_eq!(self.states[shard].sanction(record.clone()), Ok(()));
            self.poll_all();
        }
        self.pump();
    }
}
