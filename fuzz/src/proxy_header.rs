//! A header of the PROXY protocol answers in every part as it does in the whole, and never claims more bytes than
//! there are.

use hubbub::codec::proxy::{self, PROXY_HEADER_BYTES_MAX};

/// Runs one input.
pub fn run(data: &[u8]) {
    let whole = proxy::parse(data);
    if let Ok(Some((_, len))) = whole {
        assert!(len <= data.len() && len <= PROXY_HEADER_BYTES_MAX);
    }
    for end in 0..data.len().min(2 * PROXY_HEADER_BYTES_MAX) {
        match proxy::parse(&data[..end]) {
            Ok(None) => assert!(end < PROXY_HEADER_BYTES_MAX),
            answer => assert_eq!(answer, whole),
        }
    }
}
