//! The network interfaces of this host.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::NetError;

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, `eth0`.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Whether it is up and has a link.
    pub up: bool,
    /// Whether it leads nowhere but back here.
    pub loopback: bool,
    /// Whether it says that it can multicast.
    pub multicast: bool,
    /// Whether it can broadcast (IPv4).
    pub broadcast: bool,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// Which interfaces to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All that are up.
    #[default]
    All,
    /// Those with these names, as far as they exist.
    Named(Vec<String>),
}

impl Interface {
    /// The interfaces that there are, in the order of their numbers.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn all() -> Result<Vec<Self>, NetError> {
        let mut found: BTreeMap<String, Self> = BTreeMap::new();
        let entries =
            getifaddrs().map_err(|errno| NetError::new("list the network interfaces")(errno.into()))?;
        for entry in entries {
            let flags = entry.flags;
            let interface = found.entry(entry.interface_name.clone()).or_insert_with(|| Self {
                name: entry.interface_name,
                index: 0,
                up: flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
                loopback: flags.contains(InterfaceFlags::IFF_LOOPBACK),
                multicast: flags.contains(InterfaceFlags::IFF_MULTICAST),
                broadcast: flags.contains(InterfaceFlags::IFF_BROADCAST),
                addresses: Vec::new(),
            });
            let Some(address) = entry.address else { continue };
            if let Some(link) = address.as_link_addr() {
                interface.index = u32::try_from(link.ifindex()).unwrap_or_default();
            } else if let Some(v4) = address.as_sockaddr_in() {
                interface.addresses.push(IpAddr::V4(v4.ip()));
            } else if let Some(v6) = address.as_sockaddr_in6() {
                interface.addresses.push(IpAddr::V6(v6.ip()));
            }
        }
        let mut interfaces: Vec<Self> =
            found.into_values().filter(|interface| interface.index != 0).collect();
        interfaces.sort_by_key(|interface| interface.index);
        for interface in &mut interfaces {
            interface.addresses.sort_by_key(IpAddr::is_ipv6);
        }
        Ok(interfaces)
    }
}

/// The interfaces on which to tell: those selected that are up and not loopback, or loopback alone if there is no
/// other, or if it is named.
#[must_use]
pub fn select<'a>(interfaces: &'a [Interface], selection: &Selection) -> Vec<&'a Interface> {
    let up = interfaces.iter().filter(|interface| interface.up);
    match selection {
        Selection::Named(names) => up.filter(|interface| names.contains(&interface.name)).collect(),
        Selection::All => {
            let (loopback, others): (Vec<_>, Vec<_>) = up.partition(|interface| interface.loopback);
            if others.is_empty() { loopback } else { others }
        }
    }
}

/// The address to go by, among those of the selected interfaces, and if it was another one `before`. An interface whose
/// cable was pulled still has its addresses, and a node that has lost them all keeps the name it had: the loopback
/// address, which every host has, names it only if it never had another.
#[must_use]
pub fn node_name(interfaces: &[Interface], selection: &Selection, before: Option<IpAddr>) -> Option<IpAddr> {
    let as_if_up: Vec<Interface> =
        interfaces.iter().map(|interface| Interface { up: true, ..interface.clone() }).collect();
    match (naming_address(&select(&as_if_up, selection)), before) {
        (Some(found), Some(before)) if found.is_loopback() && !before.is_loopback() => Some(before),
        (found, before) => found.or(before),
    }
}

/// The address that names this node to the others: the first of the interface with the default route, else of the
/// first one; IPv4 before IPv6, and an address that is good beyond the link before one that is not.
#[must_use]
pub fn naming_address(interfaces: &[&Interface]) -> Option<IpAddr> {
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    naming_address_by_routes(interfaces, &routes)
}

fn naming_address_by_routes(interfaces: &[&Interface], routes: &str) -> Option<IpAddr> {
    let default_route = default_route_interface(routes);
    let rank = |interface: &Interface, address: &IpAddr| {
        let reach = match address {
            IpAddr::V4(v4) if v4.is_loopback() => 4,
            IpAddr::V6(v6) if v6.is_loopback() => 5,
            IpAddr::V4(v4) if v4.is_link_local() => 2,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => 3,
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => 1,
        };
        (reach, default_route != Some(interface.name.as_str()), interface.index)
    };
    let all =
        interfaces.iter().flat_map(|interface| interface.addresses.iter().map(move |a| (*interface, a)));
    all.filter(|(_, address)| is_usable(address))
        .min_by_key(|(interface, address)| rank(interface, address))
        .map(|(_, address)| *address)
}

fn is_usable(address: &IpAddr) -> bool {
    *address != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && *address != IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// The interface of the IPv4 default route with the least metric, from the text of `/proc/net/route`.
fn default_route_interface(routes: &str) -> Option<&str> {
    let default = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        let is_default = fields.next()? == "00000000";
        let metric: u32 = fields.nth(4)?.parse().ok()?;
        is_default.then_some((metric, name))
    });
    default.min_by_key(|(metric, _)| *metric).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            up: true,
            loopback: name == "lo",
            multicast: name != "lo",
            broadcast: name != "lo",
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn name_of(interfaces: &[Interface], routes: &str) -> String {
        let all: Vec<&Interface> = interfaces.iter().collect();
        naming_address_by_routes(&all, routes).unwrap().to_string()
    }

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                          docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                          eth1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                          wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";

    #[test]
    fn the_loopback_interface_is_used_only_where_there_is_no_other_or_it_is_named() {
        let mut all = vec![interface("lo", 1, &["127.0.0.1"]), interface("eth0", 2, &["10.0.0.1"])];
        let names = |chosen: Vec<&Interface>| chosen.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(select(&all, &Selection::All)), ["eth0"]);
        assert_eq!(names(select(&all, &Selection::Named(vec!["lo".into(), "eth9".into()]))), ["lo"]);
        all[1].up = false;
        assert_eq!(names(select(&all, &Selection::All)), ["lo"]);
    }

    #[test]
    fn the_default_route_decides_which_address_names_the_node() {
        let all = [
            interface("lo", 1, &["127.0.0.1", "::1"]),
            interface("docker0", 2, &["172.17.0.1"]),
            interface("wlan0", 3, &["192.168.1.7"]),
            interface("eth1", 4, &["192.168.1.5", "fe80::5"]),
        ];
        assert_eq!(name_of(&all, ROUTES), "192.168.1.5");
        assert_eq!(name_of(&all, ""), "172.17.0.1");
        assert_eq!(name_of(&all[..1], ROUTES), "127.0.0.1");
    }

    #[test]
    fn an_address_that_reaches_far_goes_before_one_that_does_not() {
        let all = [
            interface("eth1", 2, &["169.254.3.4", "fe80::5", "fd00::5"]),
            interface("eth2", 3, &["fe80::6"]),
        ];
        assert_eq!(name_of(&all, ROUTES), "fd00::5");
        assert_eq!(name_of(&all[1..], ROUTES), "fe80::6");
    }

    #[test]
    fn a_node_keeps_its_name_when_its_cable_is_pulled_or_its_address_lost() {
        let lo = interface("lo", 1, &["127.0.0.1"]);
        let eth = |up, addresses: &[&str]| Interface { up, ..interface("eth9", 2, addresses) };
        let named = |interfaces: &[Interface], before| node_name(interfaces, &Selection::All, before);
        let (home, ten) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(named(&[], None), None);
        assert_eq!(named(std::slice::from_ref(&lo), None), home);
        assert_eq!(named(&[lo.clone(), eth(true, &["10.0.0.1"])], home), ten);
        assert_eq!(named(&[lo.clone(), eth(false, &["10.0.0.1"])], None), ten);
        assert_eq!(named(&[lo.clone(), eth(true, &[])], ten), ten);
        assert_eq!(named(&[lo], ten), ten);
    }

    #[test]
    fn this_host_has_interfaces() {
        let all = Interface::all().unwrap();
        assert!(all.iter().all(|interface| interface.index > 0 && !interface.name.is_empty()));
    }
}
