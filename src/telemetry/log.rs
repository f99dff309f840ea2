//! Log lines: one line per event on standard error, as text or JSON.
//!
//! A shard never waits, so it does not write itself: lines go through a bounded queue to a thread that does, and when
//! that thread is held up by whoever reads standard error, lines are lost and counted. Lines that a peer can cause go
//! through a [`Throttle`] first.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::HashMap;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, reload};

use super::audit;
use crate::clock::Time;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends this process's log lines to standard error, and audit records to a file if there is one. Dropping what comes
/// back waits until what is queued is written.
///
/// Fails if the process already has a subscriber, a thread cannot be made, or the file cannot be opened.
pub fn start(format: LogFormat, level: Level, audit_file: Option<&Path>) -> Result<Log, LogError> {
    let (lines, guard) = Lines::start(io::stderr(), |_| Ok(()))?;
    let (layer, set_level) = layer(format, level, lines, audit_file.is_none());
    let mut guards = vec![guard];
    let audit = match audit_file {
        None => None,
        Some(path) => {
            let path = path.to_owned();
            let open = move || OpenOptions::new().append(true).create(true).mode(AUDIT_FILE_MODE).open(&path);
            let file = open().map_err(LogError::Audit)?;
            let (lines, guard) = Lines::start(file, move |file| open().map(|opened| *file = opened))?;
            guards.push(guard);
            Some(audit_layer(lines))
        }
    };
    let subscriber = Registry::default().with(layer).with(audit);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)?;
    let queues = guards.iter().map(|guard| guard.queue.clone()).collect();
    Ok(Log { control: LogControl { set_level, queues }, _guards: guards })
}

/// The log of this process.
#[derive(Debug)]
pub struct Log {
    /// Changes it while it runs.
    pub control: LogControl,
    _guards: Vec<LogGuard>,
}

/// Changes what is written, and where, from now on.
#[derive(Clone)]
pub struct LogControl {
    set_level: Arc<dyn Fn(Level) + Send + Sync>,
    queues: Vec<flume::Sender<Item>>,
}

impl LogControl {
    /// Lines from `level` up are written. Opens the audit file anew, which may have been renamed.
    pub fn renew(&self, level: Level) {
        (self.set_level)(level);
        for queue in &self.queues {
            // A log that is held up is told nothing; the next reload may.
            let _ = queue.try_send(Item::Reopen);
        }
    }
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogControl")
    }
}

/// Why there will be no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process has a subscriber already.
    #[error("log lines already go elsewhere")]
    AlreadyStarted,
    /// No thread.
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// No file.
    #[error("audit_file cannot be opened: {0}. Name a file that this user may write, or `off`")]
    Audit(io::Error),
}

/// Keeps the log's thread. Dropped, it has everything written that was queued by then, unless nobody reads standard
/// error: that may not keep the process from ending.
#[derive(Debug)]
pub struct LogGuard {
    queue: flume::Sender<Item>,
    ended: flume::Receiver<()>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if self.queue.send_timeout(Item::End, FLUSH_TIMEOUT).is_ok() {
            // The thread drops its end of the channel when it is done.
            let _ = self.ended.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Bounds how often one kind of line is written. Kept by one thread, which hands in its time.
#[derive(Debug, Default)]
pub struct Throttle {
    kinds: HashMap<&'static str, Window>,
}

#[derive(Debug, Default)]
struct Window {
    second: u64,
    written: u32,
    suppressed: u64,
}

impl Throttle {
    /// Whether a line of this kind may be written now: [`LINES_PER_SECOND`] may. If so, how many of its kind were
    /// kept back since the last one that was written.
    pub fn admit(&mut self, kind: &'static str, now: Time) -> Option<u64> {
        let window = self.kinds.entry(kind).or_default();
        let second = now.us / 1_000_000;
        if window.second != second {
            window.second = second;
            window.written = 0;
        }
        if window.written == LINES_PER_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

fn layer<S>(format: LogFormat, level: Level, lines: Lines, audit: bool) -> (Box<dyn Layer<S> + Send + Sync>, SetLevel)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (targets, handle) = reload::Layer::new(targets(level, audit));
    // It fails once the subscriber is gone, and then nothing is written.
    let level: SetLevel = Arc::new(move |level| _ = handle.reload(self::targets(level, audit)));
    let layer = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.with_filter(targets).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(targets).boxed(),
    };
    (layer, level)
}

type SetLevel = Arc<dyn Fn(Level) + Send + Sync>;

/// The server's own lines from `level` up; those of its libraries only if someone should look; audit records always,
/// if they belong here.
fn targets(level: Level, audit: bool) -> Targets {
    let level = LevelFilter::from_level(level);
    let targets = Targets::new().with_target("hubbub", level).with_default(level.min(LevelFilter::WARN));
    targets.with_target(audit::TARGET, if audit { LevelFilter::INFO } else { LevelFilter::OFF })
}

/// Audit records as JSON.
fn audit_layer<S>(lines: Lines) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let only = Targets::new().with_target(audit::TARGET, LevelFilter::INFO);
    tracing_subscriber::fmt::layer().with_writer(lines).json().flatten_event(true).with_filter(only)
}

/// Where the formatter leaves its lines.
#[derive(Clone, Debug)]
struct Lines {
    queue: flume::Sender<Item>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Reopen,
    End,
}

impl Lines {
    /// `reopen` replaces a target that may have been moved away; if it fails, the old one stays.
    fn start<W: Write + Send + 'static>(
        target: W,
        reopen: impl Fn(&mut W) -> io::Result<()> + Send + 'static,
    ) -> io::Result<(Self, LogGuard)> {
        let (queue, items) = flume::bounded(QUEUE_LINES_MAX);
        let lines = Self { queue: queue.clone(), lost: Arc::default() };
        let lost = lines.lost.clone();
        let (end, ended) = flume::bounded(0);
        let run = move || {
            write_all(&items, &lost, target, reopen);
            drop(end);
        };
        std::thread::Builder::new().name("log".into()).spawn(run)?;
        Ok((lines, LogGuard { queue, ended }))
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    /// Takes a whole line: the formatter hands each over at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Item::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread. Errors of the target are not reported: there is nowhere left to report them.
fn write_all<W: Write>(
    items: &flume::Receiver<Item>,
    lost: &AtomicU64,
    mut target: W,
    reopen: impl Fn(&mut W) -> io::Result<()>,
) {
    while let Ok(item) = items.recv() {
        match item {
            Item::Line(line) => _ = target.write_all(&line),
            Item::Reopen => _ = reopen(&mut target),
            Item::End => break,
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(target, "{{\"level\":\"WARN\",\"message\":\"log lines lost\",\"lost\":{lost}}}");
        }
    }
    let _ = target.flush();
}

/// Lines of one kind that one shard writes per second.
pub const LINES_PER_SECOND: u32 = 5;
/// How long the end of the process may wait for whoever reads standard error.
const AUDIT_FILE_MODE: u32 = 0o640;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines that may wait for a slow reader of standard error.
const QUEUE_LINES_MAX: usize = 8_192;

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that a test reads after the thread has ended.
    struct Page(flume::Sender<Vec<u8>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, level: Level, log: impl FnOnce()) -> String {
        written_with(format, level, |_| log())
    }

    fn written_with(format: LogFormat, level: Level, log: impl FnOnce(SetLevel)) -> String {
        let (page, pieces) = flume::bounded(1_000);
        let (lines, guard) = Lines::start(Page(page), |_| Ok(())).unwrap();
        let (layer, level) = layer(format, level, lines, true);
        tracing::subscriber::with_default(Registry::default().with(layer), || log(level));
        drop(guard);
        String::from_utf8(pieces.drain().flatten().collect()).unwrap()
    }

    #[test]
    fn json_lines_are_objects_with_their_fields() {
        let text =
            written(LogFormat::Json, Level::INFO, || tracing::info!(shard = 3, peer = "a\n\"b", "slow reader closed"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "slow reader closed");
        assert_eq!(line["shard"], 3);
        assert_eq!(line["peer"], "a\n\"b");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn a_peer_cannot_forge_a_line_of_text() {
        let text = written(LogFormat::Text, Level::INFO, || tracing::info!(peer = "x\nERROR forged", "hello"));
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn levels_and_libraries_are_filtered() {
        let text = written(LogFormat::Text, Level::INFO, || {
            tracing::debug!("too fine");
            tracing::info!(target: "hyper", "of a library");
            tracing::warn!(target: "hyper", "library in trouble");
            tracing::info!("kept");
        });
        assert!(text.contains("kept") && text.contains("library in trouble"), "{text}");
        assert!(!text.contains("too fine") && !text.contains("of a library"), "{text}");
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        let text = written_with(LogFormat::Text, Level::INFO, |level| {
            tracing::debug!("before");
            level(Level::DEBUG);
            tracing::debug!("between");
            level(Level::WARN);
            tracing::info!("after");
        });
        assert!(text.contains("between") && !text.contains("before") && !text.contains("after"), "{text}");
    }

    #[test]
    fn audit_records_are_written_whatever_the_level_is() {
        let text = written(LogFormat::Json, Level::ERROR, || {
            let mut record = audit::Record::new(audit::Security::LoginRefused, "expired");
            record.address = Some("127.0.0.1:5");
            record.write();
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&line["event"], &line["outcome"]), (&"login_refused".into(), &"expired".into()));
        assert_eq!((&line["address"], line.get("user")), (&"127.0.0.1:5".into(), None));
        assert_eq!(line["target"], audit::TARGET);
    }

    #[test]
    fn audit_records_go_to_their_own_file_which_may_be_rotated() {
        let (page, pieces) = flume::bounded(1_000);
        let (second, later) = flume::bounded(1_000);
        let (lines, guard) = Lines::start(Page(page), move |page| {
            page.0 = second.clone();
            Ok(())
        })
        .unwrap();
        let queue = guard.queue.clone();
        tracing::subscriber::with_default(Registry::default().with(audit_layer(lines)), || {
            audit::Record::new(audit::Security::Ban, "done").write();
            tracing::error!("not of the audit");
            queue.send(Item::Reopen).unwrap();
            audit::Record::new(audit::Security::Lift, "done").write();
        });
        drop(guard);
        let text = |pieces: flume::Receiver<Vec<u8>>| String::from_utf8(pieces.drain().flatten().collect()).unwrap();
        let (first, second) = (text(pieces), text(later));
        assert!(first.contains("\"ban\"") && !first.contains("not of the audit"), "{first}");
        assert!(second.contains("\"lift\"") && second.lines().count() == 1, "{second}");
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_not_time() {
        let (page, pieces) = flume::bounded(0);
        let (lines, guard) = Lines::start(Page(page), |_| Ok(())).unwrap();
        for _ in 0..QUEUE_LINES_MAX + 100 {
            (&mut &lines).write_all(b"line\n").unwrap();
        }
        assert!(lines.lost.load(Ordering::Relaxed) >= 99);
        let text = std::thread::scope(|scope| {
            let reader = scope.spawn(|| pieces.iter().take(2 * QUEUE_LINES_MAX).flatten().collect::<Vec<u8>>());
            drop(guard);
            String::from_utf8(reader.join().unwrap()).unwrap()
        });
        assert!(text.contains("log lines lost"));
    }

    #[test]
    fn a_kind_of_line_has_its_share_of_each_second() {
        let mut throttle = Throttle::default();
        let at = |us| Time { us, unix_ms: 0 };
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(throttle.admit("bad command", at(1)), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(throttle.admit("bad command", at(999_999)), None);
        }
        assert_eq!(throttle.admit("bad frame", at(999_999)), Some(0));
        assert_eq!(throttle.admit("bad command", at(1_000_000)), Some(7));
        assert_eq!(throttle.admit("bad command", at(1_000_001)), Some(0));
    }
}
