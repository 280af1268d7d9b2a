//! The repositories of the machine's own apt configuration: `sources.list` and
//! `sources.list.d/*.{list,sources}`, see sources.list(5).
//!
//! Only what leads to a verified index is taken over. `Trusted` and `Allow-Insecure` are not
//! honoured: they tell apt to do without a signature, and a plan without one is worth nothing.
//! What cannot be read is a warning that names the file and line, since one broken third-party
//! entry must not keep the crawl from Debian.

use crate::source::keys::KeyFiles;
use deb822_fast::Deb822;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Longest configuration file read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most entries taken from all files.
const MAX_ENTRIES: usize = 4096;

/// One repository and suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Archive root as written, without slashes at the end: `http://mirror.example/debian`.
    pub uri: String,
    /// `bookworm-updates`, or a path that ends with a slash for a flat repository.
    pub suite: String,
    /// `main`; empty for a flat repository.
    pub components: Vec<String>,
    /// Debian's names of the architectures; empty: no restriction.
    pub architectures: Vec<String>,
    /// Whose signatures count.
    pub signed_by: KeyFiles,
}

/// What apt's configuration holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AptConfig {
    /// Binary repositories, in the order of the files.
    pub entries: Vec<Entry>,
    /// What was skipped.
    pub warnings: Vec<Warning>,
}

/// Something in a file that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub file: PathBuf,
    /// From 1: the line in a `.list`, the paragraph in a `.sources`; `None`: the whole file.
    pub place: Option<usize>,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Why a part of apt's configuration was skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file or directory cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Longer than what is read.
    #[error("is longer than {max} bytes", max = MAX_FILE)]
    TooLong,
    /// Not UTF-8.
    #[error("is not UTF-8")]
    NotText,
    /// Not in the deb822 form.
    #[error("is not in deb822 form: {0}")]
    Syntax(String),
    /// A line that begins with neither `deb` nor `deb-src`.
    #[error("begins with {0:?}, expected `deb` or `deb-src`")]
    Type(String),
    /// An option list without an end.
    #[error("has a `[` without its `]`")]
    OpenOptions,
    /// A part is not there.
    #[error("has no {0}")]
    Missing(&'static str),
    /// More entries than anybody has.
    #[error("more than {max} entries, the rest is skipped", max = MAX_ENTRIES)]
    TooMany,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(place) = self.place {
            let sources = self.file.extension().is_some_and(|extension| extension == "sources");
            write!(f, ": {} {place}", if sources { "paragraph" } else { "line" })?;
        }
        write!(f, ": {}; skipped", self.problem)
    }
}

/// What a line or paragraph holds: several URIs and suites are several entries, none is switched off.
pub type Parsed = Result<Vec<Entry>, Problem>;

/// The entries of all files below `root`, which is `/` but in tests and containers.
pub fn read(root: &Path) -> AptConfig {
    let mut config = AptConfig::default();
    let apt = root.join("etc/apt");
    let mut files = vec![apt.join("sources.list")];
    let parts = apt.join("sources.list.d");
    match fs::read_dir(&parts) {
        Ok(directory) => files.extend(directory.flatten().map(|entry| entry.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => config.warn(&parts, None, Problem::Unreadable(error.to_string())),
    }
    files.sort();
    for file in files {
        let list = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => true,
            Some("sources") => false,
            _ => continue,
        };
        match read_text(&file) {
            Ok(text) if list => config.add(&file, parse_list(&text)),
            Ok(text) => match parse_sources(&text) {
                Ok(parsed) => config.add(&file, parsed),
                Err(problem) => config.warn(&file, None, problem),
            },
            Err(None) => {}
            Err(Some(problem)) => config.warn(&file, None, problem),
        }
    }
    config
}

impl AptConfig {
    fn warn(&mut self, file: &Path, place: Option<usize>, problem: Problem) {
        self.warnings.push(Warning { file: file.to_owned(), place, problem });
    }

    fn add(&mut self, file: &Path, parsed: Vec<(usize, Parsed)>) {
        for (place, entries) in parsed {
            match entries {
                Ok(entries) if self.entries.len() + entries.len() > MAX_ENTRIES => {
                    return self.warn(file, Some(place), Problem::TooMany);
                }
                Ok(entries) => self.entries.extend(entries),
                Err(problem) => self.warn(file, Some(place), problem),
            }
        }
    }
}

/// `Err(None)`: there is no such file.
fn read_text(file: &Path) -> Result<String, Option<Problem>> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => None,
        _ => Some(Problem::Unreadable(error.to_string())),
    };
    if fs::metadata(file).map_err(unreadable)?.len() > MAX_FILE {
        return Err(Some(Problem::TooLong));
    }
    String::from_utf8(fs::read(file).map_err(unreadable)?).map_err(|_| Some(Problem::NotText))
}

/// The entries of a one-line-style file with the number of their line.
pub fn parse_list(text: &str) -> Vec<(usize, Parsed)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let lines = lines.enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(number, line)| (number + 1, parse_line(line))).collect()
}

fn parse_line(line: &str) -> Parsed {
    let (kind, rest) = line.split_once(|c: char| c.is_whitespace()).unwrap_or((line, ""));
    match kind {
        "deb" => {}
        "deb-src" => return Ok(Vec::new()),
        other => return Err(Problem::Type(other.chars().take(40).collect())),
    }
    let (options, rest) = match rest.trim_start().strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(Problem::OpenOptions)?,
        None => ("", rest),
    };
    let mut signed_by = KeyFiles::default();
    let mut architectures = Vec::new();
    for option in options.split_ascii_whitespace() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let values = value.split(',').filter(|value| !value.is_empty());
        match name.to_ascii_lowercase().as_str() {
            "signed-by" => signed_by = keys(values),
            "arch" => architectures = values.map(str::to_owned).collect(),
            _ => {}
        }
    }
    let mut words = rest.split_ascii_whitespace();
    let uri = words.next().ok_or(Problem::Missing("URI"))?;
    let suite = words.next().ok_or(Problem::Missing("suite"))?.to_owned();
    let components: Vec<_> = words.map(str::to_owned).collect();
    if components.is_empty() && !suite.ends_with('/') {
        return Err(Problem::Missing("component"));
    }
    let uri = trim_uri(uri);
    Ok(vec![Entry { uri, suite, components, architectures, signed_by }])
}

/// The entries of a deb822-style file with the number of their paragraph.
pub fn parse_sources(text: &str) -> Result<Vec<(usize, Parsed)>, Problem> {
    let syntax = |error: deb822_fast::Error| Problem::Syntax(error.to_string());
    let document: Deb822 = text.parse().map_err(syntax)?;
    let paragraphs = document.iter().enumerate();
    Ok(paragraphs.map(|(number, paragraph)| (number + 1, parse_paragraph(paragraph))).collect())
}

fn parse_paragraph(paragraph: &deb822_fast::Paragraph) -> Parsed {
    let field = |name: &str| {
        let mut fields = paragraph.iter();
        let value = fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        value.filter(|value| !value.trim().is_empty())
    };
    let words = |name: &str| field(name).unwrap_or_default().split_ascii_whitespace();
    let enabled = field("Enabled").unwrap_or("yes").trim().to_ascii_lowercase();
    if matches!(enabled.as_str(), "no" | "false" | "without" | "off" | "disable" | "0") {
        return Ok(Vec::new());
    }
    field("Types").ok_or(Problem::Missing("Types"))?;
    if !words("Types").any(|kind| kind == "deb") {
        return Ok(Vec::new());
    }
    field("URIs").ok_or(Problem::Missing("URIs"))?;
    field("Suites").ok_or(Problem::Missing("Suites"))?;
    let components: Vec<_> = words("Components").map(str::to_owned).collect();
    let architectures: Vec<_> = words("Architectures").map(str::to_owned).collect();
    let signed_by = match field("Signed-By") {
        Some(block) if block.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") => {
            // A line with only a dot stands for an empty one.
            let lines = block.trim().lines().map(|line| if line == "." { "" } else { line });
            let embedded = Some(lines.flat_map(|line| [line, "\n"]).collect());
            KeyFiles { embedded, ..KeyFiles::default() }
        }
        Some(list) => keys(list.split([',', ' ', '\t', '\n']).filter(|key| !key.is_empty())),
        None => KeyFiles::default(),
    };
    let mut entries = Vec::new();
    for uri in words("URIs") {
        for suite in words("Suites") {
            if components.is_empty() && !suite.ends_with('/') {
                return Err(Problem::Missing("Components"));
            }
            if entries.len() == MAX_ENTRIES {
                return Err(Problem::TooMany);
            }
            entries.push(Entry {
                uri: trim_uri(uri),
                suite: suite.to_owned(),
                components: components.clone(),
                architectures: architectures.clone(),
                signed_by: signed_by.clone(),
            });
        }
    }
    Ok(entries)
}

fn trim_uri(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

/// Paths of keyrings and fingerprints; a `!` behind a fingerprint excludes subkeys.
fn keys<'a>(values: impl Iterator<Item = &'a str>) -> KeyFiles {
    let mut signed_by = KeyFiles::default();
    for value in values {
        if value.starts_with('/') {
            signed_by.files.push(value.into());
        } else {
            signed_by.fingerprints.push(value.trim_end_matches('!').to_ascii_uppercase());
        }
    }
    signed_by
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Vec<Entry> {
        parse_list(text).into_iter().flat_map(|(_, entries)| entries.unwrap()).collect()
    }

    fn sources(text: &str) -> Vec<Entry> {
        let parsed = parse_sources(text).unwrap();
        parsed.into_iter().flat_map(|(_, entries)| entries.unwrap()).collect()
    }

    #[test]
    fn reads_one_line_entries() {
        let entries = list(concat!(
            "# a comment\n\n",
            "deb http://mirror.example/debian/ bookworm main contrib # more\n",
            "deb-src http://mirror.example/debian bookworm main\n",
            "deb\t[ arch=amd64,i386 signed-by=/etc/k.gpg,0123abcd! trusted=yes ] ",
            "https://mirror.example/x y main\n",
            "deb http://mirror.example/flat ./\n",
        ));
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].uri, "http://mirror.example/debian");
        assert_eq!(entries[0].components, ["main", "contrib"]);
        assert_eq!(entries[0].signed_by, KeyFiles::default());
        assert_eq!(entries[1].architectures, ["amd64", "i386"]);
        assert_eq!(entries[1].signed_by.files, [PathBuf::from("/etc/k.gpg")]);
        assert_eq!(entries[1].signed_by.fingerprints, ["0123ABCD"]);
        assert_eq!((entries[2].suite.as_str(), entries[2].components.len()), ("./", 0));
    }

    #[test]
    fn reads_deb822_entries() {
        let entries = sources(concat!(
            "Types: deb deb-src\n",
            "# in between\n",
            "URIs: http://mirror.example/a http://mirror.example/b/\n",
            "suites: bookworm bookworm-updates\n",
            "Components: main\n",
            "Signed-By: /k/a.gpg, /k/b.asc\n",
            "\n",
            "Enabled: no\nTypes: deb\nURIs: http://mirror.example/c\nSuites: s\nComponents: main\n",
            "\n",
            "Types: deb-src\nURIs: http://mirror.example/d\nSuites: s\nComponents: main\n",
        ));
        let got: Vec<_> = entries.iter().map(|e| (e.uri.as_str(), e.suite.as_str())).collect();
        let (a, b) = ("http://mirror.example/a", "http://mirror.example/b");
        let want =
            [(a, "bookworm"), (a, "bookworm-updates"), (b, "bookworm"), (b, "bookworm-updates")];
        assert_eq!(got, want);
        assert_eq!(entries[0].signed_by.files, [PathBuf::from("/k/a.gpg"), "/k/b.asc".into()]);
    }

    #[test]
    fn reads_an_embedded_key() {
        let entries = sources(concat!(
            "Types: deb\nURIs: http://mirror.example/a\nSuites: s\nComponents: main\n",
            "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n xjME\n =AAAA\n",
            " -----END PGP PUBLIC KEY BLOCK-----\n",
        ));
        let block = entries[0].signed_by.embedded.as_deref().unwrap();
        let want = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxjME\n=AAAA\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(block, want);
    }

    #[test]
    fn walks_the_directories_and_says_what_it_skips() {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt");
        fs::create_dir_all(apt.join("sources.list.d")).unwrap();
        let put = |name: &str, text: &str| fs::write(apt.join(name), text).unwrap();
        put("sources.list", "deb http://mirror.example/debian a main\nrpm x\ndeb [a b c\ndeb\n");
        put("sources.list.d/b.sources", "Types: deb\nURIs: http://mirror.example/b\n");
        put("sources.list.d/c.sources", "Types: deb\nno colon\n");
        put("sources.list.d/d.list.disabled", "deb http://mirror.example/no a main\n");
        put("sources.list.d/e.list", "deb http://mirror.example/e a\n");
        let config = read(root.path());
        assert_eq!(config.entries.len(), 1);
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        let warnings = warnings.join("\n").replace(apt.to_str().unwrap(), "");
        insta::assert_snapshot!(warnings, @r#"
        /sources.list: line 2: begins with "rpm", expected `deb` or `deb-src`; skipped
        /sources.list: line 3: has a `[` without its `]`; skipped
        /sources.list: line 4: has no URI; skipped
        /sources.list.d/b.sources: paragraph 1: has no Suites; skipped
        /sources.list.d/c.sources: is not in deb822 form: Unexpected token: no colon; skipped
        /sources.list.d/e.list: line 1: has no component; skipped
        "#);
        assert_eq!(read(&root.path().join("none")), AptConfig::default());
    }

    proptest! {
        #[test]
        fn never_panics(text in "(deb|deb-src|\\[|\\]|=|#|:|-----BEGIN PGP PUBLIC KEY BLOCK-----|Types|URIs|[a-z/ \t\n.\u{e9}]){0,40}") {
            parse_list(&text);
            let _ = parse_sources(&text);
        }
    }
}
