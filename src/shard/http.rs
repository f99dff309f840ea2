//! What the HTTP port answers: the web client, health, and the upgrades to WebSocket.
//!
//! A response that is not an upgrade ends its connection.

use std::borrow::Cow;

use bytes::Bytes;

use super::connection::{Connection, Transport};
use super::hub::{Hub, Port};
use crate::chat::ConnKind;
use crate::chat::outbox::Kind;
use crate::codec::http::{self, HttpError, Method, Request, Status};
use crate::codec::websocket::handshake::Upgrade;
use crate::codec::websocket::{Decoder, Role};
use crate::ids::{ConnId, Namespace, RoomName};
use crate::message::close::CloseReason;
use crate::message::command::Connect;
use crate::telemetry::metrics::TlsOutcome;
use crate::web;

/// What a request comes to.
enum Answer {
    /// A whole response.
    Response(Vec<u8>),
    /// The chat protocol, and the rooms that the URL names.
    Chat { response: Vec<u8>, connect: Option<Connect<'static>>, rooms: Vec<String> },
    /// A room of the relay.
    Relay { response: Vec<u8>, room: String, token: Option<Box<str>> },
}

impl Hub {
    /// Reads the request's head, or goes on reading it.
    pub(super) fn read_head(&mut self, id: ConnId, input: &[u8]) {
        let Some(Connection { transport: Transport::Http { head }, .. }) = self.connections.get(id) else { return };
        let whole: Cow<'_, [u8]> = if head.is_empty() {
            Cow::Borrowed(input)
        } else {
            head.extend_from_slice(input);
            Cow::Owned(std::mem::take(head))
        };
        match http::parse(&whole) {
            Ok(None) => *head = whole.into_owned(),
            Ok(Some((request, len))) => {
                if let Err(reason) = self.gate.admit_request(id, &request, self.now.us) {
                    return self.turn_away(id, Port::Http, reason);
                }
                let answer = self.route(&request).unwrap_or_else(|error| {
                    let mut response = Vec::new();
                    error.write(request.method == Method::Head, &mut response);
                    Answer::Response(response)
                });
                let mut rest = whole[len..].to_vec();
                self.answer(id, answer, &mut rest);
            }
            Err(error) => {
                let mut response = Vec::new();
                error.write(false, &mut response);
                self.answer(id, Answer::Response(response), &mut []);
            }
        }
    }

    /// The head took too long, or what TLS needs before it.
    pub(super) fn handshake_timeout(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        if !connection.is_before_handshake() {
            return;
        }
        if connection.is_open() && connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.metrics.tls_handshake(TlsOutcome::Timeout);
        }
        self.end(id, CloseReason::HandshakeTimeout);
    }

    fn route(&self, request: &Request<'_>) -> Result<Answer, HttpError> {
        if request.path == "/healthz" {
            return Ok(Answer::Response(plain(request, "ok\n")));
        }
        if self.admission.host_must_be_loopback && !http::is_loopback_host(request.host) {
            return Err(HttpError::new(
                Status::Forbidden,
                "this server is open to everyone on its own machine, so the Host must be localhost or a loopback \
                 address; the operator may allow others with --allow-anonymous",
            ));
        }
        if let Some(room) = request.path.strip_prefix("/relay/") {
            self.check_origin(request)?;
            return relay(request, room);
        }
        if request.path == "/ws" {
            self.check_origin(request)?;
            return chat(request);
        }
        match web::asset(request.path) {
            Some(asset) => Ok(Answer::Response(page(request, asset))),
            None => Err(HttpError::new(Status::NotFound, "nothing is here: try /, /ws or /relay/{room}")),
        }
    }

    /// Pages of other sites may not open connections in a visitor's name (RFC 6455, section 10.2).
    fn check_origin(&self, request: &Request<'_>) -> Result<(), HttpError> {
        let Some(origin) = request.header("Origin") else { return Ok(()) };
        let is_allowed = self.admission.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
        if is_allowed || http::origin_matches_host(origin, request.host) {
            return Ok(());
        }
        Err(HttpError::new(
            Status::Forbidden,
            "this Origin may not connect; the operator may list it in allowed_origins",
        ))
    }

    fn answer(&mut self, id: ConnId, answer: Answer, rest: &mut [u8]) {
        match answer {
            Answer::Response(response) => {
                self.respond(id, response);
                self.end(id, CloseReason::Normal);
                self.pump();
            }
            Answer::Chat { response, connect, rooms } => {
                self.upgrade(id, response, Transport::ChatWs(Decoder::new(Role::Server)));
                self.enter_core(id, ConnKind::Chat { connect, ping_as_event: false });
                if self.join_rooms(id, rooms) {
                    self.read(id, rest);
                } else {
                    self.hold(id, rest);
                }
            }
            Answer::Relay { response, room, token } => {
                self.upgrade(id, response, Transport::Relay(Decoder::new(Role::Server)));
                self.enter_core(id, ConnKind::Relay { room, token });
                self.read(id, rest);
            }
        }
    }

    fn upgrade(&mut self, id: ConnId, response: Vec<u8>, transport: Transport) {
        self.respond(id, response);
        let Some(connection) = self.connections.get(id) else { return };
        self.metrics.connections.of(connection.kind()).sub(1);
        connection.transport = transport;
        self.metrics.connections.of(connection.kind()).add(1);
    }

    pub(super) fn respond(&mut self, id: ConnId, response: Vec<u8>) {
        let Some(connection) = self.connections.get(id) else { return };
        // An empty outbox takes any one frame.
        let _ = connection.push(Bytes::from(response), Kind::Control, &mut self.due, self.outbox_limits, self.now);
    }
}

fn chat(request: &Request<'_>) -> Result<Answer, HttpError> {
    let upgrade = Upgrade::negotiate(request, Some(SUBPROTOCOL))?;
    let mut response = Vec::new();
    upgrade.write(&mut response);
    let mut connect = None;
    let mut rooms = Vec::new();
    if let Some(token) = token(request)? {
        connect.get_or_insert_with(Connect::default).token = Some(token.into());
    }
    for pair in request.query_pairs() {
        let (name, value) = pair?;
        let value = value.into_owned();
        match &*name {
            "name" => connect.get_or_insert_with(Connect::default).name = Some(value.into()),
            "room" => {
                connect.get_or_insert_with(Connect::default);
                rooms.push(value);
            }
            _ => {}
        }
    }
    rooms.reverse();
    Ok(Answer::Chat { response, connect, rooms })
}

/// The token that a request carries: in `Authorization: Bearer` (RFC 6750, section 2.1), in the query, or, for browsers,
/// which can set nothing else, as the subprotocol `hubbub.token.` with the token behind it.
fn token(request: &Request<'_>) -> Result<Option<String>, HttpError> {
    let bad = |text| HttpError::new(Status::BadRequest, text);
    let mut tokens = Vec::new();
    if let Some(authorization) = request.header("Authorization") {
        let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
        if !scheme.eq_ignore_ascii_case("Bearer") {
            return Err(bad("Authorization must be `Bearer` and a token"));
        }
        tokens.push(token.trim().to_owned());
    }
    for protocol in request.tokens("Sec-WebSocket-Protocol") {
        if let Some(token) = protocol.strip_prefix(TOKEN_SUBPROTOCOL) {
            tokens.push(String::from_utf8_lossy(token).into_owned());
        }
    }
    for pair in request.query_pairs() {
        let (name, value) = pair?;
        if name == "token" {
            tokens.push(value.into_owned());
        }
    }
    match tokens.len() {
        0 | 1 => Ok(tokens.pop()),
        _ => Err(bad("the token must be given once: in Authorization, in the query, or as a subprotocol")),
    }
}

fn relay(request: &Request<'_>, segment: &str) -> Result<Answer, HttpError> {
    if segment.contains('/') {
        return Err(HttpError::new(Status::NotFound, "a relay room is one path segment: /relay/{room}"));
    }
    let room = http::decode_segment(segment)?.into_owned();
    if RoomName::new(Namespace::Relay, &room).is_err() {
        return Err(HttpError::new(
            Status::BadRequest,
            "a room's name has 1 to 128 bytes, no control characters, no space at either end and no leading @",
        ));
    }
    let upgrade = Upgrade::negotiate(request, None)?;
    let mut response = Vec::new();
    upgrade.write(&mut response);
    let token = token(request)?.map(Into::into);
    Ok(Answer::Relay { response, room, token })
}

fn page(request: &Request<'_>, asset: &web::Asset) -> Vec<u8> {
    let mut headers = vec![("Content-Type", asset.content_type), ("ETag", asset.etag())];
    headers.extend(web::HEADERS);
    let mut response = Vec::new();
    let is_known = request.values("If-None-Match").any(|known| asset.is_known(known));
    let (status, body) = if is_known { (Status::NotModified, &[][..]) } else { (Status::Ok, asset.body) };
    http::write_response(status, &headers, body, request.method == Method::Head, &mut response);
    response
}

fn plain(request: &Request<'_>, body: &str) -> Vec<u8> {
    let mut response = Vec::new();
    let headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")];
    http::write_response(Status::Ok, &headers, body.as_bytes(), request.method == Method::Head, &mut response);
    response
}

/// The one subprotocol of `/ws`, spoken also with clients that ask for none.
const SUBPROTOCOL: &str = "hubbub.v1.json";
/// A subprotocol that begins like this carries a token and is never agreed on.
const TOKEN_SUBPROTOCOL: &[u8] = b"hubbub.token.";
