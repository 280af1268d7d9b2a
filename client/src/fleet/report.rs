//! What is known of a fleet, for people and for programs.

use super::{
    Host, Wanted,
    batch::{Outcome, State},
};
use crate::terminal::plain;
use nfdrop_db::BuildId;
use serde::Serialize;
use std::fmt::Write as _;

/// Hosts, and what the servers answered.
#[derive(Debug)]
pub struct Report {
    pub(super) hosts: Vec<Host>,
    pub(super) outcome: Outcome,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Whichever build it runs has a plan.
    Covered,
    /// It has none, or one of those it may run has none.
    Uncovered,
    /// No server has ever seen it.
    Unknown,
    /// No server answered.
    NoAnswer,
}

/// A build that a host runs, or may run.
#[derive(Debug, Serialize)]
struct Row<'a> {
    build_id: &'a BuildId,
    status: State,
    reason: Option<&'a str>,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    host: &'a str,
    count: u64,
    /// `null`: no server answered.
    covered: Option<bool>,
    builds: &'a [Row<'a>],
}

impl Report {
    fn rows(&self, host: &Host) -> Vec<Row<'_>> {
        let row = |build: &BuildId| {
            let (build_id, (status, reason)) = self.outcome.builds.get_key_value(build)?;
            Some(Row { build_id, status: *status, reason: reason.as_deref() })
        };
        match &host.wanted {
            Wanted::Build(build) => row(build).into_iter().collect(),
            Wanted::Release(release) => {
                self.outcome.releases.get(release).into_iter().flatten().filter_map(row).collect()
            }
        }
    }

    fn verdict(&self, host: &Host, rows: &[Row<'_>]) -> Verdict {
        let answered = match &host.wanted {
            Wanted::Build(build) => self.outcome.builds.contains_key(build),
            // Builds of it whose plans could not be looked at are missing.
            Wanted::Release(release) => {
                self.outcome.releases.get(release).is_some_and(|builds| builds.len() == rows.len())
            }
        };
        if !answered {
            Verdict::NoAnswer
        } else if rows.iter().all(|row| row.status == State::Unknown) {
            Verdict::Unknown
        } else if rows.iter().all(|row| row.status == State::Resolved) {
            Verdict::Covered
        } else {
            Verdict::Uncovered
        }
    }

    /// A table, a row for each build.
    pub fn text(&self) -> String {
        let mut table = vec![["host", "count", "build-id", "status", "why"].map(str::to_owned)];
        for host in &self.hosts {
            let rows = self.rows(host);
            let first = |id: String, status: &str, why: String| {
                [host.line.clone(), host.count.to_string(), id, status.to_owned(), why]
            };
            match self.verdict(host, &rows) {
                Verdict::NoAnswer => {
                    table.push(first("-".to_owned(), "no answer", String::new()));
                }
                Verdict::Unknown => {
                    let id = match &host.wanted {
                        Wanted::Build(build) => build.to_string(),
                        Wanted::Release(_) => "-".to_owned(),
                    };
                    table.push(first(id, "unknown", "never seen".to_owned()));
                }
                Verdict::Covered | Verdict::Uncovered => {
                    for row in &rows {
                        let (status, why) = match (row.status, row.reason) {
                            (State::Unknown, _) => ("unknown", "never seen"),
                            (State::Unresolved, reason) => ("unresolved", reason.unwrap_or("")),
                            (State::Refused, why) => ("refused", why.unwrap_or("")),
                            (State::Resolved, _) => ("resolved", ""),
                        };
                        let why = match (row.status, rows.len()) {
                            (State::Resolved, 2..) => format!("one of {} builds", rows.len()),
                            _ => plain(why),
                        };
                        table.push(first(row.build_id.to_string(), status, why));
                    }
                }
            }
        }
        let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..4).map(width).collect();
        let mut text = String::new();
        for [host, count, id, status, why] in &table {
            let [w0, w1, w2, w3] = widths[..] else { return text };
            let line = format!("{host:w0$}  {count:>w1$}  {id:w2$}  {status:w3$}  {why}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// An object a line.
    pub fn json(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let rows = self.rows(host);
            let covered = match self.verdict(host, &rows) {
                Verdict::NoAnswer => None,
                verdict => Some(verdict == Verdict::Covered),
            };
            let line = Line { host: &host.line, count: host.count, covered, builds: &rows };
            // Strings and numbers.
            text.push_str(&serde_json::to_string(&line).unwrap_or_default());
            text.push('\n');
        }
        text
    }

    /// How many hosts get a verdict.
    fn count(&self, wanted: Verdict) -> u64 {
        let hosts = self.hosts.iter();
        let of = |host: &&Host| self.verdict(host, &self.rows(host)) == wanted;
        hosts.filter(of).map(|host| host.count).sum()
    }

    /// What it comes to, in a sentence, and what to do next.
    pub fn summary(&self) -> String {
        let all: u64 = self.hosts.iter().map(|host| host.count).sum();
        let mut text = format!("{} of {all} hosts are covered", self.count(Verdict::Covered));
        for (verdict, what) in [
            (Verdict::Uncovered, "with a build that has no plan to be used"),
            (Verdict::Unknown, "with a kernel that was never seen"),
            (Verdict::NoAnswer, "that no server answered for"),
        ] {
            let count = self.count(verdict);
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        if self.count(Verdict::Unknown) > 0 {
            text.push_str(
                "\ncrawl the distributions of those never seen where the server's database is, or ask \
                 another server with --server URL",
            );
        }
        text
    }

    /// 0: all are covered; 2: some are not; 1: of some nobody knows.
    pub fn code(&self) -> u8 {
        let all = |wanted| self.count(wanted) == 0;
        match (all(Verdict::NoAnswer), all(Verdict::Uncovered) && all(Verdict::Unknown)) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::batch::Build;

    fn id(byte: u8) -> BuildId {
        BuildId::from_bytes(&[byte; 20]).unwrap()
    }

    fn report() -> Report {
        let mut outcome = Outcome::default();
        for (byte, status, reason) in [
            (1, State::Resolved, None),
            (2, State::Unresolved, Some("no_site")),
            (3, State::Unknown, None),
            (4, State::Refused, Some("it is not signed\u{1b}")),
        ] {
            outcome.add(Build { build_id: id(byte), status, reason: reason.map(str::to_owned) });
        }
        for (release, builds) in [
            ("6.12.117+deb13-cloud-amd64", vec![id(1)]),
            ("6.1.0-56-amd64", vec![id(1), id(2)]),
            ("7.0", vec![]),
        ] {
            outcome.releases.insert(release.to_owned(), builds.into_iter().collect());
        }
        let release = |text: &str| (text.to_owned(), Wanted::Release(text.to_owned()));
        let build = |byte| (id(byte).to_string(), Wanted::Build(id(byte)));
        let lines = [
            release("6.12.117+deb13-cloud-amd64"),
            release("6.1.0-56-amd64"),
            release("7.0"),
            release("7.1"),
            build(2),
            build(3),
            build(4),
            build(5),
        ];
        let host = |(line, wanted)| Host { line, wanted, count: 1 };
        let mut hosts: Vec<Host> = lines.into_iter().map(host).collect();
        hosts[0].count = 12;
        Report { hosts, outcome }
    }

    #[test]
    fn a_fleet_as_a_table() {
        insta::assert_snapshot!(report().text(), @"
        host                                      count  build-id                                  status      why
        6.12.117+deb13-cloud-amd64                   12  0101010101010101010101010101010101010101  resolved
        6.1.0-56-amd64                                1  0101010101010101010101010101010101010101  resolved    one of 2 builds
        6.1.0-56-amd64                                1  0202020202020202020202020202020202020202  unresolved  no_site
        7.0                                           1  -                                         unknown     never seen
        7.1                                           1  -                                         no answer
        0202020202020202020202020202020202020202      1  0202020202020202020202020202020202020202  unresolved  no_site
        0303030303030303030303030303030303030303      1  0303030303030303030303030303030303030303  unknown     never seen
        0404040404040404040404040404040404040404      1  0404040404040404040404040404040404040404  refused     it is not signed�
        0505050505050505050505050505050505050505      1  -                                         no answer
        ");
        insta::assert_snapshot!(report().summary(), @"
        12 of 19 hosts are covered, 3 with a build that has no plan to be used, 2 with a kernel that was never seen, 2 that no server answered for
        crawl the distributions of those never seen where the server's database is, or ask another server with --server URL
        ");
    }

    #[test]
    fn a_fleet_as_lines_of_json() {
        insta::assert_snapshot!(report().json(), @r#"
        {"host":"6.12.117+deb13-cloud-amd64","count":12,"covered":true,"builds":[{"build_id":"0101010101010101010101010101010101010101","status":"resolved","reason":null}]}
        {"host":"6.1.0-56-amd64","count":1,"covered":false,"builds":[{"build_id":"0101010101010101010101010101010101010101","status":"resolved","reason":null},{"build_id":"0202020202020202020202020202020202020202","status":"unresolved","reason":"no_site"}]}
        {"host":"7.0","count":1,"covered":false,"builds":[]}
        {"host":"7.1","count":1,"covered":null,"builds":[]}
        {"host":"0202020202020202020202020202020202020202","count":1,"covered":false,"builds":[{"build_id":"0202020202020202020202020202020202020202","status":"unresolved","reason":"no_site"}]}
        {"host":"0303030303030303030303030303030303030303","count":1,"covered":false,"builds":[{"build_id":"0303030303030303030303030303030303030303","status":"unknown","reason":null}]}
        {"host":"0404040404040404040404040404040404040404","count":1,"covered":false,"builds":[{"build_id":"0404040404040404040404040404040404040404","status":"refused","reason":"it is not signed\u001b"}]}
        {"host":"0505050505050505050505050505050505050505","count":1,"covered":null,"builds":[]}
        "#);
    }

    #[test]
    fn the_code_is_that_of_the_worst() {
        let code = |keep: &[usize]| {
            let all = report();
            let kept = all.hosts.into_iter().enumerate().filter(|(at, _)| keep.contains(at));
            Report { hosts: kept.map(|(_, host)| host).collect(), outcome: all.outcome }.code()
        };
        assert_eq!(code(&[0]), 0);
        for uncovered in [1, 2, 4, 5, 6] {
            assert_eq!(code(&[0, uncovered]), 2, "{uncovered}");
        }
        for silent in [3, 7] {
            assert_eq!(code(&[0, 1, silent]), 1, "{silent}");
        }
    }
}
