"""Medians and speed-ups of samples, and the limit that the machine sets to the time of an update."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from examples.benchmark.machine import BUSY_CORES
from examples.benchmark.parts import Options, Part
from fairseq_mtssl.frames import conv_length, parse_conv_layers

Record = dict[str, Any]
MORE = ("inertia", "error", "loss", "dead_gradients", "grew_mb", "r10")
"""Further entries of a variant's first sample that are shown."""


def quiet(sample: Record) -> bool:
    """Whether other processes took at most BUSY_CORES, or it is unknown."""
    return sample["others"] is None or sample["others"] <= BUSY_CORES


def pairs(records: Sequence[Record], peer: str, ours: str) -> list[Record]:
    """The peer's time over ours, for each round that has both."""
    mine = {each["round"]: each for each in records if each["variant"] == ours}
    theirs = [each for each in records if each["variant"] == peer and each["round"] in mine]
    return [
        {
            "round": sample["round"],
            "peer_s": sample["seconds"],
            "ours_s": mine[sample["round"]]["seconds"],
            "ratio": sample["seconds"] / mine[sample["round"]]["seconds"],
            "peer_others": sample["others"],
            "ours_others": mine[sample["round"]]["others"],
            "quiet": quiet(sample) and quiet(mine[sample["round"]]),
        }
        for sample in theirs
    ]


def speedup(found: Sequence[Record]) -> Record | None:
    """{"median", "pairs", "quiet"}: of the quiet pairs, or of all if none is quiet. None without pairs."""
    if not found:
        return None
    ratios = [pair["ratio"] for pair in found if pair["quiet"]]
    middle = median(ratios or [pair["ratio"] for pair in found])
    return {"median": middle, "pairs": len(found), "quiet": len(ratios)}


def summary(records: Sequence[Record], variant: str) -> Record | None:
    """Median time, peak memory, median shares of the parts of an update; None if there is no sample.

    Only quiet samples count, unless there is none.
    """
    samples = [record for record in records if record["variant"] == variant]
    if not samples:
        return None
    kept = [sample for sample in samples if quiet(sample)] or samples
    found: Record = {
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


def digest(part: Part, found: dict[str, Any]) -> dict[str, Any]:
    """Medians and ratios of a part, added to what `turns.measure` found."""
    records: Sequence[Record] = found["records"]
    variants: dict[str, Any] = {}
    for variant in part.variants:
        middle = summary(records, variant)
        if middle is not None:
            first = next(record for record in records if record["variant"] == variant)
            middle["rate"] = first[part.amount] / middle["seconds"]
            variants[variant] = middle | {name: first[name] for name in MORE if name in first}
    by_ratio = {name: pairs(records, *sides) for name, sides in part.ratios.items()}
    speedups = {name: speedup(each) for name, each in by_ratio.items()}
    return {
        "title": part.title,
        "unit": part.unit,
        "variants": variants,
        "speedup": {name: each for name, each in speedups.items() if each is not None},
        "ratios": part.ratios,
        "memory": {
            name: variants[ours]["peak_mb"] / variants[peer]["peak_mb"]
            for name, (peer, ours) in part.ratios.items()
            if peer in variants and ours in variants
        },
        "pairs": by_ratio,
        **found,
    }


def limit(options: Options, part: dict[str, Any]) -> dict[str, Any]:
    """How fast an update could be if it ran at the peak of this machine's matrix products.

    Returns: {"operations" of an update, "gemm": the peaks, "seconds" of an update at the peak, its "speedup"
    over the peer, "share" of the peak that each variant reaches}.
    """
    from examples.benchmark.inputs import batch
    from examples.benchmark.sides import model_config

    sizes = options.sizes
    clips, seconds = sizes.batch if options.device == "cpu" else sizes.gpu_batch
    masked = int(batch((clips, seconds), sizes, 1)["net_input"]["mask"].sum())
    operations = update_operations(model_config(sizes), sizes.classes, clips, round(seconds * 16_000), masked)
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


def update_operations(cfg: Any, classes: int, clips: int, samples: int, masked: int) -> float:
    """Floating-point operations of the matrix products and convolutions in an update of MT4SSL.

    They are those of the student's forward and backward pass and of the teacher's forward pass. A product of
    (m, k) and (k, n) counts 2 · m · k · n, and twice that in the backward pass, except for the first
    convolution, whose input needs no gradient.

    cfg: our Mt4sslConfig. samples: of each clip. masked: the number of masked frames in the batch.
    """
    frames, below, convs = samples, 1, []
    for channels, kernel, stride in parse_conv_layers(cfg.conv_feature_layers):
        frames = conv_length(frames, [(channels, kernel, stride)])
        convs.append(2.0 * clips * frames * kernel * below * channels)
        below = channels
    dim = cfg.encoder_embed_dim
    projection = 2.0 * clips * frames * below * dim if below != dim else 0.0
    kernel = max(3, cfg.conv_pos // cfg.pos_conv_depth) if cfg.pos_conv_depth > 1 else cfg.conv_pos
    positions = 2.0 * clips * frames * kernel * dim * dim / cfg.conv_pos_groups * cfg.pos_conv_depth
    # of a layer: four projections, two products of attention, two of the feed-forward network
    layer = 2.0 * clips * frames * dim * (4 * dim + 2 * frames + 2 * cfg.encoder_ffn_embed_dim)
    encoder = cfg.encoder_layers * layer
    heads = 2.0 * masked * dim * (dim + classes)
    student = 2 * convs[0] + 3 * (sum(convs[1:]) + projection + positions + encoder + heads)
    return student + positions + encoder
