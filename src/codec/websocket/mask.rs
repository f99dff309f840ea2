//! Masking (RFC 6455, section 5.3). Applying a mask twice gives back what was there before.

/// Masks or unmasks `payload` in place with `key`, whose first byte meets the first byte of `payload`.
///
/// Returns the key as it stands for the byte after `payload`, so that a payload may come in parts.
pub fn apply(payload: &mut [u8], key: [u8; 4]) -> [u8; 4] {
    let word = u32::from_ne_bytes(key);
    let wide = u64::from(word) << 32 | u64::from(word);
    // Eight bytes at a time without alignment: the compiler turns the loop into vector instructions.
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= mask;
    }
    let mut next = key;
    next.rotate_left(rest.len() % 4);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slowly(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
    }

    #[test]
    fn masks_the_example_of_the_rfc() {
        let mut hello = *b"Hello";
        apply(&mut hello, [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(hello, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    proptest! {
        #[test]
        fn parts_are_masked_as_the_whole(payload: Vec<u8>, key: [u8; 4], cut: prop::sample::Index) {
            let expected = slowly(&payload, key);
            let mut parts = payload.clone();
            let (head, tail) = parts.split_at_mut(cut.index(payload.len() + 1));
            let next = apply(head, key);
            apply(tail, next);
            prop_assert_eq!(&parts, &expected);
            apply(&mut parts, key);
            prop_assert_eq!(parts, payload);
        }
    }
}
