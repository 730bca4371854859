"""What is measured, part by part: the variants, the pairs of them that make a speed-up, and all sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.benchmark.start_up import STAGES

SAME_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
"""With these settings glibc keeps large blocks, which makes fairseq's side a tenth to a fifth faster."""


@dataclass(frozen=True)
class Size:
    """One of SIZES.

    isolated: whether every measurement has its own process; otherwise the figures mean nothing.
    model, joint: settings that differ from the paper's MT4SSL and from the paper's joint model.
    classes: of the labels, with the four special symbols. batch, gpu_batch: (clips, seconds) of an update on
    a CPU and on a GPU. parity_batch: of the comparison of losses.
    warm_up: updates of a process before the first that is timed. variant_gb: memory of a variant on a CPU;
    where there is less than all variants of a part need, they do not take turns.
    dump_s: length of each utterance whose features are dumped. dump_layer: the layer, from 1.
    kmeans_mfcc, kmeans_layer: (frames, dimensions, clusters). mfcc_s: audio of the MFCC measurement.
    abx: (speakers, phones, tokens of each). retrieval: (captions, images, dimensions).
    start_up: rows of the manifest and of the pair manifest. gemm: side of the matrices on a CPU and on a GPU.
    """

    isolated: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    joint: dict[str, Any] = field(default_factory=dict)
    classes: int = 504
    batch: tuple[int, float] = (3, 10.0)
    gpu_batch: tuple[int, float] = (12, 20.0)
    parity_batch: tuple[int, float] = (2, 2.0)
    warm_up: int = 3
    variant_gb: float = 5.5
    dump_s: tuple[float, ...] = (3.5, 12.0, 6.2, 2.4, 9.3)
    dump_layer: int = 9
    kmeans_mfcc: tuple[int, int, int] = (200_000, 39, 100)
    kmeans_layer: tuple[int, int, int] = (40_000, 768, 50)
    mfcc_s: float = 300.0
    joint_batch: tuple[int, float] = (3, 8.0)
    abx: tuple[int, int, int] = (12, 30, 5)
    retrieval: tuple[int, int, int] = (25_000, 5_000, 768)
    start_up: tuple[int, int] = (280_000, 567_000)
    gemm: tuple[int, int] = (2048, 8192)


_TINY_ENCODER: dict[str, Any] = {
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 3,
    "encoder_layers": 3,
    "conv_pos": 15,
    "conv_pos_groups": 3,
}
_TINY_JOINT: dict[str, Any] = {
    **_TINY_ENCODER,
    "shared_layers": 2,
    "speech_in_channels": 8,
    "speech_channels": [8, 24],
    "speech_strides": [2, 2],
    "image_layers": 1,
    "image_feature_dim": 16,
    "final_dim": 8,
    "latent_vars": 8,
    "num_negatives": 5,
}
SIZES: dict[str, Size] = {
    "base": Size(),
    "tiny": Size(
        isolated=False,
        model={**_TINY_ENCODER, "pos_conv_depth": 3, "average_top_k_layers": 2},
        joint=_TINY_JOINT,
        classes=14,
        batch=(2, 1.0),
        gpu_batch=(2, 1.0),
        parity_batch=(2, 1.0),
        warm_up=1,
        variant_gb=0.5,
        dump_s=(0.7, 1.0),
        dump_layer=2,
        kmeans_mfcc=(600, 39, 8),
        kmeans_layer=(400, 12, 8),
        mfcc_s=2.0,
        joint_batch=(2, 1.0),
        abx=(3, 4, 3),
        retrieval=(60, 20, 8),
        start_up=(300, 50),
        gemm=(64, 64),
    ),
}


@dataclass(frozen=True)
class Options:
    """What the command line chose.

    size: of SIZES. precisions: of our side. device: `cpu` or `cuda`. folder: for weights and made-up corpora.
    peer_bf16: whether fairseq's modules are measured in bf16 too. compiled: whether ours are measured with
    torch.compile too. workers: processes that read batches from files; 0 keeps batches in memory.
    """

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

    def model(self) -> dict[str, Any]:
        """Arguments of the workers that build a side; both begin with the weights in the same file."""
        return {"size": self.size, "device": self.device, "weights": str(self.folder / "weights.pt")}


@dataclass(frozen=True)
class Job:
    """One call of a worker.

    worker: `module:function` of this folder. The function takes arguments that JSON can hold; it returns a
    result, or yields a sample at a time without end. environment: set for its process.
    """

    worker: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A section of the report.

    variants: name -> job, one sample in each round. ratios: name of a speed-up -> (slower side, faster side).
    facts: name -> job that is run once, before the rounds. amount: the entry of a sample that is divided by
    its time, in `unit`. rounds: the largest number.
    """

    name: str
    title: str
    variants: dict[str, Job] = field(default_factory=dict)
    ratios: dict[str, tuple[str, str]] = field(default_factory=dict)
    facts: dict[str, Job] = field(default_factory=dict)
    amount: str = "audio_s"
    unit: str = "audio s / s"
    rounds: int | None = None


def parts(options: Options, only: tuple[str, ...]) -> list[Part]:
    """The chosen parts, in the order of NAMES."""
    return [part for name in NAMES if name in only for part in MAKERS[name](options)]


def training(options: Options) -> list[Part]:
    """MT4SSL on both sides, and on a CPU once more with the same allocator settings."""

    def update(side: str, precision: str, environment: Mapping[str, str], compiled: bool = False) -> Job:
        arguments = {"side": side, "precision": precision, "compiled": compiled, "workers": options.workers}
        return Job("updates:measure", {**options.model(), **arguments}, environment)

    def both(peers: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, Job]:
        sides = {"peer": peers, "ours": options.precisions}
        return {f"{side} {each}": update(side, each, environment) for side in sides for each in sides[side]}

    on_cpu = options.device == "cpu"
    variants = both(("fp32", "bf16") if options.peer_bf16 else ("fp32",), {})
    ratios = {f"mt4ssl_{each}": ("peer fp32", f"ours {each}") for each in options.precisions}
    same = {f"{name}_same_allocator": sides for name, sides in ratios.items()}
    if options.peer_bf16 and "bf16" in options.precisions:
        ratios["mt4ssl_bf16_both"] = ("peer bf16", "ours bf16")
    if options.compiled:
        precision = options.precisions[-1]
        variants[f"ours {precision} compiled"] = update("ours", precision, {}, compiled=True)
        ratios[f"mt4ssl_{precision}_compiled"] = ("peer fp32", f"ours {precision} compiled")
    gemm = {"side": options.sizes.gemm[0 if on_cpu else 1], "device": options.device}
    facts = {"parity": Job("parity:check", options.model()), "gemm": Job("machine:gemm", gemm)}
    found = [Part("mt4ssl", "Training, MT4SSL", variants, ratios, facts)]
    if on_cpu:
        title = "The same, both sides with the same allocator settings"
        variants, facts = both(("fp32",), SAME_ALLOCATOR), {"parity": facts["parity"]}
        found.append(Part("mt4ssl_same_allocator", title, variants, same, facts))
    return found


def feature_dump(options: Options) -> list[Part]:
    """Features of a layer on both sides, one utterance at a time."""
    sides = [("peer", "fp32"), *(("ours", each) for each in options.precisions)]
    variants = {
        f"{side} {each}": Job("offline:dump", {**options.model(), "side": side, "precision": each})
        for side, each in sides
    }
    ratios = {f"feature_dump_{each}": ("peer fp32", f"ours {each}") for each in options.precisions}
    facts = {"parity": Job("parity:check", options.model())}
    title = "Features of a layer, one utterance at a time"
    return [Part("feature_dump", title, variants, ratios, facts)]


def kmeans(options: Options) -> list[Part]:
    """Ours against HuBERT's settings, on MFCCs and on rows like the features of a layer."""
    found = []
    for kind, name, rounds in (("mfcc", "kmeans", None), ("layer", "kmeans_layer", 1)):
        frames, dim, clusters = getattr(options.sizes, f"kmeans_{kind}")
        rows = {"size": options.size, "kind": kind, "path": str(options.folder / f"{kind}.npy")}
        part = Part(
            name,
            f"k-means, {frames} × {dim}, {clusters} clusters; fairseq's: HuBERT's settings",
            {side: Job("offline:kmeans", {**rows, "side": side}) for side in ("peer", "ours")},
            {name: ("peer", "ours")},
            {"rows": Job("offline:write_rows", rows)},
            amount="frames",
            unit="frames / s",
            rounds=rounds,  # HuBERT's settings take minutes for rows of a layer
        )
        found.append(part)
    return found


def mfcc(options: Options) -> list[Part]:
    """Ours against torchaudio's."""
    variants = {side: Job("offline:mfcc", {"size": options.size, "side": side}) for side in ("peer", "ours")}
    facts = {"parity": Job("offline:mfcc_parity")}
    return [Part("mfcc", "MFCCs; fairseq's: torchaudio's", variants, {"mfcc": ("peer", "ours")}, facts)]


def abx(options: Options) -> list[Part]:
    """Cells across speakers."""
    job = Job("scores:abx", {"size": options.size, "device": options.device})
    title = "ABX, cells across speakers"
    return [Part("abx", title, {"ours": job}, amount="cells", unit="cells / s", rounds=1)]


def retrieval(options: Options) -> list[Part]:
    """Both directions, with as many captions and images as in the paper."""
    captions, images, _ = options.sizes.retrieval
    title = f"Retrieval, {captions} captions and {images} images"
    job = Job("scores:retrieval", {"size": options.size})
    return [Part("retrieval", title, {"ours": job}, amount="captions", unit="captions / s", rounds=1)]


def joint(options: Options) -> list[Part]:
    """VGS alone in the joint model, and in a model that was built without SSL layers."""
    shared = {"size": options.size, "device": options.device}
    variants = {name: Job("joint:measure", {**shared, "model": name}) for name in ("vgs", "joint")}
    title = "Joint model, an update of VGS alone, beside the model built without SSL layers"
    return [Part("joint", title, variants, {"joint_dead_branch": ("vgs", "joint")})]


def start_up(options: Options) -> list[Part]:
    """Start-up with a large corpus: stages that follow one another in a folder."""
    shared = {"size": options.size, "folder": str(options.folder / "start_up")}
    facts = {name: Job("start_up:stage", {**shared, "name": name}) for name in STAGES}
    utterances, pairs = options.sizes.start_up
    return [Part("start_up", f"Start-up, {utterances} utterances, {pairs} pairs", facts=facts)]


MAKERS: dict[str, Callable[[Options], list[Part]]] = {
    "mt4ssl": training,
    "feature_dump": feature_dump,
    "kmeans": kmeans,
    "mfcc": mfcc,
    "abx": abx,
    "retrieval": retrieval,
    "joint": joint,
    "start_up": start_up,
}
NAMES = tuple(MAKERS)
