//! The catalogue: which distributions there are, where their repositories are, and the keys they sign
//! with. A file, `sources.toml`, so that a new release is a word in a list, and a mirror of one's own a
//! line; the one beside this crate is built in.

use super::{Kind, Repository, keys::KeyFiles};
use serde::Deserialize;
use std::{collections::BTreeSet, path::PathBuf};

/// The catalogue that is built in.
const BUILTIN: &str = include_str!("../../sources.toml");
/// Longest catalogue, in bytes.
pub const MAX_CATALOGUE: u64 = 1 << 20;
/// Most suites of all sources together.
const MAX_SUITES: usize = 10_000;

/// What a catalogue says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// In the order of the file.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// One entry: repositories that share a mirror, a kind and keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `debian-security`; unique.
    pub name: String,
    /// As it is written in records; the name where it is not given.
    distro: Option<String>,
    /// How its repositories are laid out.
    pub kind: Kind,
    /// The distribution's name of the architecture.
    pub arch: String,
    /// What `{mirror}` stands for; without it, the operator or apt's configuration names one.
    pub mirror: Option<String>,
    /// What `{release}` stands for, one after the other.
    #[serde(default)]
    releases: Vec<String>,
    /// Files with the keys; those that are not there are passed over as long as one is.
    #[serde(default)]
    keys: Vec<String>,
    /// Only these of them, upper-case hex.
    #[serde(default)]
    fingerprints: Vec<String>,
    /// Whether signatures that rest on SHA-1 count, and are marked; apk only.
    #[serde(default)]
    weak: bool,
    /// Parts of the repository that hold kernels; apt only.
    #[serde(default)]
    components: Vec<String>,
    /// What is read of every release.
    suites: Vec<SuiteTemplate>,
}

/// A suite, once for every release if `{release}` is in its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteTemplate {
    name: String,
    /// Where it is, the place to look first in front; `{mirror}` where none is given.
    #[serde(default)]
    urls: Vec<String>,
}

/// A member's name, its values, what has to hold for each, and that in words.
type Check<'a> = (&'static str, Vec<&'a String>, &'a dyn Fn(&str) -> bool, &'static str);

/// Why a catalogue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not TOML, or other fields.
    #[error("the catalogue cannot be read: {0}")]
    Syntax(String),
    /// Two entries with one name, or two suites of a distribution.
    #[error("the catalogue has {0:?} twice")]
    Twice(String),
    /// A name, architecture or URL that is not plain text.
    #[error("the catalogue's {source_name:?} has the {field} {found:?}, expected {expected}")]
    Value {
        /// Name of the entry.
        source_name: String,
        /// Which member.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// More suites than anybody reads.
    #[error("the catalogue has more than {max} suites", max = MAX_SUITES)]
    TooMany,
    /// No entry of that name.
    #[error("no source {found:?}; there are {}", known.join(", "))]
    Unknown {
        /// As asked for.
        found: String,
        /// Names of the entries and their distributions.
        known: Vec<String>,
    },
}

impl Catalogue {
    /// The one that is built in.
    pub fn builtin() -> Result<Self, CatalogueError> {
        Self::parse(BUILTIN)
    }

    /// Reads a catalogue.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let catalogue: Self =
            toml::from_str(text).map_err(|error| CatalogueError::Syntax(error.to_string()))?;
        let mut names = BTreeSet::new();
        let mut suites = BTreeSet::new();
        for source in &catalogue.sources {
            source.check()?;
            if !names.insert(source.name.as_str()) {
                return Err(CatalogueError::Twice(source.name.clone()));
            }
            for repository in source.repositories(source.mirror.as_deref()) {
                let name = format!("{} {}", repository.distro, repository.suite);
                if suites.len() == MAX_SUITES {
                    return Err(CatalogueError::TooMany);
                }
                if !suites.insert(name.clone()) {
                    return Err(CatalogueError::Twice(name));
                }
            }
        }
        Ok(catalogue)
    }

    /// The entries of these names or distributions, in the order of the file; `all` is all of them.
    pub fn select(&self, wanted: &[String]) -> Result<Vec<&Source>, CatalogueError> {
        for name in wanted {
            if name != "all" && !self.sources.iter().any(|source| source.is(name)) {
                let names = self.sources.iter().flat_map(|s| [s.name.as_str(), s.distro()]);
                let known: BTreeSet<_> = names.map(str::to_owned).collect();
                let known = known.into_iter().collect();
                return Err(CatalogueError::Unknown { found: name.clone(), known });
            }
        }
        let named = |source: &&Source| wanted.iter().any(|name| name == "all" || source.is(name));
        Ok(self.sources.iter().filter(named).collect())
    }
}

impl Source {
    /// As it is written in records.
    pub fn distro(&self) -> &str {
        self.distro.as_deref().unwrap_or(&self.name)
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.distro() == name
    }

    /// Its repositories, of every release in turn, those that belong to none last. `mirror` is what
    /// `{mirror}` stands for; without one, URLs that need it are left out.
    pub fn repositories(&self, mirror: Option<&str>) -> Vec<Repository> {
        let (each, once): (Vec<_>, Vec<_>) =
            self.suites.iter().partition(|suite| suite.name.contains("{release}"));
        let of_releases = self.releases.iter().flat_map(|release| {
            each.iter().map(move |suite| self.repository(suite, release, mirror))
        });
        let once = once.iter().map(|suite| self.repository(suite, "", mirror));
        of_releases.chain(once).collect()
    }

    fn repository(&self, suite: &SuiteTemplate, release: &str, mirror: Option<&str>) -> Repository {
        let fill = |text: &str| {
            let text = text.replace("{release}", release).replace("{arch}", &self.arch);
            text.replace("{mirror}", mirror.unwrap_or_default().trim_end_matches('/'))
        };
        let urls = match suite.urls.as_slice() {
            [] => vec!["{mirror}".to_owned()],
            urls => urls.to_vec(),
        };
        let known = urls.iter().filter(|url| mirror.is_some() || !url.contains("{mirror}"));
        Repository {
            source: self.name.clone(),
            distro: self.distro().to_owned(),
            suite: fill(&suite.name),
            kind: self.kind,
            arch: self.arch.clone(),
            components: self.components.clone(),
            urls: known.map(|url| fill(url).trim_end_matches('/').to_owned()).collect(),
            keys: KeyFiles {
                files: self.keys.iter().map(|key| PathBuf::from(fill(key))).collect(),
                fingerprints: self.fingerprints.clone(),
                embedded: None,
            },
            weak: self.weak,
            unverified: false,
        }
    }

    /// Everything of it gets into records, messages and URLs.
    fn check(&self) -> Result<(), CatalogueError> {
        let plain = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "+-._:/{}".contains(c);
            (1..=200).contains(&text.len()) && text.chars().all(allowed)
        };
        let url = |text: &str| {
            let known = ["http://", "https://", "file:///", "{mirror}"];
            text.len() <= 1000
                && known.iter().any(|start| text.starts_with(start))
                && text.bytes().all(|c| c.is_ascii_graphic())
        };
        let hex = |text: &str| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'A'..=b'F'));
        let path = |text: &str| text.starts_with('/') && text.len() <= 1000;
        let checks: [Check<'_>; 8] = [
            ("name", vec![&self.name], &plain, "letters, digits and + - . _"),
            ("distro", self.distro.iter().collect(), &plain, "letters, digits and + - . _"),
            ("arch", vec![&self.arch], &plain, "letters, digits and + - . _"),
            ("release", self.releases.iter().collect(), &plain, "letters, digits and + - . _"),
            ("suite", self.suites.iter().map(|s| &s.name).collect(), &plain, "a plain name"),
            (
                "url",
                self.suites.iter().flat_map(|s| &s.urls).chain(&self.mirror).collect(),
                &url,
                "http://, https://, file:/// or {mirror}",
            ),
            ("key", self.keys.iter().collect(), &path, "an absolute path"),
            ("fingerprint", self.fingerprints.iter().collect(), &hex, "upper-case hex"),
        ];
        for (field, values, holds, expected) in checks {
            if let Some(value) = values.into_iter().find(|value| !holds(value)) {
                let (source_name, found) = (self.name.clone(), value.clone());
                return Err(CatalogueError::Value { source_name, field, found, expected });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[source]]
        name = "one-updates"
        distro = "one"
        kind = "apt"
        arch = "amd64"
        mirror = "http://mirror.example/one/"
        releases = ["8", "9"]
        keys = ["/keys/one-{release}.gpg"]
        components = ["main"]
        suites = [
            { name = "{release}" },
            { name = "rolling", urls = ["{mirror}/{arch}/r", "https://other.example/r"] },
        ]
    "#;

    fn refused(from: &str, to: &str) -> String {
        assert!(TEXT.contains(from), "{from}");
        Catalogue::parse(&TEXT.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn names_stand_for_what_they_say() {
        let catalogue = Catalogue::parse(TEXT).unwrap();
        let source = &catalogue.sources[0];
        let lines = |mirror: Option<&str>| {
            let line = |r: &Repository| {
                format!("{} {} {:?} {:?}\n", r.distro, r.suite, r.urls, r.keys.files)
            };
            source.repositories(mirror).iter().map(line).collect::<String>()
        };
        insta::assert_snapshot!(lines(source.mirror.as_deref()), @r#"
        one 8 ["http://mirror.example/one"] ["/keys/one-8.gpg"]
        one 9 ["http://mirror.example/one"] ["/keys/one-9.gpg"]
        one rolling ["http://mirror.example/one/amd64/r", "https://other.example/r"] ["/keys/one-.gpg"]
        "#);
        insta::assert_snapshot!(lines(None), @r#"
        one 8 [] ["/keys/one-8.gpg"]
        one 9 [] ["/keys/one-9.gpg"]
        one rolling ["https://other.example/r"] ["/keys/one-.gpg"]
        "#);
    }

    #[test]
    fn sources_are_selected_by_name_or_distribution() {
        let catalogue = Catalogue::parse(TEXT).unwrap();
        for name in ["one", "one-updates", "all"] {
            assert_eq!(catalogue.select(&[name.to_owned()]).unwrap().len(), 1, "{name}");
        }
        let error = catalogue.select(&["two".to_owned()]).unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#"no source "two"; there are one, one-updates"#);
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            refused("http://mirror.example", "ftp://mirror.example"),
            refused(r#""8", "9""#, r#""8", "9 ""#),
            refused(r#""8", "9""#, r#""8", "8""#),
            refused("/keys/", "keys/"),
            Catalogue::parse(&TEXT.repeat(2)).unwrap_err().to_string(),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the catalogue's "one-updates" has the url "ftp://mirror.example/one/", expected http://, https://, file:/// or {mirror}
        the catalogue's "one-updates" has the release "9 ", expected letters, digits and + - . _
        the catalogue has "one 8" twice
        the catalogue's "one-updates" has the key "keys/one-{release}.gpg", expected an absolute path
        the catalogue has "one-updates" twice
        "#);
        let syntax = refused("releases", "release");
        assert!(syntax.contains("unknown field `release`"), "{syntax}");
    }

    #[test]
    fn the_one_built_in_holds() {
        let catalogue = Catalogue::builtin().unwrap();
        assert!(
            catalogue
                .sources
                .iter()
                .all(|source| !source.repositories(Some("http://mirror.example")).is_empty())
        );
    }
}
