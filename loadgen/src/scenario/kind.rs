//! The kinds of load, and what each takes for granted unless the scenario says otherwise.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ScenarioError, Span};

/// The shape of the load. It decides defaults and what may be set; everything else follows from the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Many connections that stay, with little traffic: what it costs to be connected.
    Hold,
    /// Connections that arrive at a rate, steady or rising: what a newcomer meets.
    Ramp,
    /// Many rooms.
    Rooms,
    /// One room.
    Fanout,
    /// One room in which many speak at once.
    HotRoom,
    /// Rooms of one: every member hears only itself.
    Echo,
    /// Connections that leave and others that come, all the time, with traffic.
    Churn,
    /// Many connections that are dropped at once, come back and catch up.
    ReconnectStorm,
    /// Connections that stop reading while the others go on.
    SlowReaders,
    /// Members that join and leave rooms whose members asked to be told.
    PresenceStorm,
    /// A long run in which connections come and go slowly.
    Soak,
    /// Publishers that each speak in a room of their own and wait for the server's `ok`: a closed loop, which measures how
    /// many messages the server takes, not how late it is.
    Publish,
    /// The highest rate at which another kind keeps its thresholds.
    FindLimit,
}

/// What of a scenario can follow from its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Defaults {
    pub senders: Senders,
    pub warm_up: Span,
    pub duration: Span,
    pub drain: Span,
    /// Share of the connections that leaves in a second.
    pub churn_per_s: f64,
    pub churn_by: ChurnBy,
    pub presence: bool,
    pub drop_share: f64,
    pub slow_share: f64,
}

/// Which connections may be dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DropWho {
    /// Any.
    #[default]
    All,
    /// Those that do not speak, so that the others go on speaking to those who are away.
    Listeners,
}

/// What leaves when a member does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ChurnBy {
    /// The whole connection, which is made anew.
    #[default]
    Connection,
    /// The member alone, on a connection that stays.
    Room,
}

/// How many members of a room send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CountOrWord", into = "CountOrWord")]
pub(super) enum Senders {
    Count(u32),
    All,
}

impl Kind {
    /// Mean size of the rooms, where the kind leaves a choice.
    pub(super) fn room_size(self, connections: u32, asked: Option<u32>) -> Result<u32, ScenarioError> {
        let (fixed, why) = match self {
            Self::Hold | Self::Ramp => return Ok(asked.unwrap_or(100.min(connections))),
            Self::Rooms => return Ok(asked.unwrap_or(5.min(connections))),
            Self::Churn | Self::ReconnectStorm | Self::Soak => return Ok(asked.unwrap_or(10.min(connections))),
            Self::SlowReaders | Self::PresenceStorm => return Ok(asked.unwrap_or(50.min(connections))),
            Self::Fanout | Self::HotRoom | Self::FindLimit => {
                (connections, "this kind has all connections in one room; use rooms for several")
            }
            Self::Echo => (1, "echo has rooms of one; use rooms for larger ones"),
            Self::Publish => (1, "a publisher has a room of its own; use rooms for larger ones"),
        };
        match asked {
            Some(size) if size != fixed => Err(ScenarioError::value("room_size", size, why)),
            _ => Ok(fixed),
        }
    }

    pub(super) fn defaults(self) -> Defaults {
        let few = Defaults {
            senders: Senders::Count(1),
            warm_up: Span::seconds(2),
            duration: Span::seconds(10),
            drain: Span::seconds(5),
            churn_per_s: 0.0,
            churn_by: ChurnBy::Connection,
            presence: false,
            drop_share: 0.0,
            slow_share: 0.0,
        };
        match self {
            Self::Hold => few,
            Self::Ramp => Defaults { warm_up: Span::seconds(0), duration: Span::seconds(1), ..few },
            Self::Rooms | Self::Fanout | Self::HotRoom | Self::Echo | Self::Publish => {
                Defaults { senders: Senders::All, ..few }
            }
            Self::Churn => Defaults { senders: Senders::Count(2), churn_per_s: 0.05, ..few },
            Self::ReconnectStorm => Defaults { drop_share: 0.5, drain: Span::seconds(30), ..few },
            Self::SlowReaders => Defaults { slow_share: 0.1, ..few },
            Self::PresenceStorm => Defaults { churn_per_s: 0.2, churn_by: ChurnBy::Room, presence: true, ..few },
            Self::Soak => Defaults { churn_per_s: 0.005, duration: Span::seconds(3_600), ..few },
            Self::FindLimit => Defaults { senders: Senders::All, duration: Span::seconds(5), ..few },
        }
    }

    /// Whether `find-limit` knows how to raise it.
    pub(super) fn has_limit(self) -> bool {
        matches!(self, Self::Rooms | Self::Fanout | Self::HotRoom | Self::Echo)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde::Deserialize::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text))
            .map_err(|error| error.to_string())
    }
}

impl Senders {
    /// How many, in rooms whose largest has so many members.
    pub(super) fn among(self, largest: u32) -> Result<u32, ScenarioError> {
        match self {
            Self::All => Ok(largest),
            Self::Count(n) if n == 0 || n > largest => {
                let problem = format!("give 1 to {largest} (the members of a room), or \"all\"");
                Err(ScenarioError::value("senders", n, &problem))
            }
            Self::Count(n) => Ok(n),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum CountOrWord {
    Count(u32),
    Word(String),
}

impl TryFrom<CountOrWord> for Senders {
    type Error = String;

    fn try_from(value: CountOrWord) -> Result<Self, String> {
        match value {
            CountOrWord::Count(n) => Ok(Self::Count(n)),
            CountOrWord::Word(word) => word.parse(),
        }
    }
}

impl From<Senders> for CountOrWord {
    fn from(senders: Senders) -> Self {
        match senders {
            Senders::Count(n) => Self::Count(n),
            Senders::All => Self::Word("all".to_owned()),
        }
    }
}

impl FromStr for Senders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        text.parse().map(Self::Count).map_err(|_| format!("`{text}` senders: give a number of members or \"all\""))
    }
}
