//! Why a command ends without what was asked for, and the exit code that says so.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | anything not below: no server reachable, wrong arguments |
//! | 2 | no plan for this kernel |
//! | 3 | a plan was refused, or contradicted by what was seen |
//! | 4 | this kernel or user cannot attach, or run the self-test |

use crate::{
    attach::{AttachError, Contradiction},
    running::RunningError,
};
use nfdrop_db::{BuildId, Reason, RecordError};
use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

/// Why there is no plan to show.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody to ask.
    #[error(
        "no server to ask\ngive --server URL, or set NFDROP_URLS to one or more URLs, as in \
         NFDROP_URLS=http://127.0.0.1:7767"
    )]
    NoServer,
    /// Nobody answered.
    #[error(
        "no server answered for build {build_id}{}\ncheck the URLs and the network, or give a \
         downloaded plan with --plan FILE",
        list(.reasons)
    )]
    Unreachable {
        /// What was asked for.
        build_id: BuildId,
        /// A line per server.
        reasons: Vec<String>,
    },
    /// The servers that answered do not know the build.
    #[error(
        "build {build_id} has never been seen by {}\ncrawl the distribution where the server's database \
         is: `nfdrop-indexer crawl --db F`, or ask another server with --server URL",
        .servers.join(" and ")
    )]
    NeverSeen {
        /// What was asked for.
        build_id: BuildId,
        /// Those that answered.
        servers: Vec<String>,
    },
    /// The build is known, but has no plan.
    #[error(
        "build {build_id} is known, but has no plan: {reason}{}\nonly a newer nfdrop-indexer can \
         change that",
        .detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
    )]
    Unresolved {
        /// What was asked for.
        build_id: BuildId,
        /// Why.
        reason: Reason,
        /// The reason's particulars.
        detail: Option<String>,
    },
    /// What was handed out must not be used.
    #[error("plan of {origin} refused: {why}\n{}", .why.advice())]
    Refused {
        /// A URL or a file.
        origin: String,
        /// Why.
        why: Refusal,
    },
    /// The file of `--plan` cannot be read.
    #[error("{}: {source}: give --plan a file with a plan as the server hands it out", .path.display())]
    PlanFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The running build is not known.
    #[error(transparent)]
    Running(#[from] RunningError),
    /// The kernel's code is not what the plan was made for.
    #[error(
        "plan refused: {0}\nsomebody has patched this function, or the plan is wrong: compare with \
         `nfdrop-indexer resolve` of this kernel's nf_tables.ko, and tell whoever runs the server"
    )]
    OtherBytes(AttachError),
    /// What the probes saw cannot be what the plan says.
    #[error(
        "plan contradicted: {0}\nno drop was printed since: report this with build-id {build_id} and \
         analyzer {analyzer}, and run again when the server has another plan",
        build_id = .0.build_id, analyzer = .0.analyzer
    )]
    Contradicted(#[from] Box<Contradiction>),
    /// Something that attaching needs is not there.
    #[error("cannot attach: {0}")]
    Missing(String),
    /// The self-test needs something that is not there.
    #[error("cannot run the self-test: {0}")]
    CannotTest(String),
    /// The self-test did not get to what it is to find out.
    #[error(
        "the self-test failed, which says nothing of the plan: {0}\nrun it again; if it stays so, report it \
         with the kernel's release and nft's version"
    )]
    BrokenTest(String),
    /// The self-test has found that the plan is wrong.
    #[error(
        "plan contradicted: {sentence}\ndo not use it: report this with build-id {build_id} and analyzer \
         {analyzer}, and run the self-test again when the server has another plan"
    )]
    Disproven {
        /// Of the plan.
        build_id: BuildId,
        /// Version of the resolver that made the plan.
        analyzer: String,
        /// What was found.
        sentence: String,
    },
    /// The kernel does not take the programs or probes.
    #[error("cannot attach: {error}{}", list(.checks))]
    Attach {
        /// What it says.
        error: AttachError,
        /// What is missing here, and what to do about it.
        checks: Vec<String>,
    },
    /// What was attached does not work.
    #[error("{0}")]
    Broken(AttachError),
    /// Nobody can be answered there.
    #[error(
        "cannot listen on {address}: {source}: give --metrics-listen a free port of this machine"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Options(&'static str),
    /// Data cannot be written.
    #[error("cannot write to stdout: {0}: redirect it to where there is room, and may be written")]
    Output(io::Error),
    /// The HTTP client cannot be set up.
    #[error("cannot set up HTTP: {0}: check the system's certificates and proxy settings")]
    Http(String),
}

/// Why a plan must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a valid record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record of another build.
    #[error("it is of build {found}, asked for was {expected}")]
    OtherBuild {
        /// What was asked for.
        expected: BuildId,
        /// What came.
        found: BuildId,
    },
    /// This host has seen what no right plan sees.
    #[error("it was contradicted on this host; {} is what was attached", .kept.display())]
    Contradicted {
        /// The plan's bytes.
        kept: PathBuf,
    },
    /// A key is set, and there is no signature.
    #[error("it is not signed, and only plans signed with {key} are to be used")]
    Unsigned {
        /// The key's file.
        key: String,
    },
    /// A key is set, and the signature is not of this key over these bytes.
    #[error("its signature is not one of {key}: {why}")]
    Signature {
        /// The key's file.
        key: String,
        /// What the check says.
        why: String,
    },
}

impl Refusal {
    /// Whether the plan turned out to be wrong.
    pub fn is_withdrawal(&self) -> bool {
        matches!(self, Self::Record(RecordError::Plan(nfdrop_db::PlanError::Withdrawn(_))))
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Record(RecordError::Plan(nfdrop_db::PlanError::NewerSchema(_))) => {
                "update nfdrop-client, or ask a server of its own age"
            }
            Self::Record(RecordError::Plan(nfdrop_db::PlanError::Withdrawn(_))) => {
                "do not use it; the server has another one once its operator has updated nfdrop and \
                 crawled again"
            }
            Self::Record(_) => {
                "check that the URL is a nfdrop server's or mirror's; tell whoever runs it"
            }
            Self::OtherBuild { .. } => {
                "a plan fits one build only and would probe the wrong instruction of another"
            }
            Self::Contradicted { .. } => {
                "wait for another plan of the server, or remove that file to try this one again"
            }
            Self::Unsigned { .. } => {
                "ask a server that signs its plans, or go without --pubkey if you trust this one"
            }
            Self::Signature { .. } => {
                "use the public key of whoever runs this server; if it is that one, somebody has \
                 changed the plan on its way: tell them"
            }
        }
    }
}

impl Failure {
    /// What the process exits with.
    pub fn code(&self) -> u8 {
        match self {
            // Unreadable notes: without a build-id there may still be a kernel to attach to.
            Self::NoServer
            | Self::Unreachable { .. }
            | Self::PlanFile { .. }
            | Self::Http(_)
            | Self::Broken(_)
            | Self::BrokenTest(_)
            | Self::Output(_)
            | Self::Options(_)
            | Self::Listen { .. }
            | Self::Running(RunningError::Unreadable { .. }) => 1,
            Self::NeverSeen { .. } | Self::Unresolved { .. } => 2,
            Self::Refused { .. }
            | Self::OtherBytes(_)
            | Self::Contradicted(_)
            | Self::Disproven { .. } => 3,
            Self::Running(_) | Self::Missing(_) | Self::CannotTest(_) | Self::Attach { .. } => 4,
        }
    }

    /// As an exit code.
    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }
}

fn list(lines: &[String]) -> String {
    lines.iter().flat_map(|line| ["\n  ", line]).collect()
}
