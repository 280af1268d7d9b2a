//! What booting a kernel showed of its plan. A proof is a record of its own beside the plan's, with canonical
//! bytes, so that it can be signed and cached too.
//!
//! `nfdrop-ci prove` makes it of an [`Observed`], which is what the client's self-test reports from inside the
//! guest: what it sent, what the rules counted, and what the probes saw.

use crate::{BuildId, Cost, FnOffset, HexBytes, Plan, Record};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The scenario that this version runs. It grows whenever parts are added, or mean something else.
pub const SCENARIO: u32 = 1;
/// Most probes, parts and sentences of a list.
const MAX_ITEMS: usize = 64;

/// What booting one kernel showed of its plan.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Of the plan's record.
    pub build_id: BuildId,
    /// SHA-256 of the canonical bytes of the record that holds the plan: 32 bytes.
    pub plan_sha256: HexBytes,
    /// [`SCENARIO`] of the program that made the proof.
    pub scenario: u32,
    /// The parts of the scenario that ran, in their order. Others could not run on this kernel.
    pub parts: Vec<Part>,
    /// Drops that had to be seen.
    pub expected: Drops,
    /// Drops that the probes reported.
    pub seen: Drops,
    /// Hits that the kernel did not report to the probes.
    pub missed: u64,
    /// The plan's probes, in its order; empty where they were not set.
    pub probes: Vec<SetProbe>,
    /// What the kernel ran on.
    pub machine: Machine,
    /// What it comes to.
    pub result: ProofResult,
    /// Why the plan is not proven, a sentence. For a kernel that did not get through the scenario the last lines
    /// of its console follow, a line each.
    pub detail: Option<String>,
}

/// How many drops, by what dropped.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drops {
    /// By rules.
    pub rule_drop: u64,
    /// By policies of base chains.
    pub policy_drop: u64,
}

/// A probe of the plan, in the kernel.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetProbe {
    /// Of the instruction, from the start of the function.
    pub offset: FnOffset,
    /// What the plan says that the probe costs.
    pub cost: Cost,
    /// What the kernel's list of kprobes says of it: `[OPTIMIZED]`, `[FTRACE]`; empty where it says nothing.
    pub kernel_says: String,
}

/// What a kernel was booted on.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// QEMU's version, `7.2.22`.
    pub qemu: String,
    /// QEMU's name of the processor model.
    pub cpu: String,
    /// `kvm` or `tcg`.
    pub accel: String,
}

/// What a proof comes to.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofResult {
    /// Every drop was seen once, none was missed, and nothing else was seen.
    Proven,
    /// The kernel shows something else than the plan says. An alarm.
    Contradicted,
    /// The kernel did not get through the scenario, for a reason that is not the plan's.
    NotBootable,
}

impl ProofResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Proven, Self::Contradicted, Self::NotBootable];

    /// As it is written in proofs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Contradicted => "contradicted",
            Self::NotBootable => "not_bootable",
        }
    }
}

impl fmt::Display for ProofResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for ProofResult {
    type Err = UnknownResult;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|result| result.name() == text).ok_or_else(|| UnknownResult(text.to_owned()))
    }
}

/// Not one of [`ProofResult::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected proven, contradicted or not_bootable, found {0:?}")]
pub struct UnknownResult(String);

macro_rules! parts {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal),* $(,)?) => {
        /// A part of the scenario.
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Part {
            $($(#[doc = $doc])* $variant),*
        }

        impl Part {
            /// Every part, in the order of the scenario.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written in proofs.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

parts! {
    /// A rule in a base chain drops.
    Base "base",
    /// A rule in a chain that was jumped to drops.
    Jump "jump",
    /// A rule in a chain that `goto` led to drops.
    Goto "goto",
    /// A verdict map drops.
    VerdictMap "verdict_map",
    /// A rule rejects.
    Reject "reject",
    /// A base chain's policy drops.
    Policy "policy",
    /// Packets that are accepted, of which nothing may be seen.
    Accept "accept",
    /// Two tables whose rules have equal handles.
    EqualHandles "equal_handles",
    /// A table of the family ip6.
    Ip6 "ip6",
    /// A table of the family inet.
    Inet "inet",
    /// A table of the family netdev.
    Netdev "netdev",
    /// Packets that arrive at a veth device.
    Veth "veth",
    /// A second network namespace, with a table of the same name.
    Namespaces "namespaces",
    /// Packets are sent on two processors at a time.
    Processors "processors",
    /// All of it once more while a rule sets nftrace, which changes the function's code everywhere.
    Nftrace "nftrace",
    /// All of it once more while a base chain counts, which changes the function's code everywhere.
    Counters "counters",
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A part that did not run, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which.
    pub part: Part,
    /// A sentence.
    pub why: String,
}

/// What the client's self-test reports: `nfdrop-client selftest --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// [`SCENARIO`] of the client.
    pub scenario: u32,
    /// The parts that ran.
    pub parts: Vec<Part>,
    /// Those that did not.
    pub left_out: Vec<LeftOut>,
    /// Drops that had to be seen, as the senders and the rules counted them.
    pub expected: Drops,
    /// Drops that the probes reported.
    pub seen: Drops,
    /// Hits that the kernel did not report to the probes.
    pub missed: u64,
    /// The plan's probes, in its order.
    pub probes: Vec<SetProbe>,
    /// What the plan does not explain, a sentence each; empty where all is well.
    pub contradictions: Vec<String>,
}

impl Observed {
    /// Whether the plan holds, as far as this shows.
    pub fn holds(&self) -> bool {
        self.contradictions.is_empty()
            && self.missed == 0
            && self.expected == self.seen
            && self.expected.rule_drop > 0
            && self.expected.policy_drop > 0
    }

    /// Why it does not hold, in one line; `None` where it does.
    pub fn contradiction(&self) -> Option<String> {
        if self.holds() {
            return None;
        }
        let Self { contradictions, missed, expected, seen, .. } = self;
        let mut sentences = contradictions.clone();
        if sentences.is_empty() {
            sentences.push(format!(
                "{} drops by rules and {} by policies were seen of {} and {}, {missed} hits were missed",
                seen.rule_drop, seen.policy_drop, expected.rule_drop, expected.policy_drop,
            ));
        }
        Some(sentences.join("; "))
    }
}

/// Why bytes are not a proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Longer than [`Proof::MAX_BYTES`].
    #[error("a proof has at most {max} bytes, found {found}", max = Proof::MAX_BYTES)]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Not JSON of a proof.
    #[error("not a proof: {0}")]
    Syntax(String),
    /// A member that no proof has.
    #[error("{member} of a proof: expected {expected}, found {found}")]
    Member {
        /// Which one.
        member: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The same content has other canonical bytes.
    #[error("the proof is not in canonical form")]
    NotCanonical,
}

impl Proof {
    /// Longest proof accepted, in bytes.
    pub const MAX_BYTES: usize = 32 << 10;
    /// Longest detail, in bytes of UTF-8.
    pub const MAX_DETAIL: usize = 8192;

    /// A proof by what was observed in a guest.
    pub fn of(plan: &Plan, observed: Observed, machine: Machine) -> Self {
        let detail = observed.contradiction();
        let result = if detail.is_some() { ProofResult::Contradicted } else { ProofResult::Proven };
        let Observed { scenario, parts, expected, seen, missed, probes, .. } = observed;
        Self {
            build_id: plan.build_id.clone(),
            plan_sha256: sha256(plan),
            scenario,
            parts,
            expected,
            seen,
            missed,
            probes,
            machine,
            result,
            detail: detail.map(|text| Self::clean_detail(&text)),
        }
    }

    /// A proof of a plan of which nothing could be observed. `detail`: why, and the console's last lines.
    pub fn without(plan: &Plan, result: ProofResult, detail: &str, machine: Machine) -> Self {
        Self {
            build_id: plan.build_id.clone(),
            plan_sha256: sha256(plan),
            scenario: SCENARIO,
            parts: vec![],
            expected: Drops::default(),
            seen: Drops::default(),
            missed: 0,
            probes: vec![],
            machine,
            result,
            detail: Some(Self::clean_detail(detail)),
        }
    }

    /// Whether it is of this plan's record.
    pub fn is_of(&self, record: &[u8]) -> bool {
        self.plan_sha256.0 == Sha256::digest(record).as_slice()
    }

    /// `text` as at most [`Proof::MAX_DETAIL`] bytes of lines without control characters: details quote
    /// consoles of guests, and end up on terminals.
    pub fn clean_detail(text: &str) -> String {
        let clean = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c });
        let mut length = 0;
        let fits = |c: &char| {
            length += c.len_utf8();
            length <= Self::MAX_DETAIL
        };
        clean.take_while(fits).collect()
    }

    /// The canonical bytes: JSON in one line, members in the order of the schema, no spaces, no line feed at
    /// the end.
    ///
    /// # Panics
    /// Never: a proof has string keys and finite numbers only.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a proof is plain data")
    }

    /// Reads and checks a proof. Every spelling but the canonical one is refused.
    pub fn parse_canonical(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ProofError::TooLong { found: bytes.len() });
        }
        let proof: Self =
            serde_json::from_slice(bytes).map_err(|error| ProofError::Syntax(error.to_string()))?;
        proof.validate()?;
        if proof.to_bytes() == bytes { Ok(proof) } else { Err(ProofError::NotCanonical) }
    }

    fn validate(&self) -> Result<(), ProofError> {
        let refuse = |member, expected, found: String| {
            Err(ProofError::Member { member, expected, found: Record::clean_detail(&found) })
        };
        if self.plan_sha256.0.len() != 32 {
            return refuse("plan_sha256", "32 bytes", self.plan_sha256.0.len().to_string());
        }
        if !self.parts.is_sorted_by(|a, b| a < b) {
            return refuse("parts", "each once, in order", format!("{:?}", self.parts));
        }
        if self.probes.len() > MAX_ITEMS {
            return refuse("probes", "at most 64", self.probes.len().to_string());
        }
        let Machine { qemu, cpu, accel } = &self.machine;
        let says = self.probes.iter().map(|probe| &probe.kernel_says);
        for text in says.chain([qemu, cpu, accel]) {
            if text.len() > 128 || text.contains(char::is_control) {
                return refuse("a text", "at most 128 bytes of one line", text.clone());
            }
        }
        let detail = self.detail.as_deref().unwrap_or_default();
        if detail.len() > Self::MAX_DETAIL || detail.contains(|c: char| c.is_control() && c != '\n')
        {
            return refuse("detail", "lines of at most 8192 bytes", detail.to_owned());
        }
        let is_whole = self.expected == self.seen && self.missed == 0 && !self.parts.is_empty();
        match (self.result, is_whole, self.detail.is_some()) {
            (ProofResult::Proven, true, false)
            | (ProofResult::Contradicted | ProofResult::NotBootable, _, true) => Ok(()),
            _ => refuse(
                "result",
                "proven where all was seen, and a detail where it was not",
                self.result.to_string(),
            ),
        }
    }
}

/// Of the canonical bytes of the plan's record.
fn sha256(plan: &Plan) -> HexBytes {
    HexBytes(Sha256::digest(Record::resolved(plan.clone()).to_bytes()).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Record, samples};
    use proptest::prelude::*;

    fn observed() -> Observed {
        let drops = Drops { rule_drop: 40, policy_drop: 8 };
        let probe = |offset, says: &str| SetProbe {
            offset: FnOffset(offset),
            cost: Cost::Optimized,
            kernel_says: says.to_owned(),
        };
        Observed {
            scenario: SCENARIO,
            parts: vec![Part::Base, Part::Policy, Part::Accept],
            left_out: vec![LeftOut { part: Part::Veth, why: "veth is not loaded".to_owned() }],
            expected: drops,
            seen: drops,
            missed: 0,
            probes: vec![probe(1022, "[OPTIMIZED]"), probe(1468, "")],
            contradictions: vec![],
        }
    }

    fn machine() -> Machine {
        let [qemu, cpu, accel] = ["7.2.22", "EPYC", "tcg"].map(str::to_owned);
        Machine { qemu, cpu, accel }
    }

    fn read(proof: &Proof) -> Result<Proof, ProofError> {
        Proof::parse_canonical(&proof.to_bytes())
    }

    #[test]
    fn canonical_bytes() {
        let proof = Proof::of(&samples::plan(), observed(), machine());
        insta::assert_snapshot!(String::from_utf8(proof.to_bytes()).unwrap());
        assert_eq!(read(&proof), Ok(proof.clone()));
        assert!(proof.is_of(&Record::resolved(samples::plan()).to_bytes()));
        let mut other = samples::plan();
        other.layout.rule_handle.shift -= 1;
        assert!(!proof.is_of(&Record::resolved(other).to_bytes()));
    }

    #[test]
    fn part_names_are_those_in_proofs() {
        for part in Part::ALL {
            assert_eq!(serde_json::to_string(part).unwrap(), format!("\"{part}\""));
        }
        for result in ProofResult::ALL {
            assert_eq!(serde_json::to_string(&result).unwrap(), format!("\"{result}\""));
            assert_eq!(result.name().parse(), Ok(result));
        }
    }

    #[test]
    fn whatever_is_not_as_expected_contradicts() {
        type Change = fn(&mut Observed);
        let changes: [Change; 5] = [
            |observed| observed.seen.rule_drop += 1,
            |observed| observed.missed = 1,
            |observed| observed.contradictions.push("7 events of nothing".to_owned()),
            |observed| (observed.expected.rule_drop, observed.seen.rule_drop) = (0, 0),
            |observed| (observed.expected.policy_drop, observed.seen.policy_drop) = (0, 0),
        ];
        for change in changes {
            let mut observed = observed();
            change(&mut observed);
            let proof = Proof::of(&samples::plan(), observed, machine());
            assert_eq!(proof.result, ProofResult::Contradicted);
            assert_eq!(read(&proof), Ok(proof));
        }
    }

    #[test]
    fn refuses_proofs_that_contradict_themselves() {
        type Change = fn(&mut Proof);
        let changes: [Change; 8] = [
            |proof| proof.seen.rule_drop += 1,
            |proof| proof.missed = 1,
            |proof| proof.parts.clear(),
            |proof| proof.parts.reverse(),
            |proof| proof.detail = Some("but".to_owned()),
            |proof| proof.result = ProofResult::NotBootable,
            |proof| proof.plan_sha256.0.truncate(31),
            |proof| proof.machine.cpu = "\u{1b}[31m".to_owned(),
        ];
        for change in changes {
            let mut proof = Proof::of(&samples::plan(), observed(), machine());
            change(&mut proof);
            assert!(matches!(read(&proof), Err(ProofError::Member { .. })), "{proof:?}");
        }
    }

    #[test]
    fn details_keep_lines_and_nothing_else() {
        let plan = samples::plan();
        let detail = format!("panic\n\u{1b}[31mred\u{7}\n{}", "a".repeat(9000));
        let proof = Proof::without(&plan, ProofResult::NotBootable, &detail, machine());
        assert_eq!(read(&proof), Ok(proof.clone()));
        assert!(proof.detail.unwrap().starts_with("panic\n [31mred \n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_a_proof(at in 0..700_usize, with in any::<u8>()) {
            let mut bytes = Proof::of(&samples::plan(), observed(), machine()).to_bytes();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(proof) = Proof::parse_canonical(&bytes) {
                prop_assert_eq!(proof.to_bytes(), bytes);
            }
        }
    }
}
