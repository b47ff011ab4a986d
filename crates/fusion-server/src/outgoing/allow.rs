//! Which addresses may be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks and host names that may be reached although they are private.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allow {
    networks: Vec<(IpAddr, u8)>,
    names: Vec<String>,
}

impl Allow {
    /// Each item is a network such as `10.0.0.0/8`, an address, or a host name.
    ///
    /// # Errors
    /// With the item that is none of these.
    pub(crate) fn parse(items: &[String]) -> Result<Self, String> {
        let mut allow = Self::default();
        for item in items {
            let (address, bits) = match item.split_once('/') {
                Some((address, bits)) => (address, Some(bits)),
                None => (item.as_str(), None),
            };
            match (address.parse::<IpAddr>(), bits) {
                (Ok(address), None) => allow.networks.push((address, width(address))),
                (Ok(address), Some(bits)) => {
                    let bits = bits.parse().ok().filter(|&bits| bits <= width(address));
                    let bits = bits.ok_or_else(|| format!("{item:?} is not a network"))?;
                    allow.networks.push((address, bits));
                }
                (Err(_), None) if !item.is_empty() => allow.names.push(item.to_ascii_lowercase()),
                (Err(_), _) => {
                    return Err(format!(
                        "{item:?} is not a network, an address or a host name"
                    ));
                }
            }
        }
        Ok(allow)
    }

    pub(crate) fn name(&self, name: &str) -> bool {
        self.names
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(name))
    }

    /// Whether the address is public, or in an allowed network.
    pub(crate) fn address(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        is_public(address)
            || self
                .networks
                .iter()
                .any(|&(network, bits)| contains(network, bits, address))
    }
}

/// IPv4 in any of its IPv6 disguises counts as IPv4: mapped, NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else {
        return address;
    };
    if let Some(four) = six.to_ipv4_mapped() {
        return four.into();
    }
    let [a, b, c, d, e, f, g, h] = six.segments();
    let four = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::from(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => four(g, h),
        (0x2002, _) => four(b, c),
        (0, 0) if [c, d, e, f] == [0; 4] && (g, h) != (0, 1) && (g, h) != (0, 0) => four(g, h),
        _ => address,
    }
}

/// By the special-purpose address registries of RFC 6890.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => is_public_v4(four),
        IpAddr::V6(six) => is_public_v6(six),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = (a, b, c) == (192, 0, 0);
    let benchmark = a == 198 && (b == 18 || b == 19);
    let relay = (a, b, c) == (192, 88, 99);
    !(a == 0
        || a >= 240
        || shared
        || protocols
        || benchmark
        || relay
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global_unicast = (a & 0xe000) == 0x2000;
    let special = a == 0x2001 && b < 0x0200;
    let documentation = (a, b) == (0x2001, 0x0db8) || (a, b & 0xf000) == (0x3fff, 0);
    global_unicast && !special && !documentation
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(four) => u128::from(four.to_bits()) << 96,
        IpAddr::V6(six) => six.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && number(network) & mask == number(address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(items: &[&str]) -> Allow {
        Allow::parse(
            &items
                .iter()
                .map(|item| (*item).to_owned())
                .collect::<Vec<_>>(),
        )
        .unwrap()
    }

    #[test]
    fn only_public_addresses_pass_by_themselves() {
        let nothing = allow(&[]);
        for address in ["93.184.216.34", "2606:2800:220:1::1"] {
            assert!(nothing.address(address.parse().unwrap()), "{address}");
        }
        let inside = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
            "2001:db8::1",
            "ff02::1",
        ];
        for address in inside {
            assert!(!nothing.address(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_allows_what_lies_in_it() {
        let some = allow(&["127.0.0.0/8", "10.1.0.0/16", "::1", "Hooks.internal"]);
        for address in ["127.3.2.1", "10.1.255.1", "::1"] {
            assert!(some.address(address.parse().unwrap()), "{address}");
        }
        assert!(!some.address("10.2.0.1".parse().unwrap()));
        assert!(some.name("hooks.INTERNAL"));
        assert!(Allow::parse(&["10.0.0.0/33".to_owned()]).is_err());
    }
}
