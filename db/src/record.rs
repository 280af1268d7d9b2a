//! The record: what is known of one build-id. Its canonical bytes are the same on every run, server
//! and mirror, so they can be signed and cached.

use crate::{BuildId, Plan, PlanError, plan};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What is known of one build.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of the ELF object that holds, or should hold, `nft_do_chain`.
    pub build_id: BuildId,
    /// Whether there is a plan.
    pub status: Status,
    /// Why there is no plan.
    pub reason: Option<Reason>,
    /// The reason's particulars, for people.
    pub detail: Option<String>,
    /// The plan.
    pub plan: Option<Plan>,
}

/// Whether there is a plan.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is one.
    Resolved,
    /// There is none, because of [`Record::reason`].
    Unresolved,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolved => "resolved",
            Self::Unresolved => "unresolved",
        })
    }
}

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "resolved" => Ok(Self::Resolved),
            "unresolved" => Ok(Self::Unresolved),
            _ => Err(UnknownStatus(text.to_owned())),
        }
    }
}

/// Neither `resolved` nor `unresolved`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the status resolved or unresolved, found {0:?}")]
pub struct UnknownStatus(String);

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $permanence:ident),* $(,)?) => {
        /// Why there is no plan.
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $($(#[$doc])* $variant),*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written in records.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Whether trying again with the same analyzer can help.
            pub fn permanence(self) -> Permanence {
                match self { $(Self::$variant => Permanence::$permanence),* }
            }
        }
    };
}

reasons! {
    /// The object has no `nft_do_chain`.
    NoSymbol "no_symbol" Permanent,
    /// The package set has no nf_tables, neither as a module nor built in.
    NoNfTables "no_nf_tables" Permanent,
    /// Not x86-64.
    UnsupportedArch "unsupported_arch" Permanent,
    /// A run met an instruction the interpreter does not know.
    UnsupportedInstruction "unsupported_instruction" Permanent,
    /// No known layout fits.
    UnknownLayout "unknown_layout" Permanent,
    /// Runs disagree with the reference.
    Diverged "diverged" Permanent,
    /// No set of probe sites sees every drop exactly once.
    NoSite "no_site" Permanent,
    /// What is found at a site cannot be told apart.
    AmbiguousSite "ambiguous_site" Permanent,
    /// The kernel image or module is broken.
    MalformedImage "malformed_image" Permanent,
    /// The package is broken.
    MalformedPackage "malformed_package" Permanent,
    /// The index lists a part of the kernel's packages only.
    IncompletePackageSet "incomplete_package_set" Passing,
    /// A download failed.
    FetchFailed "fetch_failed" Passing,
    /// A signature or hash is wrong.
    VerificationFailed "verification_failed" Passing,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permanence {
    /// Only a better analyzer changes it.
    Permanent,
    /// The next crawl may end otherwise.
    Passing,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.iter().copied();
        all.find(|reason| reason.name() == text).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

/// Not one of [`Reason::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason {0:?}")]
pub struct UnknownReason(String);

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`Record::MAX_BYTES`].
    #[error("a record has at most {max} bytes, found {found}", max = Record::MAX_BYTES)]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Not JSON of a record.
    #[error("not a record: {0}")]
    Syntax(String),
    /// Status, reason and plan contradict each other.
    #[error("a record is resolved with a plan alone, or unresolved with a reason and no plan")]
    Contradiction,
    /// The detail is longer than [`Record::MAX_DETAIL`] or has control characters.
    #[error("the detail of a record is at most {max} bytes of one line", max = Record::MAX_DETAIL)]
    Detail,
    /// The plan belongs to another build.
    #[error("the record is of build {record}, its plan of build {plan}")]
    OtherBuild {
        /// Of the record.
        record: BuildId,
        /// Of the plan.
        plan: BuildId,
    },
    /// The plan is refused.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The same content has other canonical bytes.
    #[error("the record is not in canonical form")]
    NotCanonical,
}

/// What this program can tell of a record whose plan has a newer schema than its own: enough to hand on
/// its bytes as they are, not enough to use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newer {
    /// Of which build it says it is.
    pub build_id: BuildId,
    /// The schema of its plan.
    pub schema: u64,
}

impl Newer {
    /// Where these bytes are such a record, as far as can be told.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Outside {
            build_id: BuildId,
            status: Status,
            plan: PlanSchema,
        }
        if bytes.len() > Record::MAX_BYTES || bytes.iter().any(u8::is_ascii_control) {
            return None;
        }
        let Outside { build_id, status, plan } = serde_json::from_slice(bytes).ok()?;
        let begin = format!(r#"{{"build_id":"{build_id}""#);
        let fits = status == Status::Resolved
            && plan.schema > u64::from(plan::SCHEMA)
            && bytes.starts_with(begin.as_bytes());
        fits.then_some(Self { build_id, schema: plan.schema })
    }
}

impl Record {
    /// Longest record accepted, in bytes.
    pub const MAX_BYTES: usize = 256 << 10;
    /// Longest detail, in bytes of UTF-8.
    pub const MAX_DETAIL: usize = 4096;

    /// A build with a plan.
    pub fn resolved(plan: Plan) -> Self {
        let build_id = plan.build_id.clone();
        Self { build_id, status: Status::Resolved, reason: None, detail: None, plan: Some(plan) }
    }

    /// A build without one. The detail is made fit with [`Record::clean_detail`].
    pub fn unresolved(build_id: BuildId, reason: Reason, detail: impl AsRef<str>) -> Self {
        let detail = Some(Self::clean_detail(detail.as_ref()));
        Self { build_id, status: Status::Unresolved, reason: Some(reason), detail, plan: None }
    }

    /// `text` as one line of at most [`Record::MAX_DETAIL`] bytes: details quote names and messages
    /// from hostile packages, and end up on terminals.
    pub fn clean_detail(text: &str) -> String {
        let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut length = 0;
        let fits = |c: &char| {
            length += c.len_utf8();
            length <= Self::MAX_DETAIL
        };
        line.take_while(fits).collect()
    }

    /// The canonical bytes: JSON in one line, members in the order of the schema, no spaces, no line
    /// feed at the end.
    ///
    /// # Panics
    /// Never: a record has string keys and finite numbers only.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }

    /// Reads and checks a record in any JSON spelling.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(RecordError::TooLong { found: bytes.len() });
        }
        let syntax = |error: serde_json::Error| RecordError::Syntax(error.to_string());
        let record: Self = serde_json::from_slice(bytes).map_err(|error| {
            // A newer schema may well have members that are unknown here: say that instead.
            match serde_json::from_slice::<SchemaOnly>(bytes) {
                Ok(SchemaOnly { plan: Some(PlanSchema { schema }) })
                    if schema > u64::from(plan::SCHEMA) =>
                {
                    PlanError::NewerSchema(schema).into()
                }
                _ => syntax(error),
            }
        })?;
        let detail = record.detail.as_deref().unwrap_or_default();
        if detail.len() > Self::MAX_DETAIL || detail.contains(char::is_control) {
            return Err(RecordError::Detail);
        }
        match (record.status, record.reason, &record.plan) {
            (Status::Resolved, ..) if record.detail.is_some() => {
                return Err(RecordError::Contradiction);
            }
            (Status::Resolved, None, Some(plan)) if plan.build_id == record.build_id => {
                plan.validate()?;
            }
            (Status::Resolved, None, Some(plan)) => {
                let (record, plan) = (record.build_id.clone(), plan.build_id.clone());
                return Err(RecordError::OtherBuild { record, plan });
            }
            (Status::Unresolved, Some(_), None) => {}
            _ => return Err(RecordError::Contradiction),
        }
        Ok(record)
    }

    /// As [`Record::parse`], and refuses every spelling but the canonical one.
    pub fn parse_canonical(bytes: &[u8]) -> Result<Self, RecordError> {
        let record = Self::parse(bytes)?;
        if record.to_bytes() == bytes { Ok(record) } else { Err(RecordError::NotCanonical) }
    }
}

#[derive(Deserialize)]
struct SchemaOnly {
    plan: Option<PlanSchema>,
}

#[derive(Deserialize)]
struct PlanSchema {
    schema: u64,
}

#[cfg(test)]
mod tests;
