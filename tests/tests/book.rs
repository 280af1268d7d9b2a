//! What the pages say is there: their links lead somewhere, every chapter is in the table of contents, and
//! the commands that they show are ones that the programs take.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_tests::{
    handbook::{self, Page},
    programs::{directory, program},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const PROGRAMS: [&str; 4] = ["nfdrop-indexer", "nfdrop-server", "nfdrop-client", "nfdrop-ci"];
const SUMMARY: &str = "docs/src/SUMMARY.md";

/// What stands in for a path of the repository: no `.` and no `..`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Targets of `[text](target)` in a line, and of pictures. Not what is between backticks.
fn links(line: &str) -> Vec<String> {
    let visible: String =
        line.split('`').enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, part)| part).collect();
    let mut found = Vec::new();
    for (at, _) in visible.match_indices("](") {
        if let Some((target, _)) = visible[at + 2..].split_once(')') {
            found.push(target.to_owned());
        }
    }
    found
}

/// The anchors of a page's headings, as mdBook and forges make them.
fn anchors(page: &Page) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for line in page.prose() {
        let Some((marks, title)) = line.split_once(' ') else { continue };
        if marks.is_empty() || marks.chars().any(|c| c != '#') {
            continue;
        }
        let kept = title.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        let slug: String =
            kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
        let count = seen.entry(slug.clone()).or_default();
        anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    anchors
}

/// What is wrong with a link.
fn fault(pages: &[Page], page: &Page, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let own = Path::new(&page.path).parent().unwrap().display().to_string();
    let to = if path.is_empty() { page.path.clone() } else { plain(&format!("{own}/{path}")) };
    if !handbook::root().join(&to).exists() {
        return Some(format!("{}: {target}: {to} is not there", page.path));
    }
    if page.path.starts_with("docs/src/") && !to.starts_with("docs/src/") {
        return Some(format!("{}: {target}: {to} is not part of the book", page.path));
    }
    let leads = || pages.iter().find(|page| page.path == to).map(anchors);
    if anchor.is_empty() || leads().is_some_and(|anchors| anchors.contains(anchor)) {
        return None;
    }
    Some(format!("{}: {target}: {to} has no such heading", page.path))
}

#[test]
fn links_lead_somewhere() {
    let pages = handbook::pages().unwrap();
    let mut faults = Vec::new();
    for page in &pages {
        let links = page.prose().into_iter().flat_map(links).collect::<Vec<_>>();
        faults.extend(links.iter().filter_map(|target| fault(&pages, page, target)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_chapter_is_in_the_table_of_contents() {
    let summary = Page::read(SUMMARY).unwrap();
    let listed: BTreeSet<String> = summary.prose().into_iter().flat_map(links).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(handbook::root().join("docs/src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|e| e == "md") && name != "SUMMARY.md" {
            there.insert(name);
        }
    }
    assert_eq!(listed, there);
}

/// A command of one of the programs, as a page shows it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    program: String,
    words: Vec<String>,
}

/// The commands of a block: what follows a program's name, up to the end of the command.
fn shown(kind: &str, text: &str) -> Vec<Shown> {
    let text = text.replace("\\\n", " ");
    let mut all = Vec::new();
    for line in text.lines() {
        let line = match kind {
            "console" => line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")),
            _ => Some(line),
        };
        let Some(line) = line else { continue };
        let line = line.split(" #").next().unwrap_or_default();
        let mut now: Option<Shown> = None;
        for word in line.split_whitespace() {
            let bare = word.trim_start_matches(['(', '\'', '"', '$']);
            let name = bare.rsplit('/').next().unwrap_or_default();
            if PROGRAMS.contains(&name) {
                all.extend(now.take());
                now = Some(Shown { program: name.to_owned(), words: vec![] });
            } else if word.starts_with(['|', '>', '&', ';', '<']) || word.starts_with("2>") {
                all.extend(now.take());
            } else if let Some(shown) = &mut now {
                shown.words.push(word.trim_end_matches([';', ')']).to_owned());
                if word.ends_with(';') {
                    all.extend(now.take());
                }
            }
        }
        all.extend(now);
    }
    all
}

/// The sub-commands and the options that a help lists.
fn help(words: &[&str]) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut command = program(words[0]).unwrap();
    let output = command.args(&words[1..]).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut commands = BTreeSet::new();
    let mut listing = false;
    for line in text.lines() {
        if line == "Commands:" {
            listing = true;
        } else if !line.starts_with(' ') {
            listing = false;
        } else if listing
            && !line.starts_with("   ")
            && let Some(name) = line.split_whitespace().next()
        {
            commands.insert(name.to_owned());
        }
    }
    let options = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let options = options.filter(|word| word.starts_with("--")).map(str::to_owned);
    (commands, options.collect())
}

/// What a program would not take of a command. Sub-commands come first.
fn refused(shown: &Shown) -> Option<String> {
    let mut path = vec![shown.program.as_str()];
    let mut words = shown.words.iter().map(String::as_str).peekable();
    let mut wants = shown.program == "nfdrop-indexer" || shown.program == "nfdrop-ci";
    let (commands, options) = loop {
        let (commands, options) = help(&path);
        match words.next_if(|word| commands.contains(*word)) {
            Some(command) => {
                path.push(command);
                wants = false;
            }
            None => break (commands, options),
        }
    };
    let mut other = words.peek().filter(|word| !word.starts_with('-'));
    // The client's and the server's own options need no sub-command, and take no bare words.
    if path.len() == 1 && !commands.is_empty() && (wants || other.is_some()) {
        return Some(format!("no sub-command {:?}", other.take().unwrap_or(&"")));
    }
    let named = words.filter(|word| word.starts_with("--"));
    let shown = named.map(|word| word.split('=').next().unwrap_or_default());
    let unknown: Vec<_> = shown.filter(|name| !options.contains(*name)).collect();
    (!unknown.is_empty()).then(|| format!("{path:?} has no {unknown:?}"))
}

#[test]
fn commands_that_pages_show_are_ones_that_programs_take() {
    let mut faults = Vec::new();
    let mut count = 0;
    for page in handbook::pages().unwrap() {
        for block in page.blocks() {
            if !matches!(block.kind.as_str(), "sh" | "console" | "sh,guest") {
                continue;
            }
            for shown in shown(&block.kind, &block.text) {
                // A program that is still to come.
                if !directory().unwrap().join(&shown.program).exists() {
                    continue;
                }
                count += 1;
                if let Some(why) = refused(&shown) {
                    let words = shown.words.join(" ");
                    faults.push(format!("{}: {} {words}: {why}", page.path, shown.program));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 50, "only {count} commands were found");
}

#[test]
fn commands_are_found_where_pages_show_them() {
    let shown = |kind, text| -> Vec<String> {
        let all = shown(kind, text).into_iter();
        all.map(|Shown { program, words }| format!("{program}: {}", words.join(" "))).collect()
    };
    assert_eq!(
        shown("sh", "ls\nip netns exec x nfdrop-client \\\n  --count 6 | jq # nfdrop-client\n"),
        ["nfdrop-client: --count 6"]
    );
    assert_eq!(
        shown(
            "console",
            "$ target/nfdrop-indexer list; nfdrop-server --db F >log\nnfdrop-client: x\n"
        ),
        ["nfdrop-indexer: list", "nfdrop-server: --db F"]
    );
    let command = |program: &str, words: &str| Shown {
        program: program.to_owned(),
        words: words.split(' ').map(str::to_owned).collect(),
    };
    for (program, words) in [
        ("nfdrop-indexer", "crawl --db F --newst"),
        ("nfdrop-indexer", "craw --db F"),
        ("nfdrop-client", "plans --server URL"),
        ("nfdrop-client", "plan --count 6"),
    ] {
        assert!(refused(&command(program, words)).is_some(), "{program} {words}");
    }
    assert_eq!(refused(&command("nfdrop-client", "plan --server=URL --build-id 00")), None);
    assert_eq!(plain("docs/src/../nginx.conf"), "docs/nginx.conf");
    assert_eq!(links("[a](b.md#c) `[x](y)` ![d](e.svg)"), ["b.md#c", "e.svg"]);
}
