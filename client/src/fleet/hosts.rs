//! What runs on a fleet: a list of build-ids and kernel releases, one a line.

use nfdrop_db::BuildId;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Longest list, in bytes: some 600,000 releases.
const MAX_BYTES: u64 = 16 << 20;
/// Longest release; Linux has room for 64 bytes.
const MAX_RELEASE: usize = 128;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This build.
    Build(BuildId),
    /// All builds that are known as this release.
    Release(String),
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As it stands there.
    pub line: String,
    /// What it means.
    pub wanted: Wanted,
    /// How many lines are the same.
    pub count: u64,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// It cannot be read.
    #[error(
        "{file}: {cause}: give --hosts a file with build-ids or kernel releases, one a line, or -"
    )]
    Read {
        /// Which file.
        file: String,
        /// Why.
        cause: io::Error,
    },
    /// It is too long.
    #[error("{file} has more than {MAX_BYTES} bytes: give --hosts a part of it at a time")]
    TooLong {
        /// Which file.
        file: String,
    },
    /// A line is something else.
    #[error(
        "{file}, line {number}: {found:?} is neither a build-id (lower-case hex, an even number of 8 to \
         128 digits) nor a kernel release, as `uname -r` prints it"
    )]
    Line {
        /// Which file.
        file: String,
        /// Which line.
        number: usize,
        /// The start of it.
        found: String,
    },
    /// There is nothing in it.
    #[error(
        "{file} names no kernel: one build-id or release a line, as from `uname -r` on every host"
    )]
    Empty {
        /// Which file.
        file: String,
    },
}

/// Reads a list; `-` is stdin.
pub fn read(path: &Path) -> Result<Vec<Host>, HostsError> {
    let (file, source): (_, io::Result<Box<dyn Read>>) = if path == Path::new("-") {
        ("stdin".to_owned(), Ok(Box::new(io::stdin())))
    } else {
        (path.display().to_string(), File::open(path).map(|file| Box::new(file) as Box<dyn Read>))
    };
    let read = source.and_then(|source| {
        let mut bytes = vec![];
        source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read {
        Ok(bytes) => parse(&bytes, &file),
        Err(cause) => Err(HostsError::Read { file, cause }),
    }
}

/// The hosts in a list, those with the same line together, in the order they come first.
fn parse(bytes: &[u8], file: &str) -> Result<Vec<Host>, HostsError> {
    let file = || file.to_owned();
    if bytes.len() as u64 > MAX_BYTES {
        return Err(HostsError::TooLong { file: file() });
    }
    let mut hosts: Vec<Host> = vec![];
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let refuse = |line: &[u8]| {
            let found = String::from_utf8_lossy(line).chars().take(60).collect();
            HostsError::Line { file: file(), number, found }
        };
        let text = str::from_utf8(line).map_err(|_| refuse(line))?;
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        if let Some(index) = known.get(text) {
            hosts[*index].count += 1;
            continue;
        }
        let wanted = wanted(text).ok_or_else(|| refuse(text.as_bytes()))?;
        known.insert(text, hosts.len());
        hosts.push(Host { line: text.to_owned(), wanted, count: 1 });
    }
    if hosts.is_empty() { Err(HostsError::Empty { file: file() }) } else { Ok(hosts) }
}

fn wanted(text: &str) -> Option<Wanted> {
    if let Ok(build_id) = text.parse() {
        return Some(Wanted::Build(build_id));
    }
    // A release begins with its version; names of hosts and upper-case build-ids do not look so.
    let major = text.split_once('.').map(|(major, _)| major)?;
    let is_release = text.len() <= MAX_RELEASE
        && (1..=3).contains(&major.len())
        && major.bytes().all(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_release.then(|| Wanted::Release(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_has_comments_blanks_and_repetitions() {
        let list = "# fleet\n6.12.117+deb13-cloud-amd64\n\n  0484cf00  # web1\r\n0484cf00\n6.1-rt";
        let hosts = parse(list.as_bytes(), "f").unwrap();
        let lines: Vec<_> = hosts.iter().map(|host| (host.line.as_str(), host.count)).collect();
        assert_eq!(lines, [("6.12.117+deb13-cloud-amd64", 1), ("0484cf00", 2), ("6.1-rt", 1)]);
        assert_eq!(hosts[0].wanted, Wanted::Release("6.12.117+deb13-cloud-amd64".to_owned()));
        assert_eq!(hosts[1].wanted, Wanted::Build("0484cf00".parse().unwrap()));
    }

    #[test]
    fn what_is_neither_is_said_with_its_line() {
        for bad in
            ["web1", "0484CF00", "0484cf0", "10.0.0.1 web", "6.12\t1", "a.b", "1234.5", "\u{1b}[2J"]
        {
            let error = parse(format!("6.12.1\n{bad}\n").as_bytes(), "f").unwrap_err();
            assert!(matches!(error, HostsError::Line { number: 2, .. }), "{bad:?}: {error}");
        }
        assert!(matches!(parse(b"\xff\n", "f"), Err(HostsError::Line { number: 1, .. })));
        assert!(matches!(parse(b"# none\n\n", "f"), Err(HostsError::Empty { .. })));
        let long = vec![b'\n'; MAX_BYTES as usize + 1];
        assert!(matches!(parse(&long, "f"), Err(HostsError::TooLong { .. })));
        let long = format!("6.{}", "1".repeat(MAX_RELEASE));
        assert!(parse(long.as_bytes(), "f").is_err());
        insta::assert_snapshot!(parse(b"web1", "hosts.txt").unwrap_err(), @r#"hosts.txt, line 1: "web1" is neither a build-id (lower-case hex, an even number of 8 to 128 digits) nor a kernel release, as `uname -r` prints it"#);
        insta::assert_snapshot!(read(Path::new("/nonexistent")).unwrap_err(), @"/nonexistent: No such file or directory (os error 2): give --hosts a file with build-ids or kernel releases, one a line, or -");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), lines in "([0-9a-f.# ]{0,12}\n){0,8}") {
            let _ = parse(&bytes, "f");
            if let Ok(hosts) = parse(lines.as_bytes(), "f") {
                let counted: u64 = hosts.iter().map(|host| host.count).sum();
                let there = |line: &&str| !line.split('#').next().unwrap_or_default().trim().is_empty();
                prop_assert_eq!(counted, lines.lines().filter(there).count() as u64);
            }
        }
    }
}
