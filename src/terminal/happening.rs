//! What wakes the program: keys, lines, the network, signals. Each comes from a thread of its own through one bounded queue.

use std::io;

use flume::Sender;
use ratatui::crossterm::event::KeyEvent;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::session::Heard;

/// Something happened.
#[derive(Debug)]
pub enum Happening {
    /// A connection, by its number, was heard.
    Heard(u64, Heard),
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Pasted(String),
    /// The terminal has another size.
    Resized,
    /// A line of the standard input.
    Line(String),
    /// The input is over, or cannot be read any more.
    InputEnded,
    /// A signal asks for the end.
    Signal,
}

/// Watches for signals that ask for the end.
pub fn watch_signals(happenings: Sender<Happening>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in &mut signals {
            if happenings.send(Happening::Signal).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Happenings that wait.
pub const HAPPENINGS_MAX: usize = 1_024;
