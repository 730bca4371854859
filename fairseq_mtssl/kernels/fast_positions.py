"""The stacked positional convolution of data2vec in (frame, channel) order, without transposes on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def stacked_positions(blocks: Iterable[Any], x: Tensor, padding: Tensor | None) -> Tensor:
    """Run fairseq's blocks of convolution, layer norm and GELU: (B, T, D) -> (B, T, D).

    padding: (B, T) bool, set to zero before each block except the first, so that the output at valid frames
    does not depend on it; or None.
    """
    for index, block in enumerate(blocks):
        if padding is not None and index > 0:
            x = x.masked_fill(padding.unsqueeze(-1), 0)
        conv, same_pad, _, norm, _, activation = block
        # (B, T, D) -> (B, D, 1, T), which is what torch calls channels-last
        image = x.transpose(1, 2).unsqueeze(2)
        weight, width = conv.weight.unsqueeze(2), (0, conv.padding[0])
        image = nn.functional.conv2d(image, weight, conv.bias, padding=width, groups=conv.groups)
        # (B, D, 1, T) -> (B, T, D)
        x = image.squeeze(2).transpose(1, 2)
        x = activation(norm(x[:, : x.size(1) - same_pad.remove]))
    return x


def refusal(blocks: nn.Module, x: Tensor) -> str | None:
    """Return why `stacked_positions` cannot compute the blocks for x, or is not faster; None if it can."""
    if x.device.type != "cpu":
        return f"the input is on {x.device.type}, not on a CPU"
    if x.dtype == torch.float16:
        return "the input is in float16"
    return None if all(map(_is_known, blocks.children())) else "its blocks are not fairseq's, or have hooks"


def _is_known(block: nn.Module) -> bool:
    """Return whether a block is fairseq's (conv, SamePad, transpose, norm, transpose, GELU) without hooks."""
    if not isinstance(block, nn.Sequential) or len(block) != 6 or block._forward_hooks:
        return False
    return isinstance(block[0], nn.Conv1d) and isinstance(block[3], nn.LayerNorm)
