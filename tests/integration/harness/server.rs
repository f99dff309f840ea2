//! The server as a process of its own, on ports that the kernel chose.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use flume::{Receiver, RecvTimeoutError};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::data::DataDir;
use super::lines::Lines;
use super::metrics::Metrics;
use super::raw::RawWs;
use super::stream::Stream;
use super::wait::{Deadline, until};
use super::websocket::{self, RelayClient, Request};

/// How a server is started. Whoever starts it again finds what it had stored.
#[derive(Clone, Debug)]
pub struct Launch {
    data: Arc<DataDir>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    descriptors: Option<u64>,
    inherited: u64,
}

impl Launch {
    /// A server with one shard, a data directory of its own, and all ports chosen by the kernel.
    pub fn new() -> Self {
        let data = Arc::new(DataDir::new());
        let stored = format!("--data-dir={}", data.path().display());
        let ports = ["--listen", "--tcp-listen", "--admin-listen"].map(|flag| [flag, "127.0.0.1:0"]);
        let arguments = ports.into_iter().flatten().map(String::from).collect();
        Self { data, arguments, variables: Vec::new(), descriptors: None, inherited: 0 }
            .arguments(["--shards=1", &stored])
    }

    /// Where its server stores, unless told otherwise.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// More flags; a flag given again wins.
    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        for argument in arguments {
            let name = argument.split('=').next().unwrap_or(argument);
            self.arguments.retain(|given| !argument.contains('=') || given.split('=').next() != Some(name));
            self.arguments.push(argument.to_owned());
        }
        self
    }

    /// An environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A limit on open files, for each shard's table.
    pub fn descriptors(mut self, most: u64) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// So many descriptors are open already when it starts.
    pub fn inherits(mut self, descriptors: u64) -> Self {
        self.inherited = descriptors;
        self
    }

    fn command(&self) -> Command {
        let mut command = match self.descriptors {
            None => Command::new(BINARY),
            Some(most) => {
                let mut command = Command::new("bash");
                let inherit = "for ((fd = 20; fd < 20 + $1; fd++)); do eval \"exec $fd</dev/null\"; done";
                let script = format!("ulimit -n $0 && {inherit} && shift && exec \"$@\"");
                command.args(["-c", &script, &most.to_string(), &self.inherited.to_string(), BINARY]);
                command
            }
        };
        command.args(&self.arguments).envs(self.variables.iter().cloned());
        command
    }

    /// Starts it and waits until it listens.
    pub fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|(status, said)| panic!("the server ended ({status}) with: {said}"))
    }

    /// Starts it and waits until it listens, or ends: then gives how, and what it said.
    pub fn try_start(&self) -> Result<Server, (ExitStatus, String)> {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server's program can be run");
        let stdout = lines_of(child.stdout.take().expect("it is piped"));
        let stderr = lines_of(child.stderr.take().expect("it is piped"));
        let (announced, said, data) = (Vec::new(), String::new(), Arc::clone(&self.data));
        let mut server = Server { child, exited: None, announced, stdout, stderr, said, _data: data };
        match server.wait_until_announced() {
            None => Ok(server),
            Some(status) => Err((status, server.all_said())),
        }
    }
}

/// Runs the program with these arguments until it ends by itself, and gives all it said.
pub fn run_to_end(arguments: &[&str]) -> Output {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server's program can be run");
    let deadline = Deadline::patient();
    loop {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return child.wait_with_output().expect("its output can be read");
        }
        if deadline.left().is_none() {
            child.kill().expect("a child can be killed");
            let output = child.wait_with_output().expect("its output can be read");
            panic!("{arguments:?} did not end by itself: {output:?}");
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

/// A running server. Killed when dropped; a test that ends well fails if the server has not run well until then.
#[derive(Debug)]
pub struct Server {
    child: Child,
    exited: Option<ExitStatus>,
    /// Lines of its announcement.
    announced: Vec<String>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    said: String,
    /// Outlives the process.
    _data: Arc<DataDir>,
}

impl Server {
    /// A server with one shard.
    pub fn start() -> Self {
        Launch::new().start()
    }

    /// A server with so many shards.
    pub fn with_shards(shards: u16) -> Self {
        Launch::new().arguments([&format!("--shards={shards}")]).start()
    }

    /// A server with one shard and these flags.
    pub fn with<const N: usize>(arguments: [&str; N]) -> Self {
        Launch::new().arguments(arguments).start()
    }

    /// Where it serves HTTP and WebSocket.
    pub fn http(&self) -> SocketAddr {
        self.address_after("web client and WebSocket")
    }

    /// Where it serves JSON lines.
    pub fn lines(&self) -> SocketAddr {
        self.address_after("JSON lines over TCP")
    }

    /// Where it serves metrics.
    pub fn admin(&self) -> SocketAddr {
        self.address_after("metrics and health")
    }

    /// Lines that it printed at the start.
    pub fn announced(&self) -> &[String] {
        &self.announced
    }

    /// A WebSocket to `/ws` that has said nothing yet.
    pub fn ws(&self) -> Client {
        self.ws_at("/ws")
    }

    /// A WebSocket to some target of the chat.
    pub fn ws_at(&self, target: &str) -> Client {
        websocket::connect(&Request::new(self.http(), target)).0
    }

    /// A TCP connection that has said nothing yet.
    pub fn tcp(&self) -> Client {
        Client::new(Lines::connect(self.lines()))
    }

    /// A TCP connection of which the kernel holds little, so that not reading soon shows.
    pub fn tcp_with_small_buffer(&self) -> Client {
        Client::new(Lines::over(Stream::Plain(connect_with_small_buffer(self.lines()))))
    }

    /// A WebSocket connected as `name`.
    pub fn ws_as(&self, name: &str) -> Client {
        let mut client = self.ws();
        client.connect_as(name);
        client
    }

    /// A TCP connection connected as `name`.
    pub fn tcp_as(&self, name: &str) -> Client {
        let mut client = self.tcp();
        client.connect_as(name);
        client
    }

    /// A WebSocket connected as `name` and joined to `room`.
    pub fn member(&self, name: &str, room: &str) -> Client {
        let mut client = self.ws_as(name);
        client.join(room);
        client
    }

    /// A connection to a room of the relay.
    pub fn relay(&self, room: &str) -> RelayClient {
        RelayClient::connect(self.http(), room)
    }

    /// A WebSocket whose frames the test makes itself.
    pub fn raw_ws(&self, target: &str) -> RawWs {
        RawWs::connect(self.http(), target)
    }

    /// The metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin())
    }

    /// Waits until the metrics fulfil a condition.
    pub fn metrics_until(&self, what: &str, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
        until(what, || Some(self.metrics()).filter(&is_so))
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server runs");
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let status = until("the end of the server", || self.child.try_wait().expect("a child can be waited for"));
        self.exited = Some(status);
        status
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Stops it with SIGTERM and expects a clean end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0), "after SIGTERM: {}", self.stderr());
    }

    /// All it has written to its standard error by now.
    pub fn stderr(&mut self) -> &str {
        while let Ok(line) = self.stderr.try_recv() {
            let _ = writeln!(self.said, "{line}");
        }
        &self.said
    }

    /// All it has written to its standard error by its end, which must have come.
    fn all_said(&mut self) -> String {
        for line in self.stderr.iter() {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        self.said.clone()
    }

    /// Waits until it is ready. Gives how it ended, if it did.
    fn wait_until_announced(&mut self) -> Option<ExitStatus> {
        let deadline = Deadline::patient();
        while !self.announced.iter().any(|line| line.starts_with("Try it")) {
            match self.stdout.recv_timeout(deadline.left().unwrap_or_default()) {
                Ok(line) => self.announced.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("no announcement came; {:?}", self.announced),
                Err(RecvTimeoutError::Disconnected) => return Some(self.wait_exit()),
            }
        }
        // Readiness is entered a moment after the announcement.
        let status = until("readiness", || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            let is_ready = || super::http(self.admin(), "GET", "/readyz", &[]).status == 200;
            if ended.is_some() { Some(ended) } else { is_ready().then_some(None) }
        });
        self.exited = status;
        status
    }

    fn address_after(&self, what: &str) -> SocketAddr {
        let line = self.announced.iter().find_map(|line| line.trim().strip_prefix(what));
        let line = line.unwrap_or_else(|| panic!("no line begins with {what:?} in {:?}", self.announced)).trim();
        let address = line.split_once("://").map_or(line, |(_, address)| address);
        let address = address.split('/').next().unwrap_or(address);
        address.parse().unwrap_or_else(|error| panic!("{address:?} is no address: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended_by_itself = self.exited.is_none() && self.has_ended();
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.all_said();
        if std::thread::panicking() {
            println!("the server's standard error:\n{}", self.said);
            return;
        }
        assert!(!ended_by_itself, "the server ended by itself:\n{}", self.said);
        assert!(!self.said.contains("panicked at"), "the server panicked:\n{}", self.said);
    }
}

/// A connection with a small receive buffer, so that the kernel hides little of a reader's slowness.
pub(super) fn connect_with_small_buffer(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)
        .expect("a socket can be made");
    socket.set_recv_buffer_size(SMALL_BUFFER_BYTES).expect("the buffer's size can be set");
    socket.connect(&address.into()).expect("the server listens");
    socket.into()
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = flume::bounded(LINES_MAX);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The pipe must not fill up, so lines that nobody takes are let go.
            let _ = sender.try_send(line);
        }
    });
    receiver
}

/// A connection of each transport that has said nothing yet.
pub const TRANSPORTS: [fn(&Server) -> Client; 2] = [Server::ws, Server::tcp];
const BINARY: &str = env!("CARGO_BIN_EXE_hubbub");
const LINES_MAX: usize = 10_000;
const SMALL_BUFFER_BYTES: usize = 16 * 1024;
