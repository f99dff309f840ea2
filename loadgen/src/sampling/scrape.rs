//! The server's own figures, from its `/metrics`, once a second on a thread of its own: a server that stalls stalls the
//! scrape, never the generator.
//!
//! Reads the text formats of Prometheus and OpenMetrics. Of these, the families named in [`KEPT`] are kept, each summed
//! over its labels. A scrape that fails, or that takes longer than [`TIMEOUT`], is told as missed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{NS_PER_S, now_ns};

/// Where metrics are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was written.
    pub url: String,
    address: SocketAddr,
    authority: String,
    path: String,
}

impl Endpoint {
    /// Takes an `http://HOST:PORT/PATH` apart; the path is `/metrics` when it has none.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or("write http://HOST:PORT/metrics")?;
        let (authority, path) = rest.find('/').map_or((rest, "/metrics"), |slash| rest.split_at(slash));
        if path.bytes().any(|byte| byte <= b' ' || byte == b'#') {
            return Err("the path has white space or a fragment".to_owned());
        }
        let resolved = authority.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let address = resolved.ok_or("the host and port do not resolve; write HOST:PORT")?;
        Ok(Self { url: url.to_owned(), address, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// Where hubbub's metrics are when it serves chat at `address` by default; `None` at any other port, where
    /// another server's metrics would be taken for its.
    #[must_use]
    pub fn beside(address: SocketAddr) -> Option<Self> {
        let admin = SocketAddr::new(address.ip(), ADMIN_PORT);
        DATA_PORTS.contains(&address.port()).then(|| Self {
            url: format!("http://{admin}/metrics"),
            address: admin,
            authority: admin.to_string(),
            path: "/metrics".to_owned(),
        })
    }

    /// One scrape.
    pub fn scrape(&self) -> Result<Page, String> {
        self.fetch().map_err(|error| error.to_string()).and_then(|answer| body(&answer).map(Page::parse))
    }

    fn fetch(&self) -> std::io::Result<Vec<u8>> {
        let until_ns = now_ns() + TIMEOUT.as_nanos() as u64;
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: the end of the connection is the end of the answer.
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\nAccept: text/plain\r\n\r\n", self.path, self.authority);
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 16 << 10];
        loop {
            let left = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match stream.read(&mut part) {
                Ok(0) => return Ok(answer),
                Ok(n) => answer.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
                }
                Err(error) => return Err(error),
            }
            if answer.len() > ANSWER_BYTES_MAX || now_ns() >= until_ns {
                return Err(std::io::Error::other("the answer is too long or too slow"));
            }
        }
    }
}

fn body(answer: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(answer).map_err(|_| "the answer is not text".to_owned())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("the answer breaks off")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status == "200" { Ok(body) } else { Err(format!("the server answered {status}")) }
}

/// What one scrape said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Sums by family, of those that are kept and were there.
    pub values: BTreeMap<&'static str, f64>,
    /// hubbub's version.
    pub version: Option<String>,
}

impl Page {
    /// Whether hubbub wrote it.
    #[must_use]
    pub fn is_hubbub(&self) -> bool {
        self.values.keys().any(|family| family.starts_with("hubbub_"))
    }

    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = split_sample(line) else { continue };
            let (family, labels) = name.split_once('{').unwrap_or((name, ""));
            if let Some(kept) = KEPT.iter().find(|kept| **kept == family) {
                *page.values.entry(kept).or_insert(0.0) += value;
            } else if family == "hubbub_build_info" {
                page.version = label(labels, "version");
            }
        }
        page
    }
}

/// The name with its labels, and the value; a timestamp may follow it. Labels may hold spaces and braces.
fn split_sample(line: &str) -> Option<(&str, f64)> {
    let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
    let (name, rest) = line.split_at(end);
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, value))
}

fn label(labels: &str, name: &str) -> Option<String> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// All scrapes of a run, as columns: `series[name][i]` was read at `at_s[i]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scrapes {
    /// Where they were read.
    pub url: String,
    /// When each was answered, in seconds since the first connect.
    pub at_s: Vec<f64>,
    /// One column per family; `null` where a scrape did not have it. Names that end in `_total`, `_sum` and `_count`
    /// only grow, the others are levels.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
    /// Scrapes that were due and are not there.
    pub missed: u64,
    /// The first few of them.
    pub missed_at: Vec<MissedScrape>,
}

/// A scrape that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MissedScrape {
    /// When it failed, in seconds since the first connect.
    pub at_s: f64,
    /// What was wrong.
    pub why: String,
}

impl Scrapes {
    /// Adds one scrape.
    pub fn add(&mut self, at_s: f64, scraped: Result<Page, String>) {
        match scraped {
            Ok(page) => {
                let before = self.at_s.len();
                self.at_s.push(at_s);
                for name in page.values.keys() {
                    self.series.entry((*name).to_owned()).or_insert_with(|| vec![None; before]);
                }
                for (name, column) in &mut self.series {
                    column.push(page.values.get(name.as_str()).copied());
                }
            }
            Err(why) => {
                self.missed += 1;
                if self.missed_at.len() < MISSED_TOLD_MAX {
                    self.missed_at.push(MissedScrape { at_s, why });
                }
            }
        }
    }
}

/// The thread that scrapes.
#[derive(Debug)]
pub struct Scraper {
    scraped: flume::Receiver<(u64, Result<Page, String>)>,
    stop: flume::Sender<()>,
    thread: JoinHandle<()>,
}

impl Scraper {
    /// Begins to scrape once a second.
    pub fn start(endpoint: Endpoint) -> std::io::Result<Self> {
        let (answer, scraped) = flume::bounded(SCRAPES_QUEUED_MAX);
        let (stop, stopped) = flume::bounded::<()>(1);
        let scrape = move || {
            let mut due_ns = now_ns();
            // Ends when `stop` is dropped.
            while let Err(flume::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(Duration::from_nanos(due_ns.saturating_sub(now_ns())))
            {
                let page = endpoint.scrape();
                if answer.send((now_ns(), page)).is_err() {
                    return;
                }
                while due_ns <= now_ns() {
                    due_ns += NS_PER_S;
                }
            }
        };
        let thread = std::thread::Builder::new().name("scrape".to_owned()).spawn(scrape)?;
        Ok(Self { scraped, stop, thread })
    }

    /// What has come since the last call, with when.
    pub fn take(&self) -> impl Iterator<Item = (u64, Result<Page, String>)> {
        self.scraped.try_iter()
    }

    /// Ends the thread, within a scrape's timeout, and gives what was left.
    pub fn stop(self) -> Vec<(u64, Result<Page, String>)> {
        drop(self.stop);
        // A scraper that panicked has told so on standard error, and its series ends there.
        let _ = self.thread.join();
        self.scraped.drain().collect()
    }
}

/// The families that are kept. Histograms are kept as their sum and count, which give the mean of any span.
const KEPT: [&str; 24] = [
    "hubbub_connections",
    "hubbub_accepted_total",
    "hubbub_refused_total",
    "hubbub_closed_total",
    "hubbub_errors_total",
    "hubbub_dropped_total",
    "hubbub_rooms",
    "hubbub_messages_in_total",
    "hubbub_messages_out_total",
    "hubbub_in_bytes_total",
    "hubbub_out_bytes_total",
    "hubbub_delivery_latency_seconds_sum",
    "hubbub_delivery_latency_seconds_count",
    "hubbub_outbox_bytes",
    "hubbub_outbox_stalls_total",
    "hubbub_mailbox_depth",
    "hubbub_blocked_total",
    "hubbub_turn_seconds_sum",
    "hubbub_turn_seconds_count",
    "hubbub_sleeps_total",
    "hubbub_enters_total",
    "hubbub_sends_total",
    "hubbub_coalesced_total",
    "process_open_fds",
];
/// hubbub's ports by default: WebSocket and TCP, and the one with the metrics.
const DATA_PORTS: [u16; 2] = [9_000, 9_001];
const ADMIN_PORT: u16 = 9_002;
/// How long one scrape may take, so that the next can begin in its second.
const TIMEOUT: Duration = Duration::from_millis(900);
const ANSWER_BYTES_MAX: usize = 8 << 20;
const SCRAPES_QUEUED_MAX: usize = 64;
const MISSED_TOLD_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use hubbub::telemetry::metrics::{ConnectionKind, Metrics};
    use hubbub::telemetry::render::Renderer;

    use super::*;

    #[test]
    fn what_hubbub_writes_is_read_and_summed_over_shards() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(2)));
        for (shard, n) in metrics.shards.iter().zip([3, 4]) {
            shard.connections.of(ConnectionKind::ChatWs).set(n);
            shard.bytes_out_total.add(1_000);
            shard.turn_us.record(2_000_000);
        }
        let page = Page::parse(&Renderer::new(metrics).render());
        assert_eq!(page.values["hubbub_connections"], 7.0);
        assert_eq!(page.values["hubbub_out_bytes_total"], 2_000.0);
        assert_eq!(page.values["hubbub_turn_seconds_sum"], 4.0);
        assert_eq!(page.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        let missing: Vec<_> = KEPT.iter().filter(|kept| !page.values.contains_key(**kept)).collect();
        assert!(missing.is_empty(), "the server has no {missing:?}");
    }

    #[test]
    fn lines_that_are_no_samples_are_passed_over() {
        let text =
            "# HELP x y\nhubbub_rooms{shard=\"a } b\"} 2 1700000000\nhubbub_rooms 3\nhubbub_rooms NaN\nx\n\n{} 1\n";
        assert_eq!(Page::parse(text).values, BTreeMap::from([("hubbub_rooms", 5.0)]));
    }

    #[test]
    fn a_missed_scrape_leaves_a_gap_and_is_told() {
        let page = |rooms| Page { values: BTreeMap::from([("hubbub_rooms", rooms)]), version: None };
        let mut scrapes = Scrapes::default();
        scrapes.add(0.5, Ok(Page::default()));
        scrapes.add(1.5, Err("no answer in time".to_owned()));
        scrapes.add(2.5, Ok(page(4.0)));
        assert_eq!((scrapes.at_s.as_slice(), scrapes.missed), (&[0.5, 2.5][..], 1));
        assert_eq!(scrapes.series["hubbub_rooms"], [None, Some(4.0)]);
        assert_eq!((scrapes.missed_at[0].at_s, scrapes.missed_at[0].why.as_str()), (1.5, "no answer in time"));
    }

    #[test]
    fn a_server_that_answers_is_scraped_until_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        assert_eq!(endpoint.path, "/metrics");
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\n\r\nhubbub_rooms 9\n", "HTTP/1.1 503 No\r\n\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let n = stream.read(&mut request).unwrap();
                assert!(request[..n].starts_with(b"GET /metrics HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let scraper = Scraper::start(endpoint).unwrap();
        let scraped: Vec<_> = (0..2).map(|_| scraper.scraped.recv().unwrap()).collect();
        assert_eq!(scraped[0].1.as_ref().unwrap().values["hubbub_rooms"], 9.0);
        assert_eq!(scraped[1].1, Err("the server answered 503".to_owned()));
        assert!(scraped[0].0 < scraped[1].0);
        assert!(scraper.stop().len() <= 1);
        server.join().unwrap();
    }

    #[test]
    fn a_stalled_server_costs_one_scrape_its_timeout_and_no_more() {
        // Accepted by the kernel, answered by nobody.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::parse(&format!("http://{}/m", listener.local_addr().unwrap())).unwrap();
        let before = now_ns();
        assert!(endpoint.scrape().unwrap_err().contains("no answer in time"));
        let took = Duration::from_nanos(now_ns() - before);
        assert!(took >= TIMEOUT / 2 && took < TIMEOUT * 5, "{took:?}");
    }

    #[test]
    fn the_default_is_only_for_the_default_ports() {
        let beside = |text: &str| Endpoint::beside(text.parse().unwrap()).map(|endpoint| endpoint.url);
        assert_eq!(beside("127.0.0.1:9000").as_deref(), Some("http://127.0.0.1:9002/metrics"));
        assert_eq!(beside("[::1]:9001").as_deref(), Some("http://[::1]:9002/metrics"));
        assert_eq!(beside("127.0.0.1:19000"), None);
    }

    #[test]
    fn a_url_that_cannot_be_scraped_is_refused() {
        for url in ["https://a:1/", "http://nowhere", "http://127.0.0.1:1/a b", "127.0.0.1:1"] {
            Endpoint::parse(url).unwrap_err();
        }
    }
}
