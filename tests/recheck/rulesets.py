"""Rulesets, and what the kernel's source says becomes of a packet (net/netfilter/nf_tables_core.c)."""

from __future__ import annotations

import random
from dataclasses import dataclass

DROP, ACCEPT, STOLEN, QUEUE = 0, 1, 2, 3
CONTINUE, BREAK, JUMP, GOTO, RETURN = (2**32 - n for n in (1, 2, 3, 4, 5))
# NFT_JUMP_STACK_SIZE
JUMP_STACK = 16


@dataclass
class Expression:
    """Writes a verdict, or nothing."""

    code: int | None = None
    chain: int | None = None


@dataclass
class Ruleset:
    """Chains of rules of expressions; the first one is the base chain."""

    name: str
    chains: list[list[list[Expression]]]
    policy_drops: bool


@dataclass
class End:
    """How a packet's way ends."""

    # "rule", "policy" or "other"
    event: str
    rule: tuple[int, int] | None
    # Of `regs.verdict.code` or the policy.
    code: int
    evaluated: int


def reference(ruleset: Ruleset) -> End:
    """Walks the rules as nft_do_chain does."""
    chain, rule, stack, evaluated = 0, 0, [], 0
    while True:
        code, target = CONTINUE, None
        rules = ruleset.chains[chain]
        while rule < len(rules):
            for expression in rules[rule]:
                evaluated += 1
                if expression.code is not None:
                    code, target = expression.code, expression.chain
                if code != CONTINUE:
                    break
            if code not in (CONTINUE, BREAK):
                break
            code = CONTINUE
            rule += 1
        if code & 0xFF in (DROP, ACCEPT, STOLEN, QUEUE):
            event = "rule" if code & 0xFF == DROP else "other"
            return End(event, (chain, rule), code, evaluated)
        if code == JUMP:
            if len(stack) == JUMP_STACK:
                raise ValueError("the rulesets here never overflow the jump stack")
            stack.append((chain, rule + 1))
        if code in (JUMP, GOTO):
            chain, rule = target, 0
            continue
        if stack:
            chain, rule = stack.pop()
            continue
        if ruleset.policy_drops:
            return End("policy", None, DROP, evaluated)
        return End("other", None, ACCEPT, evaluated)


def verdict(code: int, chain: int | None = None) -> list[Expression]:
    """A rule that matches at once."""
    return [Expression(code, chain)]


def generate(seed: int, has_stolen: bool) -> list[Ruleset]:
    """The systematic ones, then random ones."""
    pick = random.Random(seed)
    nothing = [Expression()]
    endings = {
        "drop": DROP,
        "drop with errno": DROP | 113 << 16,
        "accept": ACCEPT,
        "queue": QUEUE | 7 << 16,
        "return": RETURN,
        "break": BREAK,
        "continue": CONTINUE,
    }
    if has_stolen:
        endings["stolen"] = STOLEN
    rulesets = []
    for policy in (False, True):
        for name, code in endings.items():
            for before, after in ((0, 0), (2, 1)):
                rules = [nothing] * before + [verdict(code)] + [nothing] * after
                many = [Expression()] * 3 + [Expression(code)] + [Expression(ACCEPT)]
                for where, chains in {
                    "base chain": [rules],
                    "after others": [[*rules[:-1], many, nothing]],
                    "jumped to": [[nothing, verdict(JUMP, 1), nothing], rules],
                    "gone to": [[verdict(GOTO, 1), verdict(ACCEPT)], rules],
                    "gone to after a jump": [[verdict(JUMP, 1), nothing], [verdict(GOTO, 2)], rules],
                    "after a jump": [[verdict(JUMP, 1), *rules], [nothing]],
                    "after an empty chain": [[verdict(JUMP, 1), *rules], []],
                }.items():
                    rulesets.append(Ruleset(f"{name}, {where}", chains, policy))
        rulesets.append(Ruleset("empty", [[]], policy))
        deep = [[verdict(JUMP, n + 1)] for n in range(JUMP_STACK - 1)] + [[verdict(DROP)]]
        rulesets.append(Ruleset("deep drop", deep, policy))
        deep = [[verdict(JUMP, n + 1)] for n in range(JUMP_STACK - 1)] + [[nothing]]
        rulesets.append(Ruleset("deep end", deep, policy))
    for number in range(60):
        count = pick.randint(1, 4)
        chains = [[any_rule(pick, n, count, endings) for _ in range(pick.randint(0, 5))] for n in range(count)]
        rulesets.append(Ruleset(f"random {number}", chains, pick.random() < 0.5))
    return rulesets


def any_rule(pick: random.Random, chain: int, count: int, endings: dict[str, int]) -> list[Expression]:
    """Jumps lead to later chains only."""
    rule = [Expression() for _ in range(pick.randint(0, 4))]
    draw = pick.random()
    if chain + 1 < count and draw < 0.3:
        rule.append(Expression(pick.choice((JUMP, GOTO)), pick.randint(chain + 1, count - 1)))
    elif draw < 0.7:
        rule.append(Expression(pick.choice(list(endings.values()))))
    return rule
