"""Features of a layer of utterances one by one: ours, and fairseq's modules as HuBERT's script uses them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmark.load import Timing, peak_mb
from examples.benchmark.precision import PRECISIONS, computing_in
from examples.benchmark.sides import build
from examples.benchmark.sizes import SIZES, Size
from examples.benchmark.speech import utterances
from fairseq_mtssl.data.audio import normalise
from fairseq_mtssl.features.layers import ModelLayers

Dump = Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]]


def measure(size: str, side: str, precision: str, device: str, weights: str) -> Generator[dict[str, Any]]:
    """Time the features of all utterances. A sample is one pass over them."""
    sizes, where = SIZES[size], torch.device(device)
    dump = {"peer": dump_peer, "ours": dump_ours}[side](sizes, where, Path(weights), precision)
    wavs = utterances(sizes.dump_s)
    for _ in dump(wavs[:1]):
        pass
    while True:
        with Timing(where) as timing:
            frames = sum(len(each) for each in dump(wavs))
        yield timing.sample(audio_s=sum(sizes.dump_s), frames=frames, **peak_mb(where))


def dump_ours(size: Size, device: torch.device, weights: Path, precision: str) -> Dump:
    """What `mtssl dump-features` runs, without its files."""
    model = build("ours", size, device, weights).model
    products = PRECISIONS[precision]
    features = ModelLayers(model, size.dump_layer, prepare=normalise, device=device, precision=products)

    def dump(wavs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for wav in wavs:
            yield features.extract([wav])[0][:, 0]

    return dump


def dump_peer(size: Size, device: torch.device, weights: Path, precision: str) -> Dump:
    """The loop of HuBERT's dump_hubert_feature.py around fairseq's model."""
    model = build("peer", size, device, weights).model.eval()

    def dump(wavs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for wav in wavs:
            with torch.no_grad(), computing_in(precision, device):
                source = torch.from_numpy(wav).float().to(device)
                source = torch.nn.functional.layer_norm(source, source.shape).view(1, -1)
                found = model.extract_features(source, None, mask=False, layer=size.dump_layer - 1)
            yield found["x"][0].float().cpu().numpy()

    return dump
