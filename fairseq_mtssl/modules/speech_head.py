"""The speech head of visual grounding, which makes one embedding of the shared layers' output.

Source: Khorrami et al. 2023, arXiv 2306.02972.
"""

from __future__ import annotations

from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import padding_mask
from fairseq_mtssl.modules.attention import (
    BertLayer,
    BertOptions,
    ClsProjection,
    init_bert,
    init_std,
    prepend,
)
from fairseq_mtssl.modules.resdavenet import ResDavenet, ResDavenetOptions


class VgsSpeechHead(nn.Module):
    """A BERT layer over the projected CLS token and the frames after ResDAVEnet; its CLS output is projected.

    In the paper's size, the default, ResDAVEnet has 31,064,704 parameters, the CLS projection 2,361,600, the
    BERT layer 7,087,872 and the speech projection 590,592.

    bert: options of the BERT layer, whose width is that of the frames and of the CLS token. ResDAVEnet's last
    stage must have the same width, since frames and CLS token are the tokens of this layer.
    embed_dim: D of the speech embedding; None: the same width.
    Source: arXiv 2306.02972 after FaST-VGS+, arXiv 2202.03543.
    """

    def __init__(
        self,
        bert: BertOptions | None = None,
        resdavenet: ResDavenetOptions | None = None,
        embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        bert, resdavenet = bert or BertOptions(), resdavenet or ResDavenetOptions()
        dim, channels = bert.dim, resdavenet.channels
        if not channels or channels[-1] != dim:
            last = channels[-1] if channels else "no"
            error = f"ResDAVEnet ends with {last} channels but frames have {dim}; make them equal"
            raise ConfigError("speech head", [error])
        self.resdavenet = ResDavenet(dim, resdavenet)
        self.cls_projection = ClsProjection(dim, dim)
        self.layer = BertLayer(bert)
        self.projection = nn.Linear(dim, embed_dim or dim)
        init_bert(self.projection, init_std(dim))

    def forward(self, frames: Tensor, lengths: Tensor | None, cls: Tensor) -> Tensor:
        """Embed clips.

        frames: (B, T, dim); lengths: (B,) int, valid frames, or None without padding; cls: (B, dim), the
        output of the shared layers for the CLS token.
        Returns: (B, D), not normalised.
        """
        subsampled, lengths = self.resdavenet(frames, lengths)
        tokens = prepend(self.cls_projection(cls), subsampled)  # (B, T', dim) -> (B, 1 + T', dim)
        padding = None if lengths is None else padding_mask(lengths + 1, tokens.shape[1])
        return self.projection(self.layer(tokens, padding, first_only=True)[:, 0])
