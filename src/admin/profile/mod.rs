//! `/debug/pprof/profile`: where the threads of this process spend their CPU time.
//!
//! The kernel samples each thread into memory that only the profile's own thread reads (`sample`): no signal interrupts a
//! shard, nothing runs on its stack, and while nobody asks nothing is set up at all. Signals were no choice: what
//! catches them for other profilers probes addresses through a descriptor, which in a shard's own table is some client's
//! socket. Stacks are unwound from the copied part of each stack (`unwind`), named (`symbols`) and written down
//! (`encode`). One profile runs at a time.

mod encode;
mod sample;
mod symbols;
mod unwind;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::{HashMap, HashMapExt};
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use self::sample::Sampled;
use self::symbols::Symbols;
use self::unwind::Stacks;
use crate::clock::Clock;

/// Whether a profile is being taken.
pub(super) type Busy = Arc<AtomicBool>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    seconds: u64,
    hz: u64,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Gzipped protobuf, as pprof reads it.
    Pprof,
    /// One line per stack, root first, as flame graph scripts read it.
    Folded,
}

/// What was seen.
#[derive(Debug)]
struct Profile {
    wanted: Wanted,
    began_unix_ms: u64,
    took_us: u64,
    /// By thread's name, and code addresses from the innermost out.
    stacks: HashMap<(Arc<str>, Vec<u64>), u64>,
    /// Samples that the kernel had no room for.
    lost: u64,
}

/// Takes a profile and answers with it.
pub(super) async fn profile(State(busy): State<Busy>, uri: Uri) -> Response {
    let wanted = match Wanted::read(uri.query().unwrap_or("")) {
        Ok(wanted) => wanted,
        Err(what) => return (StatusCode::BAD_REQUEST, what).into_response(),
    };
    if busy.swap(true, Ordering::AcqRel) {
        return (StatusCode::CONFLICT, "a profile is being taken; ask again when it is done\n").into_response();
    }
    let running = Running(busy);
    // Gone when the one who asked is: then the thread ends early.
    let (asking, asked) = flume::bounded(0);
    let (answer, answers) = tokio::sync::oneshot::channel();
    let run = move || {
        let result = take(wanted, &asked);
        drop(running);
        // Nobody may be there to hear it.
        let _ = answer.send(result);
    };
    let started = std::thread::Builder::new().name("profile".into()).spawn(run);
    let result = match started {
        Ok(_) => answers.await.unwrap_or_else(|_| Err(io::Error::other("the profile's thread broke off"))),
        Err(error) => Err(error),
    };
    drop::<flume::Sender<()>>(asking);
    match (result, wanted.format) {
        (Ok(body), Format::Pprof) => {
            let name = (header::CONTENT_DISPOSITION, "attachment; filename=\"hubbub.pb.gz\"");
            ([(header::CONTENT_TYPE, "application/octet-stream"), name], body).into_response()
        }
        (Ok(body), Format::Folded) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response(),
        (Err(error), _) => (StatusCode::SERVICE_UNAVAILABLE, refusal(&error)).into_response(),
    }
}

/// Marks that a profile runs, until dropped.
struct Running(Busy);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn take(wanted: Wanted, asked: &flume::Receiver<()>) -> io::Result<Vec<u8>> {
    let clock = Clock::start();
    let began = clock.now();
    let stacks = Stacks::of_this_process()?;
    let mut counted: HashMap<(Arc<str>, Vec<u64>), u64> = HashMap::new();
    let mut threads = sample::start(wanted.hz)?;
    let until = clock.us() + wanted.seconds * 1_000_000;
    let mut lost = 0;
    loop {
        let now = clock.us();
        for thread in &mut threads {
            while let Some(sampled) = thread.next() {
                match sampled {
                    Sampled::Stack(seen) => *counted.entry((thread.name.clone(), stacks.walk(&seen))).or_default() += 1,
                    Sampled::Lost(samples) => lost += samples,
                }
            }
        }
        let gone = matches!(asked.recv_timeout(LOOK_EVERY), Err(flume::RecvTimeoutError::Disconnected));
        if gone || now >= until {
            break;
        }
    }
    drop(threads);
    let profile =
        Profile { wanted, began_unix_ms: began.unix_ms, took_us: clock.us() - began.us, stacks: counted, lost };
    let symbols = Symbols::for_process();
    match wanted.format {
        Format::Pprof => encode::pprof(&profile, &symbols),
        Format::Folded => Ok(encode::folded(&profile, &symbols).into_bytes()),
    }
}

fn refusal(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the kernel must allow perf_event_open: sysctl -w kernel.perf_event_paranoid=2, or give the service \
             CAP_PERFMON (AmbientCapabilities=CAP_PERFMON), and in a container a seccomp profile that lets it through"
        }
        _ => "",
    };
    format!("no profile can be taken: {error}{remedy}\n")
}

impl Wanted {
    fn read(query: &str) -> Result<Self, String> {
        let mut wanted = Self { seconds: 10, hz: 99, format: Format::Pprof };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "seconds" => wanted.seconds = between(name, value, 1, SECONDS_MAX)?,
                "hz" => wanted.hz = between(name, value, 1, HZ_MAX)?,
                "format" if value == "pprof" => wanted.format = Format::Pprof,
                "format" if value == "folded" => wanted.format = Format::Folded,
                "format" => return Err("format is pprof or folded\n".into()),
                _ => return Err("the parameters are seconds, hz and format\n".into()),
            }
        }
        Ok(wanted)
    }
}

fn between(name: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{name} is a number from {least} to {most}\n"))
}

const SECONDS_MAX: u64 = 60;
const HZ_MAX: u64 = 999;
/// Often enough that a ring of samples never fills at [`HZ_MAX`].
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_bounds() {
        let asked = |query| Wanted::read(query);
        assert_eq!(asked("").unwrap(), Wanted { seconds: 10, hz: 99, format: Format::Pprof });
        let most = Wanted { seconds: 60, hz: 999, format: Format::Folded };
        assert_eq!(asked("seconds=60&hz=999&format=folded").unwrap(), most);
        for wrong in ["seconds=0", "seconds=61", "seconds=", "hz=0", "hz=1000", "format=svg", "minutes=1", "seconds=-1"]
        {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
