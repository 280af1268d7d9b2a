//! Reads what `nft -a -s -t list ruleset` prints.
//!
//! Text, not `nft -j`: the JSON holds no rule text, which is what a person knows a rule by. The text
//! is made for `nft -f` and tells its structure by indentation: tables at the margin, chains and sets
//! at one tab, rules at two, and what belongs to a rule of several lines at three. A rule's line ends
//! with `# handle N`. Comments and log prefixes are quoted and can hold all of this, so quotes are
//! counted; a quote that nobody closes ends with its line.

use super::{anonymous_chains::Dump, rules::Rules};
use crate::event::Family;
use std::{collections::HashMap, sync::Arc};

/// Longest line read: a set of 100,000 addresses in a rule has 2 MiB. Longer ones are not looked at.
const MAX_LINE: usize = 4 << 20;
/// Most bytes of a rule's text that are kept.
const MAX_TEXT: usize = 4096;

/// What a rule is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// The chain that holds it; if that has no name, the chain that it was jumped to from.
    pub chain: Arc<str>,
    /// As `nft` writes it, in one line; of a very long one the beginning and `…`. Of a rule in an anonymous
    /// chain, with the beginning of the rule that jumps there.
    pub text: Box<str>,
    /// It rejects: what it drops gets an answer. A rule that drops some packets through a verdict map
    /// and rejects the others counts as rejecting.
    pub reject: bool,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Box<str>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Arc<str>,
    /// `None` of one that packets only get to by jumps.
    pub base: Option<Base>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The hook's name.
    pub hook: Box<str>,
    /// Its policy is to drop.
    pub drops: bool,
}

/// A ruleset: tables by handle, rules by the handles of table and rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// By handle.
    pub tables: HashMap<u64, Table>,
    /// By the table's handle and their own.
    pub rules: Rules,
    /// There are rules in anonymous chains, and nft did not print their handles.
    pub incomplete: bool,
}

/// A listing that is being read, in pieces of any size.
#[derive(Debug)]
pub struct Reader {
    listing: Listing,
    /// Rules that are still taken.
    room: usize,
    /// The line that has no end yet; `None` while a line that is too long is skipped.
    line: Option<Vec<u8>>,
    table: Option<u64>,
    chain: Option<Arc<str>>,
    rule: Option<Pending>,
    /// What nft was made to say besides.
    dump: Dump,
    /// Rules with others in them.
    nests: Vec<Nest>,
}

/// A rule that jumps to an anonymous chain.
#[derive(Debug)]
struct Nest {
    table: u64,
    handle: u64,
    chain: Arc<str>,
    /// Up to the brace.
    text: String,
    rules: Vec<String>,
}

/// A rule whose last line may be yet to come.
#[derive(Debug, Default)]
struct Pending {
    text: String,
    quoted: bool,
    /// How much of the text is in front of the rules in an anonymous chain.
    outside: Option<usize>,
    inside: Vec<String>,
}

impl Reader {
    /// Nothing read yet; at most so many rules are taken.
    pub fn new(max_rules: usize) -> Self {
        let listing = Listing::default();
        Self {
            listing,
            room: max_rules,
            line: Some(vec![]),
            table: None,
            chain: None,
            rule: None,
            dump: Dump::default(),
            nests: vec![],
        }
    }

    /// Reads on.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        if let Some(first) = pieces.next() {
            self.append(first);
        }
        for piece in pieces {
            if let Some(line) = self.line.replace(vec![]) {
                self.read(&String::from_utf8_lossy(&line));
            }
            self.append(piece);
        }
    }

    /// All that was read.
    pub fn finish(mut self) -> Listing {
        if let Some(line) = self.line.take() {
            self.read(&String::from_utf8_lossy(&line));
        }
        self.end_rule();
        for nest in std::mem::take(&mut self.nests) {
            self.name_inner_rules(nest);
        }
        self.listing.rules.finish();
        self.listing
    }

    /// By handle, if nft has told as many as it listed.
    fn name_inner_rules(&mut self, nest: Nest) {
        let Nest { table, handle, chain, text, rules } = nest;
        let known = self.listing.tables.get(&table);
        let handles = known
            .and_then(|known| self.dump.rules(known.family.name(), &known.name, handle))
            .unwrap_or_default();
        if handles.len() != rules.len() {
            self.listing.incomplete = true;
            return;
        }
        for (handle, rule) in handles.iter().zip(rules).take(self.room) {
            self.room -= 1;
            let whole = shortened(&format!("{text} {rule} }}"));
            self.listing.rules.push(table, *handle, &chain, &whole, rejects(&rule));
        }
    }

    fn append(&mut self, piece: &[u8]) {
        if let Some(line) = &mut self.line {
            line.extend(piece);
            if line.len() > MAX_LINE {
                self.line = None;
            }
        }
    }

    fn read(&mut self, line: &str) {
        if let Some(rule) = &mut self.rule {
            if rule.goes_on(line) {
                return rule.append(line);
            }
            self.end_rule();
        }
        if let Some(rest) = line.strip_prefix("table ") {
            self.begin_table(rest);
        } else if let Some(rest) = line.strip_prefix("\tchain ") {
            self.begin_chain(rest);
        } else if line == "\t}" {
            self.chain = None;
        } else if let Some(rest) = line.strip_prefix("\t\t")
            && self.chain.is_some()
            && !rest.starts_with(['\t', '}'])
        {
            let mut rule = Pending::default();
            rule.append(rest);
            self.rule = Some(rule);
        } else if self.table.is_none() {
            self.dump.read(line, self.room);
        }
    }

    /// `ip t4 { # handle 1`; in between the name of a program that owns it.
    fn begin_table(&mut self, rest: &str) {
        (self.table, self.chain) = (None, None);
        let (rest, handle) = split_handle(rest);
        let Some((family, rest)) = rest.split_once(' ') else { return };
        let Some((name, _)) = rest.rsplit_once(" {") else { return };
        let (Some(family), Some(handle)) = (Family::from_name(family), handle) else { return };
        self.table = Some(handle);
        let table = Table { family, name: name.into(), chains: vec![] };
        self.listing.tables.insert(handle, table);
    }

    fn begin_chain(&mut self, rest: &str) {
        let (rest, _) = split_handle(rest);
        let Some(name) = rest.strip_suffix(" {") else { return };
        let name: Arc<str> = name.into();
        let table = self.table.and_then(|handle| self.listing.tables.get_mut(&handle));
        // Chains and tables without rules count too: a listing of nothing else is bounded as well.
        if let Some(table) = table.filter(|_| self.room > 0) {
            self.room -= 1;
            table.chains.push(Chain { name: name.clone(), base: None });
            self.chain = Some(name);
        }
    }

    /// `type filter hook input priority filter; policy drop;`
    fn declare(&mut self, text: &str) {
        let Some(words) = text.strip_prefix("type ") else { return };
        let Some(hook) = words.split(' ').skip_while(|word| *word != "hook").nth(1) else { return };
        // Last, behind the names of devices.
        let drops = text.ends_with("; policy drop;");
        let table = self.table.and_then(|handle| self.listing.tables.get_mut(&handle));
        if let Some(chain) = table.and_then(|table| table.chains.last_mut()) {
            chain.base = Some(Base { hook: hook.into(), drops });
        }
    }

    fn end_rule(&mut self) {
        let Some(rule) = self.rule.take() else { return };
        // Without a handle it is the chain's own: hook and policy, a comment.
        let (text, Some(handle)) = split_handle(&rule.text) else {
            return self.declare(&rule.text);
        };
        if let (Some(table), Some(chain)) = (self.table, &self.chain)
            && self.room > 0
        {
            self.room -= 1;
            let (whole, reject) = (shortened(text), rejects(text));
            self.listing.rules.push(table, handle, chain, &whole, reject);
            if let Some(text) = rule.outside.and_then(|end| rule.text.get(..end)) {
                let (chain, text, rules) = (chain.clone(), text.to_owned(), rule.inside);
                self.nests.push(Nest { table, handle, chain, text, rules });
            }
        }
    }
}

impl Pending {
    fn goes_on(&self, next: &str) -> bool {
        let ended = split_handle(&self.text).1.is_some();
        let nested = next.starts_with("\t\t\t") || next.starts_with("\t\t}");
        let beside = next.starts_with("\t\t") || next == "\t}";
        match (self.quoted, ended) {
            // A comment with a line feed in it, or one with a quote, which end alike.
            (true, true) => !beside,
            (true, false) => next != "\t}",
            (false, true) => false,
            (false, false) => nested || self.text.ends_with([',', '{']),
        }
    }

    fn append(&mut self, line: &str) {
        let nested = !self.quoted && line.starts_with("\t\t\t");
        let line = line.trim_start();
        if nested && (self.text.ends_with("jump {") || self.text.ends_with("goto {")) {
            self.outside = Some(self.text.len());
        }
        if nested && self.outside.is_some() {
            self.inside.push(line.to_owned());
        }
        let last = self.text.chars().next_back();
        self.text.push_str(match last {
            None => "",
            // Rules of an anonymous chain, in the rule that jumps there.
            Some(last) if !self.quoted && !"{,".contains(last) && !line.starts_with('}') => "; ",
            Some(_) => " ",
        });
        if self.text.len() <= MAX_LINE {
            self.text.push_str(line);
        }
        self.quoted ^= line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1;
    }
}

/// Text and handle of `text # handle N`.
fn split_handle(line: &str) -> (&str, Option<u64>) {
    let split = line.rsplit_once(" # handle ").and_then(|(text, handle)| {
        let handle = handle.bytes().all(|byte| byte.is_ascii_digit()).then(|| handle.parse().ok());
        Some((text, handle.flatten()?))
    });
    split.map_or((line, None), |(text, handle)| (text, Some(handle)))
}

fn shortened(text: &str) -> Box<str> {
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end]).into()
}

/// Whether `reject` is one of the rule's statements, and neither in quotes nor a chain's name
/// (`jump reject`), nor in an anonymous chain that the rule jumps to.
fn rejects(text: &str) -> bool {
    let mut depth = 0_u32;
    let mut before = ["", ""];
    for token in tokens(text) {
        match token {
            "{" => depth = depth.saturating_add(1),
            "}" => depth = depth.saturating_sub(1),
            "reject" if depth == 0 && !matches!(before[1], "jump" | "goto") => return true,
            // iptables' REJECT, where nft cannot translate it.
            "\"REJECT\"" | "REJECT" if before == ["xt", "target"] => return true,
            _ => {}
        }
        before = [before[1], token];
    }
    false
}

/// Words and whole quoted strings.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map_or(rest.len(), |end| end + 2),
            None => rest.find([' ', '\t']).unwrap_or(rest.len()),
        };
        let (token, others) = rest.split_at(end);
        rest = others;
        Some(token).filter(|token| !token.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    fn read(text: &str) -> Listing {
        let mut reader = Reader::new(100_000);
        reader.push(text.as_bytes());
        reader.finish()
    }

    /// One line a table and a rule, in order of their handles.
    fn told(mut listing: Listing) -> String {
        let mut tables: Vec<_> = listing.tables.iter().collect();
        tables.sort_by_key(|(handle, _)| **handle);
        let mut told = String::new();
        for (handle, Table { family, name, chains }) in tables {
            let chains = chains.iter().map(|Chain { name, base }| match base {
                Some(Base { hook, drops }) => {
                    format!(" {name} ({hook}{})", if *drops { ", drops" } else { "" })
                }
                None => format!(" {name}"),
            });
            writeln!(told, "{handle} {family} {name}:{}", chains.collect::<String>()).unwrap();
            let rules = listing.rules.handles().into_iter().filter(|(table, _)| table == handle);
            for (table, handle) in rules {
                let RuleName { chain, text, reject } = listing.rules.get(table, handle).unwrap();
                let reject = if reject { " REJECTS" } else { "" };
                writeln!(told, "  {handle} {chain}{reject}: {text}").unwrap();
            }
        }
        told
    }

    /// What nft 1.0.6 listed of tests/guest/root.nft.
    #[test]
    fn the_guests_ruleset() {
        insta::assert_snapshot!(told(read(include_str!("testdata/guest.txt"))));
    }

    /// What nft 1.0.6 listed of a ruleset made to confuse.
    #[test]
    fn odd_rules() {
        insta::assert_snapshot!(told(read(include_str!("testdata/odd.txt"))));
    }

    /// What nft 1.0.6 listed of rules that iptables-nft made.
    #[test]
    fn rules_of_iptables() {
        insta::assert_snapshot!(told(read(include_str!("testdata/iptables.txt"))));
    }

    /// What nft 1.0.6 listed of rules in anonymous chains, asked to tell more.
    #[test]
    fn rules_in_chains_without_a_name() {
        let text = include_str!("testdata/anonymous_chains.txt");
        let listing = read(text);
        assert!(!listing.incomplete);
        insta::assert_snapshot!(told(listing.clone()));

        let (_, plain) = text.split_once("table inet").unwrap();
        let plain = read(&format!("table inet{plain}"));
        assert!(plain.incomplete);
        let inner = [5, 6, 9, 11, 13, 16, 21];
        assert!(inner.iter().all(|handle| !plain.rules.contains(1, *handle)));
        assert!(inner.iter().all(|handle| listing.rules.contains(1, *handle)));
        assert_eq!(listing.rules.len(), plain.rules.len() + inner.len() + 1);
    }

    #[test]
    fn handles_that_are_not_as_many_as_rules_name_none() {
        let text =
            include_str!("testdata/anonymous_chains.txt").replace("inet fw __chain11 6 5\n", "");
        let listing = read(&text);
        assert!(listing.incomplete && !listing.rules.contains(1, 5));
        assert!(listing.rules.contains(1, 9));
    }

    fn in_chain(lines: &str) -> String {
        format!("table ip t {{ # handle 1\n\tchain c {{ # handle 1\n{lines}\t}}\n}}\n")
    }

    #[test]
    fn sets_over_several_lines_are_joined() {
        let text = in_chain(
            "\t\tip saddr { 10.0.0.1, 10.0.0.2,\n\t\t\t     10.0.0.3 } drop # handle 4\n\
             \t\tudp dport 1 accept # handle 5\n",
        );
        let mut listing = read(&text);
        assert_eq!(
            &*listing.rules.get(1, 4).unwrap().text,
            "ip saddr { 10.0.0.1, 10.0.0.2, 10.0.0.3 } drop"
        );
        assert_eq!(&*listing.rules.get(1, 5).unwrap().text, "udp dport 1 accept");
    }

    #[test]
    fn line_feeds_and_lone_quotes_in_comments() {
        let text = in_chain(
            "\t\tdrop comment \"a\nb # handle 9\nc\" # handle 4\n\
             \t\taccept comment \"6\" nails\" # handle 5\n\
             \t\treturn # handle 6\n\
             \t\treturn comment \"\"\" # handle 7\n",
        );
        insta::assert_snapshot!(told(read(&text)), @r#"
        1 ip t: c
          4 c: drop comment "a b # handle 9 c"
          5 c: accept comment "6" nails"
          6 c: return
          7 c: return comment """
        "#);
    }

    #[test]
    fn owners_and_tables_without_a_handle() {
        let listing = read("table inet a { # progname x # handle 7\n}\ntable ip b {\n}\n");
        assert_eq!(told(listing.clone()), "7 inet a:\n");
    }

    #[test]
    fn rejecting_is_a_statement() {
        let yes = [
            "reject",
            "counter reject with tcp reset",
            "xt target \"REJECT\"",
            "log prefix \"jump\" reject comment \"drop\"",
        ];
        let no = [
            "drop",
            "jump reject",
            "goto reject",
            "ip saddr @reject drop",
            "iifname \"reject\" drop",
            "udp dport vmap { 1 : jump reject, 2 : drop }",
            "jump { reject } ",
            "drop comment \"reject\"",
            "drop comment \" reject ",
            "xt match \"REJECT\" drop",
        ];
        assert!(yes.iter().all(|rule| rejects(rule)));
        assert!(!no.iter().any(|rule| rejects(rule)));
    }

    #[test]
    fn long_texts_are_cut_and_longer_lines_skipped() {
        let long = "é".repeat(MAX_TEXT);
        let longest = "x".repeat(MAX_LINE);
        let text = in_chain(&format!(
            "\t\tdrop comment \"{long}\" # handle 4\n\t\tdrop comment \"{longest}\" # handle 5\n\
             \t\tdrop # handle 6\n"
        ));
        let mut listing = read(&text);
        let kept = listing.rules.get(1, 4).unwrap().text;
        assert!(kept.len() <= MAX_TEXT + 3 && kept.ends_with("é…"), "{} bytes", kept.len());
        assert!(!listing.rules.contains(1, 5));
        assert_eq!(&*listing.rules.get(1, 6).unwrap().text, "drop");
    }

    #[test]
    fn at_most_so_many_rules() {
        let lines: String = (0..100).fold(String::new(), |mut lines, handle| {
            writeln!(lines, "\t\tdrop # handle {handle}").unwrap();
            lines
        });
        let mut reader = Reader::new(11);
        reader.push(in_chain(&lines).as_bytes());
        assert_eq!(reader.finish().rules.len(), 10);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut reader = Reader::new(100);
            reader.push(&bytes);
            reader.finish();
        }

        /// In any pieces the same.
        #[test]
        fn in_pieces(
            lines in prop::collection::vec(prop::sample::select(vec![
                "table ip t { # handle 1", "\tchain c { # handle 1", "\t}", "}", "\t\tjump {",
                "\t\t\treject", "\t\t} # handle 5", "\t\tdrop comment \"a # handle 6", "\" # handle 7",
                "\t\taccept # handle 8", "", "ip t c 5", "  [ immediate reg 0 goto -> __chain1 ]",
                "ip t __chain1 7 6", "\t\tdrop comment \"\u{e9}\" # handle 99999999999999999999",
            ]), 0..30),
            size in 1usize..20,
        ) {
            let text = lines.join("\n");
            let mut reader = Reader::new(100_000);
            for piece in text.as_bytes().chunks(size) {
                reader.push(piece);
            }
            prop_assert_eq!(reader.finish(), read(&text));
        }
    }
}
