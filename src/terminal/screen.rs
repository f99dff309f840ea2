//! The client on a terminal: owns it while it runs, and gives it back however it ends.

use std::io::{self, Stdout, Write, stdout};
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, DisableBracketedPaste, EnableBracketedPaste, Event};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{execute, queue};

use super::happening::{HAPPENINGS_MAX, Happening, watch_signals};
use super::model::{Effect, Model};
use super::network::{Dialler, Network};
use super::palette::Palette;
use super::session::{Phase, Session};
use super::view::{Parts, draw};
use super::zone::Zone;
use crate::clock::{Clock, Time};

/// Runs until the person quits. Gives why the server does not want this client, if that is so.
pub fn run(session: Session, dialler: Dialler) -> io::Result<Option<String>> {
    let target = dialler.target.to_string();
    let (sender, happenings) = flume::bounded(HAPPENINGS_MAX);
    watch_signals(sender.clone())?;
    let network = Network::start(dialler, sender.clone())?;
    let mut screen = Screen::take()?;
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&sender))?;
    let palette = Palette::detect(|name| std::env::var(name).ok());
    let mut model = Model::new(session, Zone::here());
    let done = talk(&mut screen, &mut model, &network, &happenings, &target, palette);
    drop(screen);
    // Whatever the network still has to tell need not wait for a reader.
    drop(happenings);
    network.end();
    done.map(|refused| refused.then(|| model.session.phase().1.to_owned()))
}

/// Says whether the server had ended it before the person did.
fn talk(
    screen: &mut Screen,
    model: &mut Model,
    network: &Network,
    happenings: &Receiver<Happening>,
    target: &str,
    palette: Palette,
) -> io::Result<bool> {
    let clock = Clock::start();
    model.start(clock.now());
    loop {
        let now = clock.now();
        while let Some(effect) = model.poll_effect() {
            match effect {
                Effect::Dial(number) => network.dial(number),
                Effect::Send(text) => network.send(text),
                Effect::HangUp => network.hang_up(),
            }
        }
        if model.ends {
            return Ok(false);
        }
        screen.0.draw(|frame| {
            let messages = Parts::of(frame.area()).messages;
            model.resized(messages.width.into(), messages.height.into());
            draw(frame, model, target, palette, now.ms());
        })?;
        let (phase, _) = model.session.phase();
        let was_over = phase == Phase::Over;
        match happenings.recv_timeout(pause(model, now)) {
            Ok(first) => {
                // One drawing for all that has come meanwhile.
                for happening in std::iter::once(first).chain(happenings.try_iter().take(HAPPENINGS_MAX)) {
                    apply(model, happening, clock.now());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => model.quit(clock.now()),
        }
        model.due(clock.now());
        if model.ends && was_over {
            return Ok(true);
        }
    }
}

fn apply(model: &mut Model, happening: Happening, now: Time) {
    match happening {
        Happening::Heard(dial, heard) => model.heard(dial, heard, now),
        Happening::Key(key) => model.key(key, now),
        Happening::Pasted(text) => model.pasted(&text),
        Happening::Resized | Happening::Line(_) => {}
        Happening::InputEnded | Happening::Signal => model.quit(now),
    }
}

/// How long nothing needs to be done; while a wait is counted down, a second at most.
fn pause(model: &Model, now: Time) -> Duration {
    let until = model.session.deadline_ms().map_or(LONGEST, |at| Duration::from_millis(at.saturating_sub(now.ms())));
    match model.session.phase().0 {
        Phase::Pausing(_) => until.min(Duration::from_secs(1)),
        _ => until.min(LONGEST),
    }
}

fn read_keys(happenings: &Sender<Happening>) {
    loop {
        let happening = match event::read() {
            Ok(Event::Key(key)) => Happening::Key(key),
            Ok(Event::Paste(text)) => Happening::Pasted(text),
            Ok(Event::Resize(..)) => Happening::Resized,
            Ok(_) => continue,
            Err(_) => Happening::InputEnded,
        };
        let is_end = matches!(happening, Happening::InputEnded);
        if happenings.send(happening).is_err() || is_end {
            break;
        }
    }
}

/// The terminal, taken. Given back when dropped, and before a panic is told.
struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    fn take() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        enable_raw_mode()?;
        let taken = execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        if taken.is_err() {
            give_back();
        }
        taken.map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // There is nobody left to tell.
    let _ = disable_raw_mode();
    let mut out = stdout();
    let _ = queue!(out, DisableBracketedPaste, LeaveAlternateScreen, Show);
    let _ = out.flush();
}

const LONGEST: Duration = Duration::from_secs(60);
