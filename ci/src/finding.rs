//! What the gate may find, and how bad it is.

use nfdrop_db::{BuildId, HexBytes, Reason};
use serde::Deserialize;
use std::fmt;

/// How a gate ends. The later one wins where there are findings of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Nothing is new that has no plan, and nothing is worse.
    Pass,
    /// Something could not be fetched or read, so that nobody knows. Neither a pass nor a kernel that
    /// cannot be resolved: the next crawl may end otherwise.
    Unfinished,
    /// A kernel could not be booted, or a proof that is asked for is not there: nobody has seen the plan work.
    Unproven,
    /// A new kernel cannot be resolved.
    Unresolved,
    /// Something was lost, has shrunk or has changed.
    Worse,
}

impl Outcome {
    /// The exit code. 3 is also that of errors: both say that there is no judgement.
    pub fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Unresolved | Self::Unproven => 1,
            Self::Worse => 2,
            Self::Unfinished => 3,
        }
    }

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Unfinished => "unfinished",
            Self::Unproven => "unproven",
            Self::Unresolved => "unresolved",
            Self::Worse => "worse",
        }
    }
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $outcome:ident $title:literal $next:literal),* $(,)?) => {
        /// What was found.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[doc = $doc])* $variant),*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written in reports and allow files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it does to the gate.
            pub fn outcome(self) -> Outcome {
                match self { $(Self::$variant => Outcome::$outcome),* }
            }

            /// A short sentence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }

            /// What to do about it.
            pub fn next(self) -> &'static str {
                match self { $(Self::$variant => $next),* }
            }
        }
    };
}

kinds! {
    /// A build or kernel that the baseline does not have and that has no plan, for a reason that stays.
    NewUnresolved "new_unresolved" Unresolved
        "a new kernel cannot be resolved"
        "`nfdrop-indexer explain` of its package shows why; an allow entry accepts it for a while",
    /// Its kernel was booted, and shows something else than the plan says. No entry accepts it.
    ContradictedPlan "contradicted_plan" Worse
        "a plan is contradicted by its own kernel"
        "the plan is wrong and must not be published: `nfdrop-indexer explain` of its package shows what the \
         analyzer saw; withdraw such plans with a new entry in db/src/withdrawal.rs",
    /// A new build's kernel was booted, and did not get through the scenario.
    NotBootable "not_bootable" Unproven
        "a new kernel could not be booted to prove its plan"
        "`nfdrop-ci prove --build-id` tries it again, and shows its console; an allow entry accepts it for a while",
    /// A build that needs a proof has none.
    Unproven "unproven" Unproven
        "a plan was not proven on its kernel"
        "run `nfdrop-ci prove --new` before the gate; an allow entry accepts it for a while",
    /// A build that the baseline has is gone.
    LostBuild "lost_build" Worse
        "a build that was known is gone"
        "crawls never delete: find out what did, and crawl on from the baseline",
    /// A build that had a plan has none.
    LostPlan "lost_plan" Worse
        "a build has lost its plan"
        "compare the analyzers: what does `nfdrop-indexer explain` say of it now and with the one before?",
    /// Where a plan attaches, or what it reads there, is not what it was.
    ChangedPlan "changed_plan" Worse
        "a plan has changed for a build that was known"
        "one of the two is wrong: compare them with `nfdrop-indexer explain` before anybody attaches it",
    /// A record had a signature and has none.
    LostSignature "lost_signature" Worse
        "a record has lost its signature"
        "sign again: `nfdrop-indexer sign`; clients with --pubkey refuse it as it is",
    /// A package that is known to hold a build is not known any more.
    LostPackage "lost_package" Worse
        "where a build comes from was forgotten"
        "crawls never delete: find out what did, and crawl on from the baseline",
    /// A kernel that never got to a build-id is not known any more.
    LostKernel "lost_kernel" Worse
        "a kernel without a plan was forgotten"
        "crawls never delete: find out what did, and crawl on from the baseline",
    /// A suite that listed kernels lists none.
    LostSource "lost_source" Worse
        "a suite is gone"
        "look at the mirror; if the suite has moved, name its place in the catalogue",
    /// A suite lists markedly fewer kernels.
    ShrunkSource "shrunk_source" Worse
        "a suite lists markedly fewer kernels"
        "look at the mirror: it may be half synchronised; what is known stays",
    /// A suite could not be read.
    UnreadSource "unread_source" Unfinished
        "a suite could not be read"
        "crawl again; if it stays, look at the mirror and at the keys",
    /// A kernel could not be fetched or verified, or its packages are not all listed.
    UnfetchedKernel "unfetched_kernel" Unfinished
        "a kernel could not be fetched"
        "crawl again; if the mirror no longer has the packages, an allow entry says so",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A build.
    Build {
        /// Its identity.
        id: BuildId,
        /// What the resolver read; many builds have the same.
        body: Option<HexBytes>,
        /// The kernels it is known as: distribution and release, sorted.
        kernels: Vec<String>,
    },
    /// A kernel that never got to a build-id.
    Kernel {
        /// Distribution and release, `debian 6.12.117+deb13-amd64`.
        kernel: String,
        /// Of its packages.
        version: String,
    },
    /// A suite, `debian bookworm-security`.
    Source {
        /// Distribution and suite.
        source: String,
        /// The distribution's name of the architecture.
        arch: String,
    },
}

impl Subject {
    /// Names it, the same on every run: what trackers tell findings apart by.
    pub fn key(&self) -> String {
        match self {
            Self::Build { id, .. } => format!("build {id}"),
            Self::Kernel { kernel, version } => format!("kernel {kernel} {version}"),
            Self::Source { source, arch } => format!("suite {source} {arch}"),
        }
    }
}

/// Most kernels of a build that are named.
const MAX_NAMES: usize = 3;

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())?;
        let Self::Build { kernels, .. } = self else { return Ok(()) };
        let (named, more) = kernels.split_at(kernels.len().min(MAX_NAMES));
        if named.is_empty() {
            return Ok(());
        }
        write!(f, " ({}", named.join(", "))?;
        if !more.is_empty() {
            write!(f, " and {} more", more.len())?;
        }
        f.write_str(")")
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// About what.
    pub subject: Subject,
    /// Why there is no plan, where that is it.
    pub reason: Option<Reason>,
    /// The particulars, one line.
    pub detail: String,
}

impl Finding {
    /// An allow entry for it, for people to complete.
    pub fn entry(&self) -> String {
        let quote = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let of = match &self.subject {
            Subject::Build { body: Some(body), .. } if self.kind == Kind::NewUnresolved => {
                format!("body = \"{body}\"")
            }
            Subject::Build { id, .. } => format!("build = \"{id}\""),
            Subject::Kernel { kernel, .. } => format!("kernel = {}", quote(kernel)),
            Subject::Source { source, .. } => format!("source = {}", quote(source)),
        };
        let finding = match self.kind {
            Kind::NewUnresolved => String::new(),
            other => format!("finding = \"{other}\"\n"),
        };
        format!("[[allow]]\n{of}\n{finding}reason = \"…\"\nowner = \"…\"\nexpires = …\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_allow_files_say() {
        for kind in Kind::ALL {
            let read: Kind = serde_json::from_str(&format!("\"{kind}\"")).unwrap();
            assert_eq!(read, *kind);
            assert_ne!(kind.outcome(), Outcome::Pass, "{kind}");
        }
    }

    #[test]
    fn the_worst_wins() {
        let mut all = [
            Outcome::Worse,
            Outcome::Pass,
            Outcome::Unresolved,
            Outcome::Unproven,
            Outcome::Unfinished,
        ];
        all.sort();
        assert_eq!(all.map(Outcome::code), [0, 3, 1, 1, 2]);
    }
}
