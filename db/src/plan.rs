//! The attach plan: where in `nft_do_chain` to put kprobes and where rule, packet and base chain
//! are found there. Schema 1, JSON.

use crate::{Arch, BuildId, HexBytes, Reg, Withdrawal};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt};

/// The plan schema this crate reads and writes.
pub const SCHEMA: u32 = 1;
/// The only function a plan may attach to.
pub const SYMBOL: &str = "nft_do_chain";
/// Most probes a plan may hold.
pub const MAX_PROBES: usize = 16;
/// Most conditions a probe may hold.
pub const MAX_CONDITIONS: usize = 4;
/// Most offsets a layout may hold.
pub const MAX_OFFSETS: usize = 256;
/// Largest offset of a member, far above any kernel structure.
pub const MAX_OFFSET: u32 = 1 << 20;
/// Longest x86 instruction, in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// Where to attach in one build, and where things are found there.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of the ELF object that holds the symbol.
    pub build_id: BuildId,
    /// `nf_tables`, or `vmlinux` where nf_tables is built in.
    pub object: String,
    /// The processor that the function is for.
    pub arch: Arch,
    /// [`SYMBOL`].
    pub symbol: String,
    /// Bytes of the symbol.
    pub symbol_size: u32,
    /// SHA-256 over the function's bytes with relocated fields zeroed.
    pub body_sha256: HexBytes,
    /// Together they see every drop by a rule and every drop by a policy exactly once.
    pub probes: Vec<Probe>,
    /// Offsets the client reads through.
    pub layout: Layout,
    /// What the plan was proven with.
    pub evidence: Evidence,
}

/// One kprobe.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What a hit means.
    pub event: Event,
    /// Of the instruction, from the start of the symbol.
    pub offset: FnOffset,
    /// The instruction expected there, before any patching.
    pub bytes: HexBytes,
    /// How cheaply the kernel can run it.
    pub cost: Cost,
    /// All hold for a drop; empty where only drops come by.
    pub when: Vec<Condition>,
    /// `struct nft_rule *` (before 5.17) or `struct nft_rule_dp *`; `None` for a policy drop.
    pub rule: Option<Location>,
    /// `struct nft_pktinfo *`.
    pub pkt: Location,
    /// `struct nft_chain *` of the base chain, the function's second argument.
    pub base_chain: Location,
}

/// What a probe reports.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A rule's verdict was drop.
    RuleDrop,
    /// The end of a base chain was reached and its policy is drop.
    PolicyDrop,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RuleDrop => "rule_drop",
            Self::PolicyDrop => "policy_drop",
        })
    }
}

/// How the kernel runs the probe, by its own rules (arch/x86/kernel/kprobes).
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Replaced by a jump.
    Optimized,
    /// A breakpoint, and no single step after it: kernels without preemption only.
    Boosted,
    /// A breakpoint and a single step, which is a second breakpoint from 5.13 on.
    Trap,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimized => "optimized",
            Self::Boosted => "boosted",
            Self::Trap => "trap",
        })
    }
}

/// Bytes from the start of the function.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct FnOffset(pub u32);

impl fmt::Display for FnOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:#x}", self.0)
    }
}

/// Where a 64-bit value is when the probe hits: the register; with `deref` the little-endian u64
/// in memory at register + `deref`; `add` is added last. All sums wrap at 64 bits, and both offsets
/// are signed.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The register.
    pub reg: Reg,
    /// Bytes from the register to the u64 that holds the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deref: Option<i32>,
    /// Added to the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<i32>,
}

impl Location {
    /// The register itself.
    pub fn reg(reg: Reg) -> Self {
        Self { reg, deref: None, add: None }
    }

    /// The u64 at register + `offset`.
    pub fn memory(reg: Reg, offset: i32) -> Self {
        Self { reg, deref: Some(offset), add: None }
    }

    /// The value, given the registers and the u64 at an address; `None` where that cannot be read.
    pub fn value(
        &self,
        register: impl Fn(Reg) -> u64,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let held = register(self.reg);
        let value = match self.deref {
            None => held,
            Some(offset) => read(held.wrapping_add_signed(i64::from(offset)))?,
        };
        Some(value.wrapping_add_signed(i64::from(self.add.unwrap_or(0))))
    }
}

/// `r14`, `[rsp+0x10]`, `[rsp]-0x8`.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = |f: &mut fmt::Formatter<'_>, value: i32| match value {
            0 => Ok(()),
            v if v < 0 => write!(f, "-{:#x}", v.unsigned_abs()),
            v => write!(f, "+{v:#x}"),
        };
        match self.deref {
            None => write!(f, "{}", self.reg)?,
            Some(offset) => {
                write!(f, "[{}", self.reg)?;
                signed(f, offset)?;
                f.write_str("]")?;
            }
        }
        signed(f, self.add.unwrap_or(0))
    }
}

/// `(value & mask) == equals`, and false where the value cannot be read.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Where the tested value is.
    pub value: Location,
    /// Bits that count.
    pub mask: u64,
    /// What they are for a drop.
    pub equals: u64,
}

impl Condition {
    /// Whether it holds, given the registers and the u64 at an address. What cannot be read makes it
    /// false: here, in the client's BPF program and in what the resolver runs. bpftrace and tracefs have
    /// 0 there instead, so no plan may rest on a read that can fail.
    pub fn holds(&self, register: impl Fn(Reg) -> u64, read: impl Fn(u64) -> Option<u64>) -> bool {
        let value = self.value.value(register, read);
        value.is_some_and(|value| value & self.mask == self.equals)
    }
}

/// `rdx & 0xff == 0x0`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} & {:#x} == {:#x}", self.value, self.mask, self.equals)
    }
}

/// Offsets of kernel structures in this build.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Where the nft structures' offsets come from.
    pub source: LayoutSource,
    /// The rule's handle, seen from the rule pointer.
    pub rule_handle: BitField,
    /// Byte offsets by the kernel's own names, `struct.member`, such as `nft_pktinfo.skb` or
    /// `sk_buff.len` ([`crate::plan::fields`]); what this build's sources do not tell is absent.
    pub offsets: BTreeMap<String, u32>,
}

/// Names of the members that [`Layout::offsets`] may hold. Readers ignore names they do not know.
pub mod fields {
    /// `struct sk_buff *` in `struct nft_pktinfo`.
    pub const PKTINFO_SKB: &str = "nft_pktinfo.skb";
    /// `const struct nf_hook_state *` in `struct nft_pktinfo` (before 5.14: `xt.state`).
    pub const PKTINFO_STATE: &str = "nft_pktinfo.state";
    /// `u32` (before 5.15) or `u8`: the hook number.
    pub const STATE_HOOK: &str = "nf_hook_state.hook";
    /// `u8`: the protocol family.
    pub const STATE_PF: &str = "nf_hook_state.pf";
    /// `struct net_device *`, or null.
    pub const STATE_IN: &str = "nf_hook_state.in";
    /// `struct net_device *`, or null.
    pub const STATE_OUT: &str = "nf_hook_state.out";
    /// `struct net *`.
    pub const STATE_NET: &str = "nf_hook_state.net";
    /// `struct nft_table *` in `struct nft_chain`.
    pub const CHAIN_TABLE: &str = "nft_chain.table";
    /// `char *`.
    pub const CHAIN_NAME: &str = "nft_chain.name";
    /// `u64`.
    pub const CHAIN_HANDLE: &str = "nft_chain.handle";
    /// `char *`.
    pub const TABLE_NAME: &str = "nft_table.name";
    /// `u64`.
    pub const TABLE_HANDLE: &str = "nft_table.handle";
    /// `u16`, in its low six bits before 5.13: the family.
    pub const TABLE_FAMILY: &str = "nft_table.family";
    /// `u32`: bytes of the packet.
    pub const SKB_LEN: &str = "sk_buff.len";
    /// `u32`: bytes outside the linear part.
    pub const SKB_DATA_LEN: &str = "sk_buff.data_len";
    /// `u32`.
    pub const SKB_MARK: &str = "sk_buff.mark";
    /// `__be16`.
    pub const SKB_PROTOCOL: &str = "sk_buff.protocol";
    /// `unsigned char *`.
    pub const SKB_HEAD: &str = "sk_buff.head";
    /// `unsigned char *`.
    pub const SKB_DATA: &str = "sk_buff.data";
    /// `u16`, from head.
    pub const SKB_MAC_HEADER: &str = "sk_buff.mac_header";
    /// `u16`, from head.
    pub const SKB_NETWORK_HEADER: &str = "sk_buff.network_header";
    /// `u16`, from head.
    pub const SKB_TRANSPORT_HEADER: &str = "sk_buff.transport_header";
    /// `__be16`.
    pub const SKB_VLAN_PROTO: &str = "sk_buff.vlan_proto";
    /// `u16`.
    pub const SKB_VLAN_TCI: &str = "sk_buff.vlan_tci";
    /// `int`.
    pub const DEV_IFINDEX: &str = "net_device.ifindex";
    /// `char[16]`.
    pub const DEV_NAME: &str = "net_device.name";
    /// `unsigned int`: the namespace's inode number.
    pub const NET_INUM: &str = "net.ns.inum";
    /// From the `u8` policy of a `struct nft_base_chain` on to its `chain`, which is what plans point to.
    /// The one name that is not the kernel's: an offset that goes back has no place among the others.
    pub const POLICY_TO_CHAIN: &str = "nft_base_chain.policy_to_chain";
    /// All of them.
    pub const ALL: [&str; 28] = [
        PKTINFO_SKB,
        PKTINFO_STATE,
        STATE_HOOK,
        STATE_PF,
        STATE_IN,
        STATE_OUT,
        STATE_NET,
        CHAIN_TABLE,
        CHAIN_NAME,
        CHAIN_HANDLE,
        TABLE_NAME,
        TABLE_HANDLE,
        TABLE_FAMILY,
        SKB_LEN,
        SKB_DATA_LEN,
        SKB_MARK,
        SKB_PROTOCOL,
        SKB_HEAD,
        SKB_DATA,
        SKB_MAC_HEADER,
        SKB_NETWORK_HEADER,
        SKB_TRANSPORT_HEADER,
        SKB_VLAN_PROTO,
        SKB_VLAN_TCI,
        DEV_IFINDEX,
        DEV_NAME,
        NET_INUM,
        POLICY_TO_CHAIN,
    ];
}

/// Where the nft structures' offsets come from.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutSource {
    /// The module's BTF.
    Btf,
    /// A known shape of the source, confirmed by running the function with it.
    Shape,
}

/// Bits in a little-endian u64: `(u64 at offset >> shift) & (2^bits - 1)`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitField {
    /// Bytes from the pointer to the u64.
    pub offset: u32,
    /// Lowest bit.
    pub shift: u8,
    /// Number of bits, 1 to 64.
    pub bits: u8,
}

impl BitField {
    /// Of the shifted value.
    pub fn mask(self) -> u64 {
        // 0 bits shift everything out; more than 64 are no bit field, which `validate` refuses.
        u64::MAX.checked_shr(64_u32.saturating_sub(u32::from(self.bits))).unwrap_or(0)
    }
}

/// What a plan was proven with.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// How.
    pub method: Method,
    /// Runs of the function, all of which returned what the reference says.
    pub runs: u32,
    /// Runs that ended with a rule's drop.
    pub rule_drops: u32,
    /// Runs that ended with a policy's drop.
    pub policy_drops: u32,
    /// Share of the function's branch edges that were taken.
    pub edges: Share,
    /// Version of the resolver.
    pub analyzer: String,
}

/// How a plan was found.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The function was run on generated rulesets.
    Executed,
}

/// A share between 0 and 1 in thousandths, so that it has one spelling only.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = f64, minimum = 0, maximum = 1))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// So many thousandths, at most 1000.
    pub const fn new(thousandths: u16) -> Self {
        Self(if thousandths > 1000 { 1000 } else { thousandths })
    }

    /// `part / whole`, rounded down to thousandths; 1 where both are 0.
    pub fn of(part: usize, whole: usize) -> Self {
        let thousandths = (part.min(whole) * 1000).checked_div(whole).unwrap_or(1000);
        Self(thousandths as u16)
    }

    /// In thousandths.
    pub fn thousandths(self) -> u16 {
        self.0
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        let thousandths = (value * 1000.0).round();
        if (0.0..=1000.0).contains(&thousandths) {
            Ok(Self(thousandths as u16))
        } else {
            let expected = &"a share from 0 to 1";
            Err(de::Error::invalid_value(de::Unexpected::Float(value), expected))
        }
    }
}

/// Why a plan is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Written by a newer nfdrop.
    #[error("plan schema {0} is newer than {SCHEMA}, the newest known here: update nfdrop")]
    NewerSchema(u64),
    /// Not JSON of the schema.
    #[error("not a plan of schema {SCHEMA}: {0}")]
    Syntax(String),
    /// It turned out to be wrong.
    #[error("the plan was {0}")]
    Withdrawn(&'static Withdrawal),
    /// Well-formed, but says something no plan may say.
    #[error("plan field {field}: expected {expected}, found {found}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What it has to be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl Plan {
    /// Checks everything that can be checked without the kernel: schema, symbol, architecture,
    /// offsets inside the function, instruction lengths, bit fields, and that it was not withdrawn.
    pub fn validate(&self) -> Result<(), PlanError> {
        let check = |ok: bool, field, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
            if ok {
                Ok(())
            } else {
                let (expected, found) = (expected.to_string(), found.to_string());
                Err(PlanError::Invalid { field, expected, found })
            }
        };
        if self.schema > SCHEMA {
            return Err(PlanError::NewerSchema(u64::from(self.schema)));
        }
        check(self.schema == SCHEMA, "schema", &SCHEMA, &self.schema)?;
        let object = self.object.as_str();
        check(
            matches!(object, "nf_tables" | "vmlinux"),
            "object",
            &"nf_tables or vmlinux",
            &object,
        )?;
        check(self.symbol == SYMBOL, "symbol", &SYMBOL, &self.symbol)?;
        let hash = self.body_sha256.0.len();
        check(hash == 32, "body_sha256", &"32 bytes", &hash)?;
        let count = self.probes.len();
        check((1..=MAX_PROBES).contains(&count), "probes", &"1 to 16 probes", &count)?;
        for event in [Event::RuleDrop, Event::PolicyDrop] {
            let found = self.probes.iter().any(|p| p.event == event);
            check(found, "probes", &format_args!("a probe for {event}"), &"none")?;
        }
        let ordered =
            self.probes.windows(2).all(|w| (w[0].event, w[0].offset) < (w[1].event, w[1].offset));
        check(ordered, "probes", &"ascending event and offset, none twice", &"another order")?;
        for probe in &self.probes {
            let len = probe.bytes.0.len();
            check((1..=MAX_INSTRUCTION).contains(&len), "bytes", &"1 to 15 bytes", &len)?;
            let end = u64::from(probe.offset.0) + len as u64;
            let inside = end <= u64::from(self.symbol_size);
            check(inside, "offset", &"inside the symbol", &probe.offset)?;
            let rule = probe.rule.is_some();
            let wants_rule = probe.event == Event::RuleDrop;
            check(rule == wants_rule, "rule", &"one for rule_drop, none for policy_drop", &rule)?;
            let conditions = probe.when.len();
            check(conditions <= MAX_CONDITIONS, "when", &"at most 4 conditions", &conditions)?;
            for condition in &probe.when {
                let possible = condition.equals & !condition.mask == 0;
                check(possible, "when", &"equals within mask", condition)?;
                let plain = condition.value.add.is_none() && condition.mask != 0;
                check(plain, "when", &"a register or memory, and a mask", condition)?;
            }
            let places = [probe.rule, Some(probe.pkt), Some(probe.base_chain)];
            let conditions = probe.when.iter().map(|condition| condition.value.reg);
            let mut registers = places.iter().flatten().map(|place| place.reg).chain(conditions);
            if let Some(odd) = registers.find(|reg| !self.arch.registers().contains(reg)) {
                let expected = format_args!("a register of {}", self.arch);
                check(false, "reg", &expected, &odd)?;
            }
            // Zero has one spelling, or one plan had several canonical forms.
            let spelled = places.iter().flatten().all(|place| place.add != Some(0));
            check(spelled, "add", &"absent where it is 0", &0)?;
        }
        let handle = self.layout.rule_handle;
        let fits = handle.bits >= 1 && u16::from(handle.shift) + u16::from(handle.bits) <= 64;
        check(fits, "rule_handle", &"bits inside a u64", &format_args!("{handle:?}"))?;
        let near = handle.offset <= MAX_OFFSET;
        check(near, "rule_handle", &"an offset of at most 1 MiB", &handle.offset)?;
        let count = self.layout.offsets.len();
        check(count <= MAX_OFFSETS, "offsets", &"at most 256", &count)?;
        let largest = self.layout.offsets.values().copied().max().unwrap_or(0);
        check(largest <= MAX_OFFSET, "offsets", &"at most 1 MiB each", &largest)?;
        let named = self.layout.offsets.keys().all(|name| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
        });
        check(named, "offsets", &"names such as sk_buff.len", &"another name")?;
        let analyzer = self.evidence.analyzer.as_str();
        let version = (1..=64).contains(&analyzer.len())
            && analyzer.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b));
        check(version, "analyzer", &"a version such as 0.1.0", &format_args!("{analyzer:?}"))?;
        self.withdrawn().map_or(Ok(()), |withdrawal| Err(PlanError::Withdrawn(withdrawal)))
    }
}
