"""The report in Markdown, with a section for each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from examples.benchmark.machine import BUSY_CORES
from examples.benchmark.stopwatch import PARTS

LABELS = {"peer": "fairseq's", "vgs": "without SSL layers", "joint": "joint model"}
MORE = {"inertia": "inertia {:.5g}", "dead_gradients": "SSL-only parameters with a gradient: {}"}
MORE |= {"grew_mb": "grew by {:.0f} MB", "error": "error {:.2f} %", "r10": "R@10 {:.1f} %"}


def markdown(found: dict[str, Any]) -> str:
    """The report. found: the content of the JSON."""
    machine = found["machine"]
    flags = ", ".join(machine["flags"]) or "none of those looked for"
    lines = [
        f"# Benchmark, size {found['size']}, {found['rounds']} rounds",
        "",
        f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores ({flags}), "
        f"torch {machine['versions']['torch']}, {machine['threads']['torch']} threads, {found['time']}",
    ]
    if not found["isolated"]:
        lines += ["", "All in one process, at a size for tests: these figures mean nothing."]
    for name, part in found["parts"].items():
        lines += ["", f"## {part['title']}", "", *section(name, part)]
        lines += shares(part)
        if name == "mt4ssl":
            lines += limits(found.get("limit", {}))
    lines += ["", *noise(found)]
    for name, why in found["not_measured"].items():
        lines.append(f"- not measured: {name}: {why}")
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns are aligned to the right, except for the first."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def section(name: str, part: dict[str, Any]) -> list[str]:
    """The table of a part, further numbers, and parity."""
    if name == "start_up":
        return facts(part["facts"])
    columns = ["", "time", part["unit"], "peak memory", "times faster", "memory", "quiet samples"]
    rows = [row(part, variant, middle) for variant, middle in part["variants"].items()]
    lines = table(columns, rows)
    for variant, middle in part["variants"].items():
        notes = [text.format(middle[key]) for key, text in MORE.items() if middle.get(key) is not None]
        if notes:
            lines += ["", f"{label(variant)}: {', '.join(notes)}"]
    return lines + parity(part["facts"].get("parity", {}), "feature" if name == "feature_dump" else "")


def row(part: dict[str, Any], variant: str, middle: dict[str, Any]) -> list[str]:
    """The row of a variant, with its ratios to the side that it is compared with."""
    ratio = next((name for name, sides in part["ratios"].items() if sides[1] == variant), None)
    speed = part["speedup"].get(ratio)
    memory = part["memory"].get(ratio)
    alone = "1" if any(sides[0] == variant for sides in part["ratios"].values()) else ""
    return [
        label(variant),
        f"{middle['seconds']:.3g} s",
        f"{middle['rate']:.4g}",
        f"{middle['peak_mb'] / 1000:.2f} GB",
        f"**{speed['median']:.2f}**" if speed else alone,
        f"{memory:.2f}" if memory else alone,
        f"{middle['quiet']} of {middle['samples']}",
    ]


def label(variant: str) -> str:
    """The name of a variant in the report."""
    first, _, rest = variant.partition(" ")
    return f"{LABELS.get(first, first)} {rest}".strip()


def parity(found: dict[str, Any], kind: str) -> list[str]:
    """Whether both sides compute the same. kind: the differences whose names begin with it are shown."""
    if "differences" in found:
        apart = ", ".join(
            f"{name.replace('_', ' ')} {value:.1e}"
            for name, value in found["differences"].items()
            if name.startswith(kind)
        )
        both = " / ".join(f"{loss:.6f}" for loss in (found["losses"]["ours"][0], found["losses"]["peer"][0]))
        verdict = "the same mathematics" if found["same"] else "NOT THE SAME MATHEMATICS"
        return ["", f"At the same weights and masks: {verdict}; loss {both}; relative differences: {apart}."]
    return ["", f"Largest relative difference: {found['mfcc']:.1e}"] if "mfcc" in found else []


def shares(part: dict[str, Any]) -> list[str]:
    """The time of each part of an update, in percent."""
    rows = [
        [label(name), *(f"{100 * middle['parts'][each]:.1f}" for each in PARTS)]
        for name, middle in part["variants"].items()
        if middle.get("parts")
    ]
    waits = [
        f"{label(name)}: {100 * middle['data_wait']:.1f} % of an update waiting for data"
        for name, middle in part["variants"].items()
        if "data_wait" in middle
    ]
    lines = ["", *table(["% of an update", *PARTS], rows)] if rows else []
    return lines + (["", "; ".join(waits)] if waits else [])


def limits(found: dict[str, Any]) -> list[str]:
    """The limit that the machine sets."""
    if "seconds" not in found:
        return []
    peaks = ", ".join(
        f"{name} {found['gemm'][name] / 1e9:.0f} GFLOP/s: {found['seconds'][name]:.3g} s"
        + (f", {found['speedup'][name]:.2f} times fairseq's fp32" if found["speedup"] else "")
        for name in found["seconds"]
    )
    reached = ", ".join(f"{label(name)} {100 * share:.0f} %" for name, share in found["share"].items())
    return [
        "",
        f"Limit: an update takes {found['operations'] / 1e12:.3g} TFLOP; at the peak of this machine's "
        f"matrix products that is, {peaks}. Share of that peak: {reached}.",
    ]


def facts(found: dict[str, Any]) -> list[str]:
    """A row for each stage with its numbers."""
    rows = [
        [name, ", ".join(f"{key} {value:.4g}" for key, value in stage.items() if key != "not_measured")]
        for name, stage in found.items()
    ]
    return table(["stage", "found"], rows)


def noise(found: dict[str, Any]) -> list[str]:
    """Which samples count, and where that leaves none."""
    lines = [
        f"Samples in which other processes took more than {BUSY_CORES} of a core are left out of the "
        "medians, unless none remains. Where it is not known, they count."
    ]
    if not all(part["together"] for part in found["parts"].values()):
        lines.append("- variants had all their rounds one after the other, not in turns.")
    for part in found["parts"].values():
        for name, speed in part["speedup"].items():
            if not speed["quiet"]:
                lines.append(f"- {name}: no pair was quiet; all {speed['pairs']} are in its median.")
    return lines
