"""The last layer at masked frames alone: the same as all of it, of which those frames are taken."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_mt4ssl
import torch
from ssl_figures import total
from torch import Tensor

from fairseq_mtssl.models.mt4ssl import Mt4sslModel
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.ssl.base import SslBatch

MASKS = {"as many in each": [[2, 9, 10], [0, 5, 17]], "none in one": [[], [0, 3]], "none": [[], []]}


def both_ways(
    model: Mt4sslModel, lengths: list[int], chosen: list[list[int]]
) -> tuple[list[Tensor], list[Tensor]]:
    """States and gradients of the encoder's weights: computed at some frames alone, and taken from all."""
    encoder, given = model.speech_encoder, tiny_mt4ssl.batch(lengths)
    mask = torch.zeros(len(lengths), int(encoder.frame_lengths(given["lengths"]).max()), dtype=torch.bool)
    for row, frames in zip(mask, chosen, strict=True):
        row[frames] = True
    found = []
    for alone in (True, False):
        encoder.zero_grad()
        torch.manual_seed(5)
        hidden = encoder.embed(encoder.forward_features(given["source"], given["lengths"]))
        last = encoder.num_layers
        if alone:
            states = encoder.forward_masked(hidden, 0, last, mask)
        else:
            states = encoder.frames(
                encoder.forward_layers(encoder.forward_layers(hidden, 0, last - 1), last - 1, last)
            )[mask]
        weight = torch.linspace(-1, 1, states.size(-1)) * torch.arange(1, len(states) + 1).unsqueeze(1)
        (states * weight).sum().backward()
        found.append([states.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    return found[0], found[1]


def assert_same(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            mine,
            theirs,
            rtol=tolerance,
            atol=tolerance * (1 + float(theirs.abs().max())) if theirs.numel() else 0,
        )


@pytest.mark.parametrize("lengths", tiny_mt4ssl.LENGTHS)
@pytest.mark.parametrize("chosen", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 2e-5),
        ({"precision": "bfloat16"}, 3e-2),
        ({"fast": False}, 0.0),
        ({"encoder_layerdrop": 0.5}, 2e-5),
    ],
    ids=["plain", "bfloat16", "not fast", "layerdrop"],
)
def test_states_and_gradients_equal_those_of_the_whole_layer(
    lengths: list[int], chosen: list[list[int]], changes: dict[str, Any], tolerance: float
) -> None:
    assert_same(*both_ways(tiny_mt4ssl.build(**changes), lengths, chosen), tolerance)


def test_a_cls_token_is_attended_to_and_never_returned() -> None:
    model = tiny_mt4ssl.build()
    encoder: SpeechEncoder = model.speech_encoder
    encoder.cls_token = torch.nn.Parameter(torch.randn(1, 1, encoder.dim))
    assert_same(*both_ways(model, tiny_mt4ssl.LENGTHS[1], MASKS["as many in each"]), 2e-5)


def test_layerdrop_skips_the_last_layer_or_not_as_drawn() -> None:
    model = tiny_mt4ssl.build(encoder_layerdrop=0.5)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        given = tiny_mt4ssl.batch([9_000])
        hidden = model.speech_encoder.embed(
            model.speech_encoder.forward_features(given["source"], given["lengths"])
        )
        torch.manual_seed(seed)
        last = model.speech_encoder.num_layers
        states = model.speech_encoder.forward_masked(
            hidden, last - 1, last, torch.ones(1, 27, dtype=torch.bool)
        )
        skipped = torch.equal(states, model.speech_encoder.frames(hidden)[0])
        torch.manual_seed(seed)
        assert skipped == (torch.rand(()).item() < 0.5)
        seen.add(skipped)
    assert seen == {True, False}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("label_layers", [[], [2]])
def test_losses_do_not_depend_on_whether_the_last_state_is_kept(views: int, label_layers: list[int]) -> None:
    model = tiny_mt4ssl.build(clone_batch=views, label_layers=label_layers)
    given = tiny_mt4ssl.batch(tiny_mt4ssl.LENGTHS[1])
    extracted = model.speech_encoder.forward_features(given["source"], given["lengths"])
    mask = torch.cat([model.draw_mask(extracted, given["ids"], view) for view in range(views)])
    found = {}
    for keep in (None, 2, model.speech_encoder.num_layers):
        batch = SslBatch(given["source"], given["lengths"], extracted, mask, given["labels"], keep)
        result = model.ssl_head(model.speech_encoder, batch)
        assert (result.shared is None) == (keep is None)
        found[keep] = total(result)
    torch.testing.assert_close(found[None], found[3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2], found[3], rtol=1e-5, atol=1e-5)
