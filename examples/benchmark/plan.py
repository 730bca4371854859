"""What is measured, part by part: variants side by side, and which pairs of them make a speed-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.benchmark.jobs import Job
from examples.benchmark.sizes import SIZES, Size
from examples.benchmark.start_up import STAGES

SAME_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
"""glibc then keeps big blocks; it alone makes fairseq's own path a tenth to a fifth faster."""
NAMES = ("mt4ssl", "feature_dump", "kmeans", "mfcc", "abx", "retrieval", "joint", "start_up")


@dataclass(frozen=True)
class Options:
    """size: of SIZES; device: "cpu" or "cuda"; precisions: of ours; peer_bf16: measure fairseq's modules in
    bf16, too; compiled: ours by torch.compile as well; workers: that read batches from files, 0 for none;
    folder: for weights and made-up corpora."""

    size: str
    rounds: int
    precisions: tuple[str, ...]
    device: str
    folder: Path
    peer_bf16: bool = False
    compiled: bool = False
    workers: int = 0

    @property
    def sizes(self) -> Size:
        return SIZES[self.size]

    @property
    def weights(self) -> str:
        """Where both sides find the weights they begin with."""
        return str(self.folder / "weights.pt")


@dataclass(frozen=True)
class Part:
    """variants: measured in turn, a sample a round; ratios: name of a speed-up -> (slower side, faster side);
    facts: jobs that are done once, before; unit: what `amount` of a result counts; rounds: at most."""

    name: str
    title: str
    variants: dict[str, Job] = field(default_factory=dict)
    ratios: dict[str, tuple[str, str]] = field(default_factory=dict)
    facts: dict[str, Job] = field(default_factory=dict)
    amount: str = "audio_s"
    unit: str = "audio s / s"
    rounds: int | None = None


def parts(options: Options, only: tuple[str, ...] = NAMES) -> list[Part]:
    """Those asked for, in the order of NAMES."""
    makers: dict[str, Any] = {
        "mt4ssl": training,
        "feature_dump": feature_dump,
        "kmeans": kmeans,
        "mfcc": mfcc,
        "abx": abx,
        "retrieval": retrieval,
        "joint": joint,
        "start_up": start_up,
    }
    return [part for name in NAMES if name in only for part in makers[name](options)]


def training(options: Options) -> list[Part]:
    """MT4SSL on both sides; on a CPU once more with the same allocator settings."""
    on_cpu = options.device == "cpu"
    peers = ("fp32", "bf16") if options.peer_bf16 else ("fp32",)
    variants = updates_of(options, "peer", peers) | updates_of(options, "ours", options.precisions)
    ratios = {f"mt4ssl_{each}": ("peer fp32", f"ours {each}") for each in options.precisions}
    if options.peer_bf16 and "bf16" in options.precisions:
        ratios["mt4ssl_bf16_both"] = ("peer bf16", "ours bf16")
    if options.compiled:
        precision = options.precisions[-1]
        variants[f"ours {precision} compiled"] = update(options, "ours", precision, compiled=True)
        ratios[f"mt4ssl_{precision}_compiled"] = ("peer fp32", f"ours {precision} compiled")
    side = options.sizes.gemm[0 if on_cpu else 1]
    facts = {"parity": parity(options), "gemm": Job("gemm", {"side": side, "device": options.device})}
    found = [Part("mt4ssl", "Training, MT4SSL", variants, ratios, facts)]
    if on_cpu:
        variants = updates_of(options, "peer", ("fp32",), SAME_ALLOCATOR)
        variants |= updates_of(options, "ours", options.precisions, SAME_ALLOCATOR)
        ratios = {
            f"mt4ssl_{each}_same_allocator": ("peer fp32", f"ours {each}") for each in options.precisions
        }
        title = "The same, both sides with the same allocator settings"
        facts = {"parity": parity(options)}
        found.append(Part("mt4ssl_same_allocator", title, variants, ratios, facts))
    return found


def updates_of(
    options: Options, side: str, precisions: tuple[str, ...], environment: Mapping[str, str] | None = None
) -> dict[str, Job]:
    """One job a precision."""
    return {f"{side} {each}": update(options, side, each, environment or {}) for each in precisions}


def update(
    options: Options,
    side: str,
    precision: str,
    environment: Mapping[str, str] | None = None,
    compiled: bool = False,
) -> Job:
    """Updates of one side."""
    arguments = {
        "size": options.size,
        "side": side,
        "precision": precision,
        "device": options.device,
        "weights": options.weights,
        "compiled": compiled,
        "workers": options.workers,
    }
    return Job("update", arguments, environment or {})


def parity(options: Options) -> Job:
    """Both sides compute the same; it also writes the weights."""
    arguments = {"size": options.size, "device": options.device, "weights": options.weights}
    return Job("parity", arguments)


def feature_dump(options: Options) -> list[Part]:
    """One utterance at a time, on both sides."""
    shared = {"size": options.size, "device": options.device, "weights": options.weights}
    named = {"peer fp32": ("peer", "fp32")} | {f"ours {each}": ("ours", each) for each in options.precisions}
    variants = {
        name: Job("dump", {**shared, "side": side, "precision": precision})
        for name, (side, precision) in named.items()
    }
    ratios = {f"feature_dump_{each}": ("peer fp32", f"ours {each}") for each in options.precisions}
    title = "Features of a layer, one utterance at a time"
    return [Part("feature_dump", title, variants, ratios, {"parity": parity(options)})]


def kmeans(options: Options) -> list[Part]:
    """Ours against HuBERT's settings, on MFCCs and on what is like a layer's features."""
    found = []
    for kind, name in (("mfcc", "kmeans"), ("layer", "kmeans_layer")):
        frames, dim, clusters = getattr(options.sizes, f"kmeans_{kind}")
        shared = {"size": options.size, "kind": kind}
        rows = str(options.folder / f"{kind}.npy")
        variants = {side: Job("kmeans", {**shared, "side": side, "rows": rows}) for side in ("peer", "ours")}
        part = Part(
            name,
            f"k-means, {frames} × {dim}, {clusters} clusters; fairseq's: HuBERT's settings",
            variants,
            {name: ("peer", "ours")},
            {"rows": Job("kmeans_rows", {**shared, "path": rows})},
            amount="frames",
            unit="frames / s",
            rounds=1 if kind == "layer" else None,
        )
        found.append(part)
    return found


def mfcc(options: Options) -> list[Part]:
    """Ours against torchaudio's."""
    variants = {side: Job("mfcc", {"size": options.size, "side": side}) for side in ("peer", "ours")}
    facts = {"parity": Job("mfcc_parity")}
    return [Part("mfcc", "MFCCs; fairseq's: torchaudio's", variants, {"mfcc": ("peer", "ours")}, facts)]


def abx(options: Options) -> list[Part]:
    """Cells across speakers."""
    job = Job("abx", {"size": options.size, "device": options.device})
    title = "ABX, cells across speakers"
    return [Part("abx", title, {"ours": job}, amount="cells", unit="cells / s", rounds=1)]


def retrieval(options: Options) -> list[Part]:
    """Both directions at the paper's scale."""
    captions, images, _ = options.sizes.retrieval
    title = f"Retrieval, {captions} captions and {images} images"
    job = Job("retrieval", {"size": options.size})
    return [Part("retrieval", title, {"ours": job}, amount="captions", unit="captions / s", rounds=1)]


def joint(options: Options) -> list[Part]:
    """Grounding alone in the joint model, and in one that was built without SSL layers."""
    variants = {
        name: Job("joint", {"size": options.size, "model": name, "device": options.device})
        for name in ("vgs", "joint")
    }
    title = "Joint model, an update of VGS alone, beside the model built without SSL layers"
    return [Part("joint", title, variants, {"joint_dead_branch": ("vgs", "joint")})]


def start_up(options: Options) -> list[Part]:
    """Stage after stage in one folder."""
    folder = str(options.folder / "start_up")
    facts = {name: Job("start_up", {"size": options.size, "name": name, "folder": folder}) for name in STAGES}
    utterances, pairs = options.sizes.start_up
    return [Part("start_up", f"Start-up, {utterances} utterances, {pairs} pairs", facts=facts)]
