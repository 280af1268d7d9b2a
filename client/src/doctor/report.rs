//! What the checks found, for people and for programs.

use crate::terminal::plain;
use serde::Serialize;
use std::fmt;

/// One thing that attaching needs.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub todo: String,
    /// What the process exits with because of this check.
    #[serde(skip)]
    code: u8,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is there.
    Ok,
    /// It is not.
    Missing,
    /// This user, or this kernel, does not tell.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

impl Check {
    /// It is there.
    pub(super) fn ok(name: &'static str, found: impl fmt::Display) -> Self {
        let found = plain(&found.to_string());
        Self { name, state: State::Ok, found, todo: String::new(), code: 0 }
    }

    /// It is not there, which keeps nfdrop from attaching.
    pub(super) fn missing(
        name: &'static str,
        found: impl fmt::Display,
        todo: impl Into<String>,
    ) -> Self {
        Self { state: State::Missing, todo: todo.into(), code: 4, ..Self::ok(name, found) }
    }

    /// It cannot be told.
    pub(super) fn unknown(name: &'static str, found: impl fmt::Display) -> Self {
        Self { state: State::Unknown, ..Self::ok(name, found) }
    }

    /// With what to do to know more.
    pub(super) fn todo(self, todo: impl Into<String>) -> Self {
        Self { todo: todo.into(), ..self }
    }

    /// Missing in another way than [`Check::missing`] says.
    pub(super) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// What is missing and what to do about it, in one line; `None` where nothing is.
    pub fn complaint(&self) -> Option<String> {
        let Self { name, found, todo, .. } = self;
        let line = || format!("{name}: {found} -> {todo}").replace('\n', " ");
        (self.state == State::Missing).then(line)
    }

    /// Still missing, but no longer counted.
    pub(super) fn forgive(&mut self) {
        self.code = 0;
    }
}

/// All checks, in the order in which they are done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// What the process exits with: 4 before 3, 2 and 1, 0 when nothing is missing.
    pub fn code(&self) -> u8 {
        self.checks.iter().map(|check| check.code).max().unwrap_or(0)
    }

    /// JSON in one line, with a line feed.
    ///
    /// # Panics
    /// Never: a report has string keys only.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            exit_code: u8,
            checks: &'a [Check],
        }
        let whole = Whole { exit_code: self.code(), checks: &self.checks };
        serde_json::to_string(&whole).expect("a report is plain data") + "\n"
    }
}

/// A line per check, what to do below it, and the sum of it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const INDENT: &str = "\n                        ";
        for Check { name, state, found, todo, .. } in &self.checks {
            write!(f, "{state:<8} {name:<14} {}", found.replace('\n', INDENT))?;
            if !todo.is_empty() {
                write!(f, "{INDENT}-> {}", todo.replace('\n', INDENT))?;
            }
            writeln!(f)?;
        }
        let missing: Vec<_> =
            self.checks.iter().filter(|check| check.code > 0).map(|check| check.name).collect();
        if missing.is_empty() {
            writeln!(f, "\nnothing found that keeps nfdrop from attaching here")
        } else {
            writeln!(f, "\nnfdrop cannot attach here, missing: {}", missing.join(", "))
        }
    }
}
