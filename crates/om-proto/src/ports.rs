//! The well-known ports, groups and paths.

use std::net::{Ipv4Addr, Ipv6Addr};

/// UDP port on which `omd` tells what its node is like (openMosix's information port).
pub const INFO_PORT: u16 = 5428;
/// UDP port on which schedulers ask each other.
pub const OFFER_PORT: u16 = 5430;
/// TCP port on which migration daemons meet.
pub const MIGRATION_PORT: u16 = 2901;
/// Link-local multicast group of `omd`; 224.0.0.x is flooded even by switches that snoop IGMP.
pub const INFO_GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 181);
/// Link-local IPv6 multicast group of `omd`.
pub const INFO_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x6f6d, 1);
/// Where configuration and key are kept.
pub const CONFIG_DIR: &str = "/etc/om";
/// The cluster key.
pub const KEY_FILE: &str = "/etc/om/key";
/// Where the daemons keep sockets and state; gone after a reboot.
pub const RUN_DIR: &str = "/run/om";
/// Where `om-migd` serves the om files on kernels that have none.
pub const OM_ROOT: &str = "/run/om/proc";
/// The socket on which `om-migd` takes new jobs.
pub const CONTROL_SOCKET: &str = "/run/om/migd.sock";
/// The socket on which `om-sched` tells what it knows and has decided.
pub const STATUS_SOCKET: &str = "/run/om/sched.sock";
/// The socket on which `om-sched` is asked where a job is to start.
pub const START_SOCKET: &str = "/run/om/start.sock";
