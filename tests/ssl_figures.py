"""The figures of what a self-supervised branch returns, by the names of its losses and measures."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from fairseq_mtssl.ssl.base import Measure, SslResult


def loss_of(result: SslResult, name: str) -> Tensor:
    """A loss, without its weight, with its gradient."""
    return result.losses[name].value


def total(result: SslResult) -> Tensor:
    """The loss of both targets of MT4SSL, each with a weight of 1."""
    return loss_of(result, "regression") + loss_of(result, "classification")


def mean_of(result: SslResult, name: str) -> Tensor:
    """What is logged of a measure."""
    measure = result.measures[name]
    return torch.as_tensor(measure.total / measure.count)


def of_sets(result: SslResult, name: str) -> list[Measure]:
    """A measure of each label set: `loss_off` is its sum of cross-entropies, `acc_off` 100 times the frames
    that are right; the count of either is the frames that have a label."""
    names = [key for key in result.measures if re.fullmatch(rf"{name}(_\d+)?", key)]
    return [result.measures[key] for key in names]
