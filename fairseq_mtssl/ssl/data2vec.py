"""data2vec: the regression of an EMA teacher's layers at the masked frames.

Source: Baevski et al. 2022, arXiv 2202.03555. As in MT4SSL the teacher's layers are instance-normalised and
the loss is the squared error.
"""

from __future__ import annotations

from typing import Any

from fairseq_mtssl.ssl.base import register_branch
from fairseq_mtssl.ssl.mt4ssl import MaskedPredictionOptions, Mt4ssl


@register_branch("data2vec")
class Data2vec(Mt4ssl):
    """MT4SSL without labels."""

    Options = MaskedPredictionOptions
    labels = "none"

    @classmethod
    def is_online(cls, options: Any) -> bool:
        return True
