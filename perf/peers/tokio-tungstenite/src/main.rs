//! Verbatim relay rooms on tokio and tokio-tungstenite, as fast as we could make them: a benchmark opponent for hubbub.
//!
//! `GET /relay/{room}` upgrades to WebSocket; every text or binary message goes as it came to every connection on that
//! path, the sender included, in one order. One thread, one task per connection that reads, and one task that flushes for
//! all of them once every task that had something to read has run. No heartbeats, no limits but the outbox, no other
//! endpoint.

mod room;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local, unconstrained};
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::room::{Hub, Member};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let address = match std::env::args().nth(1).map_or(Ok(LISTEN_DEFAULT), |text| text.parse()) {
        Ok(address) => address,
        Err(error) => {
            eprintln!("usage: tokio-tungstenite-relay [ADDRESS:PORT] ({error})");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime can be made");
    match LocalSet::new().block_on(&runtime, serve(address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{address}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: SocketAddr) -> std::io::Result<()> {
    let listener = listen(address)?;
    println!("listening on {}", listener.local_addr()?);
    let hub = Rc::new(Hub::new());
    // Tokio would make it pause after 128 writes, each pause costing a task for every member that is left.
    spawn_local(unconstrained(hub.clone().flush_for_all()));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                spawn_local(converse(hub.clone(), stream));
            }
            // Out of descriptors, most likely: the next connection to end frees one.
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES / 2)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// One connection from its request to its end.
async fn converse(hub: Rc<Hub>, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut path = String::new();
    // The library dictates the error's type, large as it is.
    #[allow(clippy::result_large_err)]
    let take_path = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        path.push_str(request.uri().path());
        if path.starts_with("/relay/") { Ok(response) } else { Err(not_found()) }
    };
    let Ok(socket) = accept_hdr_async_with_config(stream, take_path, Some(config())).await else { return };
    let member = hub.join(&path, socket);
    relay(&hub, &member).await;
    hub.leave(&member);
}

/// Reads until the connection ends; the library answers pings and the close frame by itself.
async fn relay(hub: &Hub, member: &Rc<Member>) {
    while let Some(Ok(message)) = member.read().await {
        match message {
            Message::Text(_) | Message::Binary(_) => hub.publish(member, &message),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
}

fn not_found() -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
    response
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BYTES_MAX)
        .max_write_buffer_size(OUTBOX_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9100);
const BACKLOG: u32 = 4096;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Allocated for each connection at once; the library's 128 KiB would be most of the memory and bring no speed here.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// What gathers in a connection's buffer before the library writes without being asked to.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// A member whose buffer would grow past this is too slow, and is closed.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
/// As in hubbub: what the kernel holds hides slowness. The kernel doubles what it is given.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;
