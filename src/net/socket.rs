//! Sockets before they enter a ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::SOCKET_SEND_BUFFER_BYTES;

/// A listening socket that shares its port with those of other shards (`SO_REUSEPORT`). What it sets, accepted
/// sockets inherit: `TCP_NODELAY`, and a send buffer small enough that a slow reader is seen.
pub fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    // The kernel doubles what it is given (socket(7)).
    socket.set_send_buffer_size(SOCKET_SEND_BUFFER_BYTES / 2)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether nobody listens on an address. Sockets of other processes of the same user may share a port with ours
/// without an error, and would take part of the connections.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// A socket that connects from `source`. With port 0 the port is chosen when it connects
/// (`IP_BIND_ADDRESS_NO_PORT`), so that one local port serves connections to several peers.
#[expect(unsafe_code, reason = "no safe wrapper offers this option")]
pub fn outbound(source: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if source.port() == 0 {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the option reads an int, which `on` is.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    socket.bind(&source.into())?;
    Ok(socket.into())
}

/// Where a listening socket really listens, which matters when the port asked for was 0.
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(|_| io::Error::other("not an IP socket"))
}

/// Where a connected socket's peer is. Fails when the peer is gone already.
pub fn peer_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getpeername(socket)?.ok_or(io::ErrorKind::AddrNotAvailable)?;
    SocketAddr::try_from(address).map_err(|_| io::Error::other("not an IP socket"))
}

/// Stops a listening socket for good, also where other descriptor tables hold copies of it.
pub fn stop_listening(socket: &impl AsFd) {
    // Fails only for sockets that do not listen any more.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Makes the close that follows send a reset and drop what the peer has not read.
pub fn reset_on_close(socket: &impl AsFd) {
    // Fails only for sockets that are gone already.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
}

/// Connections that the kernel keeps for us until they are accepted; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_local_port_is_chosen_when_it_connects() {
        for source in ["127.0.0.2:0", "[::1]:0"] {
            let source: SocketAddr = source.parse().unwrap();
            let listener = TcpListener::bind(source).unwrap();
            let socket = Socket::from(outbound(source).unwrap());
            // A bind that chooses a port would keep it from everyone else.
            assert_eq!(local_address(&socket).unwrap(), source);
            socket.connect(&listener.local_addr().unwrap().into()).unwrap();
            assert_eq!(local_address(&socket).unwrap().ip(), source.ip());
            assert_ne!(local_address(&socket).unwrap().port(), 0);
        }
    }
}
