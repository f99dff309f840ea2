//! A comparison as people and programs read it.

use std::fmt::Write;

use crate::compare::verdict::{Comparison, Row, Side, Verdict};

impl Comparison {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    /// The comparison as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a comparison is plain data") + "\n"
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        for (name, side) in [("A", &self.a), ("B", &self.b)] {
            for Side { file, commit, started } in side {
                writeln!(out, "{name}: {file} (commit {commit}, {started})")?;
            }
        }
        writeln!(
            out,
            "\n{:30}{:>12}{:>12}{:>10}{:>24}{:>14}  verdict on B",
            "", "A", "B", "change", "95 % interval", "margin"
        )?;
        for row in &self.figures {
            row.write(out)?;
        }
        writeln!(out)?;
        for warning in &self.warnings {
            writeln!(out, "WARNING: {warning}")?;
        }
        writeln!(out, "{}", self.headline())
    }

    /// One line: what may be claimed.
    #[must_use]
    pub fn headline(&self) -> String {
        let named = |verdict| {
            let rows = self.figures.iter().filter(|row| row.verdict == verdict);
            rows.map(|row| row.figure.name()).collect::<Vec<_>>().join(", ")
        };
        let (worse, better) = (named(Verdict::Worse), named(Verdict::Better));
        match (worse.is_empty(), better.is_empty()) {
            (false, false) => format!("B is worse in {worse}, and better in {better}"),
            (false, true) => format!("B is worse in {worse}"),
            (true, false) => format!("B is better in {better}"),
            (true, true) if self.verdict == Verdict::NotJudged => "nothing could be judged".to_owned(),
            (true, true) => "no difference".to_owned(),
        }
    }
}

impl Row {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (Some(a), Some(b), Some(low), Some(high)) = (self.a, self.b, self.low, self.high) else {
            let why = self.why.as_deref().unwrap_or_default();
            return writeln!(out, "{:30}{:>74}  {why}", self.figure.meaning(), "");
        };
        // Without a base there is no share of it; then the plain differences are shown.
        let shown = |difference: f64| {
            if a == 0.0 { format!("{difference:+.1}") } else { format!("{:+.1} %", difference / a.abs() * 100.0) }
        };
        let margin = [(self.margin.share * 100.0, " %"), (self.margin.absolute, "")];
        let parts: Vec<String> =
            margin.iter().filter(|(n, _)| *n > 0.0).map(|(n, unit)| format!("{n}{unit}")).collect();
        let verdict = match self.verdict {
            Verdict::NoDifference => "no difference".to_owned(),
            Verdict::Better => "better".to_owned(),
            Verdict::Worse => "WORSE".to_owned(),
            Verdict::NotJudged => format!("not judged: {}", self.why.as_deref().unwrap_or_default()),
        };
        writeln!(
            out,
            "{:30}{:>12}{:>12}{:>10}{:>24}{:>14}  {verdict}",
            self.figure.meaning(),
            number(a),
            number(b),
            shown(b - a),
            format!("{} … {}", shown(low), shown(high)),
            parts.join(" + ")
        )
    }
}

fn number(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::figure::{Figure, Margin};

    fn row(figure: Figure, verdict: Verdict) -> Row {
        Row {
            figure,
            a: Some(10.0),
            b: Some(12.5),
            low: Some(2.0),
            high: Some(3.0),
            margin: Margin { share: 0.05, absolute: 100.0 },
            verdict,
            why: None,
        }
    }

    fn comparison(figures: Vec<Row>, verdict: Verdict) -> Comparison {
        let side = Side { file: "a.json".to_owned(), commit: "c0ffee".to_owned(), started: "now".to_owned() };
        let warnings = vec!["mind this".to_owned()];
        Comparison { schema: "x", a: vec![side.clone()], b: vec![side], warnings, figures, verdict, exit_code: 0 }
    }

    #[test]
    fn a_table_says_what_may_be_claimed_and_why_not() {
        let unmeasured = Row {
            a: None,
            why: Some("not measured on both sides".to_owned()),
            ..row(Figure::Memory, Verdict::NotJudged)
        };
        let table = comparison(vec![row(Figure::Cpu, Verdict::Worse), unmeasured], Verdict::Worse).table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("A: a.json (commit c0ffee"));
        let cells: Vec<&str> = lines[4].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let expected =
            ["CPU per delivery, µs", "10.000", "12.500", "+25.0 %", "+20.0 % … +30.0 %", "5 % + 100", "WORSE"];
        assert_eq!(cells, expected);
        assert!(lines[5].ends_with("not measured on both sides"));
        assert_eq!(lines[lines.len() - 2..], ["WARNING: mind this", "B is worse in cpu"]);
    }

    #[test]
    fn the_headline_names_both_directions() {
        let of = |figures: &[(Figure, Verdict)], verdict| {
            comparison(figures.iter().map(|(figure, verdict)| row(*figure, *verdict)).collect(), verdict).headline()
        };
        use Verdict::{Better, NoDifference, NotJudged, Worse};
        assert_eq!(of(&[(Figure::Cpu, NoDifference)], NoDifference), "no difference");
        assert_eq!(of(&[(Figure::Cpu, NotJudged)], NotJudged), "nothing could be judged");
        assert_eq!(of(&[(Figure::Cpu, Better), (Figure::P50, NoDifference)], Better), "B is better in cpu");
        assert_eq!(
            of(&[(Figure::P50, Better), (Figure::P999, Worse)], Worse),
            "B is worse in p99_9, and better in p50"
        );
    }
}
