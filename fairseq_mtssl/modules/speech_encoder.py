"""The wav2vec 2.0 speech encoder, run in parts: front-end, shared layers, the layers above.

Built of fairseq's own modules under fairseq's own parameter names, so that wav2vec 2.0 checkpoints
load unchanged. What fairseq's forward cannot do and the joint model needs is here: a CLS token before
the positional convolution, stopping at and going on from any layer, output that does not depend on
the amount of padding.
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
class FrontEnd:
    """What the convolutional front-end makes of a batch.

    features: (B, T, C) layer-normalised convolution outputs, unmasked; lengths: (B,) valid frames;
    penalty: scalar, mean square of the convolution outputs before the layer norm.
    """

    features: Tensor
    lengths: Tensor
    penalty: Tensor


Method = TypeVar("Method", bound=Callable[..., Any])


def in_its_precision(method: Method) -> Method:
    """A method of the encoder that runs in its precision."""

    @functools.wraps(method)
    def run(self: SpeechEncoder, *args: Any, **kwargs: Any) -> Any:
        with self.computing():
            return method(self, *args, **kwargs)

    return run  # type: ignore[return-value]


class SpeechEncoder(nn.Module):
    """Conv stack → LN → linear → dropout → mask → CLS → positional conv → LN → transformer layers.

    sizes: what the weights depend on; regularisation: what is done in training alone, by default nothing;
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
        """fairseq's positional convolution, layer norm and transformer layers."""
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
        # fairseq draws every linear layer with a standard deviation of 0.02, made for 768 wide ones.
        with torch.no_grad():
            for module in transformer.layers.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(init_std(sizes.dim) / init_std(PAPER_DIM))
        return transformer

    @property
    def num_layers(self) -> int:
        return len(self.encoder.layers)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return conv_length(lengths, self.conv_layers)

    def computing(self) -> Any:
        """The context of the encoder's precision: in training, unless the whole model has been halved."""
        weight = self.mask_emb
        wanted = self.training and weight.dtype == torch.float32
        return mixed(self.compute.precision if wanted else "float32", weight.device)

    def _layerdrop(self) -> float:
        """The chance to skip a layer now: 0 in evaluation."""
        return self.regularisation.layerdrop if self.training else 0.0

    @property
    def compiling(self) -> bool:
        """Whether layers are compiled now: in training. The clips of an evaluation have any length."""
        return self.compute.compiled and self.training

    @in_its_precision
    def front_end(self, source: Tensor, lengths: Tensor) -> FrontEnd:
        """source: (B, S) waveforms, zero past their end; lengths: (B,) samples.

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
        return FrontEnd(self._norm(self.layer_norm, features), frames, penalty)

    def _extract(self, source: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T): a waveform's own convolutions ask for no lengths."""
        known = (lengths,) if isinstance(self.feature_extractor, FbankFeatures) else ()
        return self.feature_extractor(source, *known)

    def embed(
        self, front: FrontEnd, mask: Tensor | None = None, channel_mask: Tensor | None = None
    ) -> Hidden:
        """Frames as the transformer's input.

        mask: (B, T) bool, frames replaced by the mask embedding; channel_mask: (B, D) bool, channels set
        to 0 in all frames; None masks nothing.
        """
        placed = self.add_positions(front, mask, channel_mask)
        x = self._norm(self.encoder.layer_norm, placed.states)
        rate = self.regularisation.dropout
        return Hidden(nn.functional.dropout(x, p=rate, training=self.training), placed.padding)

    def _norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        return layer_norm(norm, x) if self.compute.fast else norm(x)

    @in_its_precision
    def add_positions(
        self,
        front: FrontEnd,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        dropout: bool = True,
    ) -> Hidden:
        """Frames with the positional convolution added, before the layer norm that `embed` applies.

        mask, channel_mask: as for `embed`. dropout: of the projected features, in training.
        """
        x = front.features if self.post_extract_proj is None else self.post_extract_proj(front.features)
        x = x.to(residual_dtype(x))
        if dropout:
            x = self.dropout_input(x)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_emb.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask.unsqueeze(1), 0)
        padding = padding_mask(front.lengths, x.size(1)) if int(front.lengths.min()) < x.size(1) else None
        if self.cls_token is not None:
            # (B, T, D) -> (B, 1 + T, D)
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.size(0), -1, -1), x], dim=1)
            padding = None if padding is None else nn.functional.pad(padding, (1, 0), value=False)
        if padding is not None and not self.sizes.positions_see_padding:
            x = x.masked_fill(padding.unsqueeze(-1), 0)
        # (B, T', D) -> (T', B, D)
        return Hidden((x + self._positions(x, padding)).transpose(0, 1), padding)

    def _positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """The positional convolution of (B, T', D)."""
        stacked = self.sizes.pos_conv_depth > 1
        if stacked and self.compute.fast and fast_positions.refusal(self.encoder.pos_conv, x) is None:
            silent = padding if self.sizes.padding_exact else None
            return fast_positions.stacked_positions(self.encoder.pos_conv, x, silent)
        x = x.transpose(1, 2)
        if not stacked:
            return self.encoder.pos_conv(x).transpose(1, 2)
        for index, block in enumerate(self.encoder.pos_conv):
            if self.sizes.padding_exact and padding is not None and index > 0:
                x = x.masked_fill(padding.unsqueeze(1), 0)  # else each layer hands padding on to the next
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
        """Run layers start … stop − 1 (counted from 0).

        collect, results: lists that receive, as (B, T, D) with CLS left out, each layer's output and its
        layer result (see `run_layers`).
        """
        outputs: list[Tensor] = []
        before: list[Tensor] = []
        end = run_layers(
            self.encoder.layers[start:stop],
            hidden,
            layerdrop=self._layerdrop(),
            outputs=None if collect is None else outputs,
            results=None if results is None else before,
            fast=self.compute.fast,
            compiled=self.compiling,
        )
        for given, found in ((collect, outputs), (results, before)):
            if given is not None:
                given += [self.frames(Hidden(x, hidden.padding)) for x in found]
        return end

    @in_its_precision
    def forward_masked(self, hidden: Hidden, start: int, stop: int, mask: Tensor) -> Tensor:
        """Run layers start … stop − 1 (counted from 0), the last of them for some frames only.

        mask: (B, T) bool, those frames. Returns: (M, D), row by row.
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
        """(T', B, D) -> (B, T, D): the frames without the CLS token."""
        x = hidden.states.transpose(0, 1)
        return x[:, 1:] if self.cls_token is not None else x

    def cls(self, hidden: Hidden) -> Tensor:
        """(T', B, D) -> (B, D): the CLS token's state. Only with use_cls."""
        return hidden.states[0]
