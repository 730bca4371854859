"""How large everything is that the benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Size:
    """One of SIZES.

    isolated: every measurement in a process of its own; without, the figures mean nothing.
    model: what differs from the paper's MT4SSL, by the names of our configuration; joint: from the paper's
    joint model. classes: of the labels, four special symbols included. batch, gpu_batch: (clips, seconds)
    of an update on a CPU and on a GPU; parity_batch: of the comparison of losses.
    warm_up: updates of a process that are not timed. variant_gb: that variants hold on a CPU, on average;
    where there is less for all of a part, they do not take turns.
    dump_s: length of each utterance whose features are dumped; dump_layer: counted from 1.
    kmeans_mfcc, kmeans_layer: (frames, dimensions, clusters); the second has one round, since HuBERT's
    settings take minutes there. mfcc_s: audio of the MFCC dump, of utterances of 12 s.
    abx: (speakers, phones, tokens of each); retrieval: (captions, images, dimensions).
    start_up: rows of the manifest and of the pair manifest. gemm: side of the matrices, CPU and GPU.
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

SIZES: dict[str, Size] = {
    "base": Size(),
    "tiny": Size(
        isolated=False,
        model={**_TINY_ENCODER, "pos_conv_depth": 3, "average_top_k_layers": 2},
        joint={
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
        },
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
