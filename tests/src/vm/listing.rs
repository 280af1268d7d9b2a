//! Rulesets as people read them: what `nft -a -s list ruleset` prints.

use std::collections::BTreeMap;

/// What a rule's label has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The chain that the rule is in.
    pub chain: String,
    /// Its text, without handle.
    pub text: String,
}

/// Of every rule, by table (`ip t4`) and handle.
pub type Labels = BTreeMap<(String, u64), Label>;

/// Reads a listing. `namespace` is appended to the names of tables.
pub fn labels(text: &str, namespace: &str) -> Labels {
    let mut labels = Labels::new();
    let (mut table, mut chain) = (String::new(), String::new());
    for line in text.lines() {
        let line = line.trim();
        let Some((text, handle)) = line.rsplit_once(" # handle ") else { continue };
        let words: Vec<_> = text.split_whitespace().collect();
        match words[..] {
            ["table", family, name, "{"] => table = format!("{family} {name}{namespace}"),
            ["chain", name, "{"] => name.clone_into(&mut chain),
            _ => {
                let Ok(handle) = handle.parse() else { continue };
                let label = Label { chain: chain.clone(), text: text.to_owned() };
                labels.insert((table.clone(), handle), label);
            }
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_by_table_and_handle() {
        let text = "table ip t { # handle 3\n\tcounter a { # handle 9\n\t\tpackets 0 bytes 0\n\t}\n\n\
                    \tchain in { # handle 1\n\t\ttype filter hook input priority filter; policy drop;\n\
                    \t\tudp dport 1 counter drop comment \"# handle 7\" # handle 4\n\t}\n}\n";
        let labels = labels(text, " (other)");
        let label = &labels[&("ip t (other)".to_owned(), 4)];
        assert_eq!(label.chain, "in");
        assert_eq!(label.text, "udp dport 1 counter drop comment \"# handle 7\"");
    }
}
