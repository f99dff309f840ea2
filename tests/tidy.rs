//! Rules of this code base that no lint knows: layers, sizes, names, and documents that say what the code says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use hubbub::message::close::{CloseReason, ErrorCode};
use hubbub::telemetry::metrics::Metrics;
use hubbub::telemetry::render::Renderer;

/// Modules by layer, lowest first. A module sees its own and those of lower layers, and what [`ALSO`] adds.
const LAYERS: [&[&str]; 4] = [
    &["access", "ids", "limits", "clock", "message", "policy"],
    &["chat", "codec"],
    &["config", "hooks", "net", "store", "telemetry", "terminal", "tls", "token", "web"],
    &["admin", "doctor", "shard"],
];
/// Sights within a layer.
const ALSO: &[(&str, &str)] = &[
    ("message", "ids"),
    ("ids", "limits"),
    ("policy", "ids"),
    ("access", "ids"),
    ("access", "message"),
    ("access", "policy"),
    ("config", "hooks"),
    ("config", "telemetry"),
    ("config", "terminal"),
    ("hooks", "telemetry"),
    ("store", "telemetry"),
    ("token", "config"),
    ("token", "telemetry"),
    ("tls", "config"),
    ("shard", "admin"),
];
/// Modules that see less than their layer: bytes only, or nothing at all.
const ONLY: &[(&str, &[&str])] = &[("net", &["ids", "limits"]), ("web", &[]), ("limits", &[]), ("clock", &[])];
/// What the pure modules never touch.
const PURE: &[&str] = &["access", "chat", "codec", "ids", "limits", "message", "policy"];
const IMPURE: &[&str] = &[
    "async ",
    "std::fs",
    "std::env",
    "std::io",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "glommio",
    "tokio",
    "rustix",
    "libc",
    "io_uring",
    "socket2",
    "getrandom",
    "flume",
    "tracing",
];

const LINES_BEFORE_TESTS_MAX: usize = 500;
const VAGUE_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc", "stuff"];
// Written in two parts, or this file would find itself.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("db", "g!("), concat!("#[ig", "nore")];
const SLEEP: &str = concat!("sle", "ep(");

struct Source {
    /// Relative to the root.
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The module of the library at its top, `shard` for `src/shard/turn.rs`; `None` outside the library.
    fn module(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src").ok()?;
        let first = inside.components().next()?.as_os_str().to_str()?;
        let module = first.trim_end_matches(".rs");
        (!matches!(module, "lib" | "main")).then(|| module.to_string())
    }

    /// The lines before the tests, and those after.
    fn split(&self) -> (Vec<&str>, Vec<&str>) {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_tests =
            |at: usize| lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.starts_with("mod "));
        let at = (0..lines.len()).find(|at| is_tests(*at)).unwrap_or(lines.len());
        (lines[..at].to_vec(), lines[at..].to_vec())
    }

    /// Whether the file holds nothing but tests.
    fn is_test(&self) -> bool {
        let is_below_tests =
            self.path.starts_with("src") && self.path.components().any(|part| part.as_os_str() == "tests");
        is_below_tests
            || self.path.starts_with("tests")
            || self.path.starts_with("fuzz")
            || self.path.file_stem().is_some_and(|stem| stem == "tests")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of ours with one of these endings.
fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "loadgen", "benches", "fuzz/fuzz_targets", "fuzz/src", "perf", "scripts"] {
        collect(&root().join(folder), endings, &mut found);
    }
    found
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !matches!(entry.file_name().to_str(), Some("target" | "node_modules" | "corpus")) {
                collect(&path, endings, found);
            }
        } else if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
            let text = fs::read_to_string(&path).expect("sources are text");
            found.push(Source { path: path.strip_prefix(root()).expect("found below the root").to_path_buf(), text });
        }
    }
}

fn rust() -> Vec<Source> {
    let sources = sources(&["rs"]);
    assert!(sources.len() > 30, "the sources were not found");
    sources
}

/// A line without its comment. What looks like one inside a text may go as well.
fn code(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

/// The lines in which `wanted` says something, as `path:line: text`.
fn lines_with(sources: &[Source], wanted: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut hits = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            if wanted(source, line) {
                hits.push(format!("{}:{}: {}", source.name(), index + 1, line.trim()));
            }
        }
    }
    hits
}

/// The names that follow `crate::` in a text, also within braces.
fn imports(text: &str) -> Vec<String> {
    let without_comments: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, _) in without_comments.match_indices("crate::") {
        let rest = &without_comments[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                names.push(word(item.trim()));
                item.clear();
                if depth == 0 {
                    break;
                }
            } else {
                item.push(c);
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Whether a path of `super::`s leaves the top module, round the rule of layers.
fn climbs_out(source: &Source) -> bool {
    let steps = source.path.components().count() - 1;
    let depth = if source.path.ends_with("mod.rs") { steps - 1 } else { steps };
    let (code_lines, test_lines) = source.split();
    let climbs = |lines: &[&str], depth: usize| {
        let root = "super::".repeat(depth);
        lines.iter().any(|line| code(line).contains(&root))
    };
    climbs(&code_lines, depth) || climbs(&test_lines, depth + 1)
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} is in no layer"))
}

fn may_see(module: &str, other: &str) -> bool {
    if module == other || ALSO.contains(&(module, other)) {
        return true;
    }
    match ONLY.iter().find(|(name, _)| *name == module) {
        Some((_, allowed)) => allowed.contains(&other),
        None => layer(other) < layer(module),
    }
}

#[test]
fn imports_are_read_with_and_without_braces() {
    let text = "use crate::ids::X;\nuse crate::{chat::{a, b}, net};\n// crate::shard\nlet x = crate::limits::Y;";
    assert_eq!(imports(text), ["ids", "chat", "net", "limits"]);
}

#[test]
fn imports_go_downward() {
    assert!(!may_see("codec", "chat") && !may_see("chat", "codec") && !may_see("net", "message"));
    assert!(may_see("shard", "net") && may_see("codec", "message"));
    let mut wrong = Vec::new();
    for source in rust() {
        let Some(module) = source.module() else { continue };
        for other in imports(&source.text) {
            if !may_see(&module, &other) {
                wrong.push(format!("{} sees {other}", source.name()));
            }
        }
        if climbs_out(&source) {
            wrong.push(format!("{} reaches the root by super", source.name()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_core_and_the_codecs_are_pure() {
    let sources = rust();
    let pure: Vec<Source> = sources
        .into_iter()
        .filter(|source| source.module().is_some_and(|module| PURE.contains(&module.as_str())))
        .map(|source| Source { text: source.split().0.join("\n"), path: source.path })
        .collect();
    assert!(pure.len() > 10);
    let hits = lines_with(&pure, |_, line| IMPURE.iter().any(|word| code(line).contains(word)));
    assert!(hits.is_empty(), "{hits:#?}");
}

#[test]
fn unsafe_code_stays_in_the_driver() {
    let sources = rust();
    let is_unsafe = |line: &str| ["unsafe ", "unsafe("].iter().any(|word| code(line).contains(word));
    let hits = lines_with(&sources, |source, line| {
        !source.path.starts_with("src/net") && source.path != Path::new("tests/tidy.rs") && is_unsafe(line)
    });
    assert!(hits.is_empty(), "{hits:#?}");
}

#[test]
fn files_are_of_a_size_to_be_read() {
    let too_long: Vec<String> = rust()
        .iter()
        .filter(|source| !source.is_test())
        .map(|source| (source.name(), source.split().0.len()))
        .filter(|(_, lines)| *lines > LINES_BEFORE_TESTS_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines before its tests"))
        .collect();
    assert!(too_long.is_empty(), "{too_long:#?}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = rust()
        .iter()
        .filter(|source| {
            let first = source.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!"));
            !first.is_some_and(|line| line.starts_with("//! ") && line.len() > 15)
        })
        .map(Source::name)
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let hits = lines_with(&sources(&["rs", "js", "html", "css", "md", "toml"]), |_, line| {
        UNFINISHED.iter().any(|word| line.contains(word))
    });
    assert!(hits.is_empty(), "{hits:#?}");
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let tests: Vec<Source> =
        rust()
            .into_iter()
            .map(|source| {
                if source.is_test() { source } else { Source { text: source.split().1.join("\n"), path: source.path } }
            })
            .collect();
    let hits = lines_with(&tests, |_, line| {
        let is_word = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        code(line).match_indices(SLEEP).any(|(at, _)| is_word(at))
    });
    assert!(hits.is_empty(), "{hits:#?}");
}

#[test]
fn names_say_what_is_inside() {
    let vague: Vec<String> = sources(&["rs", "js"])
        .iter()
        .filter(|source| {
            let mut parts = source.path.components().filter_map(|part| part.as_os_str().to_str());
            parts.any(|part| VAGUE_NAMES.contains(&part.split('.').next().unwrap_or_default()))
        })
        .map(Source::name)
        .collect();
    assert!(vague.is_empty(), "{vague:#?}");
}

/// The cells of the table in `file` whose head begins with these cells, without the marks of code.
fn table(file: &str, head: &[&str]) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(file)).expect("the file is there");
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split(" | ").map(|cell| cell.trim().replace('`', "")).collect()
    };
    let mut lines = text.lines().skip_while(|line| {
        !line.starts_with('|') || !cells(line).starts_with(&head.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    assert!(lines.next().is_some(), "{file} has no table {head:?}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_protocol_page_has_the_table_of_errors() {
    let documented: Vec<(String, String)> = table("docs/protocol.md", &["code", "temporary"])
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let actual: Vec<(String, String)> = ErrorCode::ALL
        .iter()
        .map(|code| (code.as_str().to_string(), if code.is_temporary() { "yes" } else { "no" }.to_string()))
        .collect();
    assert_eq!(documented, actual);
}

#[test]
fn the_protocol_page_has_the_table_of_close_codes() {
    let documented = table("docs/protocol.md", &["close code", "text", "metric label", "what the client does next"]);
    let actual: Vec<Vec<String>> = CloseReason::ALL
        .iter()
        .map(|reason| {
            [&reason.code().to_string(), reason.text(), reason.label(), reason.next_step()].map(String::from).to_vec()
        })
        .collect();
    let documented: Vec<Vec<String>> = documented.into_iter().map(|row| row[..4].to_vec()).collect();
    assert_eq!(documented, actual);
}

#[test]
fn the_operations_page_has_every_setting_with_its_default() {
    let nothing: [(OsString, OsString); 0] = [];
    let invocation = hubbub::config::parse_arguments([OsString::from("hubbub")]).unwrap();
    let text = hubbub::config::explain(&hubbub::config::load(&invocation, nothing).unwrap());
    let mut prefix = String::new();
    let mut actual = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(section) = line.strip_prefix('[') {
            prefix = format!("{}.", section.trim_end_matches(']'));
        } else {
            let (key, rest) = line.split_once(" = ").unwrap();
            let (value, _) = rest.rsplit_once('#').unwrap();
            actual.insert(format!("{prefix}{key}"), value.trim().to_string());
        }
    }
    let rows = table("docs/operations.md", &["key", "flag", "variable", "default"]);
    let documented: BTreeMap<String, String> = rows.iter().map(|row| (row[0].clone(), row[3].clone())).collect();
    assert_eq!(documented, actual);
    for row in rows {
        assert_eq!(row[1], format!("--{}", row[0].replace(['.', '_'], "-")));
        assert_eq!(row[2], format!("HUBBUB_{}", row[0].replace('.', "_").to_uppercase()));
    }
}

#[test]
fn the_operations_page_has_every_metric_with_its_type() {
    let text = Renderer::new(Box::leak(Box::new(Metrics::new(1)))).render();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let actual: BTreeMap<String, String> = types
        .map(|(name, kind)| {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{suffix}"), kind.to_string())
        })
        .collect();
    let documented: BTreeMap<String, String> = table("docs/operations.md", &["metric", "type"])
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(documented, actual);
}

#[test]
fn the_map_names_every_module() {
    let map = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let missing: Vec<&&str> =
        LAYERS.iter().flat_map(|layer| *layer).filter(|module| !map.contains(&format!("`{module}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
