"""Running a plan, and what is made of its records."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from examples.benchmark import jobs, pairing
from examples.benchmark.arithmetic import update_operations
from examples.benchmark.plan import Options, Part

Start = Callable[[jobs.Job], jobs.Turns]
Record = dict[str, Any]
BESIDES = ("inertia", "error", "loss", "dead_gradients", "grew_mb", "r10")
"""What else of a variant's result is shown."""


def measure(
    part: Part, rounds: int, start: Start, facts: dict[str, Any], together: bool = True
) -> dict[str, Any]:
    """Do a part's jobs.

    facts: of earlier parts, by job; not done twice. together: variants take turns, a sample each, every other
    round backwards, so that a drift of the machine cancels; else one variant has all its rounds before the
    next begins.
    Returns: {"facts", "records", "not_measured", "together"}.
    """
    found: dict[str, Any] = {"facts": {}, "records": [], "not_measured": {}, "together": together}
    for name, job in part.facts.items():
        key = repr(job) if job.worker == "parity" else f"{part.name} {name}"
        if key not in facts:
            tell(f"{part.name}: {name}")
            with contextlib.closing(start(job)) as once:
                facts[key] = once.take()
        found["facts"][name] = facts[key]
    variants = list(part.variants.items())
    for group in [variants] if together else [[each] for each in variants]:
        with contextlib.ExitStack() as stack:
            order = [(name, stack.enter_context(contextlib.closing(start(job)))) for name, job in group]
            for number in range(min(rounds, part.rounds or rounds)):
                for variant, turns in order if number % 2 == 0 else reversed(order):
                    take(part, variant, turns, number, found)
    return found


def take(part: Part, variant: str, turns: jobs.Turns, number: int, found: dict[str, Any]) -> None:
    """A variant's turn in the round of this number; none once it could not be measured."""
    if variant in found["not_measured"]:
        return
    sample = turns.take()
    if "not_measured" in sample:
        found["not_measured"][variant] = sample
        return
    found["records"].append({"variant": variant, "round": number, **sample})
    tell(f"{part.name}: round {number + 1}, {variant}: {sample['seconds']:.3g} s")


def tell(text: str) -> None:
    """Say how far it has come."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def digest(part: Part, found: dict[str, Any]) -> dict[str, Any]:
    """Medians of a part's variants and ratios."""
    records: Sequence[Record] = found["records"]
    variants: dict[str, Any] = {}
    for variant in part.variants:
        middle = pairing.summary(records, variant)
        if middle is not None:
            first = next(record for record in records if record["variant"] == variant)
            middle["rate"] = first[part.amount] / middle["seconds"]
            middle |= {name: first[name] for name in BESIDES if name in first}
            variants[variant] = middle
    pairs = {name: pairing.pairs(records, *sides) for name, sides in part.ratios.items()}
    ratios = {name: pairing.speedup(each) for name, each in pairs.items()}
    memory = {
        name: variants[ours]["peak_mb"] / variants[peer]["peak_mb"]
        for name, (peer, ours) in part.ratios.items()
        if peer in variants and ours in variants
    }
    return {
        "title": part.title,
        "unit": part.unit,
        "variants": variants,
        "speedup": {name: each for name, each in ratios.items() if each is not None},
        "ratios": part.ratios,
        "memory": memory,
        "pairs": pairs,
        **found,
    }


def limit(options: Options, part: dict[str, Any]) -> dict[str, Any]:
    """What the machine's matrix products leave possible: the arithmetic of an update over their peak.

    Returns: {"operations", "gemm", "seconds" of an update at the peak, "speedup" over the peer that it would
    be, "share" of the peak that each variant reaches}.
    """
    from examples.benchmark.batches import batch
    from examples.benchmark.sides import model_config

    sizes = options.sizes
    clips, seconds = sizes.batch if options.device == "cpu" else sizes.gpu_batch
    mask = batch((clips, seconds), sizes, 1)["net_input"]["mask"]
    samples = round(seconds * 16_000)
    operations = update_operations(model_config(sizes), sizes.classes, clips, samples, int(mask.sum()))
    gemm = part["facts"]["gemm"]
    if "not_measured" in gemm:
        return {"operations": operations}
    least = {precision: operations / peak for precision, peak in gemm.items()}
    peer = part["variants"].get("peer fp32")
    return {
        "operations": operations,
        "gemm": gemm,
        "seconds": least,
        "speedup": {name: peer["seconds"] / least[name] for name in least} if peer else {},
        "share": {
            name: least["bf16" if "bf16" in name else "fp32"] / each["seconds"]
            for name, each in part["variants"].items()
        },
    }
