"""The VGS speech head: shared frames and CLS to one speech embedding (SYSTEMS B of Khorrami et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import padding_mask
from fairseq_mtssl.modules.attention import ClsProjection, bert_layer, init_bert, init_std, prepend
from fairseq_mtssl.modules.resdavenet import ResDavenet


class VgsSpeechHead(nn.Module):
    """ResDAVEnet over the frames, the projected CLS in front, one BERT layer, its CLS projected.

    Defaults are the paper's: ResDAVEnet 31,064,704 parameters, CLS projection 2,361,600,
    BERT layer 7,087,872, speech projection 590,592.

    dim: of the frames and the CLS; must equal channels[-1], for both become tokens of one layer.
    embed_dim: D of the speech embedding, `dim` by default. cls_hidden_dim: 2 · dim by default.
    masked: the output does not depend on padding (see ResDavenet).
    Source: arXiv 2306.02972 after FaST-VGS+, arXiv 2202.03543.
    """

    def __init__(
        self,
        dim: int = 768,
        embed_dim: int | None = None,
        cls_hidden_dim: int | None = None,
        heads: int = 12,
        ffn_dim: int = 3072,
        dropout: float = 0.1,
        in_channels: int = 128,
        channels: Sequence[int] = (128, 256, 512, 768),
        kernel: int = 9,
        blocks_per_stage: int = 2,
        strides: Sequence[int] = (2, 2, 2, 2),
        masked: bool = False,
    ) -> None:
        super().__init__()
        if not channels or channels[-1] != dim:
            last = channels[-1] if channels else "no"
            error = f"ResDAVEnet ends with {last} channels but frames have {dim}; make them equal"
            raise ConfigError("speech head", [error])
        self.resdavenet = ResDavenet(dim, channels, kernel, blocks_per_stage, in_channels, strides, masked)
        self.cls_projection = ClsProjection(dim, cls_hidden_dim or 2 * dim, dim)
        self.layer = bert_layer(dim, heads, ffn_dim, dropout)
        self.projection = nn.Linear(dim, embed_dim or dim)
        init_bert(self.projection, init_std(dim))

    def forward(self, frames: Tensor, lengths: Tensor | None, cls: Tensor) -> Tensor:
        """Embed clips.

        frames: (B, T, dim); lengths: (B,) int, valid frames, or None when nothing is padded;
        cls: (B, dim), the shared layers' CLS output.
        Returns: (B, D), not normalised.
        """
        subsampled, lengths = self.resdavenet(frames, lengths)
        tokens = prepend(self.cls_projection(cls), subsampled)  # (B, T', dim) -> (B, 1 + T', dim)
        padding = None if lengths is None else padding_mask(lengths + 1, tokens.shape[1])
        return self.projection(self.layer(tokens, padding, first_only=True)[:, 0])
