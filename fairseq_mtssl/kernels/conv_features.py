"""The convolutional feature extractor of waveforms in three implementations, and the choice between them.

fairseq's own forward works on (B, C, T), transposes to (B, T, C) and back around every layer norm, and keeps
three arrays per layer for the backward pass. torch.compile can compile it. On a CPU `conv_features` gives the
same results, within rounding, in less time and memory:

- The rows of a batch are concatenated as (frames, channels), each padded to a whole number of output frames.
  Output frames that reach into the next row are computed, but not used.
- Norm and GELU are applied to tiles that fit into a cache, right before the matrix product of the next layer
  reads them, and again in the backward pass. Of each layer only the output of the convolution is kept, and of
  the first layer, whose output is the largest, nothing.
- Each core computes its own tiles.

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
from fairseq_mtssl.kernels import compiling, native
from fairseq_mtssl.kernels.conv_block import ConvBlock, GradAccumulators, Shape
from fairseq_mtssl.kernels.conv_first import FirstConvBlock, GroupNormFirstBlock, Moments
from fairseq_mtssl.kernels.dtypes import DTYPES, product_dtype
from fairseq_mtssl.kernels.side_by_side import shares, side_by_side, tiles

TILE = 2**19
"""Number of elements of a tile in 32 bits, which stays in the cache together with the results."""

HALF_TILE = 2**20
"""Number of elements of a tile in 16 bits; the gradients of different tiles are added up in 32 bits."""

PER_BLOCK = 4
"""Number of parameters of a layer: weight and bias of the convolution, weight and bias of the norm."""


class ConvStack:
    """The forward or the backward pass of a batch.

    source: (B, S) waveforms; parameters: PER_BLOCK for each of the shapes; dtype: of the arrays that are kept
    and of all matrix products except the first; moments: those of the forward pass, for the backward pass.
    Norms, GELUs and the first convolution are computed in 32 bits.
    """

    def __init__(
        self,
        source: Tensor,
        shapes: Sequence[Shape],
        parameters: Sequence[Tensor | None],
        dtype: torch.dtype,
        moments: Moments | None = None,
    ) -> None:
        groups = [parameters[start : start + PER_BLOCK] for start in range(0, len(parameters), PER_BLOCK)]
        self.parameters = groups
        dtypes = [torch.float32] + [dtype] * (len(shapes) - 1)
        self.blocks = list(map(ConvBlock.of, shapes, groups, dtypes))
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
        first = GroupNormFirstBlock if shapes[0].norm == "group" else FirstConvBlock
        self.first = first(wave, self.blocks[0], rows, valid, moments)
        self.rows = rows
        self.elements = TILE if dtype == torch.float32 else HALF_TILE
        self.states: list[Tensor | None] = [None] * len(shapes)  # (frames, C): outputs of the convolutions
        self.accumulators = [self._new_accumulators(index) for index in range(len(shapes))]

    def _new_accumulators(self, index: int) -> Any:
        """Return accumulators for the gradients of a block's parameters, which are zero."""
        return self.first.accumulators() if index == 0 else GradAccumulators(self.blocks[index])

    def values(self, index: int, start: int, stop: int) -> Tensor:
        """Return the outputs start … stop − 1 of a convolution, (n, C)."""
        if index == 0:
            return self.first.values(start, stop)
        state = self.states[index]
        assert state is not None
        return state[start:stop]

    def tiles(self, count: int, width: int) -> list[tuple[int, int]]:
        """Cut `count` frames of `width` elements into tiles: (start, stop) of each."""
        return tiles(count, max(1, self.elements // width))

    def inputs(self, index: int) -> Iterator[tuple[int, int, int, int]]:
        """Cut the outputs of a convolution into tiles: start and stop of each, and of the inputs it reads.

        The last outputs, whose input is incomplete, are left out; they are never valid.
        """
        shape, block = self.blocks[index].shape, self.blocks[index]
        count = self.counts[index] - (math.ceil(shape.kernel / shape.stride) - 1)
        for start, stop in self.tiles(count, shape.stride * block.channels_in):
            yield start, stop, start * shape.stride, stop * shape.stride + block.overlap

    def forward(self, keep: bool) -> Tensor:
        """Compute the output of the stack, (B, frames, C). keep: keep the arrays for the backward pass."""
        for index in range(1, len(self.blocks)):
            state = self._empty(index)
            tiles = list(self.inputs(index))
            side_by_side(lambda tile: self._convolve(index, state, *tile), tiles)  # noqa: B023
            state[tiles[-1][1] :].zero_()
            self.states[index] = state
            if not keep:
                self.states[index - 1] = None
        last = len(self.blocks) - 1
        out = self._empty(last)

        def activate(tile: tuple[int, int]) -> None:
            values = self.values(last, *tile)
            out[slice(*tile)] = self.blocks[last].activate(values, self.dtype)

        side_by_side(activate, self.tiles(*out.shape))
        # (B · frames, C) -> (B, frames, C)
        return out.view(self.rows, -1, out.size(1))

    def _empty(self, index: int) -> Tensor:
        """Allocate the outputs of a convolution, (frames, C)."""
        size = (self.counts[index], self.blocks[index].channels)
        return self.first.wave.new_empty(size, dtype=self.dtype)

    def _convolve(self, index: int, state: Tensor, start: int, stop: int, low: int, high: int) -> None:
        """Compute a tile of a convolution's outputs, start … stop − 1, from the inputs low … high − 1."""
        x = self.blocks[index - 1].activate(self.values(index - 1, low, high), self.dtype)
        self.blocks[index].convolve(x, state[start:stop])

    def backward(self, grad: Tensor) -> list[Tensor | None]:
        """Compute the gradients of all parameters. grad: (B · frames, C), the gradient of the output."""
        last = len(self.blocks) - 1
        above = self._through_norm(grad)
        for index in range(last, 0, -1):
            tiles = list(self.inputs(index))
            above[tiles[-1][1] :].zero_()
            below = self._empty(index - 1) if index > 1 else None
            results = side_by_side(
                lambda share: self._descend(index, tiles[share], above, below),  # noqa: B023
                shares(len(tiles)),
            )
            for upper, lower, (start, edge) in results:
                self.accumulators[index].merge(upper)
                self.accumulators[index - 1].merge(lower)
                if below is not None:
                    below[start : start + len(edge)] += edge
            if below is not None:
                below[tiles[-1][3] :].zero_()
                above = below
        gradients = self.first.gradients(self.accumulators[0], self.parameters[0])
        for accumulators, parameters in zip(self.accumulators[1:], self.parameters[1:], strict=True):
            gradients += accumulators.gradients(parameters)
        return gradients

    def _through_norm(self, grad: Tensor) -> Tensor:
        """Return the gradient of the last convolution's outputs, (frames, C). grad: of the stack's output."""
        last = len(self.blocks) - 1
        block, out, tiles = self.blocks[last], self._empty(last), self.tiles(*grad.shape)

        def deactivate(share: slice) -> Any:
            accumulators = self._new_accumulators(last)
            for start, stop in tiles[share]:
                z = self.values(last, start, stop)
                grad_z = block.deactivate(z, grad[start:stop], accumulators, out[start:stop])
                if last == 0:
                    self.first.accumulate(accumulators, start, stop, grad_z)
            return accumulators

        for accumulators in side_by_side(deactivate, shares(len(tiles))):
            self.accumulators[last].merge(accumulators)
        return out

    def _descend(
        self, index: int, tiles: list[tuple[int, int, int, int]], above: Tensor, into: Tensor | None
    ) -> tuple[Any, Any, tuple[int, Tensor]]:
        """Compute the gradient of the outputs of the block below for some neighbouring tiles of this block.

        above: the gradient of this block's outputs; into: receives that of the block below; None for the
        first block, of which none is kept.
        Returns: the accumulators of both blocks; and a frame of the block below with the gradient of the
        frames from there on that the tiles of another thread read too. These are not written into `into`.
        """
        below, block = self.blocks[index - 1], self.blocks[index]
        upper, lower = self._new_accumulators(index), self._new_accumulators(index - 1)
        first = tiles[0][2]
        border = done = first + (block.overlap if first > 0 else 0)
        edge = above.new_zeros(border - first, below.channels)
        for start, stop, low, high in tiles:
            z = self.values(index - 1, low, high)
            x = below.activate(z, self.dtype)
            grad = block.backward(x, above[start:stop], upper)
            if into is None:
                self.first.accumulate(lower, low, high, below.deactivate(z, grad, lower, torch.empty_like(z)))
                continue
            # of the frames low … high − 1, those before `done` were read by the tile before, and those before
            # `border` by another thread
            outside, shared = max(border - low, 0), done - low
            below.deactivate(z[shared:], grad[shared:], lower, into[done:high])
            grad_shared = below.deactivate(z[:shared], grad[:shared], lower, torch.empty_like(z[:shared]))
            edge[low - first :][:outside] += grad_shared[:outside]
            into[low + outside : done] += grad_shared[outside:]
            done = high
        return upper, lower, (first, edge)


class ConvStackFunction(torch.autograd.Function):
    """Waveforms (B, S) -> (B, frames, C), of which the first frames of each row are valid.

    Waveforms get no gradient.
    """

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
            stack = ConvStack(source, shapes, parameters, dtype)
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
            stack = ConvStack(source, ctx.shapes, parameters, ctx.dtype, ctx.moments)
            stack.states = states
            # (B, frames, C) -> (B · frames, C)
            gradients = stack.backward(grad.reshape(-1, grad.size(-1)))
        return (None, None, None, None, *gradients)


class ConvFeatures(ConvFeatureExtractionModel):
    """fairseq's ConvFeatureExtractionModel, with the same parameters and names, in three implementations.

    On a CPU it is computed by `conv_features`, elsewhere by fairseq's own forward, which can be compiled.
    fast: False always uses fairseq's own forward. compiled: compiles fairseq's own forward in training.
    """

    def __init__(
        self,
        conv_layers: list[ConvLayer],
        *,
        mode: str,
        conv_bias: bool,
        fast: bool = True,
        compiled: bool = False,
    ) -> None:
        super().__init__(conv_layers=conv_layers, dropout=0.0, mode=mode, conv_bias=conv_bias)
        self.fast = fast
        self.compiled = compiled

    def choose(self, source: Tensor) -> tuple[str, str]:
        """Return the implementation for waveforms (kernels, compiled or fairseq) and the reason for it."""
        reason = refusal(self, source) if self.fast else "model.fast is off"
        if reason is None:
            return "kernels", native.state()
        return ("compiled" if self.compiled and self.training else "fairseq"), reason

    def forward(self, source: Tensor) -> Tensor:
        """(B, S) -> (B, C, T)."""
        implementation, _ = self.choose(source)
        if implementation == "kernels":
            return conv_features(self, source)
        if implementation == "fairseq":
            return super().forward(source)
        with compiling.settings():
            features: Tensor = compiled_convolutions(self, source)
        return features


def convolve(extractor: ConvFeatureExtractionModel, source: Tensor) -> Tensor:
    """fairseq's own forward: (B, S) -> (B, C, T)."""
    return ConvFeatureExtractionModel.forward(extractor, source)


compiled_convolutions = compiling.Compiled(convolve)


def refusal(extractor: ConvFeatureExtractionModel, source: Tensor) -> str | None:
    """Return why `conv_features` cannot compute an extractor for these waveforms, or None if it can."""
    if source.device.type != "cpu":
        return f"the waveforms are on {source.device.type}, not on a CPU"
    if source.requires_grad:
        return "the waveforms want a gradient"
    if extractor.training and any(
        isinstance(part, nn.Dropout) and part.p > 0 for part in extractor.modules()
    ):
        return "it has dropout"
    if _product_dtype(extractor) not in DTYPES:
        return f"it computes in {_product_dtype(extractor)}"
    if conv_length(source.size(1), sizes(extractor)) < 1:
        return "the waveforms give no frame"
    return None


def conv_features(extractor: ConvFeatureExtractionModel, source: Tensor) -> Tensor:
    """Compute the output of a fairseq extractor that has no `refusal`: (B, S) waveforms -> (B, C, T)."""
    shapes: list[Shape] = []
    parameters: list[Tensor | None] = []
    for block in extractor.conv_layers:
        conv, norm = block[0], norm_of(block)
        kind = None if norm is None else "layer" if isinstance(norm, nn.LayerNorm) else "group"
        eps = 0.0 if norm is None else norm.eps
        shapes.append(Shape(conv.kernel_size[0], conv.stride[0], kind, eps))
        parameters += [conv.weight, conv.bias]
        parameters += [None, None] if norm is None else [norm.weight, norm.bias]
    is_trained = any(parameter is not None and parameter.requires_grad for parameter in parameters)
    keep = torch.is_grad_enabled() and is_trained
    out = ConvStackFunction.apply(source, tuple(shapes), _product_dtype(extractor), keep, *parameters)
    # (B, padded T, C) -> (B, T, C) -> (B, C, T)
    return out[:, : conv_length(source.size(1), sizes(extractor))].transpose(1, 2)


def _product_dtype(extractor: ConvFeatureExtractionModel) -> torch.dtype:
    return product_dtype(extractor.conv_layers[0][0].weight)


def sizes(extractor: ConvFeatureExtractionModel) -> list[ConvLayer]:
    """Return (channels, kernel, stride) of each convolution."""
    convs = [block[0] for block in extractor.conv_layers]
    return [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in convs]


def norm_of(block: nn.Module) -> Any:
    """Return the layer norm or group norm of a block of fairseq, or None."""
    kinds = (nn.LayerNorm, nn.GroupNorm)
    return next((module for module in block.modules() if isinstance(module, kinds)), None)
