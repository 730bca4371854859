"""Layers of a trained speech model as frames of whole utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import (
    ConvLayer,
    conv_length,
    hop_samples,
    min_samples,
    padding_mask,
    parse_conv_layers,
)
from fairseq_mtssl.kernels.conv_features import conv_features, refusal
from fairseq_mtssl.modules.precision import mixed, resolve, rounded_copy
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder


class ModelLayers:
    """Transformer layers of a trained speech model, all from one pass, at the frame rate of its convolutions.

    It is an `Extractor`. model: one of ours (anything with a SpeechEncoder as `speech_encoder`), or fairseq's
    wav2vec2, hubert or data2vec_audio; it is put in evaluation mode and never masked. layers: one number from
    1, several, or None for all; `extract` gives them in the order asked for. prepare: what training did to a
    waveform, such as normalising it. source: what the model is, for targets.json. precision: of the matrix
    products (see `modules.precision`); in bfloat16 features are off by about one percent, and differ by as
    much between batches.
    Raises: ConfigError for a layer that there is not, or a model that is none of these.
    """

    def __init__(
        self,
        model: Any,
        layers: int | Sequence[int] | None,
        *,
        prepare: Callable[[np.ndarray], np.ndarray] = np.asarray,
        source: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self._precision = resolve(precision, torch.device(device))
        rounded = self._precision == "bfloat16"
        self._parts = _parts_of(model.to(device).float().eval(), rounded)
        count = self._parts.num_layers
        asked = range(1, count + 1) if layers is None else layers
        self.layers = [asked] if isinstance(asked, int) else list(asked)
        if not self.layers or not all(1 <= layer <= count for layer in self.layers):
            got = ", ".join(map(str, self.layers)) or "none"
            raise ConfigError("layers", [f"layer {got} of a model of {count}; wanted 1 to that"])
        self.names = [str(layer) for layer in self.layers]
        self.dim: int = self._parts.dim
        self.hop_samples = hop_samples(self._parts.conv_layers)
        self.window_samples = min_samples(self._parts.conv_layers)
        self.source: dict[str, Any] = {**(source or {}), **({"precision": "bfloat16"} if rounded else {})}
        self.source |= {"layer": layers} if isinstance(layers, int) else {"layers": self.layers}
        self._prepare = prepare
        self._device = torch.device(device)

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Extractor. Padding is kept out of everything: a batch gives what each clip gives alone."""
        counts = [conv_length(len(wav), self._parts.conv_layers) for wav in wavs]
        kept = [row for row, count in enumerate(counts) if count > 0]
        frames = [np.zeros((0, len(self.layers), self.dim), dtype=np.float32) for _ in wavs]
        if kept:
            clips = [torch.from_numpy(np.ascontiguousarray(self._prepare(wavs[row]))) for row in kept]
            mixing = mixed(self._precision, self._device)
            with torch.inference_mode(), _exact_float32(self._device), mixing:
                hidden = self._parts.run([clip.float().to(self._device) for clip in clips], self.layers)
                stacked = torch.stack(hidden, dim=2).float().cpu()  # L of (B, T, D) -> (B, T, L, D)
            for row, states in zip(kept, stacked, strict=True):
                frames[row] = states[: counts[row]].numpy()
        return frames


def _exact_float32(device: torch.device) -> Any:
    """Turn off TF32 in cuDNN's convolutions: labels must not depend on the batch."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class _OurParts:
    """The parts of a SpeechEncoder."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder = encoder
        self.dim = encoder.dim
        self.num_layers = encoder.num_layers
        self.conv_layers = encoder.conv_layers

    def run(self, clips: list[Tensor], layers: Sequence[int]) -> list[Tensor]:
        """Clips, (S,) each -> the output of each of the layers, (B, T, D)."""
        encoder = self.encoder
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        features = _apart(
            clips,
            encoder.feature_extractor,
            lambda source, ends: encoder.forward_features(source, ends).features,
        )
        extracted = ExtractedFeatures(features, encoder.frame_lengths(lengths), features.new_zeros(()))
        with _silent_padding(encoder.encoder.pos_conv, extracted.lengths, int(encoder.cls_token is not None)):
            hidden = encoder.embed(extracted)
        outputs: list[Tensor] = []
        encoder.forward_layers(hidden, 0, max(layers), collect=outputs)
        return [outputs[layer - 1] for layer in layers]


class _FairseqParts:
    """The parts of fairseq's wav2vec2, hubert and data2vec_audio; they give what extract_features gives."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.num_layers = len(model.encoder.layers)
        self.conv_layers: list[ConvLayer] = parse_conv_layers(_conv_text(model))
        self.dim = int(model.encoder.embedding_dim)

    def run(self, clips: list[Tensor], layers: Sequence[int]) -> list[Tensor]:
        """Clips, (S,) each -> the output of each of the layers, (B, T, D)."""
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
    """The conv_feature_layers of a model of fairseq, which has a configuration under either name or none."""
    cfg = getattr(model, "cfg", None) or getattr(model.encoder, "args", None)
    text = getattr(cfg, "conv_feature_layers", None) or getattr(model, "conv_feature_layers", None)
    if text is not None:
        return str(text)
    blocks = model.feature_extractor.conv_layers
    convs = [next(each for each in block.modules() if isinstance(each, nn.Conv1d)) for block in blocks]
    return str([(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in convs])


def _parts_of(model: Any, rounded: bool) -> _OurParts | _FairseqParts:
    """The encoder of a model. rounded: with the weights of its matrix products in bfloat16."""
    if isinstance(getattr(model, "speech_encoder", None), SpeechEncoder):
        return _OurParts(rounded_copy(model.speech_encoder) if rounded else model.speech_encoder)
    needed = ("feature_extractor", "layer_norm", "post_extract_proj", "encoder")
    if getattr(model, "input_quantizer", None) is None and all(hasattr(model, name) for name in needed):
        return _FairseqParts(rounded_copy(model) if rounded else model)
    raise ConfigError(
        "--features",
        [f"a {type(model).__name__} has no layers to take; wanted ours, wav2vec2, hubert or data2vec_audio"],
    )


def _apart(clips: list[Tensor], extractor: nn.Module, extract: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The conv features of clips, (B, T, C). extract: (B, S) waveforms, (B,) lengths -> (B, T, C).

    A group norm computes its statistics over time. With one, each clip is processed alone, because padding
    would change them.
    """
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    if len(clips) > 1 and any(isinstance(module, nn.GroupNorm) for module in extractor.modules()):
        alone = [
            extract(clip.unsqueeze(0), size.view(1))[0] for clip, size in zip(clips, lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(alone, batch_first=True)
    return extract(nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)


@contextmanager
def _silent_padding(pos_conv: nn.Module, frames: Tensor, prefix: int) -> Iterator[None]:
    """Set the padding to zero after each layer of a stacked positional convolution.

    frames: (B,) valid frames. prefix: positions before the first frame. Without this, data2vec's features
    differ by up to 12 % in padded batches.
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
