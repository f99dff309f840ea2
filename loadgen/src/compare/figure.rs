//! What is compared, and which change of it matters.

use std::str::FromStr;

use serde::Serialize;

/// One figure of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// CPU time of the server per message received, in microseconds.
    Cpu,
    /// Delivery latency from the planned time, in microseconds.
    P50,
    /// The same.
    P99,
    /// The same.
    #[serde(rename = "p99_9")]
    P999,
    /// Messages received per second.
    Throughput,
    /// Growth of the server's resident memory since before the first connection, per connection, in bytes.
    Memory,
}

impl Figure {
    /// All of them, in the order of the table; a figure is at its own number.
    pub const ALL: [Self; FIGURES] = [Self::Cpu, Self::P50, Self::P99, Self::P999, Self::Throughput, Self::Memory];

    /// Its name in tables and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99_9",
            Self::Throughput => "throughput",
            Self::Memory => "memory",
        }
    }

    /// What it is, with its unit.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Cpu => "CPU per delivery, µs",
            Self::P50 => "delivery p50, µs",
            Self::P99 => "delivery p99, µs",
            Self::P999 => "delivery p99.9, µs",
            Self::Throughput => "received per second",
            Self::Memory => "memory per connection, bytes",
        }
    }

    /// Whether more of it is worse.
    #[must_use]
    pub fn is_cost(self) -> bool {
        self != Self::Throughput
    }

    /// Whether it says nothing when the generator was the bottleneck, or when others had the server's cores. What the
    /// server used was used all the same.
    #[must_use]
    pub fn needs_quiet(self) -> bool {
        !matches!(self, Self::Cpu | Self::Memory)
    }
}

/// The change that matters: a share of the figure and an absolute part, added up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Margin {
    /// Share of the figure on side A.
    pub share: f64,
    /// In the figure's unit.
    pub absolute: f64,
}

impl Margin {
    /// The change that matters at `value`.
    #[must_use]
    pub fn at(self, value: f64) -> f64 {
        self.share * value.abs() + self.absolute
    }

    /// The same, so many times wider.
    #[must_use]
    pub fn wider(self, factor: f64) -> Self {
        Self { share: self.share * factor, absolute: self.absolute * factor }
    }
}

/// A margin for each figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margins([Margin; FIGURES]);

impl Default for Margins {
    fn default() -> Self {
        let margin = |share, absolute| Margin { share, absolute };
        Self([
            margin(0.05, 0.0),
            margin(0.10, 100.0),
            margin(0.15, 250.0),
            margin(0.25, 1_000.0),
            margin(0.02, 0.0),
            margin(0.10, 1_024.0),
        ])
    }
}

impl Margins {
    /// The margin of one figure.
    #[must_use]
    pub fn of(&self, figure: Figure) -> Margin {
        self.0[figure as usize]
    }

    /// With one of them replaced.
    pub fn set(&mut self, setting: MarginSetting) {
        self.0[setting.figure as usize] = setting.margin;
    }
}

/// A margin from the command line: `FIGURE=SHARE%`, `FIGURE=ABSOLUTE` or `FIGURE=SHARE%+ABSOLUTE`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginSetting {
    figure: Figure,
    margin: Margin,
}

impl FromStr for MarginSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no margin: write cpu=5%, p99=10%+100 or memory=512");
        let (name, margin) = text.split_once('=').ok_or_else(refuse)?;
        let names = Figure::ALL.map(Figure::name).join(", ");
        let known = Figure::ALL.into_iter().find(|figure| figure.name() == name);
        let figure = known.ok_or_else(|| format!("`{name}` is none of {names}"))?;
        let mut parsed = Margin { share: 0.0, absolute: 0.0 };
        for part in margin.split('+') {
            let (number, is_share) = part.strip_suffix('%').map_or((part, false), |number| (number, true));
            let number: f64 = number.parse().map_err(|_| refuse())?;
            if !(0.0..=1e12).contains(&number) {
                return Err(refuse());
            }
            if is_share {
                parsed.share = number / 100.0;
            } else {
                parsed.absolute = number;
            }
        }
        Ok(Self { figure, margin: parsed })
    }
}

/// How many figures there are.
pub const FIGURES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_at_its_number() {
        for (at, figure) in Figure::ALL.into_iter().enumerate() {
            assert_eq!(figure as usize, at);
            let json = serde_json::to_value(figure).unwrap();
            assert_eq!(json, figure.name(), "one name everywhere");
        }
    }

    #[test]
    fn a_margin_is_a_share_an_amount_or_both() {
        let table = [("cpu=5%", 0.05, 0.0), ("p99_9=10%+100", 0.1, 100.0), ("memory=512", 0.0, 512.0)];
        for (text, share, absolute) in table {
            let setting: MarginSetting = text.parse().unwrap();
            assert_eq!(setting.margin, Margin { share, absolute }, "{text}");
            assert_eq!(Margin { share, absolute }.at(200.0), share * 200.0 + absolute);
        }
        let mut margins = Margins::default();
        margins.set("p50=1%".parse().unwrap());
        assert_eq!(margins.of(Figure::P50).share, 0.01);
        for text in ["cpu", "cpu=", "cpu=x%", "cpu=-1%", "p98=1%", "cpu=NaN"] {
            text.parse::<MarginSetting>().unwrap_err();
        }
    }
}
