"""What is clustered: frames of whole utterances; here layers of a trained model at 50 Hz, in `mfcc` MFCCs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import (
    SAMPLE_RATE_HZ,
    ConvLayer,
    conv_length,
    hop_samples,
    min_samples,
    padding_mask,
    parse_conv_layers,
)
from fairseq_mtssl.kernels.conv_features import conv_features, refusal
from fairseq_mtssl.modules.precision import mixed, resolve, rounded_copy
from fairseq_mtssl.modules.speech_encoder import FrontEnd, SpeechEncoder

BATCHES_SORTED = 16  # batches whose clips are sorted by length together


class Features(Protocol):
    """Something that turns 16 kHz waveforms into frames.

    dim: D; hop_samples, window_samples: of its frames; source: what it is, for targets.json.
    """

    dim: int
    hop_samples: int
    window_samples: int
    source: dict[str, Any]

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(S,) float waveforms -> (T, D) float32 each, T = frame_count(S); the batch changes nothing."""
        ...


def rate_hz(features: Features) -> float:
    """Frames a second."""
    return SAMPLE_RATE_HZ / features.hop_samples


def stream(
    features: Features, wavs: Iterable[np.ndarray], batch_samples: int | None = None
) -> Iterator[np.ndarray]:
    """Features of utterances, in their order.

    batch_samples: None takes them one by one, which is fastest on a CPU; else clips alike in length are put
    through together, so many samples with their padding, taken from a window of BATCHES_SORTED batches.
    """
    if batch_samples is None:
        for wav in wavs:
            yield features.extract([wav])[0]
        return
    window: list[np.ndarray] = []
    held = 0
    for wav in wavs:
        window.append(wav)
        held += len(wav)
        if held >= BATCHES_SORTED * batch_samples:
            yield from _by_length(features, window, batch_samples)
            window, held = [], 0
    yield from _by_length(features, window, batch_samples)


def _by_length(features: Features, wavs: list[np.ndarray], batch_samples: int) -> list[np.ndarray]:
    found: list[Any] = [None] * len(wavs)
    for batch in bucket([len(wav) for wav in wavs], batch_samples):
        for index, frames in zip(batch, features.extract([wavs[index] for index in batch]), strict=True):
            found[index] = frames
    return found


def bucket(lengths: Sequence[int], batch_samples: int) -> list[list[int]]:
    """Indices in batches of neighbours in length; clips × the longest ≤ batch_samples, or one clip alone.

    batch_samples: 0 leaves every clip alone.
    """
    batches: list[list[int]] = []
    # longest first: a batch that does not fit in memory shows at once
    for index in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        last = batches[-1] if batches else []
        if last and lengths[last[0]] * (len(last) + 1) <= batch_samples:
            last.append(index)
        else:
            batches.append([index])
    return batches


class LayerStack:
    """Several transformer layers of a trained speech model out of one pass, at the rate of its convolutions.

    As `Features`, but `extract` gives (T, L, D), the layers in the order asked for.
    model: one of ours (anything with a SpeechEncoder as `speech_encoder`), or fairseq's wav2vec2, hubert or
        data2vec_audio; it is put in evaluation mode and never masked.
    layers: counted from 1; None takes all. prepare: what training did to a waveform, such as normalising it.
    precision: of the matrix products (see `modules.precision`); in bfloat16 features are off by a per cent,
        and differ by as much between batches.
    Raises: ConfigError for a layer or a model that does not fit.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[int] | None,
        *,
        prepare: Callable[[np.ndarray], np.ndarray],
        source: dict[str, Any],
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self._precision = resolve(precision, torch.device(device))
        rounded = self._precision == "bfloat16"
        self._parts = _parts_of(model.to(device).float().eval(), rounded)
        count = self._parts.num_layers
        self.layers = list(range(1, count + 1) if layers is None else layers)
        if not self.layers or not all(1 <= layer <= count for layer in self.layers):
            got = ", ".join(map(str, self.layers)) or "none"
            raise ConfigError("layers", [f"layer {got} of a model of {count}; wanted 1 to that"])
        self.dim: int = self._parts.dim
        self.hop_samples = hop_samples(self._parts.conv_layers)
        self.window_samples = min_samples(self._parts.conv_layers)
        self.source = {**source, **({"precision": "bfloat16"} if rounded else {}), "layers": self.layers}
        self._prepare = prepare
        self._device = torch.device(device)

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Features. Padding is kept out of everything: a batch gives what each clip gives alone."""
        frames = [conv_length(len(wav), self._parts.conv_layers) for wav in wavs]
        kept = [index for index, count in enumerate(frames) if count > 0]
        found = [np.zeros((0, len(self.layers), self.dim), dtype=np.float32) for _ in wavs]
        if kept:
            clips = [torch.from_numpy(np.ascontiguousarray(self._prepare(wavs[index]))) for index in kept]
            mixing = mixed(self._precision, self._device)
            with torch.inference_mode(), _exact_float32(self._device), mixing:
                hidden = self._parts.run([clip.float().to(self._device) for clip in clips], self.layers)
                stacked = torch.stack(hidden, dim=2).float().cpu()  # L of (B, T, D) -> (B, T, L, D)
            for index, states in zip(kept, stacked, strict=True):
                found[index] = states[: frames[index]].numpy()
        return found


class LayerFeatures(LayerStack):
    """The output of one transformer layer, as `LayerStack` takes it; `extract` gives (T, D)."""

    def __init__(
        self,
        model: Any,
        layer: int,
        *,
        prepare: Callable[[np.ndarray], np.ndarray],
        source: dict[str, Any],
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        super().__init__(model, [layer], prepare=prepare, source=source, device=device, precision=precision)
        self.layer = layer
        self.source = {name: value for name, value in self.source.items() if name != "layers"}
        self.source["layer"] = layer

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Features."""
        # (T, 1, D) -> (T, D)
        return [frames[:, 0] for frames in super().extract(wavs)]


def _exact_float32(device: torch.device) -> Any:
    """No 10-bit mantissas in cuDNN's convolutions: labels must not depend on the batch."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class _OurParts:
    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder = encoder
        self.dim = encoder.dim
        self.num_layers = encoder.num_layers
        self.conv_layers = encoder.conv_layers

    def run(self, clips: list[Tensor], layers: Sequence[int]) -> list[Tensor]:
        """(B, T, D) of each layer."""
        encoder = self.encoder
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        features = _apart(
            clips, encoder.feature_extractor, lambda source, ends: encoder.front_end(source, ends).features
        )
        front = FrontEnd(features, encoder.frame_lengths(lengths), features.new_zeros(()))
        with _silent_padding(encoder.encoder.pos_conv, front.lengths, int(encoder.cls_token is not None)):
            hidden = encoder.embed(front)
        outputs: list[Tensor] = []
        encoder.forward_layers(hidden, 0, max(layers), collect=outputs)
        return [outputs[layer - 1] for layer in layers]


class _FairseqParts:
    """What wav2vec2, hubert and data2vec_audio have in common; the same numbers as their extract_features."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.num_layers = len(model.encoder.layers)
        self.conv_layers: list[ConvLayer] = parse_conv_layers(_conv_text(model))
        self.dim = int(model.encoder.embedding_dim)

    def run(self, clips: list[Tensor], layers: Sequence[int]) -> list[Tensor]:
        """(B, T, D) of each layer."""
        model = self.model
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        # (B, S) -> (B, C, T) -> (B, T, C)
        x = _apart(clips, model.feature_extractor, self._convolved)
        x = model.layer_norm(x)
        if model.post_extract_proj is not None:
            x = model.post_extract_proj(x)
        frames = conv_length(lengths, self.conv_layers)
        padding = padding_mask(frames, x.size(1)) if int(frames.min()) < x.size(1) else None
        with _silent_padding(model.encoder.pos_conv, frames, 0):
            _, results = model.encoder.extract_features(x, padding, tgt_layer=max(layers) - 1)
        # (T, B, D) -> (B, T, D)
        return [results[layer - 1][0].transpose(0, 1) for layer in layers]

    def _convolved(self, source: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        extractor = self.model.feature_extractor
        plain = type(extractor) is ConvFeatureExtractionModel and not extractor._forward_hooks
        quick = plain and refusal(extractor, source) is None
        return (conv_features(extractor, source) if quick else extractor(source)).transpose(1, 2)


def _conv_text(model: Any) -> str:
    """fairseq's models keep their configuration under one of two names, or not at all (hubert)."""
    cfg = getattr(model, "cfg", None) or getattr(model.encoder, "args", None)
    text = getattr(cfg, "conv_feature_layers", None) or getattr(model, "conv_feature_layers", None)
    if text is not None:
        return str(text)
    blocks = model.feature_extractor.conv_layers
    convs = [next(each for each in block.modules() if isinstance(each, nn.Conv1d)) for block in blocks]
    return str([(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in convs])


def _parts_of(model: Any, rounded: bool) -> _OurParts | _FairseqParts:
    """rounded: with weights of matrix products in bfloat16."""
    if isinstance(getattr(model, "speech_encoder", None), SpeechEncoder):
        return _OurParts(rounded_copy(model.speech_encoder) if rounded else model.speech_encoder)
    needed = ("feature_extractor", "layer_norm", "post_extract_proj", "encoder")
    if getattr(model, "input_quantizer", None) is None and all(hasattr(model, name) for name in needed):
        return _FairseqParts(rounded_copy(model) if rounded else model)
    raise ConfigError(
        "--features",
        [f"a {type(model).__name__} has no layers to take; wanted ours, wav2vec2, hubert or data2vec_audio"],
    )


def _apart(clips: list[Tensor], extractor: nn.Module, front: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(B, T, C) conv features of clips; front makes them of (B, S) waveforms and their (B,) lengths.

    A group norm takes its statistics over time: with one, each clip goes through alone.
    """
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    if len(clips) > 1 and any(isinstance(module, nn.GroupNorm) for module in extractor.modules()):
        alone = [front(clip.unsqueeze(0), size.view(1))[0] for clip, size in zip(clips, lengths, strict=True)]
        return nn.utils.rnn.pad_sequence(alone, batch_first=True)
    return front(nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)


@contextmanager
def _silent_padding(pos_conv: nn.Module, frames: Tensor, prefix: int) -> Iterator[None]:
    """Zero the padding again between the layers of a stacked positional convolution.

    frames: (B,) valid frames; prefix: positions before the first frame. Without this, padded batches of
    data2vec's encoder differ by 12 %.
    """
    blocks = list(pos_conv) if isinstance(pos_conv, nn.Sequential) else []
    padded = int(frames.min()) < int(frames.max())
    stacked = padded and all(isinstance(block, nn.Sequential) for block in blocks)
    valid = frames + prefix

    def silence(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # (B, D, T)
        return output.masked_fill(padding_mask(valid, output.size(2)).unsqueeze(1), 0)

    handles = [block.register_forward_hook(silence) for block in blocks if stacked]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on, for targets.json."""
    import importlib.metadata

    names = (
        "fairseq-mtssl",
        "torch",
        "numpy",
        "faiss-cpu",
        "faiss-gpu",
        "scikit-learn",
    )
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
