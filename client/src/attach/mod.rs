//! From a plan to programs in the kernel, and what they tell.
//!
//! [`Attached`] is all or nothing: when one probe cannot be set, the others are taken back. Nothing is
//! pinned, and every probe hangs on a file descriptor of this process: the kernel takes all of it
//! away when the process ends, in whatever way.

mod constants;
mod contradiction;
mod error;
mod events;
mod module_file;
pub mod record;
pub mod site;
pub(crate) mod x86_64;

pub use contradiction::Contradiction;
pub use error::AttachError;
pub use events::{Events, ring_sleeps};
use site::Site;
/// The architecture that this program is built for.
pub(crate) use x86_64 as arch;

use crate::host::Host;
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, perf::PerfEventArray},
    programs::{KProbe, Program, ProgramError, RawTracePoint},
};
use nfdrop_db::{
    Series,
    plan::{Event, Plan, SYMBOL},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::array;

/// Most bytes of a packet that an event carries: `MAX_PACKET` of the BPF program.
pub const MAX_PACKET: u16 = 1024;

/// The release from which on the kernel does not compare a name with all of its own.
const QUICK_NAMES: Series = Series(6, 2);

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nfdrop.bpf.o"));
/// `struct counters`.
const COUNTERS: usize = 7;
/// `struct count_key` and `struct count`.
const KEY: usize = 32;
const COUNT: usize = 16 + 2 * NAME;
const NAME: usize = 64;

/// What the programs are to tell.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// An event for every drop.
    pub events: bool,
    /// Bytes of the packet in it, at most [`MAX_PACKET`].
    pub packet_size: u16,
    /// An event for one drop of so many; all are counted.
    pub sample: u32,
    /// Bytes of the ring buffer; the kernel's next power of two is taken.
    pub ring_size: u32,
    /// So many rules and policies are counted each by itself; 0: none is.
    pub counts: u32,
    /// Inode numbers of the only two network namespaces whose drops are looked at; zeros: all are. A plan
    /// that does not tell where they are sees all of them all the same.
    pub only_netns: [u32; 2],
}

/// What was counted in the kernel since the programs were attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Drops by rules.
    pub rule_drops: u64,
    /// Drops by policies.
    pub policy_drops: u64,
    /// Events for which the ring had no room.
    pub lost: u64,
    /// Drops of which there was no event because only one of several was asked for.
    pub left_out: u64,
    /// Drops for which the table of counts had no room.
    pub uncounted: u64,
    /// Packets that the kernel freed as dropped by netfilter, and how many of them the probes saw;
    /// `None` where it does not tell why it frees packets (before 5.17).
    pub witnessed: Option<Witnessed>,
    /// Times that a program was not run because another one was running there.
    pub missed: u64,
}

/// What an independent witness counted while the probes were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witnessed {
    /// Drops seen by the probes.
    pub attributed: u64,
    /// All packets that netfilter dropped.
    pub of: u64,
}

impl Counters {
    /// Of rules and policies.
    pub fn drops(&self) -> u64 {
        self.rule_drops + self.policy_drops
    }

    /// With those of programs that were attached before.
    #[must_use]
    pub fn plus(self, earlier: Self) -> Self {
        let witnessed = match (self.witnessed, earlier.witnessed) {
            (Some(now), Some(before)) => Some(Witnessed {
                attributed: now.attributed + before.attributed,
                of: now.of + before.of,
            }),
            (one, other) => one.or(other),
        };
        Self {
            rule_drops: self.rule_drops + earlier.rule_drops,
            policy_drops: self.policy_drops + earlier.policy_drops,
            lost: self.lost + earlier.lost,
            left_out: self.left_out + earlier.left_out,
            uncounted: self.uncounted + earlier.uncounted,
            witnessed,
            missed: self.missed + earlier.missed,
        }
    }
}

/// How often one rule or policy has dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// By a rule, or by a policy.
    pub event: Event,
    /// `NFPROTO_*` of the table.
    pub family: u8,
    /// The namespace's inode number.
    pub netns: u32,
    /// The table's handle; 0 where the plan does not tell where it is.
    pub table_handle: u64,
    /// The table's address then, which tells it from others.
    pub table_address: u64,
    /// The rule's, or that of the base chain whose policy it is.
    pub handle: u64,
    /// The table's name, cut at 63 bytes.
    pub table: String,
    /// The base chain's name, cut at 63 bytes.
    pub base_chain: String,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Programs in the kernel, and their maps.
pub struct Attached {
    /// Holds the programs; `None` once they are detached.
    programs: Option<Ebpf>,
    events: Events,
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    counts: HashMap<MapData, [u8; KEY], [u8; COUNT]>,
    contradicted: PerCpuArray<MapData, [u8; contradiction::SIZE]>,
    plan: Plan,
    /// Whether there were far more drops than freed packets the last time.
    suspected: bool,
    /// As `before`, of the drops that are compared with freed packets.
    compared: u64,
    witness: bool,
    /// What the witness had counted when the probes were taken away.
    witnessed: Option<Witnessed>,
    not_compared: Option<&'static str>,
    /// The last reading of what is gone with the programs.
    missed: u64,
    /// What the witness, and the probes that were there already, had counted when the last probe was
    /// set: until then packets are dropped that the others cannot have seen.
    before: Witnessed,
}

/// Attaches a program per probe of the plan, and the witness where the kernel allows for one.
///
/// # Errors
/// Then nothing is attached.
pub fn attach(host: &Host, plan: &Plan, wanted: &Wanted) -> Result<Attached, AttachError> {
    let netfilter_drop = netfilter_drop(host);
    let stream = wanted.events && events::ring_sleeps(host);
    let constants = constants::constants(plan, wanted, stream, netfilter_drop);
    let mut loader = loader();
    for (name, bytes) in &constants {
        loader.override_global(name, bytes.as_slice(), true);
    }
    let ring_size = if wanted.events && !stream { wanted.ring_size } else { 4096 };
    loader.map_max_entries("EVENTS", ring_size);
    loader.map_max_entries("COUNTS", wanted.counts.max(1));
    let mut programs = loader.load(OBJECT).map_err(|error| AttachError::load(&error))?;

    let names: Vec<_> = (0..plan.probes.len()).map(|index| format!("probe_{index}")).collect();
    for name in &names {
        kprobe(&mut programs, name)?.load().map_err(|error| AttachError::program(&error))?;
    }
    // Before the probes, so that there is room for what they tell.
    let events = if stream {
        Events::stream(map(&mut programs, "STREAM", PerfEventArray::try_from)?, wanted.ring_size)?
    } else {
        Events::ring(map(&mut programs, "EVENTS", RingBuf::try_from)?)
    };
    // Too, so that it sees what they see.
    let witness = match netfilter_drop {
        Some(_) => set_witness(&mut programs)?,
        None => false,
    };
    let not_compared = set_probes(host, plan, &mut programs, &names)?;
    let counters = map(&mut programs, "COUNTERS", PerCpuArray::try_from)?;
    let counts = map(&mut programs, "COUNTS", HashMap::try_from)?;
    let contradicted = map(&mut programs, "CONTRADICTED", PerCpuArray::try_from)?;
    let programs = Some(programs);
    let mut attached = Attached {
        programs,
        events,
        counters,
        counts,
        contradicted,
        plan: plan.clone(),
        suspected: false,
        compared: 0,
        witness,
        witnessed: None,
        not_compared,
        missed: 0,
        before: Witnessed::default(),
    };
    let [rule_drops, policy_drops, _, _, of, _, compared] = attached.sums()?;
    attached.before = Witnessed { attributed: rule_drops + policy_drops, of };
    attached.compared = compared;
    Ok(attached)
}

/// A loader without the kernel's BTF. aya reads and parses all of it whenever a loader is made, which
/// takes longer and more memory than all the rest; without relocations it is of no use. There is no
/// other way than to keep the file from being opened.
fn loader<'a>() -> EbpfLoader<'a> {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit });
    let loader = EbpfLoader::new();
    // Up to the maximum a process may always.
    let _ = setrlimit(Resource::Nofile, limit);
    loader
}

/// In the order of what kernels accept: the bare name, which some releases do not look for in
/// modules; the name with the module's; the address. Before them the address on kernels that take long
/// to find a name, if the function is seen to be there. Returns why the instructions could not be
/// compared with the plan's, where they could not.
fn set_probes(
    host: &Host,
    plan: &Plan,
    programs: &mut Ebpf,
    names: &[String],
) -> Result<Option<&'static str>, AttachError> {
    let seen = |address| {
        let listed = site::probes(host);
        let same = |probe| site::compare(host, probe, Some(address), &listed) == Site::Same;
        plan.probes.iter().all(same)
    };
    if host.series().is_some_and(|series| series < QUICK_NAMES)
        && let Some(address) = module_file::address(host, plan).filter(|address| seen(*address))
        // What is wrong the names tell.
        && let Ok(compared) = set_all(host, plan, programs, names, ("", Some(address)))
    {
        return Ok(compared);
    }
    let in_module = format!("{}:{SYMBOL}", plan.object);
    let mut not_found = None;
    for place in [SYMBOL, &in_module, ""] {
        let mut address = None;
        if place.is_empty() {
            address = host.symbols().and_then(|symbols| symbols.address);
            if address.is_none() {
                break;
            }
        }
        match set_all(host, plan, programs, names, (place, address)) {
            // Only a name that is not found is reason to try another one.
            Err(error) if error.is_not_found() => not_found = not_found.or(Some(error)),
            ended => return ended,
        }
    }
    Err(not_found.unwrap_or(AttachError::NoSymbol))
}

/// On an error none is left.
fn set_all(
    host: &Host,
    plan: &Plan,
    programs: &mut Ebpf,
    names: &[String],
    (mut place, mut address): (&str, Option<u64>),
) -> Result<Option<&'static str>, AttachError> {
    let mut links = vec![];
    let mut ended = Ok(None);
    for (name, probe) in names.iter().zip(&plan.probes) {
        let offset = u64::from(probe.offset.0);
        let base = if place.is_empty() { address.unwrap_or(0) } else { 0 };
        match kprobe(programs, name)?.attach(place, base + offset) {
            Ok(link) => links.push((name, link)),
            Err(error) => {
                ended = Err(AttachError::probe(probe.offset, &error));
                break;
            }
        }
        // The kernel tells at once where its probes are; where a function is takes it far longer.
        let listed = site::probes(host);
        address = site::address(&listed)
            .or(address)
            .or_else(|| host.symbols().and_then(|symbols| symbols.address));
        // At once: soon the kernel replaces the breakpoint by a jump, which hides more.
        match site::compare(host, probe, address, &listed) {
            Site::Same => {}
            Site::Unreadable(why) => ended = Ok(Some(why)),
            Site::Other { expected, found } => {
                ended = Err(AttachError::OtherBytes { offset: probe.offset, expected, found });
                break;
            }
        }
        // `QUICK_NAMES`
        if address.is_some() {
            place = "";
        }
    }
    if ended.is_err() {
        for (name, link) in links {
            kprobe(programs, name)?.detach(link).map_err(|error| AttachError::program(&error))?;
        }
    }
    ended
}

fn set_witness(programs: &mut Ebpf) -> Result<bool, AttachError> {
    let program = programs.program_mut("witness").ok_or(AttachError::Object("witness"))?;
    let witness: &mut RawTracePoint =
        program.try_into().map_err(|_: ProgramError| AttachError::Object("witness"))?;
    witness.load().map_err(|error| AttachError::program(&error))?;
    // Drops are named without it all the same.
    Ok(witness.attach("kfree_skb").is_ok())
}

fn kprobe<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut KProbe, AttachError> {
    let program = programs.program_mut(name).ok_or(AttachError::Object("probe"))?;
    program.try_into().map_err(|_: ProgramError| AttachError::Object("probe"))
}

fn map<T>(
    programs: &mut Ebpf,
    name: &'static str,
    open: impl FnOnce(Map) -> Result<T, MapError>,
) -> Result<T, AttachError> {
    let map = programs.take_map(name).ok_or(AttachError::Object(name))?;
    open(map).map_err(|error| AttachError::Map(name, error.to_string()))
}

/// The number of `SKB_DROP_REASON_NETFILTER_DROP`, which differs between releases, as the
/// tracepoint's own format tells it (include/trace/events/skb.h, from 5.17 on).
fn netfilter_drop(host: &Host) -> Option<u32> {
    let formats = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .map(|tracefs| host.text(&format!("{tracefs}/events/skb/kfree_skb/format")));
    let text = formats.into_iter().find_map(Result::ok)?;
    reason_number(&text)
}

/// `{ 8, "NETFILTER_DROP" }`
fn reason_number(format: &str) -> Option<u32> {
    let (before, _) = format.split_once(", \"NETFILTER_DROP\"")?;
    before.rsplit_once('{')?.1.trim().parse().ok()
}

impl Attached {
    /// Why the kernel's instructions were not compared with the plan's, where they were not.
    pub fn not_compared(&self) -> Option<&'static str> {
        self.not_compared
    }

    /// Whether all that was seen at the probes may be what the plan says.
    ///
    /// # Errors
    /// The map cannot be read; within: what a right plan does not see.
    pub fn agrees(&self) -> Result<Result<(), Box<Contradiction>>, AttachError> {
        let values = self
            .contradicted
            .get(&0, 0)
            .map_err(|error| AttachError::Map("CONTRADICTED", error.to_string()))?;
        let seen = values.iter().find_map(|noted| contradiction::decode(noted, &self.plan));
        Ok(seen.map_or(Ok(()), |seen| Err(Box::new(seen))))
    }

    /// Whether the probes report far more than the kernel frees, now and the last time this was asked: once
    /// may be a burst under way.
    pub fn disagreement(&mut self, host: &Host) -> Result<Option<Contradiction>, AttachError> {
        if !self.witness || self.programs.is_none() {
            return Ok(None);
        }
        let [_, _, _, _, of, _, compared] = self.sums()?;
        let attributed = compared.saturating_sub(self.compared);
        let witnessed = Witnessed { attributed, of: of.saturating_sub(self.before.of) };
        let suspected = contradiction::are_too_many(witnessed, frees_otherwise(host));
        let again = self.suspected && suspected;
        self.suspected = suspected;
        let seen = contradiction::Seen::Freed(witnessed);
        Ok(again.then(|| Contradiction::of(&self.plan, seen)))
    }

    /// What drops are told of, and nobody has taken yet.
    pub fn events(&mut self) -> &mut Events {
        &mut self.events
    }

    /// What was counted so far.
    pub fn counters(&mut self, host: &Host) -> Result<Counters, AttachError> {
        let [rule_drops, policy_drops, lost, uncounted, of, left_out, _] = self.sums()?;
        if self.programs.is_some() {
            self.missed = missed(host);
        }
        let witnessed = || Witnessed {
            attributed: (rule_drops + policy_drops).saturating_sub(self.before.attributed),
            of: of.saturating_sub(self.before.of),
        };
        Ok(Counters {
            rule_drops,
            policy_drops,
            lost,
            left_out,
            uncounted,
            witnessed: self.witnessed.or_else(|| self.witness.then(witnessed)),
            missed: self.missed,
        })
    }

    /// The kernel's counters, of all processors together, in the order of `struct counters`.
    fn sums(&self) -> Result<[u64; COUNTERS], AttachError> {
        let values = self
            .counters
            .get(&0, 0)
            .map_err(|error| AttachError::Map("COUNTERS", error.to_string()))?;
        Ok(array::from_fn(|index| values.iter().map(|counters| counters[index]).sum()))
    }

    /// What every rule and policy has dropped so far.
    pub fn counts(&self) -> Result<Vec<Count>, AttachError> {
        let decode = |(key, count): ([u8; KEY], [u8; COUNT])| decode_count(&key, &count);
        let entries: Result<Vec<_>, MapError> = self.counts.iter().collect();
        let entries = entries.map_err(|error| AttachError::Map("COUNTS", error.to_string()))?;
        Ok(entries.into_iter().filter_map(decode).collect())
    }

    /// Takes the programs out of the kernel; what they told can still be read.
    pub fn detach(&mut self, host: &Host) {
        // They cannot be taken away at once; what comes meanwhile only some of them see.
        self.witnessed = self.counters(host).ok().and_then(|counters| counters.witnessed);
        let Some(mut programs) = self.programs.take() else { return };
        for (_, program) in programs.programs_mut() {
            if let Program::KProbe(probe) = program {
                // It goes with its owner at the latest.
                let _ = probe.unload();
            }
        }
    }
}

fn decode_count(key: &[u8; KEY], count: &[u8; COUNT]) -> Option<Count> {
    let u64_at =
        |bytes: &[u8], at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let name = |at: usize| Some(record::name(count.get(at..at + NAME)?));
    Some(Count {
        table_handle: u64_at(key, 0)?,
        handle: u64_at(key, 8)?,
        table_address: u64_at(key, 16)?,
        netns: u32::from_ne_bytes(key[24..28].try_into().ok()?),
        event: if key[28] == 0 { Event::RuleDrop } else { Event::PolicyDrop },
        family: key[29],
        packets: u64_at(count, 0)?,
        bytes: u64_at(count, 8)?,
        table: name(16)?,
        base_chain: name(16 + NAME)?,
    })
}

/// Whether this kernel may drop packets for netfilter without saying so when it frees them: such as were
/// queued to a program before (`net/netfilter/nf_queue.c` frees them without a reason), and pktgen's, of
/// which one is sent many times. The first file is there in all namespaces once the module is.
fn frees_otherwise(host: &Host) -> bool {
    ["/proc/net/netfilter/nfnetlink_queue", "/proc/net/pktgen"].iter().any(|path| host.exists(path))
}

/// What the kernel tells in `/proc/self/fdinfo` of programs and probes that were not run: of
/// programs from 5.12 on, of probes from 6.16 on (kernel/bpf/syscall.c).
fn missed(host: &Host) -> u64 {
    let mut sum = 0;
    for fd in host.list("/proc/self/fdinfo") {
        let Ok(text) = host.text(&format!("/proc/self/fdinfo/{fd}")) else { continue };
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        for (name, value) in fields {
            if matches!(name, "recursion_misses" | "missed") {
                sum += value.trim().parse::<u64>().unwrap_or(0);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_read_from_the_format() {
        let format = r#"print fmt: "%s", __print_symbolic(REC->reason, { 1, "NOT_SPECIFIED" }, { 8, "NETFILTER_DROP" }, { 9, "OTHERHOST" })"#;
        assert_eq!(reason_number(format), Some(8));
        assert_eq!(reason_number("print fmt: \"protocol=%u\""), None);
        assert_eq!(reason_number("{ x, \"NETFILTER_DROP\""), None);
    }

    #[test]
    fn the_object_has_all_that_is_looked_for() {
        for name in
            ["witness", "probe_0", "probe_15", "EVENTS", "STREAM", "COUNTERS", "COUNTS", "PROBES"]
                .into_iter()
                .chain(["CONTRADICTED", "POLICY_TO_CHAIN"])
        {
            let name = [name.as_bytes(), b"\0"].concat();
            assert!(OBJECT.windows(name.len()).any(|w| w == name), "{name:?}");
        }
    }
}
