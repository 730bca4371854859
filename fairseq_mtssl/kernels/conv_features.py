"""The convolutional waveform encoder: fairseq's weights and numbers in less time and memory on a CPU.

fairseq's modules keep (B, C, T), transpose to (B, T, C) and back around every layer norm, and keep three
arrays of each layer for the backward pass. Here

- all rows of a batch lie behind one another as (frames, channels), each padded to a whole number of output
  frames. Frames of which a part lies in the next row are computed and never used;
- norm and GELU are applied to pieces that fit a cache, right before the product that reads them, and are
  computed again in the backward pass; of each layer only the convolution's output is kept, of the first,
  which is the largest, nothing;
- each core has pieces of its own.

Source: the arithmetic of fairseq's ConvFeatureExtractionModel (Baevski et al. 2020, arXiv 2006.11477).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fairseq_mtssl.frames import ConvLayer, conv_length
from fairseq_mtssl.kernels.conv_first import FirstLevel, GroupNormFirstLevel, Moments
from fairseq_mtssl.kernels.conv_level import Level, Shape, Sums
from fairseq_mtssl.kernels.side_by_side import pieces, shares, side_by_side

PIECE = 2**19
"""Elements that are worked on at a time in 32 bits: they and what is made of them stay in a cache."""

HALF_PIECE = 2**20
"""The same in 16 bits, where sums of gradients over a piece are added up in 32 bits afterwards."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

PER_LEVEL = 4
"""Parameters of a layer: the convolution's weight and bias, the norm's weight and bias."""


class Stack:
    """One pass of a batch, forward or backward.

    source: (B, S) waveforms; parameters: PER_LEVEL for each of the shapes; dtype: of the matrix products but
    the first, and of what is kept; moments: of an earlier pass of this batch. Norms, GELUs and the first
    convolution are computed in 32 bits.
    """

    def __init__(
        self,
        source: Tensor,
        shapes: Sequence[Shape],
        parameters: Sequence[Tensor | None],
        dtype: torch.dtype,
        moments: Moments | None = None,
    ) -> None:
        groups = [parameters[at : at + PER_LEVEL] for at in range(0, len(parameters), PER_LEVEL)]
        self.parameters = groups
        dtypes = [torch.float32] + [dtype] * (len(shapes) - 1)
        self.levels = [Level.of(*each) for each in zip(shapes, groups, dtypes, strict=True)]
        self.dtype = dtype
        rows, samples = source.shape
        hop = math.prod(shape.stride for shape in shapes)
        period = math.ceil(samples / hop) * hop
        wave = source.new_zeros(rows * period + shapes[0].kernel, dtype=torch.float32)
        wave[: rows * period].view(rows, period)[:, :samples] = source
        self.counts = []
        frames = rows * period
        for shape in shapes:
            frames //= shape.stride
            self.counts.append(frames)
        valid = conv_length(samples, [(1, shapes[0].kernel, shapes[0].stride)])
        first = GroupNormFirstLevel if shapes[0].norm == "group" else FirstLevel
        self.first = first(wave, self.levels[0], rows, valid, moments)
        self.rows = rows
        self.elements = PIECE if dtype == torch.float32 else HALF_PIECE
        self.states: list[Tensor | None] = [None] * len(shapes)  # (frames, C): outputs of the convolutions
        self.sums = [self._no_sums(index) for index in range(len(shapes))]

    def _no_sums(self, index: int) -> Any:
        """Nothing added up yet of a level's parameters."""
        return self.first.sums() if index == 0 else Sums(self.levels[index])

    def values(self, index: int, start: int, stop: int) -> Tensor:
        """(n, C) outputs start … stop − 1 of a convolution."""
        if index == 0:
            return self.first.values(start, stop)
        state = self.states[index]
        assert state is not None
        return state[start:stop]

    def pieces(self, count: int, width: int) -> list[tuple[int, int]]:
        """Cut `count` frames of so many elements."""
        return pieces(count, max(1, self.elements // width))

    def inputs(self, index: int) -> Iterator[tuple[int, int, int, int]]:
        """Stretches of a convolution's outputs, each with that of the outputs below which it reads.

        The last outputs of all lack a part of their input and are left out; they are never valid.
        """
        shape, level = self.levels[index].shape, self.levels[index]
        count = self.counts[index] - (math.ceil(shape.kernel / shape.stride) - 1)
        for start, stop in self.pieces(count, shape.stride * level.channels_in):
            yield start, stop, start * shape.stride, stop * shape.stride + level.spill

    def forward(self, keep: bool) -> Tensor:
        """(B, frames, C); keep: hold on to what the backward pass needs."""
        for index in range(1, len(self.levels)):
            state = self._empty(index)
            stretches = list(self.inputs(index))
            side_by_side(lambda stretch: self._convolve(index, state, *stretch), stretches)  # noqa: B023
            state[stretches[-1][1] :].zero_()
            self.states[index] = state
            if not keep:
                self.states[index - 1] = None
        last = len(self.levels) - 1
        out = self._empty(last)

        def activate(piece: tuple[int, int]) -> None:
            values = self.values(last, *piece)
            out[slice(*piece)] = self.levels[last].activate(values, self.dtype)

        side_by_side(activate, self.pieces(*out.shape))
        return out.view(self.rows, -1, out.size(1))

    def _empty(self, index: int) -> Tensor:
        """Room for the outputs of a convolution, (frames, C)."""
        size = (self.counts[index], self.levels[index].channels)
        return self.first.wave.new_empty(size, dtype=self.dtype)

    def _convolve(self, index: int, state: Tensor, start: int, stop: int, low: int, high: int) -> None:
        x = self.levels[index - 1].activate(self.values(index - 1, low, high), self.dtype)
        self.levels[index].convolve(x, state[start:stop])

    def backward(self, grad: Tensor) -> list[Tensor | None]:
        """The gradients of all parameters from that of the output, (B · frames, C)."""
        last = len(self.levels) - 1
        above = self._through_norm(grad)
        for index in range(last, 0, -1):
            stretches = list(self.inputs(index))
            above[stretches[-1][1] :].zero_()
            below = self._empty(index - 1) if index > 1 else None
            done = side_by_side(
                lambda share: self._descend(index, stretches[share], above, below),  # noqa: B023
                shares(len(stretches)),
            )
            for upper, lower, (start, edge) in done:
                self.sums[index].merge(upper)
                self.sums[index - 1].merge(lower)
                if below is not None:
                    below[start : start + len(edge)] += edge
            if below is not None:
                below[stretches[-1][3] :].zero_()
                above = below
        found = self.first.gradients(self.sums[0], self.parameters[0])
        for sums, given in zip(self.sums[1:], self.parameters[1:], strict=True):
            found += sums.gradients(given)
        return found

    def _through_norm(self, grad: Tensor) -> Tensor:
        """(frames, C) of the last convolution's outputs from that of what was made of them."""
        last = len(self.levels) - 1
        level, out, pieces = self.levels[last], self._empty(last), self.pieces(*grad.shape)

        def deactivate(share: slice) -> Any:
            sums = self._no_sums(last)
            for start, stop in pieces[share]:
                passed = level.deactivate(
                    self.values(last, start, stop), grad[start:stop], sums, out[start:stop]
                )
                if last == 0:
                    self.first.take(sums, start, stop, passed)
            return sums

        for sums in side_by_side(deactivate, shares(len(pieces))):
            self.sums[last].merge(sums)
        return out

    def _descend(
        self, index: int, stretches: list[tuple[int, int, int, int]], above: Tensor, into: Tensor | None
    ) -> tuple[Any, Any, tuple[int, Tensor]]:
        """From the gradient of a convolution's outputs to that of those below, on neighbouring stretches.

        into: where to write the latter; None below the first convolution.
        Returns: the sums of both levels; a place below and the gradient of the first frames there, which is
        not written: the stretches before these have read them, too.
        """
        below, level = self.levels[index - 1], self.levels[index]
        upper, lower = self._no_sums(index), self._no_sums(index - 1)
        first = stretches[0][2]
        border = done = first + (level.spill if first > 0 else 0)
        edge = above.new_zeros(border - first, below.channels)
        for start, stop, low, high in stretches:
            z = self.values(index - 1, low, high)
            x = below.activate(z, self.dtype)
            grad = level.backward(x, above[start:stop], upper)
            if into is None:
                self.first.take(lower, low, high, below.deactivate(z, grad, lower, torch.empty_like(z)))
                continue
            outside, shared = max(border - low, 0), done - low
            below.deactivate(z[shared:], grad[shared:], lower, into[done:high])
            again = below.deactivate(z[:shared], grad[:shared], lower, torch.empty_like(z[:shared]))
            edge[low - first :][:outside] += again[:outside]
            into[low + outside : done] += again[outside:]
            done = high
        return upper, lower, (first, edge)


class ConvStack(torch.autograd.Function):
    """Waveforms (B, S) -> (B, frames, C), of which each row's first are valid; they get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        shapes: Sequence[Shape],
        dtype: torch.dtype,
        keep: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        with torch.autocast(source.device.type, enabled=False):
            stack = Stack(source, shapes, parameters, dtype)
            out = stack.forward(keep)
        if keep:
            ctx.shapes, ctx.dtype, ctx.moments = shapes, dtype, stack.first.moments
            ctx.save_for_backward(source, *stack.states, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        source, *rest = ctx.saved_tensors
        states, parameters = rest[: len(ctx.shapes)], rest[len(ctx.shapes) :]
        with torch.autocast(source.device.type, enabled=False):
            stack = Stack(source, ctx.shapes, parameters, ctx.dtype, ctx.moments)
            stack.states = states
            # (B, frames, C) -> (B · frames, C)
            found = stack.backward(grad.reshape(-1, grad.size(-1)))
        return (None, None, None, None, *found)


class ConvFeatures(ConvFeatureExtractionModel):
    """fairseq's ConvFeatureExtractionModel, whose parameters and names these are, faster on a CPU.

    fast: False runs fairseq's own forward, which see.
    """

    def __init__(
        self, conv_layers: list[ConvLayer], *, mode: str, conv_bias: bool, fast: bool = True
    ) -> None:
        super().__init__(conv_layers=conv_layers, dropout=0.0, mode=mode, conv_bias=conv_bias)
        self.fast = fast

    def forward(self, source: Tensor) -> Tensor:
        """(B, S) -> (B, C, T)."""
        if self.fast and can_run(self, source):
            return conv_features(self, source)
        return super().forward(source)


def can_run(extractor: ConvFeatureExtractionModel, source: Tensor) -> bool:
    """Whether `conv_features` does what the extractor's own forward does.

    On a CPU, in 32 or 16 bits, without dropout, for waveforms of a frame or more that need no gradient.
    """
    dropout = any(isinstance(part, nn.Dropout) and part.p > 0 for part in extractor.modules())
    if source.device.type != "cpu" or source.requires_grad or (dropout and extractor.training):
        return False
    return product_type(extractor) in DTYPES and conv_length(source.size(1), sizes(extractor)) > 0


def conv_features(extractor: ConvFeatureExtractionModel, source: Tensor) -> Tensor:
    """What a fairseq extractor makes of waveforms: (B, S) -> (B, C, T). See `can_run`."""
    shapes: list[Shape] = []
    parameters: list[Tensor | None] = []
    for block in extractor.conv_layers:
        conv, norm = block[0], norm_of(block)
        kind = None if norm is None else "layer" if isinstance(norm, nn.LayerNorm) else "group"
        eps = 0.0 if norm is None else norm.eps
        shapes.append(Shape(conv.kernel_size[0], conv.stride[0], kind, eps))
        parameters += [conv.weight, conv.bias]
        parameters += [None, None] if norm is None else [norm.weight, norm.bias]
    keep = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in parameters)
    out = ConvStack.apply(source, tuple(shapes), product_type(extractor), keep, *parameters)
    # (B, padded T, C) -> (B, T, C) -> (B, C, T)
    return out[:, : conv_length(source.size(1), sizes(extractor))].transpose(1, 2)


def product_type(extractor: ConvFeatureExtractionModel) -> torch.dtype:
    """What a convolution of the extractor would compute in."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return extractor.conv_layers[0][0].weight.dtype


def sizes(extractor: ConvFeatureExtractionModel) -> list[ConvLayer]:
    """(channels, kernel, stride) of each convolution."""
    convs = [block[0] for block in extractor.conv_layers]
    return [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in convs]


def norm_of(block: nn.Module) -> Any:
    """The layer norm or group norm of a block of fairseq's, or None."""
    kinds = (nn.LayerNorm, nn.GroupNorm)
    return next((module for module in block.modules() if isinstance(module, kinds)), None)
