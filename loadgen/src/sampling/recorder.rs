//! Keeps everything that is looked at once a second, on one time axis that begins at the first connect.
//!
//! The coordinator calls [`Recorder::look`] often; the recorder decides when a second is over. Seconds are counted from
//! the first connect, and from the start of the load once that is known, so that they are the workers' seconds. A look
//! that comes late makes its second longer, and the second says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::NS_PER_S;
use crate::sampling::process::Sample;
use crate::sampling::scrape::{Endpoint, Scraper, Scrapes};
use crate::sampling::timeline::{Second, Timeline};
use crate::stats::{Count, Counts, Interval};

/// One second as it was seen from outside: connections, traffic, and what both processes used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// When it began, in seconds since the first connect.
    pub from_s: f64,
    /// When it ended.
    pub until_s: f64,
    /// Connections that stood when it ended.
    pub connections: u64,
    /// Messages sent within it.
    pub sent: u64,
    /// Messages received within it, counted at every subscriber.
    pub received: u64,
    /// This process.
    pub generator: Usage,
    /// The server; `null` when it could not be read.
    pub server: Option<Usage>,
}

/// What a process used within a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Time on a core of all its threads, in nanoseconds.
    pub cpu_ns: u64,
    /// Time its threads were ready and others had their cores, in nanoseconds.
    pub waited_ns: u64,
    /// Cores used, by the threads' names; threads of one name are added up.
    pub cores: BTreeMap<String, f64>,
    /// Times its threads gave their cores up, to wait.
    pub voluntary_switches: u64,
    /// Times their cores were taken from them.
    pub involuntary_switches: u64,
    /// Resident memory at the end of the second.
    pub rss_bytes: u64,
    /// The part of it that belongs to no file.
    pub rss_anon_bytes: u64,
}

/// Everything that was recorded.
#[derive(Debug, Default)]
pub struct Recording {
    /// What the workers measured, by second of the load.
    pub seconds: Vec<Second>,
    /// What was seen from outside, by second of the run.
    pub looks: Vec<Look>,
    /// The server's metrics.
    pub scrapes: Option<Scrapes>,
    /// The server's version, by its metrics.
    pub server_version: Option<String>,
    /// When the load began, in seconds since the first connect.
    pub load_from_s: Option<f64>,
}

/// What the live view shows of the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latest {
    /// Cores that the server used.
    pub server_cores: Option<f64>,
    /// The server's resident memory.
    pub server_rss_bytes: Option<u64>,
    /// Cores that the generator used.
    pub generator_cores: Option<f64>,
    /// p99 of delivery within one second, in microseconds.
    pub deliver_p99_us: Option<u64>,
}

/// Records a run.
#[derive(Debug)]
pub struct Recorder {
    began_ns: u64,
    /// When the second is over.
    due_ns: u64,
    server_pid: Option<u32>,
    /// Where metrics will be read, until the thread that reads them runs.
    endpoint: Option<Endpoint>,
    scraper: Option<Scraper>,
    timeline: Timeline,
    before: Before,
    recording: Recording,
}

/// How things were when the second began.
#[derive(Debug, Default)]
struct Before {
    at_ns: u64,
    counts: Counts,
    own: Sample,
    server: Option<Sample>,
}

impl Recorder {
    /// Begins at the first connect.
    #[must_use]
    pub fn begin(now_ns: u64, server_pid: Option<u32>, endpoint: Option<Endpoint>) -> Self {
        let scrapes = endpoint.as_ref().map(|endpoint| Scrapes { url: endpoint.url.clone(), ..Scrapes::default() });
        Self {
            began_ns: now_ns,
            due_ns: now_ns + NS_PER_S,
            server_pid,
            endpoint,
            scraper: None,
            timeline: Timeline::new(),
            before: Before {
                at_ns: now_ns,
                counts: Counts::default(),
                own: Sample::own().unwrap_or_default(),
                server: server_pid.and_then(Sample::of),
            },
            recording: Recording { scrapes, ..Recording::default() },
        }
    }

    /// Call at least every 100 ms.
    pub fn look(&mut self, now_ns: u64, counts: &Counts) {
        self.take_scrapes(counts);
        if now_ns >= self.due_ns {
            self.end_second(now_ns, counts);
            while self.due_ns <= now_ns {
                self.due_ns += NS_PER_S;
            }
        }
    }

    /// What one worker measured in a second of the load.
    pub fn measured(&mut self, second: u32, interval: &Interval) {
        self.timeline.add(second, interval);
    }

    /// The load begins at `start_ns`, and the seconds are counted from there.
    pub fn load_starts(&mut self, start_ns: u64) {
        self.recording.load_from_s = Some(self.axis(start_ns));
        self.due_ns = start_ns;
    }

    /// The last second.
    #[must_use]
    pub fn latest(&self) -> Latest {
        let look = self.recording.looks.last();
        let cores = |look: &Look, usage: &Usage| usage.cpu_ns as f64 / 1e9 / (look.until_s - look.from_s).max(1e-3);
        let server = look.and_then(|look| Some((look, look.server.as_ref()?)));
        Latest {
            server_cores: server.map(|(look, usage)| cores(look, usage)),
            server_rss_bytes: server.map(|(_, usage)| usage.rss_bytes),
            generator_cores: look.map(|look| cores(look, &look.generator)),
            deliver_p99_us: self.timeline.latest().and_then(|second| Some(second.deliver_us?.p99)),
        }
    }

    /// A moment of the monotonic clock in seconds since the first connect.
    #[must_use]
    pub fn axis(&self, ns: u64) -> f64 {
        rounded(ns.saturating_sub(self.began_ns) as f64 / NS_PER_S as f64)
    }

    /// Ends the recording.
    #[must_use]
    pub fn finish(mut self, counts: &Counts) -> Recording {
        self.take_scrapes(counts);
        for (at_ns, page) in self.scraper.take().map_or_else(Vec::new, Scraper::stop) {
            self.scraped(at_ns, page);
        }
        let load_from_s = self.recording.load_from_s.unwrap_or_default();
        Recording { seconds: self.timeline.finish(load_from_s), ..self.recording }
    }

    fn take_scrapes(&mut self, counts: &Counts) {
        // Not before a worker has connected: a socket that is open while the workers split their descriptor tables
        // would live on in theirs.
        if counts.get(Count::Connected) > 0
            && let Some(endpoint) = self.endpoint.take()
        {
            match Scraper::start(endpoint) {
                Ok(scraper) => self.scraper = Some(scraper),
                Err(error) => self.scraped(self.before.at_ns, Err(format!("its thread did not start: {error}"))),
            }
        }
        let new: Vec<_> = self.scraper.iter().flat_map(Scraper::take).collect();
        for (at_ns, page) in new {
            self.scraped(at_ns, page);
        }
    }

    fn scraped(&mut self, at_ns: u64, page: Result<crate::sampling::scrape::Page, String>) {
        if let Ok(page) = &page
            && self.recording.server_version.is_none()
        {
            self.recording.server_version.clone_from(&page.version);
        }
        let at_s = self.axis(at_ns);
        if let Some(scrapes) = &mut self.recording.scrapes {
            scrapes.add(at_s, page);
        }
    }

    fn end_second(&mut self, now_ns: u64, counts: &Counts) {
        let now = Before {
            at_ns: now_ns,
            counts: *counts,
            own: Sample::own().unwrap_or_default(),
            server: self.server_pid.and_then(Sample::of),
        };
        let before = std::mem::replace(&mut self.before, now);
        let (now, took_ns) = (&self.before, now_ns.saturating_sub(before.at_ns).max(1));
        let new = |what| counts.get(what) - before.counts.get(what);
        let server = now.server.as_ref().zip(before.server.as_ref());
        self.recording.looks.push(Look {
            from_s: self.axis(before.at_ns),
            until_s: self.axis(now_ns),
            connections: counts.standing(),
            sent: new(Count::Sent),
            received: new(Count::Received),
            generator: Usage::between(&before.own, &now.own, took_ns),
            server: server.map(|(now, before)| Usage::between(before, now, took_ns)),
        });
    }
}

impl Usage {
    fn between(before: &Sample, now: &Sample, took_ns: u64) -> Self {
        let mut usage = Self { rss_bytes: now.rss_bytes, rss_anon_bytes: now.rss_anon_bytes, ..Self::default() };
        for thread in now.since(before) {
            usage.cpu_ns += thread.cpu_ns;
            usage.waited_ns += thread.waited_ns;
            usage.voluntary_switches += thread.voluntary_switches;
            usage.involuntary_switches += thread.involuntary_switches;
            *usage.cores.entry(thread.name).or_insert(0.0) += thread.cpu_ns as f64 / took_ns as f64;
        }
        usage.cores.values_mut().for_each(|cores| *cores = rounded(*cores));
        usage
    }
}

/// To a millionth, so that the JSON stays short.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(joined: u64, received: u64) -> Counts {
        let mut counts = Counts::default();
        counts.add(Count::Joined, joined);
        counts.add(Count::Received, received);
        counts
    }

    #[test]
    fn looks_follow_the_seconds_of_the_load_once_it_starts() {
        let mut recorder = Recorder::begin(1_000, None, None);
        recorder.look(1_000 + NS_PER_S / 2, &counts(1, 0));
        recorder.look(1_000 + NS_PER_S, &counts(2, 0));
        let start_ns = 1_000 + NS_PER_S * 3 / 2;
        recorder.load_starts(start_ns);
        for second in 0..3 {
            recorder.look(start_ns + second * NS_PER_S, &counts(2, 10 * second));
        }
        let recording = recorder.finish(&counts(2, 20));
        let spans: Vec<_> = recording.looks.iter().map(|look| (look.from_s, look.until_s, look.received)).collect();
        assert_eq!(spans, [(0.0, 1.0, 0), (1.0, 1.5, 0), (1.5, 2.5, 10), (2.5, 3.5, 10)]);
        assert_eq!((recording.load_from_s, recording.looks[0].connections), (Some(1.5), 2));
    }

    #[test]
    fn a_late_look_makes_a_long_second_and_no_more() {
        let mut recorder = Recorder::begin(0, None, None);
        recorder.look(NS_PER_S * 7 / 2, &counts(1, 5));
        recorder.look(NS_PER_S * 4, &counts(1, 6));
        let recording = recorder.finish(&counts(1, 6));
        let spans: Vec<_> = recording.looks.iter().map(|look| (look.from_s, look.until_s, look.received)).collect();
        assert_eq!(spans, [(0.0, 3.5, 5), (3.5, 4.0, 1)]);
    }

    #[test]
    fn a_process_is_looked_at_and_one_that_is_gone_is_not_made_up() {
        let mut recorder = Recorder::begin(0, Some(std::process::id()), None);
        recorder.look(NS_PER_S, &counts(1, 0));
        recorder.server_pid = Some(u32::MAX);
        recorder.look(NS_PER_S * 2, &counts(1, 0));
        assert_eq!(recorder.latest().server_cores, None);
        let recording = recorder.finish(&counts(1, 0));
        let server = recording.looks[0].server.as_ref().unwrap();
        assert!(server.rss_bytes > 0 && !server.cores.is_empty());
        assert_eq!(recording.looks[1].server, None);
        assert!(recording.looks[1].generator.rss_bytes > 0);
    }
}
