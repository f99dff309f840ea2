//! An application that the server calls: a small HTTP server that hands each request to the test, or answers by itself.
//! It shares no code with the server, whose own tests use it too.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flume::{Receiver, Sender};

/// The application.
pub struct HookServer {
    address: SocketAddr,
    calls: Receiver<HookCall>,
    shared: Arc<Shared>,
}

struct Shared {
    calls: Sender<HookCall>,
    /// Answers by itself, if there is one.
    answer: Option<Box<Answering>>,
    /// Calls without their answer, and the most there ever were.
    open: AtomicUsize,
    most_open: AtomicUsize,
    is_closed: AtomicBool,
}

type Answering = dyn Fn(&HookCall) -> (u16, String) + Send + Sync;

/// One request. Dropped without an answer, its connection is closed.
pub struct HookCall {
    head: String,
    /// As it was sent.
    pub body: Vec<u8>,
    answer: Sender<Vec<u8>>,
}

impl HookServer {
    /// An application whose answers the test gives.
    pub fn start() -> Self {
        Self::serve(None)
    }

    /// An application that answers by itself, with a status and a body. The test sees the calls too.
    pub fn answering(answer: impl Fn(&HookCall) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::serve(Some(Box::new(answer)))
    }

    fn serve(answer: Option<Box<Answering>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, calls) = flume::bounded(CALLS_MAX);
        let shared = Arc::new(Shared {
            calls: sender,
            answer,
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_closed.load(Ordering::Acquire) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.talk(stream.expect("a connection is accepted")));
            }
        });
        Self { address, calls, shared }
    }

    /// What the server is to call.
    pub fn url(&self) -> String {
        format!("http://{}/hooks?for=test", self.address)
    }

    /// The next call that comes in.
    pub fn next(&self) -> HookCall {
        self.calls.recv_timeout(PATIENCE).expect("the application is called")
    }

    /// The most calls that were ever without an answer at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        // The thread that accepts looks up once more.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Reads requests and writes their answers until either side has enough.
    fn talk(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut writer = stream;
        while let Some((head, body)) = read_request(&mut reader) {
            let (answer, answered) = flume::bounded(1);
            let call = HookCall { head, body, answer };
            let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_open.fetch_max(open, Ordering::SeqCst);
            let by_itself = self.answer.as_ref().map(|answer| answer(&call));
            if let Some((status, body)) = by_itself {
                call.answer.send(response(status, &body)).expect("nobody answered before");
            }
            if self.calls.try_send(call).is_err() {
                return;
            }
            let answer = answered.recv();
            self.open.fetch_sub(1, Ordering::SeqCst);
            // A caller that gave up has gone.
            if answer.is_err() || writer.write_all(&answer.expect("it was looked at")).is_err() {
                return;
            }
        }
    }
}

impl HookCall {
    /// The value of a header of the request.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The first line of the request.
    pub fn request_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Answers.
    pub fn answer(self, status: u16, body: &str) {
        self.answer_raw(response(status, body));
    }

    /// Answers with these bytes.
    pub fn answer_raw(self, bytes: Vec<u8>) {
        self.answer.send(bytes).expect("the connection waits for its answer");
    }
}

fn response(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Whatever\r\nLocation: /elsewhere\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The head and the body of a request; `None` when the peer has gone.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Ok(0), |(_, length)| length.parse()).ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

const CALLS_MAX: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);
