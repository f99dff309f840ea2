//! A small relay server on an independent WebSocket implementation: everyone on a path hears what is sent to it, in one
//! order, but for one fault at will.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Message, accept_hdr};

/// What a relay does wrong, once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Leaves out one delivery in the middle.
    Lose,
    /// Leaves out the last delivery that there is to make.
    LoseLast,
    /// Makes one delivery twice.
    Repeat,
    /// Delivers two messages in the wrong order to one member.
    Swap,
    /// Does nothing for [`STALL_MS`].
    Stall,
    /// Answers every upgrade with 503.
    Refuse,
    /// Closes one connection.
    HangUp,
    /// Pings everyone, and passes nothing on before all have answered.
    Ping,
}

/// What the connections tell the hub.
enum Word {
    Join { room: String, stream: TcpStream },
    Message { room: String, text: Vec<u8> },
    Pong,
}

/// Starts a relay that runs until the test ends.
pub fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (words, heard) = channel();
    thread::spawn(move || Hub { fault, rooms: BTreeMap::new(), passed: 0, held: None }.run(&heard));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let words = words.clone();
            thread::spawn(move || listen(stream.unwrap(), fault, &words));
        }
    });
    address
}

/// Reads one connection to its end.
fn listen(mut stream: TcpStream, fault: Fault, words: &Sender<Word>) {
    if fault == Fault::Refuse {
        let _ = stream.read(&mut [0; 4_096]);
        let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    let writer = stream.try_clone().unwrap();
    let mut room = String::new();
    #[expect(clippy::result_large_err, reason = "the signature is the library's")]
    let callback = |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut room);
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr(stream, callback) else { return };
    words.send(Word::Join { room: room.clone(), stream: writer }).unwrap();
    loop {
        let word = match socket.read() {
            Ok(Message::Text(text)) => Word::Message { room: room.clone(), text: text.as_bytes().to_vec() },
            Ok(Message::Pong(payload)) if payload.as_ref() == b"life" => Word::Pong,
            Ok(_) => continue,
            Err(_) => return,
        };
        if words.send(word).is_err() {
            return;
        }
    }
}

/// Everything in one order: the one thread that writes.
struct Hub {
    fault: Fault,
    rooms: BTreeMap<String, Vec<TcpStream>>,
    /// Messages passed on so far.
    passed: u64,
    /// A message that one member gets after the next one.
    held: Option<Vec<u8>>,
}

impl Hub {
    fn run(mut self, heard: &Receiver<Word>) {
        let mut waiting = Vec::new();
        let mut pongs_due = 0;
        for word in heard {
            match word {
                Word::Join { room, mut stream } => {
                    if self.fault == Fault::Ping {
                        pongs_due += 1;
                        stream.write_all(&[0x89, 4, b'l', b'i', b'f', b'e']).unwrap();
                    }
                    self.rooms.entry(room).or_default().push(stream);
                }
                Word::Message { room, text } => waiting.push((room, text)),
                Word::Pong => pongs_due -= 1,
            }
            if pongs_due == 0 {
                waiting.drain(..).for_each(|(room, text)| self.pass_on(&room, &text));
            }
        }
    }

    fn pass_on(&mut self, room: &str, text: &[u8]) {
        self.passed += 1;
        let frame = frame(text);
        let is_tenth = self.passed == 10;
        if is_tenth && self.fault == Fault::Stall {
            #[expect(clippy::disallowed_methods, reason = "the stall is what is tested")]
            thread::sleep(Duration::from_millis(STALL_MS));
        }
        let members = self.rooms.get_mut(room).unwrap();
        if is_tenth && self.fault == Fault::HangUp {
            let _ = members.pop().unwrap().shutdown(std::net::Shutdown::Both);
        }
        let (first, others) = members.split_first_mut().unwrap();
        others.iter_mut().for_each(|member| send(member, &frame));
        let is_last = self.passed == 100;
        match self.fault {
            Fault::Lose if is_tenth => {}
            Fault::LoseLast if is_last => {}
            Fault::Repeat if is_tenth => send(first, &[frame.clone(), frame].concat()),
            Fault::Swap if is_tenth => self.held = Some(frame),
            _ => {
                send(first, &frame);
                if let Some(held) = self.held.take() {
                    send(first, &held);
                }
            }
        }
    }
}

/// Who has hung up gets nothing.
fn send(member: &mut TcpStream, bytes: &[u8]) {
    let _ = member.write_all(bytes);
}

/// A server's text frame (RFC 6455, section 5.2).
fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(len @ 0..126) => frame.push(len),
        _ => {
            frame.push(126);
            frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend(text);
    frame
}

/// How long [`Fault::Stall`] lasts.
pub const STALL_MS: u64 = 300;
