//! Log lines: one line per event on standard error, as text or JSON.
//!
//! A shard never waits, so it does not write itself: lines go through a bounded queue to a thread that does, and when
//! that thread is held up by whoever reads standard error, lines are lost and counted. Lines that a peer can cause go
//! through a [`Throttle`] first.

use std::io::{self, Write};
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

/// Sends this process's log lines to standard error. Dropping it waits until what is queued is written.
///
/// Fails if the process already has a subscriber or the thread cannot be made.
pub fn start(format: LogFormat, level: Level) -> Result<(LogGuard, LogLevel), LogError> {
    let (lines, guard) = Lines::start(io::stderr())?;
    let (layer, level) = layer(format, level, lines);
    tracing::subscriber::set_global_default(Registry::default().with(layer)).map_err(|_| LogError::AlreadyStarted)?;
    Ok((guard, level))
}

/// Changes which lines are written, from now on.
#[derive(Clone)]
pub struct LogLevel(Arc<dyn Fn(Level) + Send + Sync>);

impl LogLevel {
    /// Lines from `level` up are written.
    pub fn set(&self, level: Level) {
        (self.0)(level);
    }
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLevel")
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

fn layer<S>(format: LogFormat, level: Level, lines: Lines) -> (Box<dyn Layer<S> + Send + Sync>, LogLevel)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (targets, handle) = reload::Layer::new(targets(level));
    // It fails once the subscriber is gone, and then nothing is written.
    let level = LogLevel(Arc::new(move |level| _ = handle.reload(self::targets(level))));
    let layer = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.with_filter(targets).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(targets).boxed(),
    };
    (layer, level)
}

/// The server's own lines from `level` up; those of its libraries only if someone should look.
fn targets(level: Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new().with_target("hubbub", level).with_default(level.min(LevelFilter::WARN))
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
    End,
}

impl Lines {
    fn start(target: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let (queue, items) = flume::bounded(QUEUE_LINES_MAX);
        let lines = Self { queue: queue.clone(), lost: Arc::default() };
        let lost = lines.lost.clone();
        let (end, ended) = flume::bounded(0);
        let run = move || {
            write_all(&items, &lost, target);
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
fn write_all(items: &flume::Receiver<Item>, lost: &AtomicU64, mut target: impl Write) {
    while let Ok(Item::Line(line)) = items.recv() {
        let _ = target.write_all(&line);
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

    fn written_with(format: LogFormat, level: Level, log: impl FnOnce(LogLevel)) -> String {
        let (page, pieces) = flume::bounded(1_000);
        let (lines, guard) = Lines::start(Page(page)).unwrap();
        let (layer, level) = layer(format, level, lines);
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
            level.set(Level::DEBUG);
            tracing::debug!("between");
            level.set(Level::WARN);
            tracing::info!("after");
        });
        assert!(text.contains("between") && !text.contains("before") && !text.contains("after"), "{text}");
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_not_time() {
        let (page, pieces) = flume::bounded(0);
        let (lines, guard) = Lines::start(Page(page)).unwrap();
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
