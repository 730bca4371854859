"""Measures ours against fairseq's own modules on this machine: training, targets, evaluation, start-up.

    make bench                 or      python examples/benchmark/run.py

Every variant has a process of its own. They take turns, one sample each, and a speed-up is the median of the
ratios of paired samples. Writes runs/bench/<time>.json and a report beside it as .md.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmark import figures, parts, turns
from examples.benchmark.report import markdown

PRECISIONS = ("fp32", "bf16")


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report. Returns: 1 if a process failed or the two sides do not compute the same, else 0."""
    args = parse(words)
    if args.work:
        turns.serve(args.work)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = benchmark(args, Path(folder))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{found['time'].replace(':', '')}.json"
    text = markdown(found)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    print(path)
    return int(found["failed"])


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--size", choices=list(parts.SIZES), default="base", help="base, or tiny for tests (base)"
    )
    parser.add_argument("--rounds", type=int, default=6, help="samples of each variant (6)")
    names = parts.NAMES
    parser.add_argument("--only", type=names_in(names), default=names, help=",".join(names))
    parser.add_argument("--precision", type=names_in(PRECISIONS), default=PRECISIONS, help="ours (fp32,bf16)")
    parser.add_argument(
        "--peer-bf16", action="store_true", help="fairseq's modules in bf16, too (always on a GPU)"
    )
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile, too (always on a GPU)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(auto)")
    parser.add_argument(
        "--workers", type=int, help="processes that read the batches from files; 0: none (CPU 0, GPU 4)"
    )
    parser.add_argument("--out", default="runs/bench", help="folder of the results (runs/bench)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: wanted 1 or more")
    return args


def names_in(known: tuple[str, ...]) -> Any:
    """A reader of some of the known names, with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise argparse.ArgumentTypeError(f"got {', '.join(unknown) or 'none'}, wanted some of {known}")
        return tuple(name for name in known if name in given)

    return read


def options_of(args: argparse.Namespace, folder: Path) -> parts.Options:
    """The options; those that were not given depend on the device."""
    import torch

    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = device == "cuda"
    return parts.Options(
        size=args.size,
        rounds=args.rounds,
        precisions=args.precision,
        device=device,
        folder=folder,
        peer_bf16=args.peer_bf16 or gpu,
        compiled=args.compile or gpu,
        workers=(4 if gpu else 0) if args.workers is None else args.workers,
    )


def all_fit(options: parts.Options, part: parts.Part) -> bool:
    """Whether the variants of a part can take turns, because memory holds all of them.

    On a GPU they do not: they would share its memory, and its times hardly drift.
    """
    from examples.benchmark.machine import available_bytes

    needed = options.sizes.variant_gb * len(part.variants) * 1e9
    return options.device == "cpu" and available_bytes() >= needed


def benchmark(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure part after part. Returns: the content of the JSON."""
    from examples.benchmark.machine import describe

    options = options_of(args, folder)
    isolated = options.sizes.isolated
    found: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "size": options.size,
        "rounds": options.rounds,
        "isolated": isolated,
        "machine": describe(options.device),
        "speedup": {},
        "other_ratios": {},
        "memory": {},
        "parts": {},
        "not_measured": {},
        "failed": False,
    }
    facts: dict[str, Any] = {}
    start = functools.partial(turns.Turns, isolated=isolated)
    for part in parts.parts(options, args.only):
        raw = turns.measure(part, options.rounds, start, facts, together=all_fit(options, part))
        digest = figures.digest(part, raw)
        found["parts"][part.name] = digest
        for name, each in digest["speedup"].items():
            against_fairseq = part.ratios[name][0].startswith("peer")
            found["speedup" if against_fairseq else "other_ratios"][name] = each["median"]
        found["memory"] |= digest["memory"]
        for name, result in {**raw["not_measured"], **raw["facts"]}.items():
            if "not_measured" in result:
                found["not_measured"][f"{part.name}, {name}"] = result["not_measured"]
            found["failed"] |= bool(result.get("failed")) or result.get("same") is False
    if "mt4ssl" in found["parts"]:
        found["limit"] = figures.limit(options, found["parts"]["mt4ssl"])
    return found


if __name__ == "__main__":
    sys.exit(main())
