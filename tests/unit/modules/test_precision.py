"""bfloat16 in training: where it is used, where not, and how near it stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules import precision
from fairseq_mtssl.modules.precision import check_precision, has_bfloat16, mixed, rounded_copy

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "found", "wanted"),
    [
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_products_are_computed_in_the_precision_asked_for(
    name: str, found: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: found)
    layer = nn.Linear(4, 4)
    with mixed(name, CPU):
        assert layer(torch.randn(2, 4)).dtype == wanted
    assert layer.weight.dtype == torch.float32


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="half.*float32, bfloat16, auto"):
        check_precision("half")


def test_what_the_processor_has_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not has_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert has_bfloat16(CPU)
    assert not has_bfloat16(torch.device("meta"))


def test_a_rounded_copy_computes_what_autocast_does_and_leaves_the_module_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.utils.weight_norm(nn.Conv1d(8, 8, 1)))
    x = torch.randn(2, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = module(x)
        copied = rounded_copy(module)
        assert torch.equal(copied(x), wanted)
    assert copied[1].weight.dtype == torch.bfloat16 and module[1].weight.dtype == torch.float32
    assert copied[0].weight is module[0].weight and module[1].weight.requires_grad
