//! Which policy holds at which listener of an app.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{ListenAddress, Policy};
use crate::listen::Transport;

/// How the connections of an app find their workers: by one policy, or by others at some of its listeners.
///
/// An address means what a program asks for. A port alone means that port on whatever address; a whole address goes first.
/// What names no transport means UDP, too, unless something else is said for that.
///
/// # Examples
/// ```
/// use worksong_engine::spec::{ListenAddress, Policies, Policy};
///
/// let policies = Policies::from(Policy::RoundRobin).with(8080, Policy::Least).with(8081, "kernel".parse()?);
/// assert_eq!(policies.of(Some(&ListenAddress::AnyInterface(8080))), &Policy::Least);
/// assert_eq!(policies.to_string(), "round-robin, least at port 8080, kernel at port 8081");
/// # Ok::<(), worksong_engine::spec::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    elsewhere: Policy,
    at: Vec<(ListenAddress, Policy)>,
}

impl Policies {
    /// Sets the policy of the listeners at an address; the last word about an address counts.
    #[must_use]
    pub fn with(mut self, address: impl Into<ListenAddress>, policy: Policy) -> Self {
        let address = address.into();
        self.at.retain(|(other, _)| *other != address);
        self.at.push((address, policy));
        self
    }

    /// Sets the policy of all other listeners.
    #[must_use]
    pub fn with_default(mut self, policy: Policy) -> Self {
        self.elsewhere = policy;
        self
    }

    /// Returns the policy of a listener by the address that was asked for.
    #[must_use]
    pub fn of(&self, asked: Option<&ListenAddress>) -> &Policy {
        let of_either = || self.find(&asked?.without_transport()?);
        asked.and_then(|asked| self.find(asked)).or_else(of_either).unwrap_or(&self.elsewhere)
    }

    fn find(&self, asked: &ListenAddress) -> Option<&Policy> {
        let by = |fits: fn(&ListenAddress, &ListenAddress) -> bool| {
            self.at.iter().find(|(address, _)| fits(address, asked)).map(|(_, policy)| policy)
        };
        by(is_same).or_else(|| by(is_port_of))
    }

    /// Returns the policy of the listeners that no other one is set for.
    #[must_use]
    pub fn default_policy(&self) -> &Policy {
        &self.elsewhere
    }

    /// Returns the policies that are set for addresses of their own.
    pub(crate) fn at(&self) -> impl Iterator<Item = (&ListenAddress, &Policy)> {
        self.at.iter().map(|(address, policy)| (address, policy))
    }

    /// Returns all policies, that of the other listeners first.
    pub fn all(&self) -> impl Iterator<Item = &Policy> {
        std::iter::once(&self.elsewhere).chain(self.at.iter().map(|(_, policy)| policy))
    }

    /// Returns true when every connection passes through the primary, which knows of all of them therefore.
    #[must_use]
    pub fn hands_over_all(&self) -> bool {
        self.all().all(Policy::hands_over_all)
    }

    /// Returns true when the primary accepts connections of every listener, or takes part in it.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.all().all(Policy::hands_over)
    }

    /// Returns true when it matters how many connections each worker has open.
    #[must_use]
    pub fn counts_open(&self) -> bool {
        self.all().any(Policy::counts_open)
    }
}

fn is_same(rule: &ListenAddress, asked: &ListenAddress) -> bool {
    match (rule, asked) {
        (ListenAddress::Tcp(rule), ListenAddress::AnyInterface(port))
        | (ListenAddress::Udp(rule), ListenAddress::AnyInterfaceUdp(port)) => {
            rule.ip().is_unspecified() && rule.port() == *port
        }
        (ListenAddress::Unix(rule), ListenAddress::Unix(asked)) => {
            let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_empty| path.to_owned());
            absolute(rule) == absolute(asked)
        }
        (rule, asked) => rule == asked,
    }
}

fn is_port_of(rule: &ListenAddress, asked: &ListenAddress) -> bool {
    match (rule, asked) {
        (ListenAddress::AnyInterface(port), ListenAddress::Tcp(address))
        | (ListenAddress::AnyInterfaceUdp(port), ListenAddress::Udp(address)) => address.port() == *port,
        _ => false,
    }
}

impl From<Policy> for Policies {
    fn from(policy: Policy) -> Self {
        Self { elsewhere: policy, at: Vec::new() }
    }
}

impl fmt::Display for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.elsewhere.fmt(f)?;
        self.at.iter().try_for_each(|(address, policy)| write!(f, ", {policy} at {address}"))
    }
}

impl ListenAddress {
    /// Returns how people write an address.
    pub(crate) fn of(transport: Transport, address: SocketAddr) -> Self {
        match (transport, address.ip().is_unspecified()) {
            (Transport::Tcp, true) => Self::AnyInterface(address.port()),
            (Transport::Tcp, false) => Self::Tcp(address),
            (Transport::Udp, true) => Self::AnyInterfaceUdp(address.port()),
            (Transport::Udp, false) => Self::Udp(address),
        }
    }

    /// Returns what means this UDP address as well.
    fn without_transport(&self) -> Option<Self> {
        match self {
            Self::Udp(address) => Some(Self::Tcp(*address)),
            Self::AnyInterfaceUdp(port) => Some(Self::AnyInterface(*port)),
            Self::Tcp(_) | Self::AnyInterface(_) | Self::Unix(_) => None,
        }
    }
}

impl From<u16> for ListenAddress {
    fn from(port: u16) -> Self {
        Self::AnyInterface(port)
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for ListenAddress {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> ListenAddress {
        ListenAddress::Tcp(address.parse().expect("an address"))
    }

    #[test]
    fn whole_addresses_go_before_ports_and_ports_before_the_rest() {
        let policies = Policies::from(Policy::Shared)
            .with(8080, Policy::RoundRobin)
            .with(tcp("127.0.0.1:8080"), Policy::Least)
            .with(tcp("[::]:9090"), Policy::Least)
            .with(PathBuf::from("/run/x.sock"), Policy::Least);
        let of = |asked: ListenAddress| policies.of(Some(&asked)).clone();
        assert_eq!(of(tcp("127.0.0.1:8080")), Policy::Least);
        assert_eq!(of(tcp("127.0.0.2:8080")), Policy::RoundRobin);
        assert_eq!(of(tcp("[::1]:8080")), Policy::RoundRobin);
        assert_eq!(of(8080.into()), Policy::RoundRobin);
        assert_eq!(of(9090.into()), Policy::Least, "all interfaces, as it is asked for without a host");
        assert_eq!(of(tcp("127.0.0.1:9090")), Policy::Shared);
        assert_eq!(of(PathBuf::from("/run/x.sock").into()), Policy::Least);
        assert_eq!(of(PathBuf::from("/run/y.sock").into()), Policy::Shared);
        assert_eq!(policies.of(None), &Policy::Shared);
    }

    #[test]
    fn what_names_no_transport_means_datagrams_too() {
        let udp = |address: &str| ListenAddress::Udp(address.parse().expect("an address"));
        let policies = Policies::from(Policy::RoundRobin)
            .with(53, Policy::Least)
            .with(ListenAddress::AnyInterfaceUdp(53), Policy::Shared)
            .with(udp("127.0.0.1:53"), Policy::Kernel(crate::spec::Spread::Hash))
            .with(80, Policy::Least);
        let of = |asked: ListenAddress| policies.of(Some(&asked)).to_string();
        assert_eq!(of(udp("127.0.0.1:53")), "kernel");
        assert_eq!(of(udp("127.0.0.2:53")), "shared");
        assert_eq!(of(ListenAddress::AnyInterfaceUdp(53)), "shared");
        assert_eq!(of(tcp("127.0.0.1:53")), "least");
        assert_eq!(of(udp("127.0.0.1:80")), "least");
        assert_eq!(of(udp("127.0.0.1:81")), "round-robin");
    }

    #[test]
    fn a_relative_path_means_the_file() {
        let path = std::path::absolute("x.sock").expect("there is a working folder");
        let policies = Policies::default().with(PathBuf::from("./x.sock"), Policy::Least);
        assert_eq!(policies.of(Some(&path.into())), &Policy::Least);
    }

    #[test]
    fn the_last_word_about_an_address_counts() {
        let policies = Policies::default().with(80, Policy::Shared).with(80, Policy::Least);
        assert_eq!(policies.to_string(), "round-robin, least at port 80");
        assert_eq!(policies.with_default(Policy::Shared).to_string(), "shared, least at port 80");
    }

    #[test]
    fn what_holds_for_an_app_holds_for_each_of_its_listeners() {
        let mixed = Policies::from(Policy::RoundRobin).with(80, Policy::Kernel(crate::spec::Spread::Hash));
        assert!(mixed.hands_over() && !mixed.hands_over_all() && !mixed.counts_open());
        let mixed = mixed.with(81, Policy::Least).with(82, Policy::Shared);
        assert!(!mixed.hands_over() && mixed.counts_open());
    }
}
