"""The quantizer against fairseq's own, with the same weights and the same random draws."""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import GumbelVectorQuantizer

from fairseq_mtssl.modules.quantizer import ProductQuantizer, perplexity


def build(kind: type[GumbelVectorQuantizer], combine_groups: bool, time_first: bool) -> GumbelVectorQuantizer:
    torch.manual_seed(0)
    return kind(
        dim=12,
        num_vars=7,
        temp=(2.0, 0.5, 0.99),
        groups=2,
        combine_groups=combine_groups,
        vq_dim=10,
        time_first=time_first,
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("combine_groups", [True, False])
@pytest.mark.parametrize("time_first", [True, False])
def test_results_and_gradients_equal_fairseqs(training: bool, combine_groups: bool, time_first: bool) -> None:
    x = torch.randn(3, 11, 12) if time_first else torch.randn(3, 12, 11)
    found, slopes = [], []
    for kind in (ProductQuantizer, GumbelVectorQuantizer):
        quantizer = build(kind, combine_groups, time_first).train(training)
        quantizer.set_num_updates(3)
        given = x.clone().requires_grad_()
        torch.manual_seed(4)
        result = quantizer(given, produce_targets=True)
        (result["x"].square().sum() + result["prob_perplexity"]).backward()
        found.append(result)
        slopes.append([given.grad, *(each.grad for each in quantizer.parameters())])
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["targets"], theirs["targets"])
    assert (ours["num_vars"], ours["temp"]) == (theirs["num_vars"], theirs["temp"])
    for name in ("x", "code_perplexity", "prob_perplexity"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_perplexity_of_even_shares_is_their_number_and_of_one_entry_one() -> None:
    shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    assert float(perplexity(shares)) == pytest.approx(5.0, abs=1e-5)
