//! Which drops are wanted. Options of one kind are alternatives, those of different kinds all have
//! to hold.

use crate::{
    event::{DroppedBy, Family},
    output::Named,
};
use clap::{Args, ValueEnum};
use nfdrop_db::plan::Event;
use std::{net::IpAddr, str::FromStr};

/// What a drop has to be like; without options, any.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters: of one kind any, of different kinds all")]
pub struct Filter {
    /// Of this table; several: of any
    #[arg(long = "table", value_name = "[FAMILY:]NAME")]
    pub tables: Vec<TableFilter>,
    /// By a rule of this chain, or through this base chain
    #[arg(long = "chain", value_name = "NAME")]
    pub chains: Vec<String>,
    /// By a rule with this handle
    #[arg(long = "handle", value_name = "N")]
    pub handles: Vec<u64>,
    /// By a rule, or by a policy
    #[arg(long = "event", value_name = "EVENT", value_enum)]
    pub events: Vec<EventFilter>,
    /// From or to this address or network
    #[arg(long = "address", value_name = "ADDR[/PREFIX]")]
    pub addresses: Vec<Network>,
}

/// What drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventFilter {
    /// A rule
    Rule,
    /// A base chain's policy
    Policy,
}

impl Filter {
    /// Whether this drop is wanted.
    pub fn matches(&self, named: &Named) -> bool {
        let ends = [named.flow.src, named.flow.dst];
        let one_of = |network: &Network| ends.iter().flatten().any(|end| network.contains(*end));
        self.matches_rule(&named.dropped_by()) && any(&self.addresses, one_of)
    }

    /// Whether drops by this rule or policy are wanted, whatever their addresses.
    pub fn matches_rule(&self, by: &DroppedBy) -> bool {
        let event = match by.event {
            Event::RuleDrop => EventFilter::Rule,
            Event::PolicyDrop => EventFilter::Policy,
        };
        any(&self.tables, |wanted| {
            by.table.is_some_and(|(family, name)| wanted.matches(family, name))
        }) && any(&self.chains, |wanted| {
            wanted == by.base_chain || Some(wanted.as_str()) == by.chain
        }) && any(&self.handles, |wanted| Some(*wanted) == by.handle)
            && any(&self.events, |wanted| *wanted == event)
    }
}

/// Whether one of them holds, or there is none.
fn any<T>(wanted: &[T], holds: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(holds)
}

/// A table's name, and its family where that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFilter {
    family: Option<Family>,
    name: String,
}

impl TableFilter {
    fn matches(&self, family: &str, name: &str) -> bool {
        self.name == name && self.family.is_none_or(|wanted| wanted.name() == family)
    }
}

impl FromStr for TableFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (family, name) = match text.split_once(':') {
            None => (None, text),
            Some((family, name)) => {
                let known = Family::from_name(family);
                (Some(known.ok_or_else(|| FilterError::Family(family.to_owned()))?), name)
            }
        };
        if name.is_empty() {
            return Err(FilterError::NoName);
        }
        Ok(Self { family, name: name.to_owned() })
    }
}

/// Addresses with a common beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        // As 128 bits; shifting out all of them is a shift too many.
        let start = |bits: u128, len: u8| bits.checked_shr(u32::from(len - self.prefix));
        let same = |a, b, len| start(a, len).unwrap_or(0) == start(b, len).unwrap_or(0);
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr =
            address.parse().map_err(|_| FilterError::Address(address.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(text) => {
                let number = text.parse().ok().filter(|prefix| *prefix <= most);
                number.ok_or_else(|| FilterError::Prefix { most, found: text.to_owned() })?
            }
        };
        Ok(Self { address, prefix })
    }
}

/// An option that says nothing that can be looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No family of nftables.
    #[error("{0:?} is no family: give ip, ip6, inet, arp, bridge or netdev, as in inet:filter")]
    Family(String),
    /// Nothing behind the family.
    #[error("the table's name is missing, as in filter or inet:filter")]
    NoName,
    /// No address.
    #[error("{0:?} is no address: give one as in 10.0.0.1, 10.0.0.0/8 or fd00::/8")]
    Address(String),
    /// A prefix that is longer than the address.
    #[error("{found:?} is no prefix length: give 0 to {most}")]
    Prefix {
        /// Bits of the address.
        most: u8,
        /// What was given.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        filter: Filter,
    }

    /// Numbers of the samples that a filter lets through.
    fn wanted(args: &str) -> Vec<usize> {
        let args = args.split_whitespace();
        let filter = Program::try_parse_from(["program"].into_iter().chain(args)).unwrap().filter;
        let samples = samples::all();
        let named = samples.iter().map(|(drop, rule)| Named::new(drop, rule.as_ref()));
        let matches = named.enumerate().filter(|(_, named)| filter.matches(named));
        matches.map(|(number, _)| number).collect()
    }

    #[test]
    fn of_one_kind_any_of_different_kinds_all() {
        assert_eq!(wanted("").len(), samples::all().len());
        assert_eq!(wanted("--table t4"), [0, 1, 2]);
        assert_eq!(wanted("--table ip:t4 --table t6"), [0, 1, 2, 3]);
        assert_eq!(wanted("--table ip6:t4"), [0; 0]);
        assert_eq!(wanted("--table t4 --chain sub"), [1]);
        assert_eq!(wanted("--table t4 --chain in4 --event rule"), [0, 1]);
        assert_eq!(wanted("--handle 1234 --handle 99"), [3]);
        assert_eq!(wanted("--event policy"), [2]);
        assert_eq!(wanted("--event policy --handle 18"), [0; 0]);
        assert_eq!(wanted("--address fd00::/16"), [3]);
        assert_eq!(wanted("--address 10.0.0.77 --address fd00::1"), [3, 4]);
        assert_eq!(wanted("--address 10.0.0.2 --table ta"), [4]);
    }

    #[test]
    fn what_cannot_be_looked_for_is_refused() {
        let table = |text: &str| text.parse::<TableFilter>().unwrap_err().to_string();
        let network = |text: &str| text.parse::<Network>().unwrap_err().to_string();
        let said = [
            table("ipv4:filter"),
            table("inet:"),
            network("localhost"),
            network("10.0.0.0/33"),
            network("::/129"),
            network("10.0.0.0/-1"),
        ];
        insta::assert_snapshot!(said.join("\n"), @r#"
        "ipv4" is no family: give ip, ip6, inet, arp, bridge or netdev, as in inet:filter
        the table's name is missing, as in filter or inet:filter
        "localhost" is no address: give one as in 10.0.0.1, 10.0.0.0/8 or fd00::/8
        "33" is no prefix length: give 0 to 32
        "129" is no prefix length: give 0 to 128
        "-1" is no prefix length: give 0 to 32
        "#);
    }

    #[test]
    fn networks() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("0.0.0.0/0", "255.255.255.255") && contains("::/0", "ff::"));
        assert!(!contains("0.0.0.0/0", "::") && !contains("::/0", "0.0.0.0"));
        assert!(contains("10.1.2.3/8", "10.255.0.0") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("fd00::1", "fd00::1") && !contains("fd00::1", "fd00::2"));
    }

    proptest! {
        #[test]
        fn a_network_is_what_begins_alike(a: u128, flips: u128, prefix in 0u8..=128) {
            let network = Network { address: IpAddr::V6(a.into()), prefix };
            let other = a ^ flips;
            let alike = (0..prefix).all(|bit| flips >> (127 - bit) & 1 == 0);
            prop_assert_eq!(network.contains(IpAddr::V6(other.into())), alike);
        }

        #[test]
        fn any_text(text in ".{0,40}") {
            let _ = text.parse::<Network>();
            let _ = text.parse::<TableFilter>();
        }
    }
}
