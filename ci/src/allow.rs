//! What people have looked at and accept for a while. A TOML file:
//!
//! ```toml
//! [[allow]]
//! body = "3f1c…"                 # or build, kernel = "debian 6.19.1-amd64", source = "debian sid"
//! finding = "new_unresolved"     # what is accepted; this where nothing is said
//! reason = "full LTO: no site without inlined expressions"
//! owner = "jane@example.org"
//! expires = 2027-01-31           # the last day on which it counts
//! ```

use crate::finding::{Finding, Kind, Subject};
use nfdrop_db::{BuildId, HexBytes};
use serde::Deserialize;
use std::{collections::BTreeSet, fmt};
use time::{Date, format_description::well_known::Iso8601};

/// Longest allow file read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Longest text in an entry, in bytes.
const MAX_TEXT: usize = 1000;

/// An allow file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    /// In the order of the file.
    pub entries: Vec<Allowed>,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Of what.
    pub of: Of,
    /// What is accepted.
    pub finding: Kind,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
    /// The last day on which it counts, in UTC.
    pub expires: Date,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// One build.
    Build(BuildId),
    /// All builds with this body.
    Body(HexBytes),
    /// A kernel by distribution and release.
    Kernel(String),
    /// A suite by distribution and name.
    Source(String),
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(id) => write!(f, "build {id}"),
            Self::Body(body) => write!(f, "body {body}"),
            Self::Kernel(kernel) => write!(f, "kernel {kernel}"),
            Self::Source(source) => write!(f, "suite {source}"),
        }
    }
}

/// Why an allow file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// Longer than [`MAX_BYTES`].
    #[error("an allow file has at most {MAX_BYTES} bytes, found {found}")]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Not the TOML that is expected.
    #[error("{0}")]
    Syntax(String),
    /// An entry that cannot be taken.
    #[error("entry {number}: expected {expected}, found {found}")]
    Entry {
        /// Counted from 1.
        number: usize,
        /// What it has to have.
        expected: &'static str,
        /// What it has.
        found: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    allow: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    build: Option<String>,
    body: Option<String>,
    kernel: Option<String>,
    source: Option<String>,
    finding: Option<Kind>,
    reason: String,
    owner: String,
    expires: Day,
}

/// TOML has dates; people write them as text too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Day {
    Date(toml::value::Datetime),
    Text(String),
}

/// A day as ISO 8601 writes it, `2027-01-31`.
pub fn day(text: &str) -> Option<Date> {
    (text.len() == 10).then(|| Date::parse(text, &Iso8601::DATE).ok())?
}

impl AllowList {
    /// Reads an allow file.
    pub fn parse(text: &str) -> Result<Self, AllowError> {
        if text.len() > MAX_BYTES {
            return Err(AllowError::TooLong { found: text.len() });
        }
        let file: File =
            toml::from_str(text).map_err(|error| AllowError::Syntax(error.to_string()))?;
        let entry = |(index, raw)| Allowed::read(index + 1, raw);
        Ok(Self {
            entries: file.allow.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?,
        })
    }

    /// The entry that accepts this, the one that counts longest where there are several: its index.
    pub fn find(&self, finding: &Finding) -> Option<usize> {
        let accepting = self.entries.iter().enumerate().filter(|(_, entry)| entry.accepts(finding));
        accepting.max_by_key(|(_, entry)| entry.expires).map(|(index, _)| index)
    }

    /// Entries that accept none of these findings.
    pub fn unused(&self, findings: &[Finding]) -> Vec<&Allowed> {
        let used: BTreeSet<usize> = findings
            .iter()
            .flat_map(|finding| {
                let entries = self.entries.iter().enumerate();
                entries.filter(|(_, entry)| entry.accepts(finding)).map(|(index, _)| index)
            })
            .collect();
        let entries = self.entries.iter().enumerate();
        entries.filter(|(index, _)| !used.contains(index)).map(|(_, entry)| entry).collect()
    }
}

impl Allowed {
    fn read(number: usize, raw: Raw) -> Result<Self, AllowError> {
        let error = |expected, found: &str| AllowError::Entry {
            number,
            expected,
            found: found.chars().take(80).collect(),
        };
        let of = match (raw.build, raw.body, raw.kernel, raw.source) {
            (Some(id), None, None, None) => Of::Build(
                id.parse().map_err(|_| error("a build-id in lower-case hex as build", &id))?,
            ),
            (None, Some(body), None, None) => {
                let bytes = nfdrop_db::hex::decode(&body).filter(|bytes| bytes.len() == 32);
                let bytes =
                    bytes.ok_or_else(|| error("64 lower-case hex digits as body", &body))?;
                Of::Body(HexBytes(bytes))
            }
            (None, None, Some(kernel), None) => Of::Kernel(kernel),
            (None, None, None, Some(source)) => Of::Source(source),
            _ => return Err(error("one of build, body, kernel and source", "none or several")),
        };
        for (expected, text) in [("a reason", &raw.reason), ("an owner", &raw.owner)] {
            if text.trim().is_empty() || text.len() > MAX_TEXT || text.contains(char::is_control) {
                return Err(error(expected, &format!("{text:?}")));
            }
        }
        let expires = match &raw.expires {
            Day::Date(date) => date.to_string(),
            Day::Text(text) => text.clone(),
        };
        let day =
            day(&expires).ok_or_else(|| error("a day as in 2027-01-31 as expires", &expires))?;
        Ok(Self {
            of,
            finding: raw.finding.unwrap_or(Kind::NewUnresolved),
            reason: raw.reason,
            owner: raw.owner,
            expires: day,
        })
    }

    fn accepts(&self, finding: &Finding) -> bool {
        let is_it = match (&self.of, &finding.subject) {
            (Of::Build(of), Subject::Build { id, .. }) => of == id,
            (Of::Body(of), Subject::Build { body, .. }) => Some(of) == body.as_ref(),
            (Of::Kernel(of), Subject::Build { kernels, .. }) => kernels.contains(of),
            (Of::Kernel(of), Subject::Kernel { kernel, .. }) => of == kernel,
            (Of::Source(of), Subject::Source { source, .. }) => of == source,
            _ => false,
        };
        // Nobody can accept a plan that is known to be wrong.
        is_it && self.finding == finding.kind && finding.kind != Kind::ContradictedPlan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;
    use proptest::prelude::*;

    const REST: &str = "reason = \"r\"\nowner = \"o\"\nexpires = 2027-01-31\n";

    fn refused(text: &str) -> String {
        AllowList::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_entry_is_of_one_thing() {
        let list = AllowList::parse(&format!("[[allow]]\nbuild = \"0484cf00\"\n{REST}")).unwrap();
        assert_eq!(list.entries[0].of, Of::Build("0484cf00".parse().unwrap()));
        assert_eq!(list.entries[0].finding, Kind::NewUnresolved);
        assert_eq!(list.entries[0].expires, time::macros::date!(2027 - 01 - 31));
        assert_eq!(AllowList::parse("").unwrap(), AllowList::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let with = |text: &str| refused(&format!("[[allow]]\n{text}\n{REST}"));
        assert_snapshot!(with(""), @"entry 1: expected one of build, body, kernel and source, found none or several");
        assert_snapshot!(with("build = \"xyz\""), @"entry 1: expected a build-id in lower-case hex as build, found xyz");
        assert_snapshot!(with("body = \"04\""), @"entry 1: expected 64 lower-case hex digits as body, found 04");
        let day =
            "[[allow]]\nkernel = \"a\"\nreason = \"r\"\nowner = \"o\"\nexpires = \"2027-02-30\"";
        assert_snapshot!(refused(day), @"entry 1: expected a day as in 2027-01-31 as expires, found 2027-02-30");
        let owner =
            "[[allow]]\nkernel = \"a\"\nreason = \"r\"\nowner = \" \"\nexpires = 2027-02-01";
        assert_snapshot!(refused(owner), @r#"entry 1: expected an owner, found " ""#);
        assert!(with("kernel = \"a\"\nexpire = 1").contains("expire"));
        assert!(with("kernel = \"a\"\nfinding = \"all\"").contains("new_unresolved"));
        assert!(refused("[[allow]]\nkernel = \"a\"\nreason = \"r\"").contains("owner"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = AllowList::parse(&text);
            let _ = AllowList::parse(&format!("[[allow]]\nkernel = '''{text}'''\n{REST}"));
            let _ = day(&text);
        }
    }
}
