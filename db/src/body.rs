//! Bodies: what running one body of `nft_do_chain` with one layout told, kept so that the next build
//! with the same body and layout need not run it.

use crate::{
    Arch, BuildId, Evidence, HexBytes, Layout, Plan, PlanError, Probe, Reason, Record, RecordError,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// SHA-256 over everything the resolver reads but the build's identity; the caller computes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputKey(pub [u8; 32]);

impl fmt::Display for InputKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for InputKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InputKey({self})")
    }
}

/// A stored result of the resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What it found.
    pub outcome: BodyOutcome,
    /// Its version.
    pub analyzer: String,
}

/// What the resolver found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyOutcome {
    /// A plan, but for the identity of the build.
    Plan(Box<PlanTemplate>),
    /// None.
    Unresolved {
        /// Why.
        reason: Reason,
        /// The particulars, for people.
        detail: Option<String>,
    },
}

impl BodyOutcome {
    /// The result in this record.
    pub fn of(record: &Record) -> Option<Self> {
        match (&record.plan, record.reason) {
            (Some(plan), _) => Some(Self::Plan(Box::new(PlanTemplate::of(plan.clone())))),
            (None, Some(reason)) => {
                Some(Self::Unresolved { reason, detail: record.detail.clone() })
            }
            (None, None) => None,
        }
    }

    /// The record of a build with this body.
    pub fn record(&self, build_id: &BuildId, object: &str) -> Record {
        match self {
            Self::Plan(template) => Record::resolved(template.plan(build_id, object)),
            Self::Unresolved { reason, detail } => {
                let detail = detail.clone().unwrap_or_default();
                Record::unresolved(build_id.clone(), *reason, detail)
            }
        }
    }
}

/// A [`Plan`] without the members that tell which build it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanTemplate {
    schema: u32,
    arch: Arch,
    symbol: String,
    symbol_size: u32,
    body_sha256: HexBytes,
    probes: Vec<Probe>,
    layout: Layout,
    evidence: Evidence,
}

impl PlanTemplate {
    fn of(plan: Plan) -> Self {
        let Plan {
            schema, arch, symbol, symbol_size, body_sha256, probes, layout, evidence, ..
        } = plan;
        Self { schema, arch, symbol, symbol_size, body_sha256, probes, layout, evidence }
    }

    /// The plan of a build with this body.
    pub fn plan(&self, build_id: &BuildId, object: &str) -> Plan {
        let Self { schema, arch, symbol, symbol_size, body_sha256, probes, layout, evidence } =
            self.clone();
        let (build_id, object) = (build_id.clone(), object.to_owned());
        Plan {
            schema,
            build_id,
            object,
            arch,
            symbol,
            symbol_size,
            body_sha256,
            probes,
            layout,
            evidence,
        }
    }

    /// JSON in one line.
    ///
    /// # Panics
    /// Never: a template is plain data.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a template is plain data")
    }

    /// The template in these bytes, which have to be those of [`PlanTemplate::to_bytes`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let syntax = |error: serde_json::Error| PlanError::Syntax(error.to_string());
        let template: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        if template.to_bytes() != bytes {
            return Err(RecordError::NotCanonical);
        }
        // Any identity will do for the check.
        let build_id =
            BuildId::from_bytes(&[0; BuildId::MIN_LEN]).map_err(|_| RecordError::NotCanonical)?;
        template.plan(&build_id, "nf_tables").validate()?;
        Ok(template)
    }
}
