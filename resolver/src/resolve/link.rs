//! Linking: gives the parts of a function addresses, fills their relocated fields and sets their
//! jump labels, so that they can be run.

use super::memory::Address;
use crate::arch::{self, Flow, Instruction, patch};
use crate::image::function::{Function, JumpLabel, PartKind, Place, RelocationKind};
use std::collections::HashMap;
use std::sync::Arc;

/// Where parts are put: in the range modules are loaded to.
const PARTS_BASE: u64 = 0xffff_ffff_c040_0000;
/// Between the starts of parts at least.
const PARTS_STEP: u64 = 0x1_0000;
/// Where symbols that are elsewhere are put: in the range of the kernel itself.
const SYMBOLS_BASE: u64 = 0xffff_ffff_8120_0000;
/// Bytes of the place of such a symbol.
const SYMBOLS_STEP: u64 = 0x4000;
/// In its place the symbol begins here. In front of it is nothing: what compilers put in front of
/// functions is not known.
const SYMBOL_START: u64 = 0x1000;
/// The end of the kernel's range.
const SYMBOLS_END: u64 = 0xffff_ffff_a000_0000;
/// Most bytes of one part.
const MAX_PART: usize = PARTS_STEP as usize;
/// Most instructions in all parts.
const MAX_INSTRUCTIONS: usize = 1 << 13;

/// Why a function cannot be linked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No parts, too many or too large.
    #[error("a function has 1 to 256 parts of at most {MAX_PART} bytes, found {0}")]
    Parts(String),
    /// A relocated field outside its part, or a place outside the parts.
    #[error("{what} at {offset:#x} is outside part {part}")]
    Outside {
        /// What.
        what: &'static str,
        /// The part's name or number.
        part: String,
        /// In the part.
        offset: u32,
    },
    /// A value does not fit a relocated field.
    #[error("relocation against {symbol} at {offset:#x} of {part}: {value:#x} does not fit")]
    Overflow {
        /// The part.
        part: String,
        /// In the part.
        offset: u32,
        /// The target.
        symbol: String,
        /// What should go there.
        value: u64,
    },
    /// A jump label is not on a nop or jump of the expected length.
    #[error("jump label at {offset:#x} of {part}: expected a nop or jump of 2 or 5 bytes")]
    JumpLabel {
        /// The part.
        part: String,
        /// In the part.
        offset: u32,
    },
    /// Code that can be reached does not decode.
    #[error("no instruction at {offset:#x} of {part}")]
    Undecodable {
        /// The part.
        part: String,
        /// In the part.
        offset: u32,
    },
}

/// One instruction of a linked function.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Where it is.
    pub place: Place,
    /// What it is, with its address.
    pub instruction: Instruction,
}

/// By the address of a `ud2` of the bug table whether execution goes on behind it.
pub type Warnings = HashMap<u64, bool>;

/// A function at addresses, with its static keys in one state.
#[derive(Debug, Clone)]
pub struct Linked {
    /// All instructions that can be reached statically, by number.
    pub instructions: Vec<Decoded>,
    /// By part and offset, the number of the instruction plus one.
    by_offset: Vec<Vec<u32>>,
    /// Code and data, as they lie in memory.
    pub parts: Vec<(Address, PartKind, Arc<Vec<u8>>)>,
    /// Where symbols that are elsewhere are.
    pub placement: Placement,
    symbols: HashMap<String, Address>,
    names: HashMap<Address, String>,
    /// Variables with the values they have in this state: address, bytes, value.
    pub variables: Vec<(Address, usize, u64)>,
}

/// Where symbols that are elsewhere lie. A kernel's functions are 16-aligned, so that an address may
/// or may not look like a verdict of 0 in its low byte: what holds in only one of these is chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Their low byte is not 0.
    Odd,
    /// Their low byte is 0.
    Round,
}

/// Which static keys are enabled: bit n is the nth of [`keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyState(pub u32);

/// What may be on or off while the function runs: a static key, patched into the code by jump labels
/// or, in a kernel without them, a counter in memory (`struct static_key.enabled`); or another
/// global variable that the code tests, such as "has warned".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The variable's name; `section+0xoffset` where it has none.
    pub symbol: String,
    /// From the symbol, in bytes.
    pub offset: u64,
    /// Bytes of the variable where the code reads it, 1 to 4; 0 where only jump labels tell.
    pub size: usize,
}

/// Most keys of a function; further ones are not told apart from junk.
const MAX_KEYS: usize = 31;

/// The static keys of a function, in the order of their names.
pub fn keys(function: &Function) -> Result<Vec<Key>, LinkError> {
    let labels = function.jump_labels.iter().flatten();
    let mut keys: Vec<_> =
        labels.map(|label| Key { symbol: label.key.clone(), offset: 0, size: 0 }).collect();
    keys.sort();
    keys.dedup();
    let linked = Linked::new(function, &keys, KeyState(0), Placement::Odd)?;
    for Decoded { instruction, .. } in &linked.instructions {
        let Some(key) = linked.tested(instruction) else { continue };
        let known = keys.iter().position(|k| k.symbol == key.symbol && k.offset == key.offset);
        match known {
            Some(known) => keys[known].size = keys[known].size.max(key.size),
            None if keys.len() < MAX_KEYS => keys.push(key),
            None => {}
        }
    }
    keys.sort();
    Ok(keys)
}

fn reports(name: Option<&str>) -> bool {
    name.is_some_and(reports_defect)
}

/// Functions that are only called when something is broken.
fn reports_defect(name: &str) -> bool {
    let prefixes = ["__asan_report_", "__ubsan_handle_", "__kasan_report", "__kmsan_report"];
    let names = ["__stack_chk_fail", "lockdep_rcu_suspicious", "__fortify_panic", "fortify_panic"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name)
}

/// Where physical memory is mapped, and objects are.
const DIRECT_MAPPING: std::ops::Range<u64> = 0xffff_8880_0000_0000..0xffff_c880_0000_0000;

fn exists(address: u64, placement: Placement) -> bool {
    match address {
        SYMBOLS_BASE..SYMBOLS_END => (address - SYMBOLS_BASE) % SYMBOLS_STEP >= placement.start(),
        address => DIRECT_MAPPING.contains(&address),
    }
}

impl Placement {
    /// From the start of a symbol's place to the symbol.
    fn start(self) -> u64 {
        match self {
            Self::Odd => SYMBOL_START + 0x50,
            Self::Round => SYMBOL_START,
        }
    }

    /// Whether a kernel has memory at an address, besides what a run lays out: its globals and the
    /// direct mapping.
    pub fn exists(self) -> fn(u64) -> bool {
        match self {
            Self::Odd => |address| exists(address, Self::Odd),
            Self::Round => |address| exists(address, Self::Round),
        }
    }
}

impl Linked {
    /// Links a function with its static keys in the given state.
    pub fn new(
        function: &Function,
        keys: &[Key],
        state: KeyState,
        placement: Placement,
    ) -> Result<Self, LinkError> {
        let parts = &function.parts;
        if parts.is_empty() || parts.len() > 256 {
            return Err(LinkError::Parts(format!("{} parts", parts.len())));
        }
        if let Some(part) = parts.iter().find(|part| part.bytes.len() > MAX_PART) {
            return Err(LinkError::Parts(format!("{} with {} bytes", part.name, part.bytes.len())));
        }
        let mut linked = Self {
            instructions: Vec::new(),
            by_offset: parts.iter().map(|part| vec![0; part.bytes.len()]).collect(),
            parts: Vec::with_capacity(parts.len()),
            placement,
            symbols: HashMap::new(),
            names: HashMap::new(),
            variables: Vec::new(),
        };
        for (index, part) in parts.iter().enumerate() {
            let address = Address(PARTS_BASE + index as u64 * PARTS_STEP);
            linked.name(&part.name, address);
            linked.parts.push((address, part.kind, Arc::new(part.bytes.clone())));
        }
        for index in 0..parts.len() {
            linked.relocate(function, index)?;
        }
        for label in function.jump_labels.iter().flatten() {
            let enabled = keys.iter().position(|k| k.symbol == label.key && k.offset == 0);
            let enabled = enabled.is_some_and(|bit| state.0 >> bit & 1 != 0);
            linked.set_jump_label(function, label, enabled)?;
        }
        for (bit, key) in keys.iter().enumerate().filter(|(_, key)| key.size > 0) {
            if let Some(&Address(symbol)) = linked.symbols.get(&key.symbol) {
                let at = Address(symbol.wrapping_add(key.offset));
                linked.variables.push((at, key.size, u64::from(state.0 >> bit & 1)));
            }
        }
        linked.decode(function)?;
        Ok(linked)
    }

    fn name(&mut self, name: &str, address: Address) {
        self.symbols.insert(name.to_owned(), address);
        self.names.insert(address, name.to_owned());
    }

    /// The address of a part, or of a symbol that is elsewhere, which gets one if it has none.
    pub fn symbol(&mut self, name: &str) -> Address {
        if let Some(&address) = self.symbols.get(name) {
            return address;
        }
        let number = (self.symbols.len() - self.parts.len()) as u64;
        let address = Address(SYMBOLS_BASE + number * SYMBOLS_STEP + self.placement.start());
        self.name(name, address);
        address
    }

    /// The address of a symbol that the function refers to.
    pub fn known_symbol(&self, name: &str) -> Option<Address> {
        self.symbols.get(name).copied()
    }

    /// The part or symbol that starts at an address.
    pub fn name_at(&self, address: Address) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    /// The names of all symbols that the function refers to, and of its parts, in no order.
    pub fn symbol_names(&self) -> impl Iterator<Item = &str> {
        self.symbols.keys().map(String::as_str)
    }

    /// The symbol that is elsewhere whose place an address is in, and how far into it.
    pub fn symbol_around(&self, address: u64) -> Option<(&str, u64)> {
        if !(SYMBOLS_BASE..SYMBOLS_END).contains(&address) {
            return None;
        }
        let place = (address - SYMBOLS_BASE) / SYMBOLS_STEP * SYMBOLS_STEP;
        let start = SYMBOLS_BASE + place + self.placement.start();
        Some((self.name_at(Address(start))?, address.checked_sub(start)?))
    }

    /// The global variable that an instruction tests, if it is one of at most 4 bytes: those are
    /// flags and counters.
    fn tested(&self, i: &Instruction) -> Option<Key> {
        let (address, size) = i.global_read().filter(|(_, size)| matches!(size, 1 | 2 | 4))?;
        let (symbol, offset) = self.symbol_around(address)?;
        Some(Key { symbol: symbol.to_owned(), offset, size })
    }

    /// Whether some instruction calls or jumps to an address directly.
    pub fn branches_to(&self, address: Address) -> bool {
        let direct = |i: &Instruction| i.target() == Some(address.0);
        self.instructions.iter().any(|decoded| direct(&decoded.instruction))
    }

    /// The number of the instruction at an address.
    pub fn instruction_at(&self, address: u64) -> Option<usize> {
        let distance = address.wrapping_sub(PARTS_BASE);
        let part = self.by_offset.get((distance / PARTS_STEP) as usize)?;
        let number = *part.get((distance % PARTS_STEP) as usize)?;
        (number as usize).checked_sub(1)
    }

    /// The addresses of all `ud2` in the bug table, and whether execution goes on behind them. A bare
    /// listing has no tables: there every `ud2` is taken for a warning, as all of this function are.
    pub fn warnings(&self, function: &Function) -> Warnings {
        if function.jump_labels.is_none() {
            let all = self.instructions.iter().map(|decoded| &decoded.instruction);
            return all.filter(|i| i.is_bug()).map(|i| (i.address(), true)).collect();
        }
        let bugs = &function.bugs;
        bugs.iter()
            .filter_map(|bug| {
                let (base, ..) = self.parts.get(usize::from(bug.place.part))?;
                Some((base.0 + u64::from(bug.place.offset), bug.warning))
            })
            .collect()
    }

    /// Whether the code at an address can only complain: it comes to a `ud2` that is no warning, or to
    /// a function that reports a defect, before anything is decided.
    pub fn fails(&self, mut address: u64, warnings: &Warnings) -> bool {
        const MOST: usize = 32;
        for _ in 0..MOST {
            if reports(self.name_at(Address(address))) {
                return true;
            }
            let Some(number) = self.instruction_at(address) else { return false };
            let i = &self.instructions[number].instruction;
            let target = i.target();
            let called = target.and_then(|target| self.name_at(Address(target)));
            address = match i.flow() {
                Flow::Exception => return warnings.get(&address) != Some(&true),
                Flow::Call if reports(called) => return true,
                // Sanitizers' own bookkeeping may come before.
                Flow::Next | Flow::Call => i.next_address(),
                Flow::Jump => match target {
                    Some(target) => target,
                    None => return false,
                },
                _ => return false,
            };
        }
        false
    }

    /// The first byte of the code that neither belongs to an instruction that can be reached nor is
    /// padding. Compilers leave none: where there is one, jumps were changed or are not known.
    pub fn unreached(&self) -> Option<Place> {
        let mut reached: Vec<Vec<bool>> =
            self.parts.iter().map(|(.., bytes)| vec![false; bytes.len()]).collect();
        for Decoded { place, instruction } in &self.instructions {
            let start = place.offset as usize;
            reached[usize::from(place.part)][start..start + instruction.len()].fill(true);
        }
        for (part, (base, kind, bytes)) in self.parts.iter().enumerate() {
            let mut offset = 0;
            while *kind == PartKind::Code && offset < bytes.len() {
                if reached[part][offset] {
                    offset += 1;
                    continue;
                }
                let padding = arch::decode(bytes, base.0, offset);
                let Some(padding) = padding.filter(Instruction::is_padding) else {
                    return Some(Place { part: part as u16, offset: offset as u32 });
                };
                offset += padding.len();
            }
        }
        None
    }

    /// The place of an address inside a code part.
    fn place(&self, address: u64) -> Option<Place> {
        self.parts.iter().enumerate().find_map(|(index, (base, kind, bytes))| {
            let offset = address.wrapping_sub(base.0);
            let inside = offset < bytes.len() as u64 && *kind == PartKind::Code;
            inside.then_some(Place { part: index as u16, offset: offset as u32 })
        })
    }

    fn relocate(&mut self, function: &Function, index: usize) -> Result<(), LinkError> {
        let part = &function.parts[index];
        for relocation in &part.relocations {
            let start = relocation.offset as usize;
            let size = relocation.kind.size() as usize;
            let target = self.symbol(&relocation.symbol).0.wrapping_add_signed(relocation.addend);
            let (base, _, bytes) = &mut self.parts[index];
            let place = base.0.wrapping_add(start as u64);
            let bytes = Arc::make_mut(bytes);
            let field = bytes.get_mut(start..start.saturating_add(size));
            let field = field.ok_or_else(|| LinkError::Outside {
                what: "relocated field",
                part: part.name.clone(),
                offset: relocation.offset,
            })?;
            let (value, fits) = patch::relocated(relocation.kind, target, place);
            if !fits {
                return Err(LinkError::Overflow {
                    part: part.name.clone(),
                    offset: relocation.offset,
                    symbol: relocation.symbol.clone(),
                    value,
                });
            }
            field.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        Ok(())
    }

    /// Makes a jump label a jump or a nop.
    fn set_jump_label(
        &mut self,
        function: &Function,
        label: &JumpLabel,
        enabled: bool,
    ) -> Result<(), LinkError> {
        let outside = |place: Place| LinkError::Outside {
            what: "jump label",
            part: place.part.to_string(),
            offset: place.offset,
        };
        let target_base = self.parts.get(usize::from(label.target.part));
        let target =
            target_base.ok_or_else(|| outside(label.target))?.0.0 + u64::from(label.target.offset);
        let part = function.parts.get(usize::from(label.code.part));
        let part = part.ok_or_else(|| outside(label.code))?;
        let wrong = || LinkError::JumpLabel { part: part.name.clone(), offset: label.code.offset };
        let (base, _, bytes) = &mut self.parts[usize::from(label.code.part)];
        let start = label.code.offset as usize;
        let code = Arc::make_mut(bytes).get_mut(start..).ok_or_else(|| outside(label.code))?;
        let address = base.0 + u64::from(label.code.offset);
        // The instruction is a jump iff the key is enabled XOR the entry's branch bit.
        patch::set_key(code, address, target, enabled != label.branch).ok_or_else(wrong)?;
        Ok(())
    }

    /// Decodes what can be reached: from the entry of every code part, along jumps, past calls, and
    /// from both sides of every jump label.
    fn decode(&mut self, function: &Function) -> Result<(), LinkError> {
        let mut todo: Vec<Place> = function
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| part.kind == PartKind::Code)
            .map(|(index, _)| Place { part: index as u16, offset: 0 })
            .collect();
        for label in function.jump_labels.iter().flatten() {
            todo.push(label.target);
            let (base, _, bytes) = &self.parts[usize::from(label.code.part)];
            if let Some(nop_or_jump) = arch::decode(bytes, base.0, label.code.offset as usize) {
                let offset = label.code.offset + nop_or_jump.len() as u32;
                todo.push(Place { part: label.code.part, offset });
            }
        }
        // Where the tables of switches lead.
        for part in function.parts.iter().filter(|part| part.kind == PartKind::Data) {
            for relocation in &part.relocations {
                let Some(&Address(target)) = self.symbols.get(&relocation.symbol) else { continue };
                // Distances in a table are counted from its start, not from the field.
                let back = match relocation.kind {
                    RelocationKind::Pc32 | RelocationKind::Pc64 => i64::from(relocation.offset),
                    _ => 0,
                };
                let target = target.wrapping_add_signed(relocation.addend.wrapping_sub(back));
                todo.extend(self.place(target));
            }
        }
        while let Some(place) = todo.pop() {
            let (base, _, bytes) = &self.parts[usize::from(place.part)];
            let address = base.0 + u64::from(place.offset);
            if self.instruction_at(address).is_some() {
                continue;
            }
            let name = || function.parts[usize::from(place.part)].name.clone();
            let instruction = arch::decode(bytes, base.0, place.offset as usize);
            let instruction = instruction
                .filter(|_| self.instructions.len() < MAX_INSTRUCTIONS)
                .ok_or_else(|| LinkError::Undecodable { part: name(), offset: place.offset })?;
            let successors = instruction.successors();
            // A call may be the last thing in a part, when it does not return.
            let end = base.0 + bytes.len() as u64;
            let after = successors.next.filter(|&next| next < end || !successors.may_not_return);
            for next in [after, successors.branch].into_iter().flatten() {
                match self.place(next) {
                    Some(next) => todo.push(next),
                    // A branch to another function; running past the end is an error.
                    None if Some(next) == successors.branch => {}
                    None => {
                        let offset = (next.wrapping_sub(base.0)) as u32;
                        return Err(LinkError::Undecodable { part: name(), offset });
                    }
                }
            }
            self.instructions.push(Decoded { place, instruction });
            self.number(place, self.instructions.len());
        }
        // By place, so that an instruction has the same number whatever the static keys' state.
        self.instructions.sort_by_key(|decoded| decoded.place);
        for number in 0..self.instructions.len() {
            self.number(self.instructions[number].place, number + 1);
        }
        Ok(())
    }

    fn number(&mut self, place: Place, number: usize) {
        self.by_offset[usize::from(place.part)][place.offset as usize] = number as u32;
    }
}
