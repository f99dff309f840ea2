//! The door: where a connection comes from, whether a proxy brings it, and whether there is a place for it.
//!
//! A peer is counted under the best address that is known of it. That is its own, unless it is a trusted proxy: then
//! the one in its PROXY header, and if that is a trusted proxy too, the one in the request's header. A trusted proxy that
//! names nobody counts itself. The kernel is asked for addresses only while something depends on them.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::HashMap;

use super::accept::refusal;
use super::connection::{Connection, Transport};
use super::hub::{Alarm, Hub, Port};
use super::quota::{Place, Quotas};
use crate::chat::ConnKind;
use crate::codec::forwarded;
use crate::codec::http::Request;
use crate::codec::lines;
use crate::codec::proxy::{self, Origin, PROXY_HEADER_BYTES_MAX};
use crate::config::GateConfig;
use crate::ids::{ConnId, UserName};
use crate::message::close::CloseReason;
use crate::telemetry::metrics::RefusedReason;

/// A shard's door. Counts are shared with the others.
#[derive(Debug)]
pub(super) struct Gate {
    quotas: Arc<Quotas>,
    rules: Arc<GateConfig>,
    /// Someone other than the rules wants to know addresses.
    names_peers: bool,
    /// Connections whose address is known.
    peers: HashMap<ConnId, Peer>,
    /// Connections that are counted for their user.
    users: HashMap<ConnId, UserName>,
}

/// Where a connection comes from, as far as is known.
#[derive(Debug)]
pub(super) struct Peer {
    address: IpAddr,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    /// A trusted proxy that has yet to say whose connection it is.
    Unnamed,
    /// It is in, and counted where a limit wants it.
    Inside(Option<Place>),
}

/// How an accepted connection goes on.
#[derive(Debug)]
pub(super) struct Arrival {
    peer: Option<Peer>,
    /// It begins with a PROXY header.
    pub(super) has_proxy_header: bool,
}

impl Gate {
    /// A door with these rules. `names_peers`: addresses are wanted whatever the rules are.
    pub(super) fn new(quotas: Arc<Quotas>, rules: Arc<GateConfig>, names_peers: bool) -> Self {
        Self { quotas, rules, names_peers, peers: HashMap::default(), users: HashMap::default() }
    }

    /// Goes on with other rules. Who is inside stays, and who came in uncounted stays so.
    pub(super) fn set(&mut self, rules: Arc<GateConfig>) {
        self.rules = rules;
    }

    /// Whether [`Gate::arrive`] wants to know a peer's address.
    pub(super) fn needs_addresses(&self) -> bool {
        self.names_peers || self.rules.needs_addresses()
    }

    /// The address of a connection's client, where it is known.
    pub(super) fn address(&self, id: ConnId) -> Option<IpAddr> {
        self.peers.get(&id).map(|peer| peer.address)
    }

    /// A peer has connected.
    pub(super) fn arrive(&self, address: Option<IpAddr>, now_us: u64) -> Result<Arrival, RefusedReason> {
        let is_proxy = address.is_some_and(|address| self.rules.trusts(address));
        if self.rules.proxy_protocol && !is_proxy {
            return Err(RefusedReason::NotAProxy);
        }
        let standing = if is_proxy {
            Standing::Unnamed
        } else {
            Standing::Inside(self.quotas.enter(address, &self.rules, now_us)?)
        };
        let peer = address.map(|address| Peer { address, standing });
        Ok(Arrival { peer, has_proxy_header: self.rules.proxy_protocol })
    }

    /// An arrival has become a connection.
    pub(super) fn keep(&mut self, id: ConnId, arrival: Arrival) {
        if let Some(peer) = arrival.peer {
            self.peers.insert(id, peer);
        }
    }

    /// A connection is gone.
    pub(super) fn released(&mut self, id: ConnId) {
        if let Some(Peer { standing: Standing::Inside(Some(place)), .. }) = self.peers.remove(&id) {
            self.quotas.leave(place);
        }
        self.leave_user(id);
    }

    /// What a PROXY header says. `is_all`: nothing later names the client.
    fn name(&mut self, id: ConnId, origin: Origin, is_all: bool, now_us: u64) -> Result<(), RefusedReason> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if let Origin::Client(address) = origin {
            peer.address = address;
        }
        let client = peer.address;
        if is_all || !self.rules.trusts(client) { self.admit(id, client, now_us) } else { Ok(()) }
    }

    /// A request is to be answered. Whose it is, a trusted proxy says in a header.
    pub(super) fn admit_request(
        &mut self,
        id: ConnId,
        request: &Request<'_>,
        now_us: u64,
    ) -> Result<(), RefusedReason> {
        let Some(Peer { address, standing: Standing::Unnamed }) = self.peers.get(&id) else { return Ok(()) };
        let client =
            forwarded::client(request, self.rules.proxy_header, *address, |address| self.rules.trusts(address));
        self.admit(id, client, now_us)
    }

    fn admit(&mut self, id: ConnId, address: IpAddr, now_us: u64) -> Result<(), RefusedReason> {
        // Before it may be refused: it is the client that is refused, and not its proxy.
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.address = address;
        }
        let place = self.quotas.enter(Some(address), &self.rules, now_us)?;
        self.peers.insert(id, Peer { address, standing: Standing::Inside(place) });
        Ok(())
    }

    /// Counts a connection for its user, once, and for nobody else any more. Gives the limit if it is reached.
    /// `replaces`: it comes for another connection, which may be dead without anyone having noticed, so it has one
    /// place more.
    fn enter_user(&mut self, id: ConnId, user: &UserName, replaces: bool) -> Result<(), u32> {
        if self.users.get(&id).is_some_and(|known| known == user) {
            return Ok(());
        }
        self.leave_user(id);
        let Some(most) = self.rules.connections_per_user else { return Ok(()) };
        let most = most.saturating_add(replaces.into());
        if !self.quotas.enter_user(user, most) {
            return Err(most);
        }
        self.users.insert(id, user.clone());
        Ok(())
    }

    /// A connection does not count for its user any more: it is ending.
    pub(super) fn leave_user(&mut self, id: ConnId) {
        if let Some(user) = self.users.remove(&id) {
            self.quotas.leave_user(&user);
        }
    }
}

impl Hub {
    /// Counts a connection for its user, until its end begins. `replaces`: it goes on with a session. The text of a refusal is for the client, with the code
    /// `overloaded`; the connection is then closed with [`CloseReason::TooManyConnections`].
    pub(super) fn enter_user(&mut self, id: ConnId, user: &UserName, replaces: bool) -> Result<(), String> {
        self.gate.enter_user(id, user, replaces).map_err(|most| {
            self.metrics.refused(RefusedReason::ConnectionsPerUser);
            let connections = if most == 1 { "1 connection".into() } else { format!("{most} connections") };
            format!("this user has {connections}: close one first")
        })
    }

    /// A connection begins with a PROXY header.
    pub(super) fn await_proxy_header(&mut self, id: ConnId, port: Port) {
        self.insert(Connection::new(id, Transport::Proxied { port, header: Vec::new() }, self.now));
        self.set_alarm(id, Alarm::Handshake, self.limits.handshake_timeout.as_millis() as u64);
    }

    /// Reads the PROXY header, or goes on reading it.
    pub(super) fn read_proxy_header(&mut self, id: ConnId, input: &mut [u8]) {
        let Some(Connection { transport: Transport::Proxied { port, header }, .. }) = self.connections.get(id) else {
            return;
        };
        let port = *port;
        let before = header.len();
        let taken = input.len().min(PROXY_HEADER_BYTES_MAX - before);
        header.extend_from_slice(&input[..taken]);
        match proxy::parse(header) {
            Ok(None) => {}
            Ok(Some((origin, len))) => {
                let is_all = port == Port::Lines;
                match self.gate.name(id, origin, is_all, self.now.us) {
                    Ok(()) => self.begin(id, port, &mut input[len - before..]),
                    Err(reason) => self.turn_away(id, port, reason),
                }
            }
            Err(_) => self.turn_away(id, port, RefusedReason::ProxyHeader),
        }
    }

    /// The PROXY header is read: what follows is the client's.
    fn begin(&mut self, id: ConnId, port: Port, rest: &mut [u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.transport = match port {
            Port::Http => Transport::Http { head: Vec::new() },
            Port::Lines => Transport::ChatTcp(lines::Decoder::new()),
        };
        if self.tls.is_some() {
            self.await_handshake(id, port);
            return self.received_tls(id, rest);
        }
        if port == Port::Lines {
            self.enter_core(id, ConnKind::Chat { connect: None, ping_as_event: true });
        }
        if !rest.is_empty() {
            self.read(id, rest);
        }
    }

    /// Refuses a connection of which something was read.
    pub(super) fn turn_away(&mut self, id: ConnId, port: Port, reason: RefusedReason) {
        self.refused(reason, self.gate.address(id));
        self.respond(id, refusal(reason, port).to_vec());
        self.end(id, CloseReason::Normal);
        self.pump();
    }

    /// Counts a refused connection, and logs some of them.
    pub(super) fn refused(&mut self, reason: RefusedReason, address: Option<IpAddr>) {
        self.metrics.refused(reason);
        let Some(suppressed) = self.throttle.admit(reason.label(), self.now) else { return };
        let peer = address.map(tracing::field::display);
        tracing::info!(reason = reason.label(), peer, suppressed, "connection refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(rules: GateConfig) -> Gate {
        Gate::new(Arc::new(Quotas::new()), Arc::new(rules), false)
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 1 }
    }

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    #[test]
    fn who_is_refused_behind_a_proxy_is_named() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let mut gate = gate(GateConfig {
            connections_per_ip: Some(1),
            trusted_proxies: vec!["10.0.0.1".parse().unwrap()],
            ..GateConfig::default()
        });
        for (id, outcome) in [(conn(1), Ok(())), (conn(2), Err(RefusedReason::ConnectionsPerIp))] {
            let arrival = gate.arrive(Some(proxy), 0).unwrap();
            gate.keep(id, arrival);
            assert_eq!(gate.address(id), Some(proxy));
            assert_eq!(gate.admit(id, client, 0), outcome);
            assert_eq!(gate.address(id), Some(client));
            // A refused one has no place to give back.
            if outcome.is_err() {
                gate.released(id);
            }
        }
        let arrival = gate.arrive(Some(proxy), 0).unwrap();
        gate.keep(conn(3), arrival);
        assert_eq!(gate.admit(conn(3), client, 0), Err(RefusedReason::ConnectionsPerIp));
    }

    #[test]
    fn a_connection_counts_for_one_user_at_a_time() {
        let mut gate = gate(GateConfig { connections_per_user: Some(1), ..GateConfig::default() });
        let (ann, bob) = (user("ann"), user("bob"));
        assert_eq!(gate.enter_user(conn(1), &ann, false), Ok(()));
        assert_eq!(gate.enter_user(conn(1), &ann, false), Ok(()), "once");
        assert_eq!(gate.enter_user(conn(2), &ann, false), Err(1));
        // It was not let in as ann, and comes again as bob.
        assert_eq!(gate.enter_user(conn(1), &bob, false), Ok(()));
        assert_eq!(gate.enter_user(conn(2), &ann, false), Ok(()), "ann's place is free");
        assert_eq!(gate.enter_user(conn(3), &bob, false), Err(1), "bob's is not");
        assert_eq!(gate.enter_user(conn(1), &ann, false), Err(1));
        assert_eq!(gate.enter_user(conn(3), &bob, false), Ok(()), "and whoever is refused counts for nobody");
    }
    #[test]
    fn who_comes_to_replace_a_connection_has_one_place_more() {
        let mut gate = gate(GateConfig { connections_per_user: Some(2), ..GateConfig::default() });
        let ann = user("ann");
        assert_eq!([1, 2].map(|slot| gate.enter_user(conn(slot), &ann, false)), [Ok(()); 2]);
        assert_eq!(gate.enter_user(conn(3), &ann, false), Err(2));
        assert_eq!(gate.enter_user(conn(3), &ann, true), Ok(()));
        assert_eq!(gate.enter_user(conn(4), &ann, true), Err(3), "one, and not one for each");
        gate.leave_user(conn(1));
        assert_eq!(gate.enter_user(conn(4), &ann, false), Err(2));
        assert_eq!(gate.enter_user(conn(4), &ann, true), Ok(()));
    }
}
