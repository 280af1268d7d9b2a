"""The function of an extract (`nfdrop-indexer extract`), laid out at addresses.

Written from the extract's format and the x86-64 psABI's relocations alone: nothing here is shared with
the resolver, which is what makes a second opinion worth something.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

CODE = 0xFFFF_FFFF_C080_0000
PART_STEP = 0x2_0000
# In the kernel's range, so that signed 32-bit relocations fit.
SYMBOLS = 0xFFFF_FFFF_8300_0000
SYMBOL_STEP = 0x1000
# From the start of a symbol's place: a hash may lie in front of it.
SYMBOL_OFFSET = 0x240

NOPS = {2: bytes([0x66, 0x90]), 5: bytes([0x0F, 0x1F, 0x44, 0x00, 0x00])}
# What an expression of another module calls.
EVAL = "eval of another module"
# Tested in memory where a kernel has no jump labels.
KEYS = ("nft_trace_enabled", "nft_counters_enabled", "nf_tables_skip_direct_calls")


@dataclass
class Function:
    """Code and data, and where what they refer to lies."""

    name: str
    build_id: str
    parts: list[tuple[int, bytearray]]
    symbols: dict[str, int]
    fields: dict[str, tuple[int, int]]
    labels: list[dict]
    keys: list[str]
    warnings: set[int] = field(default_factory=set)

    def code(self, state: int) -> list[tuple[int, bytes]]:
        """All parts with those static keys enabled whose bits are set."""
        parts = [(base, bytearray(data)) for base, data in self.parts]
        for label in self.labels:
            enabled = state >> self.keys.index(label["key"]) & 1
            part, offset = label["code"]
            base, data = parts[part]
            jumps = bool(enabled) != label["branch"]
            size = label_size(data, offset)
            data[offset : offset + size] = NOPS[size]
            if jumps:
                to_part, to_offset = label["target"]
                distance = parts[to_part][0] + to_offset - (base + offset + size)
                jump = b"\xeb" if size == 2 else b"\xe9"
                data[offset : offset + size] = jump + distance.to_bytes(size - 1, "little", signed=True)
        return [(base, bytes(data)) for base, data in parts]

    def name_at(self, address: int) -> str | None:
        """The symbol whose place an address is the start of."""
        return next((name for name, at in self.symbols.items() if at == address), None)


def label_size(data: bytes, offset: int) -> int:
    """Bytes of the nop or jump of a jump label (arch/x86/include/asm/jump_label.h)."""
    if data[offset] == 0xEB or data[offset : offset + 2] == NOPS[2]:
        return 2
    return 5


def load(path: Path) -> Function:
    """Reads an extract and applies its relocations."""
    extract = json.loads(path.read_text())
    texts = [{"name": extract["symbol"], **extract}] + extract.get("parts", [])
    parts = [
        (CODE + number * PART_STEP, bytearray.fromhex(text.get("code") or text.get("bytes") or text.get("data")))
        for number, text in enumerate(texts)
    ]
    symbols = {text["name"]: base for text, (base, _) in zip(texts, parts)}
    for text, (base, data) in zip(texts, parts):
        for relocation in text.get("relocations", []):
            relocate(base, data, relocation, symbols)
    place_symbol(EVAL, symbols)
    labels = extract.get("jump_labels") or []
    keys = sorted({label["key"] for label in labels})
    keys += [key for key in KEYS if key in symbols and key not in keys]
    warnings = {
        parts[bug["at"][0]][0] + bug["at"][1] for bug in extract.get("bugs", []) if bug["warning"]
    }
    fields = {name: tuple(value) for name, value in extract.get("fields", {}).items()}
    build_id = extract.get("build_id") or ""
    return Function(path.stem, build_id, parts, symbols, fields, labels, keys, warnings)


def place_symbol(name: str, symbols: dict[str, int]) -> None:
    """Gives a symbol that is elsewhere a place of its own."""
    symbols.setdefault(name, SYMBOLS + len(symbols) * SYMBOL_STEP + SYMBOL_OFFSET)


def relocate(base: int, data: bytearray, relocation: dict, symbols: dict[str, int]) -> None:
    """One field: symbol + addend, less its own place where it is relative."""
    name = relocation["symbol"]
    place_symbol(name, symbols)
    value = symbols[name] + relocation.get("addend", 0)
    kind, offset = relocation["type"], relocation["offset"]
    size = 8 if kind in ("R_X86_64_64", "R_X86_64_PC64") else 4
    if kind in ("R_X86_64_PC32", "R_X86_64_PLT32", "R_X86_64_PC64"):
        value -= base + offset
    value &= (1 << 8 * size) - 1
    data[offset : offset + size] = value.to_bytes(size, "little")
