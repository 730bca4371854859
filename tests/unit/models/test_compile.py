"""`model.compile` changes neither the numbers nor what is in a checkpoint, and buckets end its compiling."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from compiler import Traced
from ssl_figures import total
from tiny_mt4ssl import LENGTHS, batch, build, losses_and_gradients
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config

from fairseq_mtssl.data.clips import ClipOptions
from fairseq_mtssl.data.labelled_clips import LabelledClipDataset
from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.models.speech_ctc import SpeechCtcConfig, SpeechCtcModel

Found = tuple[Tensor, dict[str, Tensor]]


def assert_same(found: Found, expected: Found, loss: float = 1e-5, gradients: float = 1e-5) -> None:
    """loss, gradients: relative differences allowed, the latter of all weights together."""
    torch.testing.assert_close(found[0], expected[0], rtol=loss, atol=0)
    assert found[1].keys() == expected[1].keys()
    ours, theirs = (torch.cat([each.flatten() for each in side[1].values()]) for side in (found, expected))
    assert float((ours - theirs).norm()) < gradients * float(theirs.norm())


@pytest.mark.parametrize("traced", ["aot_eager"], indirect=True)
@pytest.mark.parametrize("fast", [True, False])
def test_mt4ssl_has_the_same_losses_and_gradients_compiled(traced: Traced, fast: bool) -> None:
    model, plain = build(compile=True, fast=fast), build()
    for update in range(2):
        for lengths in LENGTHS:
            for each in (model, plain):
                each.set_num_updates(update)
            inputs = batch(lengths)
            assert_same(losses_and_gradients(model, inputs), losses_and_gradients(plain, inputs))
        for each in (model, plain):
            each.step_branch(update + 1)
    # student and teacher, with padding and without; without `fast` the convolutions of a CPU, too
    assert traced.graphs() == (4 if fast else 5)


def test_a_compiled_model_with_layerdrop_in_bfloat16_has_the_plain_losses_and_gradients(
    traced: Traced,
) -> None:
    changes = {"encoder_layerdrop": 0.5, "precision": "bfloat16", "encoder_layers": 6}
    model, plain = build(compile=True, **changes), build(**changes)
    found = []
    for each in (model, plain):
        torch.manual_seed(2)
        found.append(losses_and_gradients(each, batch(LENGTHS[1])))
    assert_same(*found, loss=0.01, gradients=0.05)
    assert traced.graphs() == 2


def test_a_model_in_16_bits_trains_compiled(traced: Traced) -> None:
    """As common.bf16 halves it: the student, not the teacher."""
    model, plain = (build(compile=on).to(torch.bfloat16) for on in (True, False))
    inputs = batch(LENGTHS[1])
    inputs["source"] = inputs["source"].to(torch.bfloat16)
    found, expected = (losses_and_gradients(each, inputs) for each in (model, plain))
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=0)
    assert all(gradient.isfinite().all() for gradient in found[1].values()) and traced.graphs() == 2


def test_evaluation_is_not_compiled(traced: Traced) -> None:
    model, plain = build(compile=True).eval(), build().eval()
    with torch.no_grad():
        assert torch.equal(total(model(**batch(LENGTHS[1]))), total(plain(**batch(LENGTHS[1]))))
    assert traced.graphs() == 0


def test_checkpoints_and_copies_are_those_of_a_plain_model(traced: Traced) -> None:
    model = build(compile=True)
    loss, _ = losses_and_gradients(model, batch(LENGTHS[0]))
    assert list(model.state_dict()) == list(build().state_dict())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(total(again(**batch(LENGTHS[0]))), loss)
    assert traced.graphs() == 2


def test_fine_tuning_compiles_too(traced: Traced) -> None:
    losses = []
    sizes = build().speech_encoder.sizes.plain()
    for on in (True, False):
        torch.manual_seed(0)
        dropouts = {"dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
        config = SpeechCtcConfig(encoder=sizes, compile=on, mask_length=3, seed=1, **dropouts)
        symbols: Any = SimpleNamespace(target_dictionary=range(9))
        model: nn.Module = SpeechCtcModel.build_model(config, symbols).train()
        inputs = batch(LENGTHS[1])
        padding = torch.arange(9_000) >= inputs["lengths"][:, None]
        losses.append(model(inputs["source"], padding)["encoder_out"].square().sum())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    assert traced.graphs() == 1


# -- buckets


def test_padding_to_a_bucket_changes_neither_losses_nor_gradients() -> None:
    model = build()
    for lengths in LENGTHS:
        expected = losses_and_gradients(model, batch(lengths))
        assert_same(losses_and_gradients(model, batch(lengths, width=12_800)), expected)


def test_after_an_epoch_of_bucketed_batches_nothing_is_compiled_any_more(traced: Traced) -> None:
    sizes = np.random.default_rng(0).integers(3_000, 16_000, size=21)
    manifest = AudioManifest(Path("train.tsv"), Path("."), [str(row) for row in range(21)], sizes)
    options = ClipOptions(max_samples=12_000, training=True, seed=1, num_buckets=2)
    clips = LabelledClipDataset(manifest, np.arange(21), [], [(16, 10, 5)], options)
    model = build(compile=True)

    def epoch(number: int) -> int:
        clips.set_epoch(number)
        batches = clips.batch_by_size(clips.ordered_indices(), max_tokens=48_000)
        for rows in batches:
            given = batch([clips.size(row) for row in rows])
            speech = clips.collate_speech([clip[:n] for clip, n in zip(given["source"], given["lengths"])])
            total(model(**{**given, **speech})).backward()
        return len(batches)

    assert epoch(1) > 4
    # two buckets and the last batch, student and teacher, with padding or without
    assert 4 <= traced.graphs() <= 12
    with dynamo_config.patch(error_on_recompile=True):
        for number in range(2, 5):
            epoch(number)
    assert traced.graphs() == 0
