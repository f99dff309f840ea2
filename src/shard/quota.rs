//! How many connections an address and a user have, and how fast they come: counted over all shards.
//!
//! This is the one thing that shards share under locks. A count that is split over shards could not be exact, and an owner
//! shard to ask would make each connection wait for another. Locks are striped, held for a few look-ups, and touched only
//! where a connection comes or goes, and only while a limit is set.
//!
//! Invariants: an address or a user stands in a count exactly while it is above zero. Rates are kept as the
//! moment at which all that was taken is paid back ("theoretical arrival time" of the generic cell rate algorithm, ITU-T
//! I.371): one number, and as good as forgotten once it has passed. So the rates of each stripe are two maps, the older of
//! which is dropped as a whole.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::{HashMap, RandomState};

use crate::config::{GateConfig, prefix_of};
use crate::ids::UserName;
use crate::telemetry::metrics::RefusedReason;

/// All counts of the server.
#[derive(Debug)]
pub(super) struct Quotas {
    hasher: RandomState,
    /// Up to when connects of the whole server are paid for.
    connects: AtomicU64,
    addresses: [Lock<Addresses>; STRIPES],
    users: [Lock<HashMap<UserName, u32>>; STRIPES],
}

/// The addresses of one stripe.
#[derive(Debug, Default)]
struct Addresses {
    open: HashMap<IpAddr, u32>,
    /// Up to when connects are paid for.
    recent: HashMap<IpAddr, u64>,
    /// The same, of addresses that have not come since `turned_ns`.
    older: HashMap<IpAddr, u64>,
    turned_ns: u64,
}

#[expect(clippy::disallowed_types, reason = "counts of all shards; see the head of this file")]
type Lock<T> = std::sync::Mutex<T>;

impl Quotas {
    /// Nobody is connected.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            connects: AtomicU64::new(0),
            addresses: std::array::from_fn(|_| Lock::default()),
            users: std::array::from_fn(|_| Lock::default()),
        }
    }

    /// Lets a connection from `address` in, or says which limit it is beyond. What is given must be handed to
    /// [`Quotas::leave`] when the connection is gone.
    pub(super) fn enter(
        &self,
        address: Option<IpAddr>,
        rules: &GateConfig,
        now_us: u64,
    ) -> Result<Option<Place>, RefusedReason> {
        let now_ns = now_us.saturating_mul(1_000);
        let counts_addresses = rules.connections_per_ip.is_some() || rules.connects_per_second_per_ip.is_some();
        let Some(address) = address.filter(|_| counts_addresses) else {
            return self.take_connect(rules, now_ns).map(|()| None);
        };
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(_) => prefix_of(address, rules.ipv6_prefix),
        };
        let mut stripe = lock(&self.addresses[self.stripe(&address)]);
        let open = stripe.open.get(&address).copied().unwrap_or(0);
        if rules.connections_per_ip.is_some_and(|most| open >= most) {
            return Err(RefusedReason::ConnectionsPerIp);
        }
        // Its own limit first: one address that floods does not use up what is there for everyone.
        if let Some(rate) = rules.connects_per_second_per_ip {
            let paid = stripe.paid_until(&address);
            let paid = take(paid, rate, now_ns).ok_or(RefusedReason::ConnectsPerSecondPerIp)?;
            self.take_connect(rules, now_ns)?;
            stripe.remember(address, paid, now_ns);
        } else {
            self.take_connect(rules, now_ns)?;
        }
        if rules.connections_per_ip.is_none() {
            return Ok(None);
        }
        stripe.open.insert(address, open + 1);
        Ok(Some(Place(address)))
    }

    /// A connection is gone.
    pub(super) fn leave(&self, place: Place) {
        let Place(address) = place;
        leave(&mut lock(&self.addresses[self.stripe(&address)]).open, &address);
    }

    /// Counts a connection of a user in. False if the user has as many as `most` already.
    pub(super) fn enter_user(&self, user: &UserName, most: u32) -> bool {
        let mut users = lock(&self.users[self.stripe(user)]);
        let open = users.get(user).copied().unwrap_or(0);
        if open >= most {
            return false;
        }
        users.insert(user.clone(), open + 1);
        true
    }

    /// A connection of a user is gone that was counted in.
    pub(super) fn leave_user(&self, user: &UserName) {
        leave(&mut lock(&self.users[self.stripe(user)]), user);
    }

    fn take_connect(&self, rules: &GateConfig, now_ns: u64) -> Result<(), RefusedReason> {
        let Some(rate) = rules.connects_per_second else { return Ok(()) };
        self.connects
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| take(paid, rate, now_ns))
            .map(|_| ())
            .map_err(|_| RefusedReason::ConnectsPerSecond)
    }

    fn stripe(&self, key: &impl std::hash::Hash) -> usize {
        self.hasher.hash_one(key) as usize % STRIPES
    }
}

/// A place in an address's count.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it is counted until it is handed back"]
pub(super) struct Place(IpAddr);

impl Addresses {
    fn paid_until(&self, address: &IpAddr) -> u64 {
        self.recent.get(address).or_else(|| self.older.get(address)).copied().unwrap_or(0)
    }

    fn remember(&mut self, address: IpAddr, paid_ns: u64, now_ns: u64) {
        // Nothing is paid further ahead than a second, so by the second turn all has passed that is dropped; but for what
        // goes early, because more addresses come than are kept.
        let is_full = self.recent.len() >= RECENT_MAX && !self.recent.contains_key(&address);
        if is_full || now_ns.saturating_sub(self.turned_ns) >= SECOND_NS {
            self.older = std::mem::take(&mut self.recent);
            self.turned_ns = now_ns;
        }
        self.recent.insert(address, paid_ns);
    }
}

/// Takes one of `rate` per second, of which so many may be taken at once: up to when all is then paid for. `None` if that
/// is too far ahead.
fn take(paid_ns: u64, rate: u32, now_ns: u64) -> Option<u64> {
    let each = SECOND_NS / u64::from(rate.max(1));
    let paid = paid_ns.max(now_ns) + each;
    (paid <= now_ns + SECOND_NS).then_some(paid)
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    match counts.get_mut(key) {
        Some(open) if *open > 1 => *open -= 1,
        Some(_) => {
            counts.remove(key);
        }
        None => debug_assert!(false, "who leaves was counted"),
    }
}

/// A shard that panics aborts the process, so what it held is never seen half done.
fn lock<T>(lock: &Lock<T>) -> impl std::ops::DerefMut<Target = T> {
    lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const STRIPES: usize = 16;
/// Addresses of one stripe whose rate is remembered, in each of two generations.
const RECENT_MAX: usize = 4_096;
const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn rules() -> GateConfig {
        GateConfig::default()
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let quotas = Quotas::new();
        let rules = GateConfig { connections_per_ip: Some(2), ..rules() };
        let first = quotas.enter(ip("192.0.2.1"), &rules, 0).unwrap().unwrap();
        let second = quotas.enter(ip("192.0.2.1"), &rules, 0).unwrap().unwrap();
        assert_eq!(quotas.enter(ip("192.0.2.1"), &rules, 0), Err(RefusedReason::ConnectionsPerIp));
        let other = quotas.enter(ip("192.0.2.2"), &rules, 0).unwrap().unwrap();
        quotas.leave(first);
        let third = quotas.enter(ip("192.0.2.1"), &rules, 0).unwrap().unwrap();
        for place in [second, third, other] {
            quotas.leave(place);
        }
        assert!(quotas.addresses.iter().all(|stripe| lock(stripe).open.is_empty()), "nothing is left of who has gone");
    }

    #[test]
    fn addresses_of_one_prefix_count_together() {
        let quotas = Quotas::new();
        let rules = GateConfig { connections_per_ip: Some(1), ipv6_prefix: 56, ..rules() };
        let place = quotas.enter(ip("2001:db8:0:1::1"), &rules, 0).unwrap().unwrap();
        assert_eq!(quotas.enter(ip("2001:db8:0:2::9"), &rules, 0), Err(RefusedReason::ConnectionsPerIp));
        assert!(quotas.enter(ip("2001:db8:0:100::1"), &rules, 0).is_ok());
        quotas.leave(place);
        assert!(quotas.enter(ip("2001:db8:0:2::9"), &rules, 0).is_ok());
    }

    #[test]
    fn a_seconds_worth_of_connects_may_come_at_once() {
        let quotas = Quotas::new();
        let rules = GateConfig { connects_per_second: Some(3), ..rules() };
        let enter = |now_us| quotas.enter(None, &rules, now_us).map(|_| ());
        for _ in 0..3 {
            assert_eq!(enter(1_000_000), Ok(()));
        }
        assert_eq!(enter(1_000_000), Err(RefusedReason::ConnectsPerSecond));
        assert_eq!(enter(1_333_332), Err(RefusedReason::ConnectsPerSecond));
        assert_eq!(enter(1_333_334), Ok(()));
        assert_eq!(enter(1_333_334), Err(RefusedReason::ConnectsPerSecond));
        // What was not used is not saved up.
        for _ in 0..3 {
            assert_eq!(enter(60_000_000), Ok(()));
        }
        assert_eq!(enter(60_000_000), Err(RefusedReason::ConnectsPerSecond));
    }

    #[test]
    fn an_address_that_floods_leaves_others_their_share() {
        let quotas = Quotas::new();
        let rules = GateConfig { connects_per_second: Some(10), connects_per_second_per_ip: Some(2), ..rules() };
        let refused = (0..100).filter(|_| quotas.enter(ip("192.0.2.1"), &rules, 0).is_err()).count();
        assert_eq!(refused, 98);
        assert_eq!(quotas.enter(ip("192.0.2.1"), &rules, 0), Err(RefusedReason::ConnectsPerSecondPerIp));
        for other in 2..10 {
            assert_eq!(quotas.enter(ip(&format!("192.0.2.{other}")), &rules, 0), Ok(None));
        }
        assert_eq!(quotas.enter(ip("192.0.2.99"), &rules, 0), Err(RefusedReason::ConnectsPerSecond));
    }

    #[test]
    fn rates_of_many_addresses_are_forgotten_when_they_have_passed() {
        let quotas = Quotas::new();
        let rules = GateConfig { connects_per_second_per_ip: Some(1), ..rules() };
        let most = 2 * STRIPES * RECENT_MAX;
        for n in 0..most as u32 + 50_000 {
            let _ = quotas.enter(Some(IpAddr::V4(n.into())), &rules, 0);
        }
        let kept = || -> usize {
            let stripes = quotas.addresses.iter().map(lock);
            stripes.map(|stripe| stripe.recent.len() + stripe.older.len()).sum()
        };
        assert!(kept() <= most && kept() > most / 4, "{}", kept());
        // The latest is still known; a second later it is welcome again, and two turns later all are gone.
        let last = Some(IpAddr::V4((most as u32 + 49_999).into()));
        assert_eq!(quotas.enter(last, &rules, 999_999), Err(RefusedReason::ConnectsPerSecondPerIp));
        for second in 1..=3 {
            for n in 0..1_000 {
                let _ = quotas.enter(Some(IpAddr::V4(n.into())), &rules, second * 1_000_000);
            }
        }
        assert!(kept() <= 2_000, "{}", kept());
    }

    #[test]
    fn a_limit_that_is_not_set_costs_nothing() {
        let quotas = Quotas::new();
        assert_eq!(quotas.enter(ip("192.0.2.1"), &rules(), 0), Ok(None));
        assert!(quotas.addresses.iter().all(|stripe| lock(stripe).open.is_empty()));
    }

    #[test]
    fn users_are_counted_over_all_their_addresses() {
        let quotas = Quotas::new();
        let [ann, bob] = ["ann", "bob"].map(|name| UserName::new(name).unwrap());
        assert!(quotas.enter_user(&ann, 2) && quotas.enter_user(&ann, 2));
        assert!(!quotas.enter_user(&ann, 2));
        assert!(quotas.enter_user(&bob, 2));
        quotas.leave_user(&ann);
        assert!(quotas.enter_user(&ann, 2));
        for user in [&ann, &ann, &bob] {
            quotas.leave_user(user);
        }
        assert!(quotas.users.iter().all(|stripe| lock(stripe).is_empty()));
    }

    #[test]
    fn counts_are_exact_when_shards_come_and_go_at_once() {
        const MOST: u32 = 7;
        let quotas = Quotas::new();
        let rules = GateConfig { connections_per_ip: Some(MOST), ..rules() };
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Ok(place) = quotas.enter(ip("192.0.2.1"), &rules, 0) {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < u64::from(MOST));
                            inside.fetch_sub(1, Ordering::SeqCst);
                            quotas.leave(place.expect("it is counted"));
                        }
                    }
                });
            }
        });
        assert!(quotas.addresses.iter().all(|stripe| lock(stripe).open.is_empty()));
    }
}
