//! Verbatim relay rooms on tokio and fastwebsockets, as fast as we could make them: a benchmark opponent for hubbub.
//!
//! `GET /relay/{room}` upgrades to WebSocket; every text or binary message goes as it came to every connection on that
//! path, the sender included, in one order. One thread, one task per connection, and one task that writes for all of
//! them: a message is encoded once and queued at each member; when every task that had something to read has run, the
//! writer empties each queue with a single write. No heartbeats, no limits but the outbox, no other endpoint.

mod handshake;
mod room;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use fastwebsockets::{FragmentCollectorRead, OpCode, Role, WebSocketError, after_handshake_split};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::room::{Hub, Member};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let address = match std::env::args().nth(1).map_or(Ok(LISTEN_DEFAULT), |text| text.parse()) {
        Ok(address) => address,
        Err(error) => {
            eprintln!("usage: tokio-fastwebsockets [ADDRESS:PORT] ({error})");
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
    spawn_local(hub.clone().write_for_all());
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
async fn converse(hub: Rc<Hub>, mut stream: TcpStream) {
    let Ok(Some(path)) = handshake::answer(&mut stream).await else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (reader, writer) = stream.into_split();
    let member = hub.join(&path, writer);
    // An error ends the connection; there is nobody to tell.
    let _ = relay(&hub, &member, reader).await;
    hub.leave(&member);
}

async fn relay(hub: &Hub, member: &Rc<Member>, reader: tokio::net::tcp::OwnedReadHalf) -> Result<(), WebSocketError> {
    let (mut read, _) = after_handshake_split(reader, tokio::io::sink(), Role::Server);
    read.set_max_message_size(MESSAGE_BYTES_MAX);
    let mut read = FragmentCollectorRead::new(read);
    loop {
        let mut answer = |frame: fastwebsockets::Frame<'_>| {
            hub.queue(member, &room::encode(frame));
            std::future::ready(Ok::<(), WebSocketError>(()))
        };
        let frame = read.read_frame(&mut answer).await?;
        match frame.opcode {
            OpCode::Text | OpCode::Binary => hub.publish(member, frame),
            OpCode::Close => return Ok(()),
            OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
        if member.is_broken() {
            return Ok(());
        }
    }
}

const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9100);
const BACKLOG: u32 = 4096;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// As in hubbub: what the kernel holds hides slowness. The kernel doubles what it is given.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;
