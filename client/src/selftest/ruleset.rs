//! Reads from `nft -a list ruleset` what the scenario's comparison needs: handles, and counters of rules with
//! a comment. The listing of `names` has neither, since it is made to name rules, and to be quick at it.

use crate::event::Family;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) handle: u64,
    /// Names and handles.
    pub(super) chains: Vec<(String, u64)>,
    pub(super) rules: Vec<Rule>,
}

/// A rule that counts, and has a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) comment: String,
    pub(super) packets: u64,
}

/// All tables of a listing.
pub(super) fn read(listing: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = vec![];
    for line in listing.lines() {
        let Some((text, handle)) = line.rsplit_once(" # handle ") else { continue };
        let Ok(handle) = handle.trim().parse() else { continue };
        let mut words = text.split_whitespace();
        if line.starts_with("table ") {
            let family = words.nth(1).and_then(Family::from_name);
            if let (Some(family), Some(name)) = (family, words.next()) {
                let (name, chains, rules) = (name.to_owned(), vec![], vec![]);
                tables.push(Table { family, name, handle, chains, rules });
            }
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = text.strip_prefix("\tchain ") {
            let name = chain.trim_end_matches(['{', ' ']);
            table.chains.push((name.to_owned(), handle));
        } else if let Some((_, rest)) = text.split_once("counter packets ")
            && let Some(packets) = rest.split(' ').next().and_then(|count| count.parse().ok())
            && let Some((_, comment)) = rest.split_once("comment \"")
        {
            let comment = comment.trim_end_matches('"').to_owned();
            table.rules.push(Rule { handle, comment, packets });
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_and_counters() {
        // As nft 1.0.6 prints it.
        let listing = "table inet nfdrop_inet { # handle 7\n\
            \tchain jumped_to { # handle 1\n\
            \t\tudp dport 47102 counter packets 5 bytes 180 drop comment \"jump\" # handle 4\n\
            \t}\n\n\
            \tchain input { # handle 3\n\
            \t\ttype filter hook input priority 6; policy drop;\n\
            \t\tudp dport < 47100 accept # handle 6\n\
            \t\tudp dport 47109 counter packets 2 bytes 9 udp dport vmap { 47109 : drop } comment \"verdict map\" # handle 8\n\
            \t\tcounter packets 0 bytes 0 comment \"policy\" # handle 9\n\
            \t}\n}\n";
        let rule =
            |handle, comment: &str, packets| Rule { handle, comment: comment.to_owned(), packets };
        let expected = Table {
            family: Family::INET,
            name: "nfdrop_inet".to_owned(),
            handle: 7,
            chains: vec![("jumped_to".to_owned(), 1), ("input".to_owned(), 3)],
            rules: vec![rule(4, "jump", 5), rule(8, "verdict map", 2), rule(9, "policy", 0)],
        };
        assert_eq!(read(listing), [expected]);
    }

    #[test]
    fn what_is_no_listing_has_no_tables() {
        assert_eq!(read("Error: syntax error # handle x\n\tchain c { # handle 1\n"), []);
    }
}
