//! The first byte is the size of the parts. Each part must be refused exactly when what came so far is beyond saving by
//! the standard library's judgement.

use hubbub::codec::websocket::utf8::Validator;

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((part_bytes, bytes)) = data.split_first() else {
        return;
    };
    let mut validator = Validator::default();
    let mut end = 0;
    for part in bytes.chunks(usize::from(*part_bytes).max(1)) {
        end += part.len();
        let beyond_saving = std::str::from_utf8(&bytes[..end]).is_err_and(|error| error.error_len().is_some());
        assert_eq!(validator.push(part).is_err(), beyond_saving);
        if beyond_saving {
            return;
        }
    }
    assert_eq!(validator.finish().is_ok(), std::str::from_utf8(bytes).is_ok());
}
