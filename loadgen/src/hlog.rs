//! HdrHistogram's own formats, so that other tools can read what was measured: one histogram packed into text, and the
//! interval log.
//!
//! Packed means the V2 encoding, deflated, in base64. In an interval log each line is such a histogram with the second
//! it covers and a tag that says what was timed; `StartTime` is the first connect, and timestamps count from it
//! (`BaseTime`). Values are microseconds.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::report::Outcome;

/// Why there is no histogram, or no log.
#[derive(Debug, thiserror::Error)]
pub enum HlogError {
    /// Not what [`pack`] writes.
    #[error("a histogram cannot be unpacked: {0}")]
    Packed(String),
    /// The result does not say when it began.
    #[error("`{0}` is not a time")]
    Started(String),
    /// A name that cannot be a tag.
    #[error("`{0}` cannot be the tag of a histogram")]
    Tag(String),
    /// A histogram that cannot be written.
    #[error("a histogram cannot be written: {0}")]
    Written(String),
}

/// A histogram as text.
#[must_use]
pub fn pack(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("counts fit and writing to memory cannot fail");
    STANDARD.encode(bytes)
}

/// The histogram that a text holds.
pub fn unpack(text: &str) -> Result<Histogram<u64>, HlogError> {
    let bytes = STANDARD.decode(text).map_err(|error| HlogError::Packed(error.to_string()))?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| HlogError::Packed(error.to_string()))
}

/// The interval log of a result: each second's histograms, one line each.
pub fn interval_log(outcome: &Outcome) -> Result<Vec<u8>, HlogError> {
    let text = &outcome.environment.started;
    let started = humantime::parse_rfc3339(text).map_err(|_| HlogError::Started(text.clone()))?;
    let (mut log, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let written = |error: &dyn std::fmt::Display| HlogError::Written(error.to_string());
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(&format!("[{}; values in microseconds]", outcome.summary.replace(['\r', '\n'], " ")));
    builder.with_start_time(started).with_base_time(SystemTime::UNIX_EPOCH.max(started));
    let mut writer = builder.begin_log_with(&mut log, &mut serializer).map_err(|error| written(&error))?;
    for second in &outcome.seconds {
        let from = Duration::try_from_secs_f64(second.at_s).map_err(|error| written(&error))?;
        for (name, packed) in &second.histograms {
            let tag = Tag::new(name).ok_or_else(|| HlogError::Tag(name.clone()))?;
            writer
                .write_histogram(&unpack(packed)?, from, Duration::from_secs(1), Some(tag))
                .map_err(|error| written(&format!("{error:?}")))?;
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::report::tests::outcome;
    use crate::stats::latency_histogram;

    #[test]
    fn a_histogram_comes_back_as_it_was_packed() {
        let mut histogram = latency_histogram();
        (1..5_000).for_each(|us| histogram.record_n(us * us, us).unwrap());
        let packed = pack(&histogram);
        assert!(packed.starts_with("HISTFAA"), "the mark that tools know: {packed:.20}");
        assert_eq!(unpack(&packed).unwrap(), histogram);
    }

    #[test]
    fn what_is_no_histogram_is_an_error() {
        for text in ["", "HISTFAAAA", "?", "AAAAAAAAAAAAAAAA"] {
            unpack(text).unwrap_err();
        }
    }

    #[test]
    fn a_log_reads_back_with_the_standard_reader() {
        let outcome = outcome();
        let log = interval_log(&outcome).unwrap();
        let mut lines = 0;
        let mut total = latency_histogram();
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(line) = entry.unwrap() else { continue };
            lines += 1;
            if line.tag().unwrap().as_str() == "deliver" {
                assert_eq!(line.duration(), Duration::from_secs(1));
                total.add(unpack(line.encoded_histogram()).unwrap()).unwrap();
            }
        }
        let expected: usize = outcome.seconds.iter().map(|second| second.histograms.len()).sum();
        assert_eq!(lines, expected);
        let deliver = outcome.latency_us.deliver.unwrap();
        assert_eq!((total.len(), total.max()), (deliver.count, deliver.max));
        let text = String::from_utf8(log).unwrap();
        assert!(text.contains("#[StartTime:") && text.contains("#[BaseTime:"), "{text:.300}");
    }

    #[test]
    fn a_result_that_does_not_say_when_is_an_error() {
        let mut outcome = outcome();
        outcome.environment.started = "yesterday".to_owned();
        assert!(matches!(interval_log(&outcome), Err(HlogError::Started(_))));
    }
}
