//! Who is in a room: users, not connections, and what of their coming and going has yet to be told.
//!
//! Invariants: a user is here once however many connections it has; `seniority` and `graced` name exactly the users
//! that are here, and those of them whose last connection is gone. Changes that undo each other between two pushes
//! leave nothing to tell.
//!
//! Absent: timers and shards. The room's owner asks when a push or the end of a grace is due.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::ids::{RoomName, UserName};
use crate::limits::{PRESENCE_CHANGES_MAX, PRESENCE_NAMES_MEMBERS_MAX, PRESENCE_PUSH_INTERVAL_MS};
use crate::message::event::{Presence, PresentUser};

/// The users of one room.
#[derive(Debug, Default)]
pub(super) struct People {
    users: BTreeMap<UserName, Person>,
    /// Users by when they came. The first one is the host.
    seniority: BTreeMap<u64, UserName>,
    /// Users without a connection, by when they are given up.
    graced: BTreeMap<(u64, u64), UserName>,
    arrivals: u64,
    /// Members that want presence pushed.
    listeners: u32,
    /// Users whose state differs from what was last told, or was shown differently by a page since.
    changes: BTreeMap<UserName, Change>,
    /// There were too many changes to name them.
    changes_lost: bool,
    told_count: u64,
    last_push_ms: Option<u64>,
    /// Whether the wheel holds the next push, and the next end of a grace.
    pub(super) push_armed: bool,
    pub(super) grace_armed: bool,
}

#[derive(Debug)]
struct Person {
    since_unix_ms: u64,
    arrival: u64,
    connections: u32,
    /// When the user is given up; none while it has a connection.
    grace_until_ms: Option<u64>,
}

/// What has yet to be told of a user.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// It was last told that the user is here.
    was_here: bool,
    /// A page has shown the change: whoever read it must be told of what comes after, even when the change is undone.
    paged: bool,
}

impl People {
    /// A connection of `user` has come.
    pub(super) fn enter(&mut self, user: &UserName, unix_ms: u64) {
        if let Some(person) = self.users.get_mut(user) {
            person.connections += 1;
            if let Some(deadline) = person.grace_until_ms.take() {
                self.graced.remove(&(deadline, person.arrival));
            }
            return;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        let person = Person { since_unix_ms: unix_ms, arrival, connections: 1, grace_until_ms: None };
        self.users.insert(user.clone(), person);
        self.seniority.insert(arrival, user.clone());
        self.note_change(user, false);
    }

    /// Whether a user is here with a connection, and not in grace.
    pub(super) fn is_connected(&self, user: &UserName) -> bool {
        self.users.get(user).is_some_and(|person| person.connections > 0)
    }

    /// A connection of `user` has gone. If it was the last one, the user stays until `grace_until_ms`, or goes at
    /// once when there is none.
    pub(super) fn exit(&mut self, user: &UserName, grace_until_ms: Option<u64>) {
        let Some(person) = self.users.get_mut(user) else {
            debug_assert!(false, "a member's user is present");
            return;
        };
        person.connections -= 1;
        if person.connections > 0 {
            return;
        }
        match grace_until_ms {
            Some(deadline) => {
                person.grace_until_ms = Some(deadline);
                self.graced.insert((deadline, person.arrival), user.clone());
            }
            None => self.remove(user),
        }
    }

    /// Gives up the users whose grace has ended.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some(entry) = self.graced.first_entry() {
            if entry.key().0 > now_ms {
                return;
            }
            let user = entry.remove();
            self.remove(&user);
        }
    }

    /// When the next grace ends, in monotonic milliseconds.
    pub(super) fn grace_deadline_ms(&self) -> Option<u64> {
        self.graced.first_key_value().map(|(key, _)| key.0)
    }

    pub(super) fn count(&self) -> u64 {
        self.users.len() as u64
    }

    /// Whether `user` is here, be it in grace.
    pub(super) fn is_here(&self, user: &UserName) -> bool {
        self.users.contains_key(user)
    }

    /// Whether `user` is the one who has been here longest.
    pub(super) fn is_senior(&self, user: &UserName) -> bool {
        self.seniority.first_key_value().is_some_and(|(_, senior)| senior == user)
    }

    /// Users after `after` in the order of their names, and whether there are more.
    pub(super) fn page(&mut self, after: Option<&UserName>, limit: usize) -> (Vec<PresentUser>, bool) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut users = self.users.range::<UserName, _>((start, Bound::Unbounded));
        let present =
            |(user, person): (&UserName, &Person)| PresentUser { user: user.clone(), since: person.since_unix_ms };
        let page = users.by_ref().take(limit).map(present).collect();
        let more = users.next().is_some();
        self.changes.values_mut().for_each(|change| change.paged = true);
        (page, more)
    }

    /// One more or one fewer member wants presence pushed. Changes are recorded only while there is one.
    pub(super) fn listen(&mut self, listens: bool) {
        if listens {
            if self.listeners == 0 {
                self.told_count = self.count();
            }
            self.listeners += 1;
            return;
        }
        self.listeners -= 1;
        if self.listeners == 0 {
            self.forget_changes();
        }
    }

    /// When the next push is due, if there is anything to tell. `phase` spreads rooms over the interval.
    pub(super) fn push_deadline_ms(&self, now_ms: u64, phase: u64) -> Option<u64> {
        if self.listeners == 0 || !self.has_news() {
            return None;
        }
        let interval = PRESENCE_PUSH_INTERVAL_MS.max(self.count() * 1_000 / MEMBERS_PER_SECOND);
        let offset = phase % interval;
        let next = now_ms + interval - (now_ms + interval - offset) % interval;
        Some(self.last_push_ms.map_or(next, |last| next.max(last + interval)))
    }

    /// What has changed since the last push; nothing when it came to nothing.
    pub(super) fn take_push(&mut self, room: &RoomName, now_ms: u64) -> Option<Presence> {
        if self.listeners == 0 || !self.has_news() {
            return None;
        }
        let mut push = Presence { room: room.clone(), joined: Vec::new(), left: Vec::new(), count: self.count() };
        if !self.changes_lost {
            for user in std::mem::take(&mut self.changes).into_keys() {
                if self.users.contains_key(&user) { push.joined.push(user) } else { push.left.push(user) }
            }
        }
        self.forget_changes();
        self.told_count = push.count;
        self.last_push_ms = Some(now_ms);
        Some(push)
    }

    /// Whether nobody is here, not even in grace.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    fn remove(&mut self, user: &UserName) {
        if let Some(person) = self.users.remove(user) {
            self.seniority.remove(&person.arrival);
            self.note_change(user, true);
        }
    }

    fn note_change(&mut self, user: &UserName, was_here: bool) {
        if self.listeners == 0 || self.changes_lost {
            return;
        }
        match self.changes.get(user) {
            None => _ = self.changes.insert(user.clone(), Change { was_here, paged: false }),
            Some(change) if change.paged => {}
            Some(_) => _ = self.changes.remove(user),
        }
        if self.users.len() > PRESENCE_NAMES_MEMBERS_MAX || self.changes.len() > PRESENCE_CHANGES_MAX {
            self.changes = BTreeMap::new();
            self.changes_lost = true;
        }
    }

    fn has_news(&self) -> bool {
        // In a room that is large only the count is told; in one that has become small it says that there is more.
        let small = self.users.len() <= PRESENCE_NAMES_MEMBERS_MAX;
        !self.changes.is_empty() || (self.changes_lost && (small || self.told_count != self.count()))
    }

    fn forget_changes(&mut self) {
        self.changes = BTreeMap::new();
        self.changes_lost = false;
    }

    /// Panics unless the invariants hold. `connections` counts the members of the room, `listeners` those that want
    /// presence.
    pub(super) fn check(&self, connections: u32, listeners: u32) {
        assert_eq!(self.users.values().map(|p| p.connections).sum::<u32>(), connections, "users have connections");
        assert_eq!(self.listeners, listeners, "listeners are counted");
        assert_eq!(self.seniority.len(), self.users.len());
        assert_eq!(self.graced.len(), self.users.values().filter(|p| p.connections == 0).count());
        for (user, person) in &self.users {
            assert_eq!(self.seniority.get(&person.arrival), Some(user));
            assert_eq!(
                person.grace_until_ms.is_some(),
                person.connections == 0,
                "grace is for those without connection"
            );
            if let Some(deadline) = person.grace_until_ms {
                assert_eq!(self.graced.get(&(deadline, person.arrival)), Some(user));
            }
        }
        let differs = |(user, change): (&UserName, &Change)| self.users.contains_key(user) != change.was_here;
        assert!(self.changes.iter().all(|entry| entry.1.paged || differs(entry)), "what was undone is forgotten");
        assert!(self.listeners > 0 || self.changes.is_empty());
        assert!(self.graced.is_empty() || self.grace_armed, "someone waits for the end of the grace");
    }
}

/// Pushes to a large room are so rare that this many members get one per second.
const MEMBERS_PER_SECOND: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Namespace;

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    fn room() -> RoomName {
        RoomName::new(Namespace::Chat, "lobby").unwrap()
    }

    fn names(users: &[UserName]) -> Vec<&str> {
        users.iter().map(UserName::as_str).collect()
    }

    /// A room with a listener called `ann`.
    fn watched() -> People {
        let mut people = People::default();
        people.enter(&user("ann"), 1);
        people.listen(true);
        people
    }

    #[test]
    fn a_user_counts_once_however_many_connections() {
        let mut people = watched();
        people.enter(&user("bob"), 5);
        people.enter(&user("bob"), 9);
        assert_eq!(people.count(), 2);
        people.exit(&user("bob"), None);
        assert_eq!(people.count(), 2);
        people.check(2, 1);
        people.exit(&user("bob"), None);
        assert_eq!(people.count(), 1);
        people.check(1, 1);
    }

    #[test]
    fn changes_that_undo_each_other_are_not_told() {
        let mut people = watched();
        people.enter(&user("bob"), 1);
        people.exit(&user("bob"), None);
        assert_eq!(people.push_deadline_ms(0, 0), None);
        assert_eq!(people.take_push(&room(), 0), None);
        people.enter(&user("bob"), 1);
        assert_eq!(names(&people.take_push(&room(), 0).unwrap().joined), ["bob"]);
        people.exit(&user("bob"), None);
        people.enter(&user("bob"), 2);
        assert_eq!(people.take_push(&room(), 0), None);
    }

    #[test]
    fn changes_that_a_page_has_shown_are_told_even_when_undone() {
        let mut people = watched();
        people.enter(&user("bob"), 1);
        people.page(None, 10);
        people.exit(&user("bob"), None);
        people.check(1, 1);
        assert_eq!(names(&people.take_push(&room(), 0).unwrap().left), ["bob"]);
        people.exit(&user("ann"), None);
        people.page(None, 10);
        people.enter(&user("ann"), 2);
        assert_eq!(names(&people.take_push(&room(), 0).unwrap().joined), ["ann"]);
        assert_eq!(people.take_push(&room(), 0), None);
    }

    #[test]
    fn a_push_names_who_came_and_went_and_counts() {
        let mut people = watched();
        people.enter(&user("bob"), 1);
        people.take_push(&room(), 0);
        people.enter(&user("cat"), 1);
        people.exit(&user("bob"), None);
        let push = people.take_push(&room(), 0).unwrap();
        assert_eq!((names(&push.joined), names(&push.left), push.count), (vec!["cat"], vec!["bob"], 2));
    }

    #[test]
    fn grace_hides_a_reconnect_and_then_ends() {
        let mut people = watched();
        people.enter(&user("bob"), 1);
        people.take_push(&room(), 0);
        people.exit(&user("bob"), Some(5_000));
        assert_eq!((people.count(), people.grace_deadline_ms()), (2, Some(5_000)));
        people.expire(4_999);
        people.enter(&user("bob"), 2);
        assert_eq!((people.grace_deadline_ms(), people.take_push(&room(), 0)), (None, None));
        people.expire(6_000);
        assert_eq!(people.count(), 2);
        people.exit(&user("bob"), Some(9_000));
        people.expire(9_000);
        assert_eq!(names(&people.take_push(&room(), 0).unwrap().left), ["bob"]);
    }

    #[test]
    fn the_longest_standing_user_is_the_host() {
        let mut people = People::default();
        for name in ["cat", "ann", "bob"] {
            people.enter(&user(name), 1);
        }
        assert!(people.is_senior(&user("cat")));
        assert!(!people.is_senior(&user("ann")));
        people.exit(&user("cat"), Some(10));
        assert!(people.is_senior(&user("cat")), "a host keeps the room while it may come back");
        people.expire(10);
        assert!(people.is_senior(&user("ann")));
        people.enter(&user("cat"), 1);
        people.exit(&user("ann"), None);
        assert!(people.is_senior(&user("bob")), "who comes back is the last in line");
    }

    #[test]
    fn pages_run_in_the_order_of_names() {
        let mut people = People::default();
        for name in ["dan", "ann", "cat", "bob"] {
            people.enter(&user(name), 7);
        }
        let (page, more) = people.page(None, 3);
        assert_eq!(
            page.iter().map(|p| (p.user.as_str(), p.since)).collect::<Vec<_>>(),
            [("ann", 7), ("bob", 7), ("cat", 7)]
        );
        assert!(more);
        let (page, more) = people.page(Some(&user("cat")), 3);
        assert_eq!((page.len(), page[0].user.as_str(), more), (1, "dan", false));
        assert_eq!(people.page(Some(&user("zoe")), 3), (Vec::new(), false));
    }

    #[test]
    fn pushes_keep_to_the_phase_and_the_interval() {
        let mut people = watched();
        people.enter(&user("bob"), 1);
        for now in [0, 249, 250, 251, 999, 12_345] {
            let due = people.push_deadline_ms(now, 7_250).unwrap();
            assert!(due > now && due <= now + 1_000 && due % 1_000 == 250, "now {now}, due {due}");
        }
        people.take_push(&room(), 1_300);
        people.enter(&user("cat"), 1);
        assert_eq!(people.push_deadline_ms(1_400, 250), Some(2_300), "a late push delays the next");
    }

    #[test]
    fn large_rooms_get_counts_and_get_them_less_often() {
        let mut people = watched();
        for n in 0..10_000 {
            people.enter(&user(&format!("user-{n}")), 1);
        }
        let due = people.push_deadline_ms(0, 123).unwrap();
        assert!(due > 1_000 || due % 2_000 == 123, "{due}");
        let push = people.take_push(&room(), due).unwrap();
        assert_eq!((push.joined.len(), push.left.len(), push.count), (0, 0, 10_001));
        assert!(people.push_deadline_ms(due, 123).is_none());
        people.enter(&user("zoe"), 1);
        assert_eq!(people.push_deadline_ms(due, 123), Some(due + 2_000));
        people.exit(&user("zoe"), None);
        assert_eq!(people.push_deadline_ms(due, 123), None, "the same count is no news");
    }

    #[test]
    fn a_room_that_has_become_small_names_its_users_again() {
        let mut people = watched();
        let names_of = |n: usize| user(&format!("user-{n}"));
        for n in 0..PRESENCE_NAMES_MEMBERS_MAX {
            people.enter(&names_of(n), 1);
        }
        people.take_push(&room(), 0).unwrap();
        people.exit(&names_of(0), None);
        people.enter(&names_of(0), 2);
        assert!(people.take_push(&room(), 0).is_none());
        people.exit(&names_of(0), None);
        let push = people.take_push(&room(), 0).unwrap();
        assert_eq!((push.left.len(), push.count), (0, PRESENCE_NAMES_MEMBERS_MAX as u64), "it was large in between");
        people.exit(&names_of(1), None);
        people.enter(&user("zoe"), 1);
        let push = people.take_push(&room(), 0).unwrap();
        assert_eq!((names(&push.joined), names(&push.left)), (vec!["zoe"], vec!["user-1"]));
    }
}
