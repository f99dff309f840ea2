//! The page as a whole: the verdict first, then the figures, then what a reader needs to make the run again.

use std::fmt::Write;

use serde_json::Value;

use crate::html::chart::Chart;
use crate::html::figures;
use crate::html::text::{Unit, bytes, escape};
use crate::progress::{thousands, time};
use crate::report::Outcome;
use crate::stats::Percentiles;

/// The report of a result.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut out, outcome);
    out
}

fn write_page(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let name = escape(text_of(&outcome.scenario["name"]).as_str());
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{name}: load test</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>"
    )?;
    writeln!(out, "<p>{}</p>", escape(&outcome.summary))?;
    writeln!(
        out,
        "<p class=\"soft\">against <code>{}</code> on {}</p>",
        escape(&text_of(&outcome.scenario["target"])),
        escape(&outcome.environment.started.replace('T', " ").replace('Z', " UTC"))
    )?;
    write_verdict(out, outcome)?;
    write_tiles(out, outcome)?;
    write_section(out, "Latency", &figures::latency(outcome), |out| write_percentiles(out, outcome))?;
    write_section(out, "Connections and messages", &figures::traffic(outcome), |_| Ok(()))?;
    write_section(out, "What it cost", &figures::resources(outcome), |out| write_cost(out, outcome))?;
    if let Some(scrapes) = &outcome.scrapes {
        write_section(out, "By the server's own figures", &figures::metrics(outcome), |out| {
            let read = scrapes.at_s.len();
            writeln!(out, "<p>{} scrapes of <code>{}</code>.</p>", thousands(read as u64), escape(&scrapes.url))?;
            for missed in &scrapes.missed_at {
                let at = Unit::Seconds.show(missed.at_s);
                writeln!(out, "<p class=\"soft\">Missing at {at}: {}</p>", escape(&missed.why))?;
            }
            if scrapes.missed > scrapes.missed_at.len() as u64 {
                writeln!(out, "<p class=\"soft\">{} are missing in all.</p>", thousands(scrapes.missed))?;
            }
            Ok(())
        })?;
    }
    write_section(out, "Counts", &[], |out| write_counts(out, outcome))?;
    write_section(out, "Environment", &[], |out| write_environment(out, outcome))?;
    write_section(out, "Scenario", &[], |out| write_scenario(out, outcome))?;
    writeln!(out, "<h2>How to read this</h2>\n{GUIDE}\n</main>\n</body>\n</html>")
}

fn write_section(
    out: &mut String,
    title: &str,
    charts: &[Chart],
    content: impl FnOnce(&mut String) -> std::fmt::Result,
) -> std::fmt::Result {
    writeln!(out, "<section>\n<h2>{}</h2>", escape(title))?;
    content(out)?;
    charts.iter().for_each(|chart| out.push_str(&chart.figure()));
    writeln!(out, "</section>")
}

fn write_verdict(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let (class, headline) = if !outcome.faults.is_empty() {
        ("bad", "Faults: the server lost, repeated, reordered or refused something")
    } else if !outcome.valid {
        ("bad", "INVALID: the generator was the bottleneck, so these figures do not count")
    } else if !outcome.thresholds_missed.is_empty() {
        ("warn", "Valid and without a fault, but a threshold was missed")
    } else {
        ("good", "Valid: nothing lost, nothing twice, nothing out of order, no threshold missed")
    };
    writeln!(out, "<div class=\"verdict {class}\">\n<strong>{headline}</strong>")?;
    let reasons = [
        ("Fault", &outcome.faults),
        ("INVALID", &outcome.invalid_reasons),
        ("Threshold missed", &outcome.thresholds_missed),
    ];
    let all: Vec<String> = reasons
        .iter()
        .flat_map(|(kind, reasons)| reasons.iter().map(move |reason| format!("<li>{kind}: {}</li>", escape(reason))))
        .collect();
    if !all.is_empty() {
        writeln!(out, "<ul>{}</ul>", all.join("\n"))?;
    }
    writeln!(out, "</div>")
}

fn write_tiles(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let mut tiles: Vec<(String, &str)> = Vec::new();
    if let Some(p) = outcome.latency_us.deliver {
        let shown = [
            (p.p50, "delivery p50"),
            (p.p99, "delivery p99"),
            (p.p99_9, "delivery p99.9"),
            (p.p99_99, "delivery p99.99"),
        ];
        tiles.extend(shown.map(|(us, name)| (time(us), name)));
    }
    tiles.push((thousands(outcome.counts.joined), "connections"));
    if outcome.measured.received > 0 {
        tiles.push((Unit::Rate.show(outcome.measured.received_per_s.round()), "received"));
    }
    if let Some(p) = outcome.latency_us.durable_ack.or(outcome.latency_us.ack)
        && outcome.measured.acks > 0
    {
        tiles.push((Unit::Rate.show(outcome.measured.acks_per_s.round()), "acknowledged"));
        tiles.extend([(p.p50, "ack p50"), (p.p99, "ack p99")].map(|(us, name)| (time(us), name)));
    }
    tiles.push((thousands(outcome.counts.lost), "lost"));
    if let Some(server) = &outcome.server {
        tiles.push((Unit::Cores.show(server.cpu), "cores of server CPU"));
        if let Some(us) = server.cpu_us_per_delivery {
            tiles.push((format!("{us:.2} µs"), "server CPU per delivery"));
        } else if let Some(us) = server.cpu_us_per_ack {
            tiles.push((format!("{us:.2} µs"), "server CPU per ack"));
        }
        tiles.push((bytes(server.rss_bytes_per_connection), "server memory per connection"));
    }
    writeln!(out, "<ul class=\"tiles\">")?;
    for (value, name) in tiles {
        writeln!(out, "<li><b>{}</b><span>{name}</span></li>", escape(&value))?;
    }
    writeln!(out, "</ul>")
}

fn write_percentiles(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let latencies = &outcome.latency_us;
    let rows: [(&str, Option<Percentiles>, &str); 9] = [
        ("deliver", latencies.deliver, "planned to be sent → received, at every subscriber"),
        ("service", latencies.service, "handed over → received: without the generator’s own lag"),
        ("lag", outcome.lag_us, "planned → handed over: the generator's own part"),
        ("ack", latencies.ack, "planned → the server’s ok"),
        ("durable ack", latencies.durable_ack, "planned → an ok that says it is on disk"),
        ("connect", latencies.connect, "until the TCP connection stood"),
        ("upgrade", latencies.upgrade, "upgrade request → its answer"),
        ("join", latencies.join, "join → its ok"),
        ("resume", latencies.resume, "dropped → back, with everything that was missed"),
    ];
    if rows.iter().all(|(_, row, _)| row.is_none()) {
        return writeln!(out, "<p>Nothing was timed.</p>");
    }
    writeln!(
        out,
        "<div class=\"scroll\"><table>\n<thead><tr><th>what</th><th>count</th><th>p50</th><th>p90</th><th>p99</th>\
         <th>p99.9</th><th>p99.99</th><th>max</th><th></th></tr></thead>\n<tbody>"
    )?;
    for (name, row, meaning) in rows {
        let Some(p) = row else { continue };
        let cells = [p.p50, p.p90, p.p99, p.p99_9, p.p99_99, p.max].map(|us| format!("<td>{}</td>", time(us))).concat();
        let count = thousands(p.count);
        writeln!(out, "<tr><th>{name}</th><td>{count}</td>{cells}<td class=\"note\">{meaning}</td></tr>")?;
    }
    writeln!(out, "</tbody></table></div>")
}

fn write_cost(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let generator = &outcome.generator;
    let of_generator = format!(
        "{:.2} cores (busiest worker {:.2}; ready but without a core {:.1} % of the window)",
        generator.cpu,
        generator.busiest_worker_cpu,
        generator.longest_worker_wait * 100.0
    );
    let mut rows = Vec::new();
    if let Some(server) = &outcome.server {
        let waited: u64 = server.threads.iter().map(|thread| thread.waited_ns).sum();
        let share = waited as f64 / 1e9 / outcome.measured.seconds.max(1e-3) * 100.0;
        rows.extend([
            ("server CPU in the window", format!("{:.3} cores, {}", server.cpu, server.per_message())),
            ("server threads ready but without a core", format!("{share:.1} % of the window, all threads together")),
            ("server memory, resident", bytes(server.rss_bytes as f64)),
            (
                "growth since before the first connection",
                format!("{} per connection", bytes(server.rss_bytes_per_connection)),
            ),
        ]);
    } else {
        rows.push(("server", "not measured: give --server-pid".to_owned()));
    }
    rows.push(("generator CPU in the window", of_generator));
    rows.extend(generator.agents.iter().map(|agent| {
        let clock = agent.clock;
        let (offset, sure) = (clock.offset_ns as f64 / 1e3, clock.uncertainty_ns as f64 / 1e3);
        let text = format!(
            "{}: {} workers, {:.2} cores (busiest worker {:.2}), clock {offset:+.1} ± {sure:.1} µs",
            agent.address, agent.workers, agent.cpu, agent.busiest_worker_cpu
        );
        ("an agent that shared the run", text)
    }));
    write_pairs(out, rows.into_iter().map(|(name, value)| (name.to_owned(), value)))
}

fn write_counts(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let counts = serde_json::to_value(&outcome.counts).unwrap_or_default();
    let shown = |value: &Value| value.as_u64().map_or_else(|| text_of(value), thousands);
    let counted = counts.as_object().into_iter().flatten().map(|(name, n)| (name.replace('_', " "), shown(n)));
    let reasons = [("refused", &outcome.refusals), ("closed", &outcome.closes), ("error", &outcome.errors)];
    let told = reasons.iter().flat_map(|(what, reasons)| {
        reasons.iter().map(move |(why, count)| (format!("{what}: {why}"), thousands(*count)))
    });
    writeln!(out, "<p class=\"soft\">Of the whole run, warm-up and drain included.</p>")?;
    write_pairs(out, counted.chain(told))
}

fn write_environment(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let environment = &outcome.environment;
    let mut rows = vec![
        ("started", environment.started.clone()),
        ("kernel", environment.kernel.clone()),
        ("processor", environment.cpu_model.clone()),
        ("cores for the generator", environment.cores.to_string()),
        ("memory", bytes(environment.memory_bytes as f64)),
        ("descriptors per table", thousands(environment.nofile)),
        ("loadgen", format!("{} (commit {})", environment.loadgen, environment.commit)),
        ("command", environment.command.join(" ")),
    ];
    rows.extend(environment.server_version.clone().map(|version| ("server version, by its metrics", version)));
    rows.extend(environment.server_command.as_ref().map(|command| ("server command", command.join(" "))));
    let sources: Vec<String> = outcome.generator.sources.iter().map(ToString::to_string).collect();
    rows.push(("workers", outcome.generator.workers.to_string()));
    rows.push(("source addresses", sources.join(" ")));
    write_pairs(out, rows.into_iter().map(|(name, value)| (name.to_owned(), value)))
}

fn write_scenario(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let mut rows = Vec::new();
    flatten("", &outcome.scenario, &mut rows);
    write_pairs(out, rows.into_iter())
}

/// Every value with its path; what is not set is left out.
fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&below, value, rows);
            }
        }
        Value::Null => {}
        Value::Array(values) if values.is_empty() => {}
        other => rows.push((path.to_owned(), text_of(other))),
    }
}

fn write_pairs(out: &mut String, rows: impl Iterator<Item = (String, String)>) -> std::fmt::Result {
    writeln!(out, "<table class=\"pairs\"><tbody>")?;
    for (name, value) in rows {
        writeln!(out, "<tr><th>{}</th><td class=\"mono\">{}</td></tr>", escape(&name), escape(&value))?;
    }
    writeln!(out, "</tbody></table>")
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

const STYLE: &str = include_str!("style.css");
const GUIDE: &str = "<p>The load is open: when each message is to be sent is planned ahead and does not wait for the server. \
<b>deliver</b> counts from the planned time, so a server that stalls for a second shows it in a second’s worth of messages. \
<b>service</b> counts from the moment at \
which the message was handed over: what is left of it without the generator’s own <b>lag</b>.</p>
<p>All series share one time axis that begins at the first connect. A second in which something could not be read is left \
out: the line breaks there, and nothing is filled in. Pointing at a line tells its values.</p>
<p>Every subscriber audits each sender’s numbers, so lost, repeated and reordered messages are counted exactly. A run whose \
generator lagged, was saturated or left messages out is INVALID: it says something about the generator, not about the \
server.</p>
<p>CPU is time on a core by the kernel’s own account of every thread. Threads that end between two looks are not seen.</p>";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        let page = page(&outcome());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for tag in ["section", "figure", "svg", "table", "ul", "div", "main", "style"] {
            assert_eq!(page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        for outside in ["<script", "http-equiv", "<link", "<img", "@import", "url(", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("Valid: nothing lost"));
        assert!(page.contains("prefers-color-scheme: dark"));
        assert_eq!(page.matches("role=\"img\" aria-label=\"").count(), page.matches("<svg").count());
    }

    #[test]
    fn what_went_wrong_stands_first() {
        let mut outcome = outcome();
        outcome.valid = false;
        outcome.invalid_reasons.push("the generator was late & <tired>".to_owned());
        let text = page(&outcome);
        assert!(text.contains("INVALID: the generator was late &amp; &lt;tired&gt;"));
        assert!(!text.contains("Valid: nothing lost"));
        outcome.faults.push("3 lost".to_owned());
        assert!(page(&outcome).contains("<strong>Faults:"), "faults come before doubts");
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let mut outcome = outcome();
        let evil = "</title><script>alert(1)</script>\"'&";
        outcome.scenario["name"] = evil.into();
        outcome.scenario["target"] = evil.into();
        outcome.scenario["thresholds"] = serde_json::json!({ evil: [evil] });
        outcome.summary = evil.to_owned();
        outcome.environment.command = vec![evil.to_owned()];
        outcome.environment.server_version = Some(evil.to_owned());
        outcome.closes.insert(evil.to_owned(), 1);
        for look in &mut outcome.looks {
            look.generator.cores.insert(evil.to_owned(), 1.0);
        }
        let page = page(&outcome);
        assert!(!page.contains("<script") && !page.contains("\"'&\""), "it was written as it came");
        assert!(page.matches("&lt;script&gt;").count() >= 8);
    }

    #[test]
    fn the_whole_scenario_is_shown() {
        let page = page(&outcome());
        for key in ["kind", "connections", "rate", "seed", "arrivals", "validity.lag_p99_us"] {
            assert!(page.contains(&format!("<tr><th>{key}</th>")), "{key}");
        }
    }
}
