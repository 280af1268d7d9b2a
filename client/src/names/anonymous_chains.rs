//! Handles of rules in anonymous chains: `ip saddr 10.0.0.1 jump { udp dport 1 drop; … }`.
//!
//! A listing has the text of these rules, in the rule that jumps there, and no handles. With
//! `--debug=netlink` nft prints in front of the listing what it got from the kernel: of each rule a
//! line `FAMILY TABLE CHAIN HANDLE [HANDLE OF THE ONE BEFORE]` and its expressions. Rules of a chain
//! come in their order in both.

use std::collections::HashMap;

/// What nft calls them.
const ANONYMOUS: &str = "__chain";

/// Family and name.
type TableName = (String, String);

/// What nft dumped about anonymous chains.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// The rule whose expressions are being read.
    rule: Option<(TableName, u64)>,
    /// To which of these chains a rule jumps.
    jumps: HashMap<(TableName, u64), String>,
    /// The handles of their rules.
    chains: HashMap<(TableName, String), Vec<u64>>,
    entries: usize,
}

impl Dump {
    /// Reads a line; of no more than `max` rules in such chains.
    pub(super) fn read(&mut self, line: &str, max: usize) {
        if self.entries >= max {
            return;
        }
        let words: Vec<_> = line.split(' ').take(6).collect();
        match words[..] {
            ["", "", "[", "immediate", "reg", ..] => {
                let target = line.split_once("jump -> ").or(line.split_once("goto -> "));
                let chain = target.and_then(|(_, chain)| chain.strip_suffix(" ]"));
                if let Some(chain) = chain.filter(|chain| chain.starts_with(ANONYMOUS))
                    && let Some(rule) = self.rule.take()
                {
                    self.entries += 1;
                    self.jumps.insert(rule, chain.to_owned());
                }
            }
            [family, table, chain, handle] | [family, table, chain, handle, _] => {
                let Ok(handle) = handle.parse() else { return };
                let table = (family.to_owned(), table.to_owned());
                if chain.starts_with(ANONYMOUS) {
                    self.entries += 1;
                    self.chains.entry((table.clone(), chain.to_owned())).or_default().push(handle);
                }
                self.rule = Some((table, handle));
            }
            _ => {}
        }
    }

    /// The handles of the rules to which the rule `handle` of a table jumps.
    pub(super) fn rules(&self, family: &str, table: &str, handle: u64) -> Option<&[u64]> {
        let table = (family.to_owned(), table.to_owned());
        let chain = self.jumps.get(&(table.clone(), handle))?;
        self.chains.get(&(table, chain.clone())).map(Vec::as_slice)
    }
}
