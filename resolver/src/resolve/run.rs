//! One run: the function, entered as `nf_hook_slow` enters it, on one world. Calls that leave the
//! function's own code end here: expressions do what the world says, everything else is opaque.

use super::layout::Abi;
use super::leftovers::Leftovers;
use super::link::{Linked, Warnings};
use super::memory::{Address, Fault, Memory};
use super::origin::Origin;
use super::rules::{End, Expected, RuleId, verdict};
use super::world::{Evaluation, World};
use crate::arch::{
    Cpu, Instruction, Step, Trap,
    calls::{self, Thunk},
};
use crate::image::function::Place;
use nfdrop_db::Reg;
use std::cell::Cell;

/// Where the function returns to.
const RETURN: u64 = 0xffff_ffff_8110_0abc;
/// Most instructions of one run. The longest seen takes about 5000.
const MAX_STEPS: u64 = 100_000;
/// Most instructions of all runs of a function, over all layouts that are tried. A hostile function
/// may behave and still take its time. Real ones take 10 million, watching included.
const MAX_ALL_STEPS: u64 = 200_000_000;

/// What is left of the instructions that all runs together may take.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(MAX_ALL_STEPS))
    }
}

impl Budget {
    fn spend(&self, steps: u64) -> Result<(), Stop> {
        let left = self.0.get().saturating_sub(steps);
        self.0.set(left);
        if left == 0 { Err(Stop::Exhausted) } else { Ok(()) }
    }

    /// Whether a run was ended for this.
    pub fn is_exhausted(&self) -> bool {
        self.0.get() == 0
    }
}

/// Why a run did not get to the function's end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The interpreter does not know an instruction, or memory is not there.
    #[error("{} of part {}: {trap}", Offset(.at), .at.part)]
    Trap {
        /// Where.
        at: Place,
        /// Why.
        trap: Trap,
    },
    /// Too many instructions.
    #[error("no end after {MAX_STEPS} instructions")]
    Endless,
    /// Too many instructions in all runs together.
    #[error("all runs together take more than {MAX_ALL_STEPS} instructions")]
    Exhausted,
    /// A call or jump to where nothing is.
    #[error("call or jump to {0}, where nothing is")]
    Nowhere(Address),
    /// An expression was called that the ruleset says is not reached.
    #[error("an expression that is not in the active ruleset was called")]
    WrongExpression,
    /// `ud2` that is no warning, or the stack protector.
    #[error("the function ended itself at {0}")]
    Killed(Address),
    /// The return left the stack or the callee-saved registers wrong.
    #[error("the function returned with {0} changed")]
    NotRestored(Reg),
    /// Memory outside of the function's own code is not there: the stack, or what a call got.
    #[error(transparent)]
    Memory(#[from] Fault),
}

struct Offset<'a>(&'a Place);

impl std::fmt::Display for Offset<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "+{:#x}", self.0.offset)
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The low half of the result.
    pub returned: u32,
    /// How often the packet was given to a function that may free it.
    pub freed: u32,
    /// The expressions whose `eval` was called, in order.
    pub calls: Vec<(RuleId, usize)>,
}

/// How a build reports drops to its caller: every run tells, and all have to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropConvention {
    /// Returns the verdict with its errno, the caller frees.
    pub code: bool,
    /// Frees and returns `EPERM << 16 | NF_STOLEN` (`NF_DROP_REASON`).
    pub reason: bool,
}

impl DropConvention {
    /// Nothing known yet.
    pub const ANY: Self = Self { code: true, reason: true };

    /// Whether a run may have ended as the reference says, and in which style.
    #[must_use]
    pub fn agree(self, expected: &Expected, ran: &Ran) -> Self {
        if ran.calls != expected.calls {
            return Self { code: false, reason: false };
        }
        let left = |code: u32| ran.returned == code && ran.freed == 0;
        let freed = |code: u32| ran.returned == code && ran.freed == 1;
        let (code, reason) = match expected.end {
            End::Rule(_, code) if code & verdict::MASK == verdict::DROP => {
                (left(code), freed(verdict::DROPPED_WITH_REASON))
            }
            End::Policy(true) => (left(verdict::DROP), freed(verdict::DROPPED_WITH_REASON)),
            End::Rule(_, code) => (left(code), left(code)),
            End::Policy(false) => (left(verdict::ACCEPT), left(verdict::ACCEPT)),
            // A warning and a drop for the caller, in builds of the second style too until 7.2.
            End::Overflow => {
                let drop = left(verdict::DROP);
                (drop, drop || freed(verdict::LOOP_WITH_REASON))
            }
        };
        Self { code: self.code && code, reason: self.reason && reason }
    }

    /// Whether any style is left.
    pub fn possible(self) -> bool {
        self.code || self.reason
    }
}

/// Watches a run.
pub trait Observer {
    /// About to run the instruction of this number. `freed`: the packet may be gone.
    fn visit(&mut self, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool);
    /// How much work it is to watch an instruction, in instructions.
    fn weight(&self, instruction: usize) -> u64 {
        let _ = instruction;
        1
    }
    /// The conditional branch or jump label of this number went this way.
    fn edge(&mut self, instruction: usize, taken: bool);
}

/// What is outside of the function.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The function.
    pub linked: &'a Linked,
    /// Layouts.
    pub abi: &'a Abi,
    /// Addresses of `ud2` that are warnings.
    pub warnings: &'a Warnings,
    /// For all runs.
    pub budget: &'a Budget,
}

/// Runs the function on a world; `seed` is of what is left over in registers. The world stays as it is.
pub fn run(
    around: Surroundings<'_>,
    world: &World,
    seed: u64,
    observer: &mut impl Observer,
) -> Result<Ran, Stop> {
    let linked = around.linked;
    let memory = &mut world.memory.clone();
    let mut leftovers = world.leftovers.again(seed ^ 0x6e66_6472_6f70);
    let mut cpu = Cpu::new(std::array::from_fn(|_| leftovers.value()), linked.parts[0].0.0);
    cpu.set(calls::ARGUMENTS[0], world.pkt.0, Origin::DATA);
    cpu.set(calls::ARGUMENTS[1], world.argument.0, Origin::DATA);
    cpu.set(calls::STACK_POINTER, world.stack.0 + calls::ENTRY, Origin::DATA);
    let entry = cpu.registers;
    calls::call(&mut cpu, memory, RETURN)?;
    for &(at, size, value) in &linked.variables {
        memory.write(at, size, value, Origin::DATA)?;
    }
    let mut ran = Ran { returned: 0, freed: 0, calls: Vec::new() };
    let mut steps = 0;
    while steps < MAX_STEPS {
        if cpu.rip == RETURN {
            for reg in calls::KEPT {
                if cpu.get(reg) != entry[reg as usize] {
                    return Err(Stop::NotRestored(reg));
                }
            }
            ran.returned = cpu.get(calls::RESULT) as u32;
            return Ok(ran);
        }
        let Some(number) = linked.instruction_at(cpu.rip) else {
            steps += 1;
            external(around, world, memory, &mut cpu, &mut ran, &mut leftovers)?;
            continue;
        };
        let decoded = &linked.instructions[number];
        observer.visit(number, &cpu, memory, ran.freed > 0);
        let at = cpu.rip;
        let cost = cpu.cost(&decoded.instruction);
        around.budget.spend(cost + observer.weight(number))?;
        steps += cost;
        let mut step = cpu.step(memory, &decoded.instruction);
        if let Err(Trap::Memory(fault)) = step
            && let Some(hash) = expected_hash(linked, &cpu, &decoded.instruction, fault)
        {
            memory.map(fault.address, hash.to_le_bytes().to_vec(), false);
            step = cpu.step(memory, &decoded.instruction);
        }
        match step.map_err(|trap| Stop::Trap { at: decoded.place, trap })? {
            Step::Branch(taken) => observer.edge(number, taken),
            Step::Undefined if around.warnings.get(&at) != Some(&true) => {
                return Err(Stop::Killed(Address(at)));
            }
            Step::Undefined | Step::Next | Step::Jump | Step::Call | Step::Return => {}
        }
    }
    Err(Stop::Endless)
}

/// kCFI: the hash of its type that lies in front of a function. A kernel that works has there what the caller
/// expects; the distance depends on what else is in front of functions. The hash of a function stays what it was
/// first taken for, so that another caller's expectation may still fail.
fn expected_hash(linked: &Linked, cpu: &Cpu, i: &Instruction, fault: Fault) -> Option<u32> {
    let callee = (1..=64).map(|distance| Address(fault.address.0.wrapping_add(distance)));
    callee.map(|callee| linked.name_at(callee)).find(Option::is_some)?;
    calls::expected_hash(cpu, i, fault)
}

/// `rip` is outside of the function's code, where a call or jump led.
fn external(
    around: Surroundings<'_>,
    world: &World,
    memory: &mut Memory,
    cpu: &mut Cpu,
    ran: &mut Ran,
    leftovers: &mut Leftovers,
) -> Result<(), Stop> {
    let target = Address(cpu.rip);
    let name = around.linked.name_at(target).ok_or(Stop::Nowhere(target))?;
    match calls::thunk(name) {
        Some(Thunk::Return) => return Ok(calls::return_to_caller(cpu, memory)?),
        Some(Thunk::Jump(reg)) => {
            cpu.rip = cpu.get(reg);
            return Ok(());
        }
        None => {}
    }
    if name == "__stack_chk_fail" {
        return Err(Stop::Killed(target));
    }
    if calls::keeps_registers(name) {
        return Ok(calls::return_to_caller(cpu, memory)?);
    }
    let [first, second, third, _] = calls::ARGUMENTS;
    let arguments = [first, second, third].map(|reg| cpu.get(reg));
    let filled = cpu.origin(second);
    if let Some(returned) = string_function(around.budget, memory, name, arguments, filled)? {
        cpu.clobber(|| leftovers.value());
        cpu.set(calls::RESULT, returned, Origin::DATA);
        return Ok(calls::return_to_caller(cpu, memory)?);
    }
    if let Some(&evaluation) = evaluated(cpu, world) {
        ran.calls.push(evaluation.of.ok_or(Stop::WrongExpression)?);
        World::evaluate(memory, around.abi, evaluation, Address(arguments[1]))?;
    } else if may_free(name, cpu, world.skb) {
        ran.freed += 1;
    }
    cpu.clobber(|| leftovers.value());
    Ok(calls::return_to_caller(cpu, memory)?)
}

/// The expression whose `eval(expr, regs, pkt)` is called, if that is what a call is.
pub(super) fn evaluated<'w>(cpu: &Cpu, world: &'w World) -> Option<&'w Evaluation> {
    let expression = world.expressions.get(&argument(cpu, calls::ARGUMENTS[0])?)?;
    (argument(cpu, calls::ARGUMENTS[2])? == world.pkt.0).then_some(expression)
}

/// What a callee gets in a register, if the caller has put something there.
fn argument(cpu: &Cpu, reg: Reg) -> Option<u64> {
    cpu.origin(reg).is_defined().then(|| cpu.get(reg))
}

/// Whether a function gets the packet and may free it: nf_tables' own get the pktinfo, and the
/// sanitizers' look at addresses.
pub(super) fn may_free(name: &str, cpu: &Cpu, skb: Address) -> bool {
    let watching =
        ["nft_", "__nft_", "__asan_", "__kasan_", "__tsan_", "__sanitizer_", "__ubsan_", "__msan_"];
    let only_watches = watching.iter().any(|prefix| name.starts_with(prefix));
    !only_watches
        && calls::ARGUMENTS[..3].iter().copied().any(|reg| argument(cpu, reg) == Some(skb.0))
}

/// Most bytes that one call of `memcpy` and its kin moves.
const MAX_MOVED: u64 = 1 << 12;

/// `memset`, `memcpy`, `memmove` and `memcmp`, by whatever name compilers call them: code relies on
/// what they do. `filled`: the origin of what `memset` writes. `None`: another function. Returns the result.
fn string_function(
    budget: &Budget,
    memory: &mut Memory,
    name: &str,
    [to, from, count]: [u64; 3],
    filled: Origin,
) -> Result<Option<u64>, Stop> {
    let base = ["__asan_", "__hwasan_", "__tsan_", "__msan_", "__"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    if !matches!(base, "memset" | "memcpy" | "memmove" | "memcmp") {
        return Ok(None);
    }
    let moved = count.min(MAX_MOVED);
    budget.spend(moved)?;
    if moved < count {
        return Err(Stop::Endless);
    }
    let byte = |memory: &Memory, base: u64, at: u64| memory.load(Address(base.wrapping_add(at)), 1);
    let mut bytes = Vec::with_capacity(moved as usize);
    for at in 0..moved {
        bytes.push(match base {
            "memset" => (from & 0xff, filled),
            _ => byte(memory, from, at)?,
        });
    }
    for (at, &(value, origin)) in (0..).zip(&bytes) {
        if base == "memcmp" {
            let difference = byte(memory, to, at)?.0 as i64 - value as i64;
            if difference != 0 {
                return Ok(Some(difference as u64));
            }
        } else {
            memory.write(Address(to.wrapping_add(at)), 1, value, origin)?;
        }
    }
    Ok(Some(if base == "memcmp" { 0 } else { to }))
}
