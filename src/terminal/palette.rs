//! Colours, as many as the terminal has. The same name always has the same one.

use ratatui::style::{Color, Modifier, Style};
use xxhash_rust::xxh3::xxh3_64;

use super::rows::Tone;

/// How many colours there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// None: bold, dim and reversed only.
    Plain,
    /// The sixteen that people choose themselves.
    Sixteen,
    /// 256 and more.
    Many,
}

impl Palette {
    /// What the environment says: `NO_COLOR` (<https://no-color.org>), `COLORTERM`, `TERM`.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Self {
        if variable("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Self::Plain;
        }
        let term = variable("TERM").unwrap_or_default();
        if term.is_empty() || term == "dumb" || term.ends_with("-m") || term.starts_with("vt1") {
            Self::Plain
        } else if variable("COLORTERM").is_some_and(|value| !value.is_empty())
            || ["256", "direct", "kitty", "alacritty"].iter().any(|word| term.contains(word))
        {
            Self::Many
        } else {
            Self::Sixteen
        }
    }

    /// How a part of a line looks.
    pub fn style(self, tone: &Tone) -> Style {
        let plain = Style::new();
        match tone {
            Tone::Text => plain,
            Tone::Sender(name) => self.of_name(name).add_modifier(Modifier::BOLD),
            Tone::Dim | Tone::Notice => self.dim(),
            Tone::Failed => self.alarm(),
            Tone::Mention => plain.add_modifier(Modifier::BOLD),
        }
    }

    /// For what matters less.
    pub fn dim(self) -> Style {
        match self {
            Self::Plain => Style::new().add_modifier(Modifier::DIM),
            Self::Sixteen => Style::new().fg(Color::DarkGray),
            Self::Many => Style::new().fg(Color::Indexed(245)),
        }
    }

    /// For what went wrong.
    pub fn alarm(self) -> Style {
        match self {
            Self::Plain => Style::new().add_modifier(Modifier::BOLD),
            Self::Sixteen | Self::Many => Style::new().fg(Color::Red),
        }
    }

    /// For what is new.
    pub fn accent(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match self {
            Self::Plain => bold,
            Self::Sixteen | Self::Many => bold.fg(Color::Yellow),
        }
    }

    fn of_name(self, name: &str) -> Style {
        let hash = xxh3_64(name.as_bytes()) as usize;
        match self {
            Self::Plain => Style::new(),
            Self::Sixteen => Style::new().fg(SIXTEEN[hash % SIXTEEN.len()]),
            Self::Many => Style::new().fg(Color::Indexed(MANY[hash % MANY.len()])),
        }
    }
}

/// Neither black nor white, nor red, which means that something is wrong.
const SIXTEEN: [Color; 8] = [
    Color::Green,
    Color::Yellow,
    Color::Blue,
    Color::Magenta,
    Color::Cyan,
    Color::LightGreen,
    Color::LightBlue,
    Color::LightMagenta,
];
/// Of middle lightness, so that they can be read on dark and on light.
const MANY: [u8; 14] = [33, 37, 65, 67, 71, 97, 98, 130, 133, 136, 139, 166, 168, 173];

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Palette {
        Palette::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn colours_degrade_with_the_terminal() {
        assert_eq!(detect(&[("TERM", "xterm-256color")]), Palette::Many);
        assert_eq!(detect(&[("TERM", "xterm"), ("COLORTERM", "truecolor")]), Palette::Many);
        assert_eq!(detect(&[("TERM", "linux")]), Palette::Sixteen);
        assert_eq!(detect(&[("TERM", "xterm-256color"), ("NO_COLOR", "1")]), Palette::Plain);
        assert_eq!(detect(&[("TERM", "dumb")]), Palette::Plain);
        assert_eq!(detect(&[]), Palette::Plain);
    }

    #[test]
    fn a_name_keeps_its_colour_and_without_colours_there_are_none() {
        let tone = |name: &str| Tone::Sender(name.to_owned());
        assert_eq!(Palette::Many.style(&tone("ann")), Palette::Many.style(&tone("ann")));
        assert_ne!(Palette::Many.style(&tone("ann")), Palette::Many.style(&tone("bob")));
        for tone in [tone("ann"), Tone::Dim, Tone::Failed, Tone::Notice, Tone::Mention] {
            let style = Palette::Plain.style(&tone);
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
