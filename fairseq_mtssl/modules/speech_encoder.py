"""The wav2vec 2.0 speech encoder, which runs in parts: feature extractor, shared layers, layers above them.

It consists of fairseq's own modules under fairseq's own parameter names, so that wav2vec 2.0 checkpoints load
unchanged. It adds what the joint model needs and fairseq's forward lacks: a CLS token before the positional
convolution, runs that begin and end at any layer, and an output that does not depend on the padding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, Wav2Vec2Config
from fairseq.modules import GradMultiply, LayerNorm
from torch import Tensor, nn

from fairseq_mtssl.errors import ClipTooShortError
from fairseq_mtssl.frames import conv_length, min_samples, padding_mask, parse_conv_layers
from fairseq_mtssl.kernels import fast_positions
from fairseq_mtssl.kernels.conv_features import ConvFeatures
from fairseq_mtssl.kernels.dtypes import residual_dtype
from fairseq_mtssl.kernels.transformer_layers import choose, layer_norm
from fairseq_mtssl.modules.attention import PAPER_DIM, init_std
from fairseq_mtssl.modules.encoder_options import Compute, EncoderSizes, Regularisation
from fairseq_mtssl.modules.fbank_features import FbankFeatures
from fairseq_mtssl.modules.hidden import Hidden, run_layers, skips
from fairseq_mtssl.modules.precision import check_precision, mixed


@dataclass
class ExtractedFeatures:
    """The output of the feature extractor for a batch.

    features: (B, T, C) after the layer norm, not masked; lengths: (B,) valid frames;
    penalty: scalar, the mean square of the feature extractor's output before the layer norm.
    """

    features: Tensor
    lengths: Tensor
    penalty: Tensor


Method = TypeVar("Method", bound=Callable[..., Any])


def in_its_precision(method: Method) -> Method:
    """Decorate a method of the encoder so that it runs in the encoder's precision."""

    @functools.wraps(method)
    def run(self: SpeechEncoder, *args: Any, **kwargs: Any) -> Any:
        with self.computing():
            return method(self, *args, **kwargs)

    return run  # type: ignore[return-value]


class SpeechEncoder(nn.Module):
    """Feature extractor → LN → linear → dropout → mask → CLS → positional conv → LN → transformer layers.

    sizes: the sizes that determine the weights; regularisation: applied in training only, by default none;
    compute: how the encoder is computed.
    Source: Baevski et al. 2020, arXiv 2006.11477; CLS token: Peng & Harwath 2022, arXiv 2109.08186.
    """

    def __init__(
        self,
        sizes: EncoderSizes,
        regularisation: Regularisation | None = None,
        compute: Compute | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.regularisation = regularisation or Regularisation()
        self.compute = compute or Compute()
        check_precision(self.compute.precision)
        self.conv_layers = parse_conv_layers(sizes.conv_layers)
        self.dim = sizes.dim
        self.feature_dim = self.conv_layers[-1][0]
        self.feature_extractor = self._build_feature_extractor()
        self.layer_norm = LayerNorm(self.feature_dim)
        self.post_extract_proj = (
            nn.Linear(self.feature_dim, self.dim) if self.feature_dim != self.dim else None
        )
        self.dropout_input = nn.Dropout(self.regularisation.input_dropout)
        self.mask_emb = nn.Parameter(torch.empty(self.dim).uniform_())
        self.cls_token = nn.Parameter(torch.randn(1, 1, self.dim)) if sizes.use_cls else None
        self.encoder = self._build_transformer()

    def _build_feature_extractor(self) -> nn.Module:
        sizes, compute = self.sizes, self.compute
        if sizes.feature_extractor == "fbank":
            augment = self.regularisation.augment
            return FbankFeatures(self.conv_layers, conv_bias=sizes.conv_bias, augment=augment)
        return ConvFeatures(
            self.conv_layers,
            mode=sizes.extractor_mode,
            conv_bias=sizes.conv_bias,
            fast=compute.fast,
            compiled=compute.compiled,
        )

    def _build_transformer(self) -> TransformerEncoder:
        """Build fairseq's positional convolution, layer norm and transformer layers."""
        sizes, regularisation = self.sizes, self.regularisation
        transformer = TransformerEncoder(
            Wav2Vec2Config(
                encoder_embed_dim=sizes.dim,
                encoder_ffn_embed_dim=sizes.ffn_dim,
                encoder_attention_heads=sizes.heads,
                encoder_layers=sizes.layers,
                dropout=regularisation.dropout,
                attention_dropout=regularisation.attention_dropout,
                activation_dropout=regularisation.activation_dropout,
                encoder_layerdrop=regularisation.layerdrop,
                conv_pos=sizes.conv_pos,
                conv_pos_groups=sizes.conv_pos_groups,
                pos_conv_depth=sizes.pos_conv_depth,
            )
        )
        # fairseq draws the weights of all linear layers with a standard deviation of 0.02, which is meant for
        # a width of 768
        with torch.no_grad():
            for module in transformer.layers.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(init_std(sizes.dim) / init_std(PAPER_DIM))
        return transformer

    @property
    def num_layers(self) -> int:
        return len(self.encoder.layers)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of frames of clips: (B,) samples -> (B,) frames."""
        return conv_length(lengths, self.conv_layers)

    def computing(self) -> Any:
        """Return the context of mixed precision, which has an effect only when a float32 model is trained."""
        weight = self.mask_emb
        is_mixed = self.training and weight.dtype == torch.float32
        return mixed(self.compute.precision if is_mixed else "float32", weight.device)

    def _layerdrop(self) -> float:
        """Return the probability of skipping a layer: 0 in evaluation."""
        return self.regularisation.layerdrop if self.training else 0.0

    @property
    def compiling(self) -> bool:
        """Whether layers are compiled: in training only, since clips in evaluation can have any length."""
        return self.compute.compiled and self.training

    @in_its_precision
    def forward_features(self, source: Tensor, lengths: Tensor) -> ExtractedFeatures:
        """Run the feature extractor and the layer norm behind it.

        source: (B, S) waveforms, zero past their end; lengths: (B,) samples.
        Raises: ClipTooShortError if a clip is shorter than one frame.
        """
        frames = self.frame_lengths(lengths)
        if int(frames.min()) < 1:
            raise ClipTooShortError(int(lengths.min()), min_samples(self.conv_layers))
        multiplier = self.regularisation.feature_grad_mult
        if multiplier > 0:
            features = self._extract(source, lengths)
            if multiplier != 1.0:
                features = GradMultiply.apply(features, multiplier)
        else:
            with torch.no_grad():
                features = self._extract(source, lengths)
        # (B, C, T) -> (B, T, C)
        features = features.transpose(1, 2)
        features = features.to(residual_dtype(features))
        squares = features.float().pow(2)
        if self.sizes.padding_exact:
            valid = ~padding_mask(frames, features.size(1))
            penalty = squares.mean(-1)[valid].mean()
        else:
            penalty = squares.mean()
        return ExtractedFeatures(self._norm(self.layer_norm, features), frames, penalty)

    def _extract(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Run the feature extractor, which takes lengths if it computes filterbanks: -> (B, C, T)."""
        if isinstance(self.feature_extractor, FbankFeatures):
            return self.feature_extractor(source, lengths)
        return self.feature_extractor(source)

    def embed(
        self, extracted: ExtractedFeatures, mask: Tensor | None = None, channel_mask: Tensor | None = None
    ) -> Hidden:
        """Return the input of the first transformer layer.

        mask: (B, T) bool, frames to replace by the mask embedding; channel_mask: (B, D) bool, channels to set
        to 0 in all frames; None masks nothing.
        """
        positioned = self.add_positions(extracted, mask, channel_mask)
        x = self._norm(self.encoder.layer_norm, positioned.states)
        rate = self.regularisation.dropout
        return Hidden(nn.functional.dropout(x, p=rate, training=self.training), positioned.padding)

    def _norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        return layer_norm(norm, x) if self.compute.fast else norm(x)

    @in_its_precision
    def add_positions(
        self,
        extracted: ExtractedFeatures,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        dropout: bool = True,
    ) -> Hidden:
        """Project the features, mask them and add the positional convolution; `embed` then normalises them.

        mask, channel_mask: as in `embed`. dropout: in training, apply dropout to the projected features.
        """
        x, lengths = extracted.features, extracted.lengths
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        x = x.to(residual_dtype(x))
        if dropout:
            x = self.dropout_input(x)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_emb.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask.unsqueeze(1), 0)
        padding = padding_mask(lengths, x.size(1)) if int(lengths.min()) < x.size(1) else None
        if self.cls_token is not None:
            # (B, T, D) -> (B, 1 + T, D)
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.size(0), -1, -1), x], dim=1)
            padding = None if padding is None else nn.functional.pad(padding, (1, 0), value=False)
        if padding is not None and not self.sizes.positions_see_padding:
            x = x.masked_fill(padding.unsqueeze(-1), 0)
        # (B, T', D) -> (T', B, D)
        return Hidden((x + self._positions(x, padding)).transpose(0, 1), padding)

    def _positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Apply the positional convolution: (B, T', D) -> (B, T', D). padding: (B, T') bool or None."""
        is_stacked = self.sizes.pos_conv_depth > 1
        zeroed = padding if self.sizes.padding_exact else None
        if is_stacked and self.compute.fast and fast_positions.refusal(self.encoder.pos_conv, x) is None:
            return fast_positions.stacked_positions(self.encoder.pos_conv, x, zeroed)
        x = x.transpose(1, 2)  # (B, T', D) -> (B, D, T'), and back at the end
        if not is_stacked:
            return self.encoder.pos_conv(x).transpose(1, 2)
        for index, block in enumerate(self.encoder.pos_conv):
            if zeroed is not None and index > 0:
                # otherwise the valid frames of this block would depend on the padding of the block below
                x = x.masked_fill(zeroed.unsqueeze(1), 0)
            x = block(x)
        return x.transpose(1, 2)

    @in_its_precision
    def forward_layers(
        self,
        hidden: Hidden,
        start: int,
        stop: int,
        collect: list[Tensor] | None = None,
        results: list[Tensor] | None = None,
    ) -> Hidden:
        """Run the layers start … stop − 1, counted from 0.

        collect, results: lists to which each layer's output and layer result (see `run_layers`) are appended,
        as (B, T, D) without the CLS token.
        """
        layer_outputs: list[Tensor] = []
        layer_results: list[Tensor] = []
        last = run_layers(
            self.encoder.layers[start:stop],
            hidden,
            layerdrop=self._layerdrop(),
            outputs=None if collect is None else layer_outputs,
            results=None if results is None else layer_results,
            fast=self.compute.fast,
            compiled=self.compiling,
        )
        for wanted, states in ((collect, layer_outputs), (results, layer_results)):
            if wanted is not None:
                wanted += [self.frames(Hidden(x, hidden.padding)) for x in states]
        return last

    @in_its_precision
    def forward_masked(self, hidden: Hidden, start: int, stop: int, mask: Tensor) -> Tensor:
        """Run the layers start … stop − 1, counted from 0, the last of them at the masked frames only.

        mask: (B, T) bool. Returns: (M, D), the output of layer stop − 1 at the M masked frames, row by row.
        """
        below = self.forward_layers(hidden, start, stop - 1)
        if skips(self._layerdrop()):
            return self.frames(below)[mask]
        # (B, T) -> (B, T'): never the CLS token
        positions = mask if self.cls_token is None else nn.functional.pad(mask, (1, 0), value=False)
        layer = self.encoder.layers[stop - 1]
        chosen, _ = choose([layer], below.states, self.compute.fast, self.compiling)
        implementation = chosen(below.padding)
        with implementation.settings():
            return implementation.forward_masked(layer, implementation.prepare(below.states), positions)

    def frames(self, hidden: Hidden) -> Tensor:
        """Return the frames without the CLS token: (T', B, D) -> (B, T, D)."""
        x = hidden.states.transpose(0, 1)
        return x[:, 1:] if self.cls_token is not None else x

    def cls(self, hidden: Hidden) -> Tensor:
        """Return the state of the CLS token, which use_cls adds: (T', B, D) -> (B, D)."""
        return hidden.states[0]
