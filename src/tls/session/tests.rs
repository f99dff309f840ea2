//! A session against `rustls`'s own client, in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::*;

/// Both sides' configurations, made once.
struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Whom the client trusts.
    roots: RootCertStore,
}

fn sides(version: &'static SupportedProtocolVersion) -> Sides {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    client.resumption = Resumption::in_memory_sessions(8);
    Sides { server: Arc::new(server), client: Arc::new(client), roots }
}

/// A session and its client, with nothing between them.
struct Pair {
    session: TlsSession,
    client: ClientConnection,
    /// What the session decrypted.
    heard: Vec<u8>,
}

impl Pair {
    fn new(sides: &Sides) -> Self {
        let client = ClientConnection::new(sides.client.clone(), "localhost".try_into().unwrap()).unwrap();
        Self { session: TlsSession::new(sides.server.clone()).unwrap(), client, heard: Vec::new() }
    }

    fn shaken(sides: &Sides) -> Self {
        let mut pair = Self::new(sides);
        while pair.session.stage() != Stage::Open {
            pair.turn(usize::MAX).unwrap();
        }
        pair.turn(usize::MAX).unwrap();
        pair
    }

    /// What the client has to send, in pieces, then what the session answers.
    fn turn(&mut self, piece_bytes: usize) -> Result<(), TlsFailure> {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        for piece in wire.chunks_mut(piece_bytes.min(1 << 20)) {
            self.give(piece)?;
        }
        let mut out = Vec::new();
        self.session.take_outgoing(&mut out);
        self.tell(&out);
        Ok(())
    }

    fn give(&mut self, piece: &mut [u8]) -> Result<(), TlsFailure> {
        if self.session.stage() == Stage::Open {
            return self.session.read(piece, &mut self.heard);
        }
        self.session.hold(piece);
        self.session.advance(&mut self.heard)
    }

    /// Gives the client bytes from the session.
    fn tell(&mut self, mut wire: &[u8]) {
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            self.client.process_new_packets().unwrap();
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            // The client's own buffer is bounded.
            let taken = self.client.writer().write(bytes).unwrap();
            bytes = &bytes[taken..];
            self.turn(2_048).unwrap();
        }
    }

    fn said_by_session(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.session.take_outgoing(&mut wire);
        self.session.seal(bytes, &mut wire).unwrap();
        let mut got = Vec::new();
        for piece in wire.chunks(4_096) {
            self.tell(piece);
            let state = self.client.process_new_packets().unwrap();
            let mut part = vec![0; state.plaintext_bytes_to_read()];
            self.client.reader().read_exact(&mut part).unwrap();
            got.extend(part);
        }
        got
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[test]
fn bytes_go_both_ways_in_both_versions() {
    for version in VERSIONS {
        let sides = sides(version);
        let mut pair = Pair::shaken(&sides);
        assert!(!pair.session.was_resumed());
        pair.say(b"hello");
        assert_eq!(pair.heard, b"hello");
        assert_eq!(pair.said_by_session(b"world"), b"world");
        assert_eq!(pair.session.inbox.capacity(), 0, "an idle session owns no buffer");
        assert_eq!(pair.session.outgoing.capacity(), 0);
    }
}

#[test]
fn large_and_many_small_writes_arrive_whole() {
    for version in VERSIONS {
        let mut pair = Pair::shaken(&sides(version));
        let large: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        pair.say(&large);
        assert_eq!(pair.heard, large);
        assert_eq!(pair.said_by_session(&large), large);
        pair.heard.clear();
        for n in 0..1_000_u32 {
            pair.say(&n.to_be_bytes());
            assert_eq!(pair.said_by_session(&n.to_be_bytes()), n.to_be_bytes());
        }
        assert_eq!(pair.heard.len(), 4_000);
    }
}

#[test]
fn a_handshake_in_single_bytes_is_one_all_the_same() {
    for version in VERSIONS {
        let mut pair = Pair::new(&sides(version));
        let mut stages = vec![pair.session.stage()];
        while pair.session.stage() != Stage::Open {
            pair.turn(1).unwrap();
            stages.push(pair.session.stage());
        }
        stages.dedup();
        assert_eq!(stages, [Stage::Hello, Stage::Finishing, Stage::Open]);
    }
}

#[test]
fn a_client_that_is_asked_for_another_key_is_at_its_beginning_still() {
    let mut sides = sides(&TLS13);
    let provider = |groups: &[&'static dyn SupportedKxGroup]| {
        Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() })
    };
    // It begins with a key for a group that the server does not have.
    let mut client = ClientConfig::builder_with_provider(provider(&[kx_group::X25519, kx_group::SECP256R1]))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(sides.roots.clone())
        .with_no_client_auth();
    // It would remember what the server has.
    client.resumption = Resumption::disabled();
    let server = ServerConfig::builder_with_provider(provider(&[kx_group::SECP256R1]))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(sides.server.cert_resolver.clone());
    sides.client = Arc::new(client);
    sides.server = Arc::new(server);
    for piece_bytes in [1, usize::MAX] {
        let mut pair = Pair::new(&sides);
        let mut stages = Vec::new();
        while pair.session.stage() != Stage::Open {
            pair.turn(piece_bytes).unwrap();
            stages.push(pair.session.stage());
        }
        assert_eq!(stages, [Stage::Hello, Stage::Finishing, Stage::Open]);
        pair.say(b"x");
        assert_eq!(pair.heard, b"x");
    }
}

#[test]
fn the_next_handshake_is_a_short_one() {
    for version in VERSIONS {
        let sides = sides(version);
        Pair::shaken(&sides);
        let mut again = Pair::shaken(&sides);
        assert!(again.session.was_resumed());
        again.say(b"x");
        assert_eq!(again.heard, b"x");
    }
}

#[test]
fn goodbyes_are_told_and_heard_and_the_other_half_goes_on() {
    for version in VERSIONS {
        let mut pair = Pair::shaken(&sides(version));
        pair.client.writer().write_all(b"last").unwrap();
        pair.client.send_close_notify();
        pair.turn(7).unwrap();
        assert_eq!(pair.heard, b"last");
        assert!(pair.session.peer_closed());
        assert_eq!(pair.said_by_session(b"answer"), b"answer");
        assert!(pair.session.say_goodbye() && pair.session.has_outgoing());
        let mut wire = Vec::new();
        pair.session.take_outgoing(&mut wire);
        pair.client.read_tls(&mut &wire[..]).unwrap();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        assert!(!pair.session.say_goodbye(), "once");
    }
}

#[test]
fn what_follows_a_goodbye_is_forgotten() {
    for version in VERSIONS {
        let mut pair = Pair::shaken(&sides(version));
        pair.client.send_close_notify();
        let mut wire = Vec::new();
        pair.client.write_tls(&mut wire).unwrap();
        wire.extend([23, 3, 3, 0x40]);
        pair.give(&mut wire).unwrap();
        for _ in 0..10 {
            pair.give(&mut [0; 1_000]).unwrap();
        }
        assert!(pair.session.peer_closed());
        assert_eq!((pair.session.inbox.capacity(), pair.heard.len()), (0, 0));
    }
}

#[test]
fn new_keys_of_the_client_are_followed_and_answered() {
    let mut pair = Pair::shaken(&sides(&TLS13));
    for n in 0..100_u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.say(&[n]);
        assert_eq!(pair.said_by_session(&[n]), [n]);
    }
    assert_eq!(pair.heard, (0..100).collect::<Vec<u8>>());
}

#[test]
fn garbage_fails_with_an_alert_and_nothing_after_it() {
    let sides = sides(&TLS13);
    let mut pair = Pair::new(&sides);
    pair.session.hold(b"\x99nonsense and more of it");
    assert!(matches!(pair.session.advance(&mut pair.heard), Err(TlsFailure::Protocol(_))));
    assert_eq!(pair.session.stage(), Stage::Failed);
    let mut alert = Vec::new();
    pair.session.take_outgoing(&mut alert);
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    assert!(!pair.session.say_goodbye());
    assert!(pair.session.seal(b"x", &mut alert).is_err());
    pair.session.hold(b"more");
    assert_eq!(pair.session.advance(&mut pair.heard), Ok(()));
    assert_eq!(pair.heard, b"");
}

#[test]
fn a_record_that_was_tampered_with_ends_the_session_after_what_came_before() {
    for version in VERSIONS {
        let mut pair = Pair::shaken(&sides(version));
        let mut wire = Vec::new();
        for word in [b"sound", b"wrong"] {
            pair.client.writer().write_all(word).unwrap();
            pair.client.write_tls(&mut wire).unwrap();
        }
        *wire.last_mut().unwrap() ^= 1;
        assert!(pair.give(&mut wire).is_err());
        assert_eq!(pair.heard, b"sound");
        assert_eq!(pair.session.stage(), Stage::Failed);
        assert!(pair.session.has_outgoing(), "an alert");
    }
}

#[test]
fn a_handshake_without_end_is_too_large() {
    let mut pair = Pair::new(&sides(&TLS13));
    // Fragments of one message of 65,000 bytes, in records of 1,000 bytes and sixteen more for good measure.
    let mut failed = None;
    for n in 0..80 {
        let mut record = vec![22, 3, 1, 0x03, 0xe8];
        record.extend(if n == 0 { vec![1, 0, 0xff, 0xff] } else { vec![0; 4] });
        record.extend([0; 996]);
        pair.session.hold(&record);
        if let Err(error) = pair.session.advance(&mut pair.heard) {
            failed = Some((n, error));
            break;
        }
    }
    let (n, _) = failed.expect("it fails in the end");
    assert!(n <= 66, "{n}");
    assert!(pair.session.inbox.capacity() <= 2 * HANDSHAKE_BYTES_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any split of the bytes decrypts as the whole does, new keys and a goodbye among them.
    #[test]
    fn any_split_says_the_same(
        messages in proptest::collection::vec((1..20_000_usize, any::<bool>()), 1..6),
        cuts in proptest::collection::vec(1..3_000_usize, 1..40),
    ) {
        let mut pair = Pair::shaken(&sides(&TLS13));
        pair.client.set_buffer_limit(None);
        let mut said = Vec::new();
        let mut wire = Vec::new();
        for (len, renews) in messages {
            let message: Vec<u8> = (0..len).map(|n| n as u8).collect();
            pair.client.writer().write_all(&message).unwrap();
            said.extend(message);
            if renews {
                pair.client.refresh_traffic_keys().unwrap();
            }
        }
        pair.client.send_close_notify();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &mut wire[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at_mut((*cut).min(rest.len()));
            pair.give(piece).unwrap();
            rest = after;
        }
        prop_assert_eq!(&pair.heard, &said);
        prop_assert!(pair.session.peer_closed());
    }

    /// Whatever comes instead of a handshake, or in its middle, fails or waits: it neither panics nor grows.
    #[test]
    fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..600), version in 0..2_usize, at in 0..400_usize) {
        let mut pair = Pair::new(&sides(VERSIONS[version]));
        let mut wire = Vec::new();
        pair.client.write_tls(&mut wire).unwrap();
        let at = at.min(wire.len());
        wire.splice(at..at, bytes);
        for piece in wire.chunks(100) {
            pair.session.hold(piece);
            if pair.session.advance(&mut pair.heard).is_err() {
                break;
            }
        }
        prop_assert!(pair.heard.is_empty());
        prop_assert!(pair.session.inbox.len() <= wire.len());
    }
}
