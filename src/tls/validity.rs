//! From when until when a certificate holds (RFC 5280, section 4.1.2.5), read from its DER.
//!
//! Only what is needed for a warning to the operator: nothing is trusted for it, so what cannot be read is passed over.

/// The times of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    /// Those of a certificate; `None` if it is not understood.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(certificate)?;
        let (_, mut fields, _) = element(certificate)?;
        if fields.first() == Some(&VERSION) {
            fields = element(fields)?.2;
        }
        // The serial number, the algorithm and the issuer come before it.
        for _ in 0..3 {
            fields = element(fields)?.2;
        }
        let (_, times, _) = element(fields)?;
        let (kind, not_before, rest) = element(times)?;
        let not_before = seconds(kind, not_before)?;
        let (kind, not_after, _) = element(rest)?;
        Some(Self { not_before, not_after: seconds(kind, not_after)? })
    }

    /// What is wrong with it at a time, if anything is.
    pub(super) fn complaint(self, now: i64) -> Option<&'static str> {
        if now > self.not_after {
            Some("has expired")
        } else if now < self.not_before {
            Some("is not valid yet")
        } else {
            None
        }
    }
}

/// One element of DER: its tag, its contents, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, len], rest) = bytes.split_first_chunk()?;
    let (len, rest) = match len {
        0..=0x7f => (usize::from(len), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(len & 0x7f))?;
            (len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((tag, contents, rest))
}

/// A time as DER writes it: always in UTC and with seconds.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = |text: &[u8]| -> Option<i64> { std::str::from_utf8(text).ok()?.parse().ok() };
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = digits(year)?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (digits(year)?, rest)
        }
        _ => return None,
    };
    if rest.len() != 11 || rest[10] != b'Z' {
        return None;
    }
    let mut parts = rest[..10].chunks(2).map(digits);
    let mut next = || parts.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    (1..=12).contains(&month).then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970 of a date, by counting years from March, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let in_years = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let in_months = (month * 153 + 2) / 5;
    in_years + in_months + day - 1 - DAYS_TO_1970
}

/// Context tag 0, constructed.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// From March 1st of the year 0.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(not_before: i32, not_after: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(not_before, 2, 28);
        params.not_after = rcgen::date_time_ymd(not_after, 3, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn times_are_read_in_both_spellings() {
        let validity = Validity::of(&certificate(2024, 2060)).unwrap();
        assert_eq!(validity, Validity { not_before: 1_709_078_400, not_after: 2_845_324_800 });
        assert_eq!(validity.complaint(1_709_078_399), Some("is not valid yet"));
        assert_eq!(validity.complaint(1_709_078_400), None);
        assert_eq!(validity.complaint(2_845_324_801), Some("has expired"));
    }

    #[test]
    fn days_are_counted_over_leap_years() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1) - days(2000, 2, 28), 2);
        assert_eq!(days(2100, 3, 1) - days(2100, 2, 28), 1);
    }

    #[test]
    fn a_certificate_cut_anywhere_is_not_understood_and_does_no_harm() {
        let whole = certificate(2024, 2049);
        assert!(Validity::of(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..len]), None);
        }
    }
}
