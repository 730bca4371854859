"""HuBERT: the classification of cluster labels at the masked frames.

Source: Hsu et al. 2021, arXiv 2106.07447; its head is a cosine to learned embeddings (eq. 3).
"""

from __future__ import annotations

from typing import Any

from fairseq_mtssl.ssl.base import register_branch
from fairseq_mtssl.ssl.mt4ssl import MaskedPredictionOptions, Mt4ssl


@register_branch("hubert")
class Hubert(Mt4ssl):
    """MT4SSL without its teacher, and with HuBERT's label head as the default of label_head."""

    Options = MaskedPredictionOptions
    default_head = "cosine"

    @classmethod
    def is_online(cls, options: Any) -> bool:
        return False
