//! Reads the configuration from its four sources and keeps, for each value, where it came from.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use crate::config::settings::{self, Setting, VARIABLE_PREFIX};
use crate::config::validate::Problem;
use crate::config::{Config, Invocation};
use crate::config::{permissions, rooms, tables};

/// A configuration with its history.
#[derive(Debug)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// What looks like a mistake but need not be one.
    pub warnings: Vec<String>,
    sources: Figment,
}

/// Why there is no usable configuration: everything that is wrong, not only the first.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The setting, or what stands in its place.
    pub key: String,
    /// What was given.
    pub value: String,
    /// Where it was given.
    pub origin: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.findings.iter().map(Finding::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, origin, what, remedy } = self;
        write!(f, "{key} = {value} ({origin}): {what}\n  remedy: {remedy}")
    }
}

/// Reads everything. `environment` is what [`std::env::vars_os`] gives.
pub fn load(
    invocation: &Invocation,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    let mut findings = Vec::new();
    let mut warnings = Vec::new();
    let variables = our_variables(environment, &mut findings, &mut warnings);
    let path = invocation.config_file.clone().or_else(|| variables.file.clone());
    let mut sources = defaults();
    if let Some(path) = path {
        match read_file(&path) {
            Ok(layer) => {
                findings.extend(unknown_keys(&layer));
                sources = sources.merge(layer);
            }
            Err(finding) => findings.push(finding),
        }
    }
    if !findings.is_empty() {
        return Err(ConfigError { findings });
    }
    for (setting, value) in variables.settings {
        sources = sources.merge(Layer::of_one(setting, vec![value], setting.variable()));
    }
    for (key, values) in &invocation.flags {
        let setting = Setting::find(key).expect("flags are made from the table");
        sources = sources.merge(Layer::of_one(setting, values.clone(), setting.flag()));
    }
    read_settings(sources, warnings)
}

impl Loaded {
    /// The values of a setting as text, and where they came from.
    pub(super) fn given(&self, setting: &Setting) -> (Vec<String>, String) {
        given(&self.sources, setting.key)
    }

    /// Where a list of tables came from; empty without any.
    pub(super) fn origin_of_tables(&self, key: &str) -> String {
        given(&self.sources, key).1
    }

    /// Puts a problem found later, such as one with the machine, into the words of this module.
    #[must_use]
    pub fn blame(&self, problem: Problem) -> ConfigError {
        ConfigError { findings: vec![blame(&self.sources, problem)] }
    }
}

fn read_settings(sources: Figment, warnings: Vec<String>) -> Result<Loaded, ConfigError> {
    let mut config = Config::default();
    let mut findings = Vec::new();
    for setting in settings::all() {
        let (values, _) = given(&sources, setting.key);
        if let Err(unreadable) = (setting.read)(&mut config, &values) {
            let problem = Problem::new(setting.key, unreadable.what, unreadable.remedy);
            findings.push(blame(&sources, problem));
        }
    }
    // Without tables there is no value.
    let rooms = sources.find_value(rooms::KEY).ok().map(|value| rooms::read(&value));
    let permissions = sources.find_value(permissions::KEY).ok().map(|value| permissions::read(&value));
    let mut blame_all =
        |problems: Vec<Problem>| findings.extend(problems.into_iter().map(|problem| blame(&sources, problem)));
    config.policies.rules = rooms.unwrap_or(Ok(Vec::new())).unwrap_or_else(|problems| {
        blame_all(problems);
        Vec::new()
    });
    config.permissions.rules = permissions.unwrap_or(Ok(Vec::new())).unwrap_or_else(|problems| {
        blame_all(problems);
        Vec::new()
    });
    if findings.is_empty() {
        findings = config.validate().into_iter().map(|problem| blame(&sources, problem)).collect();
    }
    if findings.is_empty() { Ok(Loaded { config, warnings, sources }) } else { Err(ConfigError { findings }) }
}

fn blame(sources: &Figment, problem: Problem) -> Finding {
    let (values, origin) = given(sources, &problem.key);
    let value = if values.is_empty() { "nothing".to_string() } else { values.join(",") };
    Finding { key: problem.key.into(), value, origin, what: problem.what, remedy: problem.remedy }
}

/// What was given for a setting or for a key of a rule, and where.
fn given(sources: &Figment, key: &str) -> (Vec<String>, String) {
    let rules = tables::list_of(key).and_then(|list| sources.find_value(list).ok());
    let (values, tag) = match sources.find_value(key) {
        Ok(value) => (as_texts(&value), Some(value.tag())),
        Err(_) => {
            let value = rules.as_ref().and_then(|rules| tables::find(rules, key));
            (value.map(as_texts).unwrap_or_default(), rules.as_ref().map(Value::tag))
        }
    };
    let metadata = tag.and_then(|tag| sources.get_metadata(tag));
    let origin =
        metadata.map_or_else(String::new, |metadata| match metadata.source.as_ref().and_then(Source::file_path) {
            Some(path) => path.display().to_string(),
            None => metadata.name.to_string(),
        });
    (values, origin)
}

/// A value as its source wrote it. What is neither text nor number becomes a text that no setting takes.
pub(super) fn as_texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(_, values) => values.iter().flat_map(as_texts).collect(),
        Value::String(_, text) => vec![text.clone()],
        Value::Char(_, c) => vec![c.to_string()],
        Value::Bool(_, yes) => vec![yes.to_string()],
        Value::Num(_, number) => {
            let whole = number.to_u128().map(|n| n.to_string()).or_else(|| number.to_i128().map(|n| n.to_string()));
            vec![whole.or_else(|| number.to_f64().map(|n| n.to_string())).unwrap_or_default()]
        }
        Value::Empty(..) | Value::Dict(..) => vec!["{}".into()],
    }
}

fn defaults() -> Figment {
    let config = Config::default();
    let layers = settings::all().map(|setting| Layer::of_one(setting, (setting.write)(&config), "default".into()));
    layers.fold(Figment::new(), Figment::merge)
}

fn read_file(path: &Path) -> Result<Layer, Finding> {
    let finding = |what: String, remedy: &str| Finding {
        key: "config".into(),
        value: path.display().to_string(),
        origin: "--config or HUBBUB_CONFIG".into(),
        what,
        remedy: remedy.into(),
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| finding(format!("cannot be read: {error}"), "name a file that this user may read"))?;
    let dict = Toml::from_str(&text).map_err(|error| {
        finding(format!("is not TOML: {}", error.to_string().trim_end()), "mend the file at that place")
    })?;
    Ok(Layer { dict, metadata: Metadata::from("file", path) })
}

fn unknown_keys(layer: &Layer) -> Vec<Finding> {
    let mut leaves = Vec::new();
    collect_leaves("", &layer.dict, &mut leaves);
    let origin = layer.metadata.source.as_ref().and_then(Source::file_path).map(|path| path.display().to_string());
    let unknown = leaves.into_iter().filter(|(key, _)| Setting::find(key).is_none() && !is_tables(key));
    unknown
        .map(|(key, value)| Finding {
            remedy: format!("did you mean {}?", nearest(&key)),
            what: "there is no such setting".into(),
            value: value.join(","),
            origin: origin.clone().unwrap_or_default(),
            key,
        })
        .collect()
}

fn collect_leaves(prefix: &str, dict: &Dict, leaves: &mut Vec<(String, Vec<String>)>) {
    for (name, value) in dict {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) if Setting::find(&key).is_none() && !is_tables(&key) && !inner.is_empty() => {
                collect_leaves(&key, inner, leaves);
            }
            _ => leaves.push((key, as_texts(value))),
        }
    }
}

fn is_tables(key: &str) -> bool {
    tables::KEYS.contains(&key)
}

/// The known key most like an unknown one, also if only its table was forgotten or made up.
fn nearest(key: &str) -> &'static str {
    fn last(key: &str) -> &str {
        key.rsplit('.').next().unwrap_or(key)
    }
    let likeness = |known: &str| strsim::jaro_winkler(key, known).max(strsim::jaro_winkler(last(key), last(known)));
    let known = settings::all().map(|setting| setting.key).chain(tables::KEYS);
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).expect("the table is not empty")
}

struct Variables {
    file: Option<PathBuf>,
    settings: Vec<(&'static Setting, String)>,
}

/// Picks what is meant for the server. A name within two letters of a variable is a mistake; any other may be someone
/// else's (Kubernetes makes `HUBBUB_PORT` of a service called hubbub), so it only gets a warning.
fn our_variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    findings: &mut Vec<Finding>,
    warnings: &mut Vec<String>,
) -> Variables {
    let mut variables = Variables { file: None, settings: Vec::new() };
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
        if cfg!(debug_assertions) && name == FAULT_VARIABLE {
            continue;
        }
        if name == CONFIG_VARIABLE {
            variables.file = Some(value.into());
        } else if let Some(setting) = settings::all().find(|setting| setting.variable() == name) {
            variables.settings.push((setting, value.to_string_lossy().into_owned()));
        } else if let Some(like) = misspelt(name) {
            findings.push(Finding {
                key: name.into(),
                value: value.to_string_lossy().into_owned(),
                origin: "environment".into(),
                what: "there is no such variable".into(),
                remedy: format!("did you mean {like}?"),
            });
        } else {
            warnings.push(format!("{name} is set but names no setting of this server"));
        }
    }
    variables
}

fn misspelt(name: &str) -> Option<String> {
    let known = settings::all().map(Setting::variable).chain([CONFIG_VARIABLE.to_string()]);
    let (distance, nearest) = known.map(|known| (strsim::damerau_levenshtein(&known, name), known)).min()?;
    (distance <= 2).then_some(nearest)
}

/// One source for figment: some values and a word for where they came from.
struct Layer {
    dict: Dict,
    metadata: Metadata,
}

impl Layer {
    fn of_one(setting: &Setting, values: Vec<String>, origin: String) -> Self {
        let value = Value::from(values);
        let dict = figment::util::nest(setting.key, value).into_dict().unwrap_or_default();
        Self { dict, metadata: Metadata::named(origin) }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

const CONFIG_VARIABLE: &str = "HUBBUB_CONFIG";
/// Where tests have the process killed (`store::FAULT_POINTS`); release builds know of no such thing.
const FAULT_VARIABLE: &str = "HUBBUB_FAULT";
