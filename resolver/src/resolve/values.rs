//! Locations and conditions of a plan, read at a visit as a client reads them.

use super::frame::Stack;
use super::memory::{Address, Memory};
use super::origin::Origin;
use crate::arch::Cpu;
use nfdrop_db::{Condition, Location, Reg};

/// Whether the function has set what a location names, at this visit.
pub fn is_defined(location: &Location, cpu: &Cpu, memory: &Memory) -> bool {
    match location.deref {
        None => cpu.origin(location.reg).is_defined(),
        Some(offset) => {
            let word = Stack::new(cpu, memory).word(location.reg, offset);
            word.is_some_and(|(_, origin)| origin.is_defined())
        }
    }
}

/// Whether what a condition looks at can tell a drop from anything else, at this visit: in its lowest
/// byte, which all conditions are about.
pub fn is_testable(condition: &Condition, cpu: &Cpu, memory: &Memory) -> bool {
    let Location { reg, deref, .. } = condition.value;
    let origin = match deref {
        None => Some(cpu.origin(reg)),
        Some(offset) if policy(reg, offset, cpu, memory).is_some() => Some(Origin::COMPUTED),
        Some(offset) => Stack::new(cpu, memory).word(reg, offset).map(|(_, origin)| origin),
    };
    condition.mask <= 0xff && origin.is_some_and(Origin::decides)
}

/// The value at a location, as a client reads it.
pub fn value(location: &Location, cpu: &Cpu, memory: &Memory) -> Option<u64> {
    location.value(|reg| cpu.get(reg), |address| memory.read(Address(address), 8).ok())
}

/// Whether a condition holds, as a client tests it.
pub fn holds(condition: &Condition, cpu: &Cpu, memory: &Memory) -> bool {
    condition.holds(|reg| cpu.get(reg), |address| memory.read(Address(address), 8).ok())
}

/// The u64 at register + `offset`, if that is the base chain's policy.
pub(super) fn policy(reg: Reg, offset: i32, cpu: &Cpu, memory: &Memory) -> Option<u64> {
    let at = Address(cpu.get(reg).wrapping_add_signed(i64::from(offset)));
    let is_policy = cpu.origin(reg).is_defined() && memory.policy() == Some(at);
    if is_policy { memory.read(at, 8).ok() } else { None }
}
