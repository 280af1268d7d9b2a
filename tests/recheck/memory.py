"""How a ruleset and a packet lie in memory (include/net/netfilter/nf_tables.h): by the build's BTF, else
by one of the layouts that kernels had."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from rulesets import DROP, Ruleset, verdict

HEAP = 0xFFFF_8881_2340_0000
HEAP_SIZE = 0x2_0000
NET = 0xFFFF_8881_4000_0000
NET_SIZE = 0x4000
POLICY_DROP, POLICY_ACCEPT = 0, 1


@dataclass
class Layout:
    """Offsets in bytes; `rules` is how a chain keeps them."""

    rules: str = "blob"
    generations: tuple[int, int] = (0, 8)
    policy: int = -16
    state: int | None = 8
    state_net: int = 32
    pkt_net: int | None = None
    chain_net: int | None = None
    ops: int | None = None
    skb: int = 0
    has_stolen: bool = True


def layouts(fields: dict[str, tuple[int, int]]) -> list[Layout]:
    """The one that BTF tells, or all that are known."""

    def at(name: str) -> int:
        return fields[name][0] // 8

    if "nft_pktinfo.skb" in fields:
        blob = "nft_chain.blob_gen_0" in fields
        names = "blob_gen_" if blob else "rules_gen_"
        state = "nft_pktinfo.state" if "nft_pktinfo.state" in fields else "nft_pktinfo.xt.state"
        return [
            Layout(
                rules="blob" if blob else "array",
                generations=(at(f"nft_chain.{names}0"), at(f"nft_chain.{names}1")),
                policy=at("nft_base_chain.policy") - at("nft_base_chain.chain"),
                state=at(state),
                state_net=at("nf_hook_state.net"),
                skb=at("nft_pktinfo.skb"),
            )
        ]
    return [
        Layout(),
        Layout(rules="array"),
        Layout(rules="array", state=32),
        Layout(rules="list", state=32),
        Layout(rules="list", state=None, pkt_net=8, has_stolen=False),
        Layout(rules="list", state=None, chain_net=-32, ops=32, has_stolen=False),
        Layout(rules="list", state=None, chain_net=32, ops=32, has_stolen=False),
    ]


@dataclass
class Image:
    """A ruleset in memory."""

    heap: bytearray = field(default_factory=lambda: bytearray(HEAP_SIZE))
    used: int = 0x100
    generation: int = 0
    pkt: int = 0
    skb: int = 0
    argument: int = 0
    chains: list[int] = field(default_factory=list)
    rules: dict[tuple[int, int], int] = field(default_factory=dict)
    handles: dict[tuple[int, int], int] = field(default_factory=dict)
    # By address: what an expression writes.
    verdicts: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)

    def allocate(self, size: int, pick: random.Random) -> int:
        """Junk, 8-aligned."""
        self.used += 8 * pick.randint(1, 12)
        start = self.used
        self.used = (start + size + 7) // 8 * 8
        if self.used > HEAP_SIZE:
            raise MemoryError("a ruleset does not fit the heap")
        self.heap[start : start + size] = pick.randbytes(size)
        return HEAP + start

    def put(self, address: int, value: int, size: int = 8) -> None:
        """Little-endian."""
        start = address - HEAP
        self.heap[start : start + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def lay_out(ruleset: Ruleset, layout: Layout, evals: list[int], seed: int) -> Image:
    """Everything at places that differ from seed to seed."""
    pick = random.Random(seed)
    image = Image(generation=pick.randint(0, 1))
    for number in range(len(ruleset.chains)):
        chain = image.allocate(320, pick) + 128
        image.chains.append(chain)
        # Other chains have no policy; they get the opposite, which must not matter.
        drops = ruleset.policy_drops == (number == 0)
        image.put(chain + layout.policy, POLICY_DROP if drops else POLICY_ACCEPT, 1)
        # A per-CPU pointer or none: nft_base_chain.stats.
        image.put(chain - 8, 0x2000)
    for number in range(len(ruleset.chains)):
        if layout.rules == "list":
            lay_out_list(image, ruleset, number, layout, evals, pick)
            continue
        active = lay_out_rules(image, ruleset.chains[number], number, layout, evals, pick)
        other = lay_out_rules(image, [verdict(DROP)], None, layout, evals, pick)
        for generation, offset in enumerate(layout.generations):
            image.put(image.chains[number] + offset, active if generation == image.generation else other)
    image.skb = image.allocate(512, pick)
    image.pkt = image.allocate(128, pick)
    for offset in range(0, 128, 8):
        image.put(image.pkt + offset, 0)
    image.put(image.pkt + layout.skb, image.skb)
    state = image.allocate(64, pick)
    image.put(state, 0)
    image.put(state + layout.state_net, NET)
    if layout.state is not None:
        image.put(image.pkt + layout.state, state)
    if layout.pkt_net is not None:
        image.put(image.pkt + layout.pkt_net, NET)
    if layout.chain_net is not None:
        for chain in image.chains:
            image.put(chain + layout.chain_net, NET)
    image.argument = image.chains[0]
    if layout.ops is not None:
        image.argument = image.allocate(64, pick)
        image.put(image.argument + layout.ops, image.chains[0])
    return image


def expressions(image: Image, at: int, rule: list, number: tuple[int, int] | None, sizes: list[int], evals: list[int], pick: random.Random) -> None:
    """`struct nft_expr`: a pointer to its operations, then data."""
    for expression, size in zip(rule, sizes):
        ops = image.allocate(64, pick)
        image.put(ops, pick.choice(evals))
        # `size` lies at 8 before `clone` came, at 16 since.
        image.put(ops + 8, size, 4)
        image.put(ops + 16, size, 4)
        image.put(at, ops)
        if number is not None:
            target = None if expression.chain is None else image.chains[expression.chain]
            image.verdicts[at] = (expression.code, target)
        at += size


def lay_out_rules(image: Image, rules: list, chain: int | None, layout: Layout, evals: list[int], pick: random.Random) -> int:
    """A blob (from 5.17 on) or an array of pointers."""
    sizes = [[8 + 8 * pick.randint(0, 5) for _ in rule] for rule in rules]
    if layout.rules == "blob":
        total = sum(8 + sum(s) for s in sizes)
        blob = image.allocate(8 + total + 48, pick)
        image.put(blob, total)
        at = blob + 8
        for index, (rule, size) in enumerate(zip(rules, sizes)):
            number = None if chain is None else (chain, index)
            handle = pick.getrandbits(42)
            image.put(at, handle << 13 | sum(size) << 1)
            if number is not None:
                image.rules[number], image.handles[number] = at, handle
            expressions(image, at + 8, rule, number, size, evals, pick)
            at += 8 + sum(size)
        # `struct nft_rule_dp_last`
        image.put(at, 1)
        image.put(at + 32, image.chains[chain or 0])
        return blob
    array = image.allocate(8 * len(rules) + 8, pick)
    for index, (rule, size) in enumerate(zip(rules, sizes)):
        number = None if chain is None else (chain, index)
        node = old_rule(image, rule, number, size, 0, evals, pick)
        image.put(array + 8 * index, node)
    image.put(array + 8 * len(rules), 0)
    return array


def old_rule(image: Image, rule: list, number: tuple[int, int] | None, sizes: list[int], genmask: int, evals: list[int], pick: random.Random) -> int:
    """`struct nft_rule`: handle, genmask and length in one word."""
    node = image.allocate(24 + sum(sizes), pick)
    handle = pick.getrandbits(42)
    image.put(node + 16, handle | genmask << 42 | sum(sizes) << 44)
    if number is not None:
        image.rules[number], image.handles[number] = node, handle
    expressions(image, node + 24, rule, number, sizes, evals, pick)
    return node


def lay_out_list(image: Image, ruleset: Ruleset, chain: int, layout: Layout, evals: list[int], pick: random.Random) -> None:
    """Rules of both generations, among them some that are not active."""
    nodes = [image.chains[chain]]
    inactive = 1 << image.generation
    for index, rule in enumerate(ruleset.chains[chain]):
        if pick.random() < 0.4:
            nodes.append(old_rule(image, verdict(DROP), None, [16], inactive, evals, pick))
        sizes = [8 + 8 * pick.randint(0, 5) for _ in rule]
        genmask = pick.choice((0, 3 & ~inactive))
        nodes.append(old_rule(image, rule, (chain, index), sizes, genmask, evals, pick))
    for node, following in zip(nodes, nodes[1:] + nodes[:1]):
        image.put(node, following)
        image.put(following + 8, node)
