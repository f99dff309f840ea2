//! Events: the reader takes any bytes, and whatever text goes into an event comes out of it as it was, in one line.

use hubbub::codec::json::{decode_event, encode};
use hubbub::message::close::ErrorCode;
use hubbub::message::event::Event;

/// Runs one input.
pub fn run(data: &[u8]) {
    if let Ok(event) = decode_event(data) {
        for name in ["type", "id", "room", "content", "messages", "joined", "limits"] {
            let _ = (event.text(name), event.integer(name), event.flag(name), event.object(name));
            let _ = (event.objects(name), event.texts(name));
        }
    }
    let text = String::from_utf8_lossy(data);
    let event = Event::Error { id: Some(1), code: ErrorCode::BadRequest, message: text.clone().into_owned().into() };
    let mut out = Vec::new();
    encode(&event, &mut out);
    assert!(!out.iter().any(|byte| *byte < 0x20));
    let read = decode_event(&out).expect("what is encoded is an event");
    assert_eq!(read.text("message").as_deref(), Some(&*text));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).expect("it is JSON")["message"], *text);
}
