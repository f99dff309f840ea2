//! The client in a pipe: a line in is a message or a command, a message is a line out. What else there is to know goes to the
//! standard error.
//!
//! Lines are read only as fast as the server accepts them, so input of any length needs little memory.

use std::io::{self, BufRead, ErrorKind, Read, Write, stderr, stdout};
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};

use super::command::{self, HELP};
use super::happening::{HAPPENINGS_MAX, Happening, watch_signals};
use super::network::{Dialler, Network};
use super::outbox::WINDOW;
use super::perform::{After, perform};
use super::room::Membership;
use super::session::{Output, Phase, Session};
use crate::clock::{Clock, Time};

/// Runs until the input is over and everything in it is accepted, or there is nobody to read or to talk to. Says whether all
/// went well.
pub fn run(session: Session, dialler: Dialler) -> io::Result<bool> {
    let (sender, happenings) = flume::bounded(HAPPENINGS_MAX);
    watch_signals(sender.clone())?;
    let network = Network::start(dialler, sender.clone())?;
    let (permits, permitted) = flume::bounded(1);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || read_lines(&permitted, &sender))?;
    let current = session.rooms().first().map(|room| room.name.clone());
    let mut pipe =
        Pipe { session, network, permits, current, state: State::Open, all_well: true, begun: false, reading: false };
    let done = pipe.talk(&happenings);
    drop(happenings);
    pipe.network.end();
    match done {
        // Who read has had enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(pipe.all_well),
    }
}

struct Pipe {
    session: Session,
    network: Network,
    /// One for each line that may be read.
    permits: Sender<()>,
    current: Option<String>,
    state: State,
    all_well: bool,
    /// Whether all rooms have been entered once: commands make no sense before.
    begun: bool,
    /// Whether a line is being waited for.
    reading: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More input may come.
    Open,
    /// We are in no room any more. What was written before anybody could know it is read until then, monotonic milliseconds.
    PutOut { until_ms: u64 },
    /// None will come. What is missing (a connection, or a replay) is waited for until then, monotonic milliseconds.
    Ending { until_ms: Option<u64> },
    /// It is over.
    Done,
}

impl Pipe {
    fn talk(&mut self, happenings: &Receiver<Happening>) -> io::Result<()> {
        let clock = Clock::start();
        self.session.start();
        loop {
            self.settle()?;
            self.look(clock.now());
            if self.state == State::Done {
                self.session.quit();
                return self.settle();
            }
            match happenings.recv_timeout(self.pause(clock.now())) {
                Ok(happening) => self.apply(happening, clock.now())?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.state = State::Done,
            }
            self.session.due(clock.now());
        }
    }

    fn apply(&mut self, happening: Happening, now: Time) -> io::Result<()> {
        match happening {
            Happening::Heard(dial, heard) => self.session.heard(dial, heard, now),
            Happening::Line(line) => {
                self.reading = false;
                self.line(&line, now)?;
            }
            Happening::InputEnded => self.state = State::Ending { until_ms: None },
            Happening::Signal => {
                self.all_well &= self.session.outbox().owed() == 0;
                self.state = State::Done;
            }
            Happening::Key(_) | Happening::Pasted(_) | Happening::Resized => {}
        }
        Ok(())
    }

    fn line(&mut self, line: &str, now: Time) -> io::Result<()> {
        let typed = match command::parse(line) {
            None => return Ok(()),
            Some(Err(wrong)) => {
                self.all_well = false;
                return tell(&wrong);
            }
            Some(Ok(typed)) => typed,
        };
        match perform(&mut self.session, self.current.as_deref(), typed, now) {
            After::Nothing | After::Numbers => {}
            After::Show(name) => self.current = Some(name),
            After::Help => HELP.iter().try_for_each(|line| tell(line))?,
            After::Quit => self.state = State::Ending { until_ms: None },
        }
        Ok(())
    }

    /// Does what the session wants.
    fn settle(&mut self) -> io::Result<()> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Dial(number) => self.network.dial(number),
                Output::Send(text) => self.network.send(text),
                Output::HangUp => self.network.hang_up(),
                Output::Said { room, sender, text } => {
                    let mut out = stdout().lock();
                    writeln!(out, "[{room}] {sender}: {text}")?;
                    out.flush()?;
                }
                Output::Status(text) => tell(&text)?,
                Output::Told { room: None, text } => tell(&text)?,
                Output::Told { room: Some(room), text } => {
                    tell(&format!("[{}] {text}", super::text::harmless_line(&room, 256)))?;
                }
                Output::Refused(_) => self.all_well = false,
                Output::Unsent(why) => {
                    self.all_well = false;
                    tell(&why)?;
                }
                Output::Over => {
                    self.all_well &= self.state == State::Done;
                    self.state = State::Done;
                }
            }
        }
        Ok(())
    }

    /// Whether it is time to read on, or to end.
    fn look(&mut self, now: Time) {
        let is_settled = self.session.is_settled();
        self.begun |= is_settled;
        let rooms = self.session.rooms();
        let is_out = !rooms.is_empty() && rooms.iter().all(|room| matches!(room.membership, Membership::Out(_)));
        self.state = match self.state {
            State::Open if is_out => {
                self.all_well = false;
                State::PutOut { until_ms: now.ms() + PUT_OUT_MS_MAX }
            }
            State::PutOut { .. } if !is_out => State::Open,
            State::PutOut { until_ms } if until_ms <= now.ms() => State::Ending { until_ms: None },
            state => state,
        };
        match self.state {
            State::Open | State::PutOut { .. }
                if self.begun && !self.reading && self.session.outbox().owed() < WINDOW =>
            {
                self.reading = self.permits.try_send(()).is_ok();
            }
            State::Ending { .. } if is_settled && !self.session.is_replaying() => self.state = State::Done,
            State::Ending { until_ms: Some(until_ms) } if until_ms <= now.ms() => {
                // The head of a log may be a position without a message, so a replay may seem to lack something.
                self.all_well &= is_settled;
                self.state = State::Done;
            }
            State::Ending { until_ms } => {
                let most_ms = match (is_settled, self.session.phase().0 == Phase::Online) {
                    (true, _) => Some(REPLAY_MS_MAX),
                    (false, true) => None,
                    (false, false) => Some(OFFLINE_MS_MAX),
                };
                self.state = State::Ending { until_ms: most_ms.map(|most_ms| until_ms.unwrap_or(now.ms() + most_ms)) };
            }
            _ => {}
        }
    }

    fn pause(&self, now: Time) -> Duration {
        let ending = match self.state {
            State::Ending { until_ms } => until_ms,
            State::PutOut { until_ms } => Some(until_ms),
            State::Open | State::Done => None,
        };
        let next = self.session.deadline_ms().into_iter().chain(ending).min();
        next.map_or(LONGEST, |at| Duration::from_millis(at.saturating_sub(now.ms())).min(LONGEST))
    }
}

/// Reads one line for each permit.
fn read_lines(permits: &Receiver<()>, happenings: &Sender<Happening>) {
    let mut input = io::stdin().lock();
    for () in permits {
        let happening = match read_line(&mut input) {
            Ok(Some(line)) => Happening::Line(line),
            Ok(None) | Err(_) => Happening::InputEnded,
        };
        let is_end = matches!(happening, Happening::InputEnded);
        if happenings.send(happening).is_err() || is_end {
            break;
        }
    }
}

/// The next line; of one that no server would take, only the beginning.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    while line.last() != Some(&b'\n') {
        let mut rest = Vec::new();
        if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut rest)? == 0 {
            break;
        }
        if rest.last() == Some(&b'\n') {
            break;
        }
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

fn tell(what: &str) -> io::Result<()> {
    writeln!(stderr(), "hubbub: {what}")
}

/// How long the end waits for a connection.
const OFFLINE_MS_MAX: u64 = 30_000;
/// How long lines are read after the last room is gone.
const PUT_OUT_MS_MAX: u64 = 1_000;
/// How long the end waits for a replay.
const REPLAY_MS_MAX: u64 = 2_000;
const LINE_BYTES_MAX: u64 = 1024 * 1024;
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_and_in_bounded_memory() {
        let long = "x".repeat(3 * LINE_BYTES_MAX as usize);
        let mut input = io::Cursor::new(format!("one\r\n\n{long}\ntwo \u{e9}\nend").into_bytes());
        let mut next = || read_line(&mut input).unwrap();
        assert_eq!(next().as_deref(), Some("one"));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().unwrap().len(), LINE_BYTES_MAX as usize);
        assert_eq!(next().as_deref(), Some("two \u{e9}"));
        assert_eq!(next().as_deref(), Some("end"));
        assert_eq!(next(), None);
    }
}
