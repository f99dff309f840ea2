//! The server's metrics as a scraper sees them.

use std::net::SocketAddr;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Scrapes the admin port.
    pub fn scrape(address: SocketAddr) -> Self {
        let response = super::http(address, "GET", "/metrics", &[]);
        assert_eq!(response.status, 200, "{}", response.head);
        let text = response.text();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { samples: lines.map(|line| parse(line).unwrap_or_else(|| panic!("no sample: {line:?}"))).collect() }
    }

    /// The sum over all samples of that name whose labels include these.
    ///
    /// # Panics
    /// When there is none, for a misspelt name must not read as zero.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let mut found = self.matching(name, labels).peekable();
        assert!(found.peek().is_some(), "there is no sample {name}{labels:?}");
        found.map(|sample| sample.value).sum::<f64>() as u64
    }

    /// The sum for each shard, in their order.
    pub fn by_shard(&self, name: &str, labels: &[(&str, &str)]) -> Vec<u64> {
        let shards = self.matching("hubbub_accepted_total", &[]).count();
        let sum = |shard: usize| {
            let shard = shard.to_string();
            self.sum(name, &[labels, &[("shard", shard.as_str())]].concat())
        };
        (0..shards).map(sum).collect()
    }

    fn matching<'m>(&'m self, name: &'m str, labels: &'m [(&str, &str)]) -> impl Iterator<Item = &'m Sample> {
        let has = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.iter().any(|(found, given)| found == key && given == value)
        };
        self.samples.iter().filter(move |s| s.name == name && labels.iter().all(|label| has(s, label)))
    }
}

/// Reads `name{label="value",…} number`. Label values of the server have neither quotes nor commas.
fn parse(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let label = |text: &str| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    };
    let labels = labels.split(',').filter(|text| !text.is_empty()).map(label).collect::<Option<_>>()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}
