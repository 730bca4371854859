"""From samples to ratios: medians of pairs of one round, without those that other processes disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from examples.benchmark.load import BUSY_CORES


def quiet(sample: dict[str, Any]) -> bool:
    """Whether other processes took little enough; yes where it is not known."""
    return sample["others"] is None or sample["others"] <= BUSY_CORES


def chosen(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The quiet ones; all of them where none is."""
    return [sample for sample in samples if quiet(sample)] or list(samples)


def samples_of(records: Sequence[dict[str, Any]], variant: str) -> list[dict[str, Any]]:
    """Of a variant, round after round."""
    return [record for record in records if record["variant"] == variant]


def pairs(records: Sequence[dict[str, Any]], peer: str, ours: str) -> list[dict[str, Any]]:
    """Peer's time over ours of the same round."""
    mine = {each["round"]: each for each in samples_of(records, ours)}
    found = []
    for theirs in samples_of(records, peer):
        other = mine.get(theirs["round"])
        if other is not None:
            found.append(
                {
                    "round": theirs["round"],
                    "peer_s": theirs["seconds"],
                    "ours_s": other["seconds"],
                    "ratio": theirs["seconds"] / other["seconds"],
                    "peer_others": theirs["others"],
                    "ours_others": other["others"],
                    "quiet": quiet(theirs) and quiet(other),
                }
            )
    return found


def speedup(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """{"median", "pairs", "quiet"}: of the quiet pairs, or of all where none is; None without pairs."""
    if not found:
        return None
    clean = [pair for pair in found if pair["quiet"]]
    return {
        "median": median(pair["ratio"] for pair in clean or found),
        "pairs": len(found),
        "quiet": len(clean),
    }


def summary(records: Sequence[dict[str, Any]], variant: str) -> dict[str, Any] | None:
    """Median time, peak memory and median seconds by part of a variant; None if it was not run."""
    samples = samples_of(records, variant)
    if not samples:
        return None
    kept = chosen(samples)
    found: dict[str, Any] = {
        "seconds": median(sample["seconds"] for sample in kept),
        "samples": len(samples),
        "quiet": sum(map(quiet, samples)),
        "peak_mb": max(sample["peak_mb"] for sample in samples),
    }
    parts = [sample["parts"] for sample in kept if sample.get("parts")]
    if parts:
        middle = {name: median(each[name] for each in parts) for name in parts[0]}
        found["parts"] = {name: seconds / sum(middle.values()) for name, seconds in middle.items()}
    waits = [sample["wait_s"] / sample["seconds"] for sample in kept if "wait_s" in sample]
    if waits:
        found["data_wait"] = median(waits)
    return found
