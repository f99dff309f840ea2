//! The admin port: metrics, health, profiles and the API over HTTP, on a thread of its own.
//!
//! The thread never touches a shard: it reads figures that the shards keep anyway, and what the API wants of them goes
//! through their queues ([`operator`]). Its sockets are opened in the thread itself, and [`spawn`] must come after every
//! shard has taken a descriptor table of its own, or each of those tables would keep a copy of them. `/api` and `/debug`
//! need a key.

mod api;
mod backup;
pub mod client;
mod guard;
mod keys;
mod operator;
mod problem;
mod profile;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Explained;
use crate::store::StoreReader;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

pub use keys::AdminKeys;
pub use operator::{Answers, PostOrder, Switchboard};

/// A running admin port. Dropping it stops it.
#[derive(Debug)]
pub struct AdminHandle {
    addresses: Vec<SocketAddr>,
    /// Turns true, or goes, when the port is to close.
    stop: watch::Sender<bool>,
    ended: flume::Receiver<()>,
}

/// Why there is no admin port.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (admin_listen): {error}; choose another address with --admin-listen, or `off`")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// The thread or its event loop could not be made.
    #[error("cannot start the admin thread: {0}")]
    Thread(#[from] io::Error),
}

/// What the port shows and hands on.
pub struct Subject {
    /// What the configuration says.
    pub facts: watch::Receiver<Facts>,
    /// Figures.
    pub metrics: &'static Metrics,
    /// The server's stage.
    pub readiness: Arc<Readiness>,
    /// The store, if there is one.
    pub store: Option<StoreReader>,
    /// Where the shards leave their answers.
    pub switchboard: Switchboard,
    /// Gives the shards orders.
    pub post: PostOrder,
    /// Begins the end of the server, once.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// Reads the configuration again; may take long.
    pub reload: Arc<dyn Fn() -> ReloadReport + Send + Sync>,
}

/// What the port needs of the configuration, which may change.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Open `/api` and `/debug`.
    pub keys: Option<AdminKeys>,
    /// Largest message, in bytes.
    pub message_bytes_max: usize,
    /// Every setting with its origin.
    pub settings: Vec<Explained>,
}

/// What came of reading the configuration again. Settings are named by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct ReloadReport {
    /// What has changed and holds from now on.
    pub applied: Vec<String>,
    /// What is as it was.
    pub unchanged: Vec<String>,
    /// What has changed and holds only after a restart.
    pub needs_restart: Vec<String>,
    /// Why nothing has changed at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<String> for ReloadReport {
    fn from(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }
}

impl From<&str> for ReloadReport {
    fn from(error: &str) -> Self {
        error.to_owned().into()
    }
}

/// Opens the port on every address (0 chooses a port) and serves it from a thread of its own.
pub fn spawn(addresses: &[SocketAddr], mut subject: Subject) -> Result<AdminHandle, AdminError> {
    let (report, reports) = flume::bounded(1);
    let (end, ended) = flume::bounded(0);
    let (stop, stopped) = watch::channel(false);
    let wanted = addresses.to_vec();
    let shards = subject.metrics.shards.len() as u16;
    let operator = std::mem::take(&mut subject.switchboard).connect(Arc::clone(&subject.post), shards)?;
    let run = move || {
        match open(&wanted) {
            Ok((runtime, listeners, bound)) => {
                // The one who asked may have given up, and then stops us as well.
                let _ = report.send(Ok(bound));
                runtime.block_on(serve(listeners, routes::router(subject, operator), stopped));
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
        drop(end);
    };
    std::thread::Builder::new().name("admin".into()).spawn(run)?;
    let bound = reports.recv().map_err(|_| io::Error::other("it ended at once"))??;
    Ok(AdminHandle { addresses: bound, stop, ended })
}

impl AdminHandle {
    /// Where the port is open, in the order they were asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes the port and waits for the thread, which finishes the requests under way but not for long.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // The thread drops its end of the channel when it is done, and nothing is ever sent.
        let _ = self.ended.recv_timeout(2 * STOP_TIMEOUT);
    }
}

type Opened = (tokio::runtime::Runtime, Vec<TcpListener>, Vec<SocketAddr>);

fn open(addresses: &[SocketAddr]) -> Result<Opened, AdminError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let mut listeners = Vec::new();
    for &address in addresses {
        listeners.push(listen(address).map_err(|error| AdminError::Listen { address, error })?);
    }
    let bound = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    drop(inside);
    Ok((runtime, listeners, bound))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn serve(listeners: Vec<TcpListener>, router: axum::Router, mut stopped: watch::Receiver<bool>) {
    let mut servers = JoinSet::new();
    for listener in listeners {
        let mut stopped = stopped.clone();
        let until = async move {
            // An error means that the handle is gone, which stops us as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        servers.spawn(axum::serve(listener, router.clone()).with_graceful_shutdown(until).into_future());
    }
    let _ = stopped.wait_for(|stop| *stop).await;
    // Whoever takes longer is cut off when the runtime goes.
    let _ = tokio::time::timeout(STOP_TIMEOUT, servers.join_all()).await;
}

const BACKLOG: i32 = 128;
const STOP_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;
    use crate::telemetry::metrics::ConnectionKind;
    use crate::telemetry::readiness::Stage;

    fn metrics() -> &'static Metrics {
        Box::leak(Box::new(Metrics::new(2)))
    }

    fn subject(keys: Option<AdminKeys>, metrics: &'static Metrics, readiness: Arc<Readiness>) -> Subject {
        Subject {
            facts: watch::channel(Facts { keys, message_bytes_max: 1_000, settings: Vec::new() }).1,
            metrics,
            readiness,
            store: None,
            switchboard: Switchboard::default(),
            post: Arc::new(|_, _, _| false),
            drain: Arc::new(|| {}),
            reload: Arc::new(ReloadReport::default),
        }
    }

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn start(readiness: &Arc<Readiness>) -> AdminHandle {
        spawn(&[loopback()], subject(None, metrics(), readiness.clone())).unwrap()
    }

    /// Sends one request and returns the status line and the body.
    fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_string(), body.to_string())
    }

    #[test]
    fn health_and_readiness_follow_the_stage() {
        let readiness = Arc::new(Readiness::default());
        let admin = start(&readiness);
        let address = admin.addresses()[0];
        assert_eq!(get(address, "/healthz"), ("HTTP/1.1 200 OK".into(), "ok\n".into()));
        let unavailable = "HTTP/1.1 503 Service Unavailable".to_string();
        assert_eq!(get(address, "/readyz"), (unavailable.clone(), "starting: not all listeners are open\n".into()));
        readiness.enter(Stage::Ready);
        assert_eq!(get(address, "/readyz"), ("HTTP/1.1 200 OK".into(), "ready\n".into()));
        readiness.enter(Stage::Draining);
        assert_eq!(get(address, "/readyz"), (unavailable, "draining: the server stops\n".into()));
        assert_eq!(get(address, "/healthz").1, "ok\n");
    }

    #[test]
    fn metrics_are_those_of_the_shards() {
        let metrics = metrics();
        metrics.shards[1].connections.of(ConnectionKind::ChatWs).set(42);
        let admin = spawn(&[loopback()], subject(None, metrics, Arc::default())).unwrap();
        let (status, body) = get(admin.addresses()[0], "/metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains("hubbub_connections{shard=\"1\",kind=\"chat_ws\"} 42\n"), "{body}");
        assert!(body.ends_with("# EOF\n"));
    }

    #[test]
    fn administration_is_refused_without_a_key() {
        let admin = start(&Arc::default());
        let address = admin.addresses()[0];
        for path in ["/api/v1/rooms", "/api", "/debug/pprof/profile?seconds=1"] {
            let (status, body) = get(address, path);
            assert_eq!(status, "HTTP/1.1 403 Forbidden", "{path}");
            assert!(body.contains("admin-key-file"), "{body}");
        }
        assert_eq!(get(address, "/elsewhere").0, "HTTP/1.1 404 Not Found");
    }

    #[test]
    fn several_addresses_are_served() {
        let addresses = [loopback(), (Ipv6Addr::LOCALHOST, 0).into()];
        let admin = spawn(&addresses, subject(None, metrics(), Arc::default())).unwrap();
        for address in admin.addresses() {
            assert_ne!(address.port(), 0);
            assert_eq!(get(*address, "/healthz").1, "ok\n");
        }
        assert!(admin.addresses()[1].is_ipv6());
    }

    #[test]
    fn an_address_in_use_is_named_with_the_remedy() {
        let taken = std::net::TcpListener::bind(loopback()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = spawn(&[address], subject(None, metrics(), Arc::default())).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--admin-listen"), "{error}");
    }

    #[test]
    fn stopping_closes_the_port_even_while_a_request_is_half_sent() {
        let admin = start(&Arc::default());
        let address = admin.addresses()[0];
        let mut half = TcpStream::connect(address).unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
        assert_eq!(get(address, "/healthz").1, "ok\n");
        admin.stop();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let mut rest = Vec::new();
        // Either way of being cut off will do.
        assert!(half.read_to_end(&mut rest).map_or(true, |read| read == 0));
    }

    #[test]
    fn dropping_the_handle_stops_the_port() {
        let admin = start(&Arc::default());
        let (address, ended) = (admin.addresses()[0], admin.ended.clone());
        drop(admin);
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Err(flume::RecvTimeoutError::Disconnected));
        assert!(TcpStream::connect(address).is_err());
    }
}
