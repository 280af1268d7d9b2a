"""Runs a function in unicorn, with hostile leftovers, and looks at a plan's probes on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from unicorn import (
    UC_ARCH_X86,
    UC_ERR_INSN_INVALID,
    UC_ERR_EXCEPTION,
    UC_HOOK_CODE,
    UC_HOOK_MEM_UNMAPPED,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_TLB_VIRTUAL,
    Uc,
    UcError,
)
from unicorn import x86_const as x86

from function import CODE, EVAL, KEYS, PART_STEP, SYMBOL_STEP, SYMBOLS, Function
from memory import HEAP, HEAP_SIZE, NET, NET_SIZE, Image

STACK = 0xFFFF_C900_0123_0000
STACK_SIZE = 0x2000
ENTRY_SP = STACK + STACK_SIZE - 0x408
RETURN = 0xFFFF_FFFF_8210_0000
ZEROS = 0xFFFF_8881_7000_0000
GS = 0xFFFF_8882_0000_0000
PAGE = 0x1000
# Where the per-CPU variables lie that the code names.
PER_CPU = (GS + SYMBOLS) % 2**64
SYMBOLS_SIZE = 0x10_0000
MAX_STEPS = 200_000

NAMES = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
REGISTERS = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in NAMES}
CALLER_SAVED = [REGISTERS[name] for name in "rax rcx rdx rsi rdi r8 r9 r10 r11".split()]
CALLEE_SAVED = [REGISTERS[name] for name in "rbx rbp r12 r13 r14 r15".split()]
# Status flags; interrupts stay on.
FLAGS = [0x202, 0x202 | 0x8D5, 0x202 | 0x40, 0x202 | 1]

# Called in the middle of C without the compiler knowing: they keep all registers.
KEEP = {
    "__fentry__", "__mcount", "mcount", "preempt_schedule_thunk", "preempt_schedule_notrace_thunk",
    "___preempt_schedule", "___preempt_schedule_notrace", "__SCT__preempt_schedule",
    "__SCT__preempt_schedule_notrace",
}  # fmt: skip
MODES = ("junk", "unreadable", "small", "zeros", "objects", "right objects", "mixed")
UNREADABLE = (0xDEAD_0000_0000_0100, 0xDEAD_0000_0000_0122, 0x7FFE_1234_5000, 0x10, 0x8000_0000_0000)
SMALL = (0, 1, 2, 3, 0xFF, 0x100, 0xFFFF_FFFB, 2**64 - 1)
NOT_FREEING = ("nft_", "__nft_", "__asan_", "__kasan_", "__tsan_", "__sanitizer_", "__ubsan_", "__msan_")


class CannotRun(Exception):
    """The function does what this machine has no means for."""


@dataclass
class Hit:
    """A probe that reported."""

    event: str
    offset: int
    rule: int | None
    pkt: int | None
    base_chain: int | None
    freed: bool


@dataclass
class Ran:
    """One run."""

    returned: int = 0
    evaluated: int = 0
    freed: int = 0
    # By meaning of a read that fails: false, and 0.
    hits: tuple[list[Hit], list[Hit]] = field(default_factory=lambda: ([], []))


class Machine:
    """A function with its static keys in one state."""

    def __init__(self, function: Function, state: int, probes: list[dict]) -> None:
        self.function = function
        self.names = {at: name for name, at in function.symbols.items()}
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc = self.uc
        # Addresses as they are: physical ones end at 52 bits.
        uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
        for base, data in function.code(state):
            uc.mem_map(base, PART_STEP, UC_PROT_ALL)
            uc.mem_write(base, data)
        count = len(function.symbols) + 2
        uc.mem_map(SYMBOLS, count * SYMBOL_STEP, UC_PROT_ALL)
        self.place_symbols(state)
        for base, size in ((HEAP, HEAP_SIZE), (NET, NET_SIZE), (STACK, STACK_SIZE), (ZEROS, PAGE)):
            uc.mem_map(base, size, UC_PROT_ALL)
        uc.mem_map(GS, 0x10000, UC_PROT_ALL)
        uc.mem_map(RETURN, PAGE, UC_PROT_ALL)
        uc.reg_write(x86.UC_X86_REG_GS_BASE, GS)
        uc.hook_add(UC_HOOK_CODE, self.outside, begin=SYMBOLS, end=SYMBOLS + count * SYMBOL_STEP - 1)
        uc.hook_add(UC_HOOK_MEM_UNMAPPED, self.unmapped)
        by_offset: dict[int, list[dict]] = {}
        for probe in probes:
            by_offset.setdefault(probe["offset"], []).append(probe)
        for offset, here in by_offset.items():
            at = CODE + offset
            uc.hook_add(UC_HOOK_CODE, lambda *_, here=here: self.probed(here), begin=at, end=at)
        self.image = Image()
        self.ran = Ran()
        self.pick = random.Random()
        self.mode = "junk"
        self.objects: list[int] = []
        self.failed: str | None = None

    def place_symbols(self, state: int) -> None:
        """A `ret` where each begins; the thunks of retpolines jump; static keys are counters."""
        for name, at in self.function.symbols.items():
            if at >= CODE:
                continue
            code = b"\xc3"
            for prefix in ("__x86_indirect_thunk_", "__x86_indirect_call_thunk_", "__x86_indirect_jump_thunk_"):
                if name.startswith(prefix):
                    number = NAMES.index(name.removeprefix(prefix))
                    code = (b"\x41" if number > 7 else b"") + bytes([0xFF, 0xE0 | number & 7])
            if name in KEYS and name in self.function.keys and not self.function.labels:
                code = (state >> self.function.keys.index(name) & 1).to_bytes(4, "little")
            self.uc.mem_write(at, code)

    def leftover(self) -> int:
        """A value that nobody has set."""
        mode = self.mode
        if mode == "mixed":
            mode = self.pick.choice(MODES[:-1])
        if mode == "unreadable":
            return self.pick.choice(UNREADABLE)
        if mode == "small":
            return self.pick.choice(SMALL)
        if mode == "zeros":
            return ZEROS + 0x400 + 8 * self.pick.randint(0, 64)
        if mode == "objects":
            return self.pick.choice(self.objects)
        if mode == "right objects":
            return self.pick.choice((self.image.chains[0], self.image.skb, self.image.pkt, *self.rules))
        return self.pick.getrandbits(64) & ~(0xFF * self.pick.randint(0, 1))

    def run(self, image: Image, mode: str, seed: int) -> Ran:
        """From the entry to the return."""
        uc = self.uc
        self.image, self.mode, self.ran, self.failed = image, mode, Ran(), None
        self.pick = random.Random(seed)
        self.rules = list(image.rules.values()) or [image.chains[0]]
        self.objects = [*image.chains, *image.rules.values(), image.skb, image.pkt, *image.verdicts]
        uc.mem_write(HEAP, bytes(image.heap))
        uc.mem_write(NET, bytes([image.generation]) * NET_SIZE)
        words = (self.leftover().to_bytes(8, "little") for _ in range(STACK_SIZE // 8))
        uc.mem_write(STACK, b"".join(words))
        for register in REGISTERS.values():
            uc.reg_write(register, self.leftover())
        uc.reg_write(REGISTERS["rdi"], image.pkt)
        uc.reg_write(REGISTERS["rsi"], image.argument)
        uc.reg_write(REGISTERS["rsp"], ENTRY_SP)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, self.pick.choice(FLAGS))
        uc.mem_write(ENTRY_SP, RETURN.to_bytes(8, "little"))
        kept = [uc.reg_read(register) for register in CALLEE_SAVED]
        begin = CODE
        while True:
            try:
                uc.emu_start(begin, RETURN, count=MAX_STEPS)
            except UcError as error:
                at = uc.reg_read(x86.UC_X86_REG_RIP)
                code = bytes(uc.mem_read(at, 2)) if self.is_code(at) else b""
                # ud2 of a WARN, or of a kCFI check: nobody knows the hash in front of a callee here.
                if error.errno in (UC_ERR_INSN_INVALID, UC_ERR_EXCEPTION) and code == b"\x0f\x0b":
                    begin = at + 2
                    continue
                raise CannotRun(self.failed or f"{error} at +{at - CODE:#x}") from error
            break
        if self.failed:
            raise CannotRun(self.failed)
        if uc.reg_read(x86.UC_X86_REG_RIP) != RETURN:
            raise CannotRun(f"no end after {MAX_STEPS} instructions")
        if kept != [uc.reg_read(register) for register in CALLEE_SAVED]:
            raise CannotRun("it returned with callee-saved registers changed")
        self.ran.returned = uc.reg_read(REGISTERS["rax"]) & 0xFFFF_FFFF
        return self.ran

    def is_code(self, address: int) -> bool:
        """Whether it lies in one of the parts."""
        return any(base <= address < base + len(data) for base, data in self.function.parts)

    def unmapped(self, uc: Uc, access: int, address: int, size: int, value: int, _: object) -> bool:
        """A kernel has more memory than is laid out here: globals, per-CPU data, KASAN's shadow. Only
        the function's own accesses come here, not those of probes."""
        if address >> 47 != 0x1FFFF:
            self.failed = f"access to {address:#x} at +{uc.reg_read(x86.UC_X86_REG_RIP) - CODE:#x}"
            return False
        for page in {address & -PAGE, (address + size - 1) & -PAGE}:
            try:
                uc.mem_map(page, PAGE, UC_PROT_ALL)
            except UcError:
                continue
            if PER_CPU <= page < PER_CPU + SYMBOLS_SIZE:
                # One of these variables is the distance to all of them.
                uc.mem_write(page, GS.to_bytes(8, "little") * (PAGE // 8))
        return True

    def outside(self, uc: Uc, address: int, size: int, _: object) -> None:
        """A call or jump left the function's code; the `ret` that is there follows."""
        name = self.names.get(address)
        if name is None:
            # In the middle of a thunk.
            return
        if name in KEEP or name == "__x86_return_thunk" or name.startswith("__x86_indirect_"):
            return
        if name == "__stack_chk_fail":
            self.failed = "the stack protector complains"
            uc.emu_stop()
            return
        rdi, rsi, rdx = (uc.reg_read(REGISTERS[name]) for name in ("rdi", "rsi", "rdx"))
        base = name.split(".")[0].lstrip("_")
        for prefix in ("asan_", "hwasan_", "tsan_", "msan_"):
            base = base.removeprefix(prefix)
        returned = None
        if base in ("memset", "memcpy", "memmove"):
            size = min(rdx, 0x1000)
            data = bytes([rsi & 0xFF]) * size if base == "memset" else bytes(uc.mem_read(rsi, size))
            uc.mem_write(rdi, data)
            returned = rdi
        elif name.endswith("_eval") or name == EVAL:
            if rdi not in self.image.verdicts or rdx != self.image.pkt:
                self.failed = f"{name} is called with something else than an active expression"
                uc.emu_stop()
                return
            self.evaluate(rdi, rsi)
        elif self.image.skb in (rdi, rsi, rdx) and not name.startswith(NOT_FREEING):
            # What the caller left there by chance does not count: only functions that take a packet.
            if "skb" in name:
                self.ran.freed += 1
        for register in CALLER_SAVED:
            uc.reg_write(register, self.leftover())
        if returned is not None:
            uc.reg_write(REGISTERS["rax"], returned)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, self.pick.choice(FLAGS))

    def evaluate(self, expression: int, regs: int) -> None:
        """An expression writes its verdict; `struct nft_regs` begins with it."""
        code, chain = self.image.verdicts[expression]
        self.ran.evaluated += 1
        if code is not None:
            self.uc.mem_write(regs, code.to_bytes(4, "little"))
        if chain is not None:
            self.uc.mem_write(regs + 8, chain.to_bytes(8, "little"))

    def word(self, address: int) -> int | None:
        """What a probe reads; `None` where nothing is."""
        if address >> 47 not in (0, 0x1FFFF):
            return None
        try:
            return int.from_bytes(self.uc.mem_read(address, 8), "little")
        except UcError:
            return None

    def value(self, place: dict, unread: int | None) -> int | None:
        """Of a location."""
        value = self.uc.reg_read(REGISTERS[place["reg"]])
        if "deref" in place:
            value = self.word((value + place["deref"]) % 2**64)
            value = unread if value is None else value
        return None if value is None else (value + place.get("add", 0)) % 2**64

    def probed(self, probes: list[dict]) -> None:
        """The instruction at a site is about to run."""
        for probe in probes:
            for hits, unread in zip(self.ran.hits, (None, 0)):
                values = [self.value(when["value"], unread) for when in probe["when"]]
                holds = all(
                    value is not None and value & when["mask"] == when["equals"]
                    for value, when in zip(values, probe["when"])
                )
                if holds:
                    of = {
                        name: self.value(probe[name], unread) if probe[name] else None
                        for name in ("rule", "pkt", "base_chain")
                    }
                    freed = self.ran.freed > 0
                    hits.append(Hit(probe["event"], probe["offset"], freed=freed, **of))
