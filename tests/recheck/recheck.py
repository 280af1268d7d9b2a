#!/usr/bin/env python3
"""A second machine for attach plans: runs nft_do_chain in unicorn, on rulesets of its own, with hostile
leftovers in registers and on the stack, and looks at what the plan's probes would report.

It shares no code with the resolver. A read that fails is tried in both meanings: it makes a condition
false (as in the client), and it is 0 (as in bpftrace and tracefs). A plan is right only in both.

Only called expressions are used, not those that the kernel has inlined (cmp, bitwise, payload).

Exit code: 0 all plans are right, 1 some are wrong, 2 some could not be run, 3 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from function import EVAL, Function, load
from machine import MODES, CannotRun, Machine, Ran
from memory import Image, Layout, layouts, lay_out
from rulesets import ACCEPT, DROP, End, Ruleset, generate, reference, verdict

# EPERM << 16 | NF_STOLEN: dropped and freed (NF_DROP_REASON).
DROPPED_WITH_REASON = 0x10002
# A ruleset runs in all states of the static keys, each time with so many kinds of leftovers.
MODES_AT_A_TIME = 2
MAX_KEYS = 4


@dataclass
class Outcome:
    """Of one plan."""

    name: str
    result: str
    detail: str
    counts: Counter


def evals(function: Function) -> list[int]:
    """Functions that expressions may name: those the code knows, and one that it does not."""
    known = [at for name, at in function.symbols.items() if name.startswith("nft_") and name.endswith("_eval")]
    return [*known, function.symbols[EVAL]]


def disagreement(ran: Ran, end: End) -> str | None:
    """How a run ended otherwise than the reference says."""
    if ran.evaluated != end.evaluated:
        return f"{ran.evaluated} expressions evaluated, expected {end.evaluated}"
    drops = end.event != "other"
    fine = (ran.returned, ran.freed) == (end.code, 0)
    fine |= drops and (ran.returned, ran.freed) == (DROPPED_WITH_REASON, 1)
    return None if fine else f"returned {ran.returned:#x} after {ran.freed} calls that free, expected {end.code:#x}"


def fault(ran: Ran, end: End, image: Image) -> str | None:
    """What the probes saw and should not have, or the other way round."""
    for hits, meaning in zip(ran.hits, ("false", "0")):
        unread = f" (where an unreadable value is {meaning})"
        for event, name in (("rule", "rule_drop"), ("policy", "policy_drop")):
            here = [hit for hit in hits if hit.event == name]
            expected = int(end.event == event)
            if len(here) != expected:
                sites = ", ".join(f"+{hit.offset:#x}" for hit in here) or "none"
                return f"{name} probes reported {len(here)} times ({sites}), expected {expected}{unread}"
            for hit in here:
                wanted = {"pkt": image.pkt, "base_chain": image.chains[0]}
                if event == "rule":
                    wanted["rule"] = image.rules[end.rule]
                for what, value in wanted.items():
                    found = getattr(hit, what)
                    if found != value:
                        text = "unreadable" if found is None else f"{found:#x}"
                        return f"{name} at +{hit.offset:#x}: {what} is {text}, expected {value:#x}{unread}"
                if hit.freed:
                    return f"{name} at +{hit.offset:#x} reports after the packet may have been freed"
    return None


def find_layout(function: Function, machine: Machine) -> Layout:
    """The layout with which the function does what the source says."""
    first = "none fits"
    for layout in layouts(function.fields):
        try:
            for number, code in enumerate((ACCEPT, DROP, DROP | 113 << 16)):
                ruleset = Ruleset("", [[[], verdict(code)]], False)
                image = lay_out(ruleset, layout, evals(function)[-1:], number)
                ran = machine.run(image, "junk", number)
                if why := disagreement(ran, reference(ruleset)):
                    raise CannotRun(why)
            return layout
        except CannotRun as error:
            first = str(error)
    raise CannotRun(f"no layout makes it do what the source says: {first}")


def check(extract: Path, record: dict) -> Outcome:
    """Runs the function on all rulesets until something is wrong."""
    counts: Counter = Counter()
    function = load(extract)
    name = function.name.removesuffix(".extract")
    try:
        probes = record["plan"]["probes"]
        keys = min(len(function.keys), MAX_KEYS)
        machines = [Machine(function, state, probes) for state in range(1 << keys)]
        layout = find_layout(function, machines[0])
        for number, ruleset in enumerate(generate(1, layout.has_stolen)):
            end = reference(ruleset)
            image = lay_out(ruleset, layout, evals(function), number)
            for state, machine in enumerate(machines):
                for turn in range(MODES_AT_A_TIME):
                    mode = MODES[(number + state + turn * 3) % len(MODES)]
                    ran = machine.run(image, mode, number << 8 | state << 4 | turn)
                    counts["runs"] += 1
                    counts[end.event] += 1
                    if why := disagreement(ran, end):
                        return Outcome(name, "cannot run", f"{ruleset.name}, keys {state:#b}: {why}", counts)
                    if why := fault(ran, end, image):
                        keyed = f"keys {state:#b}" if keys else "no keys"
                        where = f"ruleset \"{ruleset.name}\", {keyed}, leftovers {mode}"
                        return Outcome(name, "wrong", f"{where}: {why}", counts)
    except CannotRun as error:
        return Outcome(name, "cannot run", str(error), counts)
    return Outcome(name, "right", "", counts)


def work(pair: tuple[Path, Path]) -> Outcome:
    """One plan, in a process of its own."""
    extract, path = pair
    record = json.loads(path.read_text())
    if not record.get("plan"):
        return Outcome(extract.stem, "no plan", record.get("reason") or "", Counter())
    return check(extract, record)


def main() -> int:
    """Prints a line a plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="EXTRACT RECORD, and so on in pairs")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes")
    arguments = parser.parse_args()
    if len(arguments.files) % 2:
        parser.exit(3, "extracts and records come in pairs\n")
    pairs = list(zip(arguments.files[::2], arguments.files[1::2]))
    results: Counter = Counter()
    with multiprocessing.Pool(arguments.jobs) as pool:
        for outcome in pool.imap(work, pairs):
            counts = outcome.counts
            figures = f"{counts['runs']} runs, {counts['rule']} rule drops, {counts['policy']} policy drops"
            detail = f": {outcome.detail}" if outcome.detail else ""
            print(f"{outcome.result:10} {outcome.name}: {figures}{detail}", flush=True)
            results[outcome.result] += 1
    print(", ".join(f"{count} {result}" for result, count in sorted(results.items())))
    return 1 if results["wrong"] else 2 if results["cannot run"] else 0


if __name__ == "__main__":
    sys.exit(main())
