//! Limits at the door, and which proxies are believed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::codec::forwarded::ProxyHeader;
use crate::config::validate::{Problem, out_of_range};

/// Who is let in, how often and how many at a time. Everything may change while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateConfig {
    /// Connections of one address at a time; `None` for any number.
    pub connections_per_ip: Option<u32>,
    /// How many leading bits of an IPv6 address are one address for these limits, for a household has many.
    pub ipv6_prefix: u8,
    /// Connections of one user at a time; `None` for any number.
    pub connections_per_user: Option<u32>,
    /// Connections that are let in per second, of all shards together; so many may come at once.
    pub connects_per_second: Option<u32>,
    /// Connections that are let in per second and address; so many may come at once.
    pub connects_per_second_per_ip: Option<u32>,
    /// Proxies that are believed when they say whose connection they pass on.
    pub trusted_proxies: Vec<Network>,
    /// Whether the trusted proxies begin each connection with a PROXY header. Then nobody else may connect.
    pub proxy_protocol: bool,
    /// The header of a request by which a trusted proxy names its client.
    pub proxy_header: ProxyHeader,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            connections_per_ip: None,
            ipv6_prefix: 64,
            connections_per_user: None,
            connects_per_second: None,
            connects_per_second_per_ip: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            proxy_header: ProxyHeader::default(),
        }
    }
}

impl GateConfig {
    /// Whether anything depends on where a connection comes from. Otherwise nobody needs to ask the kernel.
    #[must_use]
    pub fn needs_addresses(&self) -> bool {
        self.connections_per_ip.is_some()
            || self.connects_per_second_per_ip.is_some()
            || !self.trusted_proxies.is_empty()
    }

    /// Whether a trusted proxy is at this address.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let rows = [
            ("limits.connections_per_ip", self.connections_per_ip, u32::MAX),
            ("limits.connections_per_user", self.connections_per_user, u32::MAX),
            ("limits.connects_per_second", self.connects_per_second, CONNECTS_PER_SECOND_CEILING),
            ("limits.connects_per_second_per_ip", self.connects_per_second_per_ip, CONNECTS_PER_SECOND_CEILING),
        ];
        for (key, value, max) in rows {
            match value {
                Some(0) => problems.push(Problem::new(key, "0 lets nobody in", "give at least 1, or off for no limit")),
                Some(value) if value > max => problems.push(out_of_range(key, value, 1, max)),
                _ => {}
            }
        }
        if !(1..=128).contains(&self.ipv6_prefix) {
            problems.push(out_of_range("limits.ipv6_prefix", self.ipv6_prefix, 1, 128));
        }
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            let what = "no proxy is trusted, so nobody could connect";
            problems.push(Problem::new("proxy_protocol", what, "name the proxies in trusted_proxies, or leave it out"));
        }
    }
}

/// A network of addresses, such as `10.0.0.0/8`, `2001:db8::/32` or `192.0.2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address is in it. An IPv4 address written as IPv6 is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && prefix_of(address, self.prefix) == self.address
    }
}

/// An address with all but its leading bits zero.
#[must_use]
pub fn prefix_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == whole { write!(f, "{}", self.address) } else { write!(f, "{}/{}", self.address, self.prefix) }
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or a network with its prefix length")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    /// Bits behind the prefix must be zero: whoever writes them means something else.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| NotANetwork)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(whole);
        if prefix > whole || prefix_of(address, prefix) != address || address.to_canonical() != address {
            return Err(NotANetwork);
        }
        Ok(Self { address, prefix })
    }
}

/// More than any machine accepts.
const CONNECTS_PER_SECOND_CEILING: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_alone() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
        ];
        for (network, address, expected) in table {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), expected, "{network} {address}");
            assert_eq!(parsed.to_string(), network);
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "proxy", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "::ffff:10.0.0.1"]
        {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }

    #[test]
    fn unusable_limits_are_named_with_a_remedy() {
        let config = GateConfig {
            connections_per_ip: Some(0),
            ipv6_prefix: 0,
            connects_per_second: Some(2_000_000),
            proxy_protocol: true,
            ..GateConfig::default()
        };
        let mut problems = Vec::new();
        config.check(&mut problems);
        let keys: Vec<&str> = problems.iter().map(|problem| &*problem.key).collect();
        let expected =
            ["limits.connections_per_ip", "limits.connects_per_second", "limits.ipv6_prefix", "proxy_protocol"];
        assert_eq!(keys, expected);
        let mut none = Vec::new();
        GateConfig::default().check(&mut none);
        assert_eq!(none, []);
    }
}
