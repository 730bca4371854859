"""The protocol of self-supervised branches: registry, options, losses over all ranks, a dummy branch."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adding
import pytest
import tiny_mt4ssl
import torch

from fairseq_mtssl.criterions.mt4ssl import Mt4sslCriterion
from fairseq_mtssl.criterions.ssl_loss import SslLossConfig
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel
from fairseq_mtssl.ssl import base
from fairseq_mtssl.ssl.base import (
    Loss,
    Measure,
    Reduction,
    SslResult,
    register_branch,
)

branch_named, read_options = base.BRANCHES.named, base.BRANCHES.read_options


def frame_power() -> Any:
    """The module of CONTRIBUTING.md's branch, which is registered nowhere."""
    known = dict(base.BRANCHES.items)
    with tempfile.TemporaryDirectory() as folder:
        module = adding.import_file("my_package/frame_power.py", Path(folder))
    base.BRANCHES.items = known
    return module


EXAMPLE = frame_power()


@dataclass
class DummyOptions(EXAMPLE.FramePowerOptions):
    mask_length: int = field(default=7, metadata={"help": "a field that the model has, too"})


class Dummy(EXAMPLE.FramePower):
    """CONTRIBUTING.md's branch with one more option."""

    Options = DummyOptions


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A copy of the registry, so that nothing stays registered."""
    monkeypatch.setattr(base.BRANCHES, "items", dict(base.BRANCHES.items))
    return base.BRANCHES.items


# -- registry


def test_a_branch_is_found_under_its_name() -> None:
    assert register_branch("dummy")(Dummy) is Dummy
    assert branch_named("dummy") is Dummy


def test_a_name_that_is_taken_is_refused_and_stays_with_the_first() -> None:
    register_branch("dummy")(Dummy)
    for name in ("dummy", "wav2vec2"):
        with pytest.raises(ConfigError, match=f"two branches are called '{name}'; rename one of them"):
            register_branch(name)(type("Other", (Dummy,), {}))
    assert branch_named("dummy") is Dummy and branch_named("wav2vec2").__name__ == "Wav2vec2"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    register_branch("dummy")(Dummy)
    known = "best_rq, data2vec, dummy, hubert, mt4ssl, wav2vec2"
    with pytest.raises(ConfigError, match=rf"model.ssl: got 'wav2vec', wanted one of {known}"):
        branch_named("wav2vec")


# -- options


def test_ssl_options_override_the_models_fields_and_these_the_defaults() -> None:
    model = {"mask_length": 5, "scale": 4.0, "encoder_layers": 12}
    assert read_options(Dummy, model, {}) == DummyOptions(scale=4.0, mask_length=5, power=2)
    ssl_options = {"scale": 9.0, "power": 1}
    assert read_options(Dummy, model, ssl_options) == DummyOptions(scale=9.0, mask_length=5, power=1)


def test_null_keeps_the_default() -> None:
    assert read_options(Dummy, {"scale": None}, {"power": None}) == DummyOptions()


def test_every_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        read_options(Dummy, {}, {"codes": 3, "scale": 1.0, "lod": 2})
    wanted = "no such option; this branch has scale, power, mask_length"
    assert caught.value.errors == [f"codes: {wanted}", f"lod: {wanted}"]
    assert str(caught.value).startswith("model.ssl_options: ")


# -- over all ranks


def test_means_over_frames_are_scaled_so_that_the_mean_of_the_ranks_is_that_of_all_frames() -> None:
    """Two ranks of 6 and 2 masked frames, whose losses are averaged afterwards."""
    ranks: Any = SimpleNamespace(mean_count=lambda count, device: torch.tensor(4.0))
    values = {"sum": (12.0, 3.0), "mean": (1.5, 0.5), "batch": (0.4, 0.2)}
    given = [
        SslResult(
            frames,
            {kind: Loss(torch.tensor(pair[rank]), Reduction(kind)) for kind, pair in values.items()},
            {"own": Measure(5.0, frames)},
        )
        for rank, frames in enumerate((6, 2))
    ]
    found = [result.averaged_over(ranks) for result in given]
    assert [float(result.frames) for result in found] == [4.0, 4.0]
    for kind in ("sum", "batch"):
        assert [result.losses[kind].value.item() for result in found] == pytest.approx(values[kind])
    means = [result.losses["mean"].value.item() for result in found]
    assert means == pytest.approx([1.5 * 6 / 4, 0.5 * 2 / 4])
    assert sum(means) / 2 == pytest.approx((6 * 1.5 + 2 * 0.5) / 8)
    assert {kind: loss.reduction for kind, loss in found[0].losses.items()} == {
        "sum": Reduction.SUM,
        "mean": Reduction.MEAN,
        "batch": Reduction.BATCH,
    }
    assert found[0].measures == given[0].measures
    assert given[0].frames == 6 and given[0].losses["mean"].value == 1.5  # a copy


def test_no_frame_on_any_rank_is_no_division_by_zero() -> None:
    ranks: Any = SimpleNamespace(mean_count=lambda count, device: torch.tensor(0.0))
    result = SslResult(0, {"own": Loss(torch.tensor(0.0), Reduction.MEAN)}).averaged_over(ranks)
    assert result.frames == 0 and result.losses["own"].value == 0


def test_a_measure_in_another_unit_has_the_same_count() -> None:
    assert Measure(0.5, 2).times(100.0) == Measure(50.0, 2)


# -- a dummy branch


def test_a_branch_that_is_registered_trains_by_its_name_with_its_options_and_weights() -> None:
    register_branch("dummy")(Dummy)
    torch.manual_seed(0)
    config = Mt4sslConfig(**{**tiny_mt4ssl.ENCODER, "ssl": "dummy", "ssl_options": {"scale": 5.0}})
    model = Mt4sslModel.build_model(config, SimpleNamespace(label_classes=[])).train()
    # mask_length is a field of the model and of the branch; the power has its default
    assert model.ssl_head.options == DummyOptions(scale=5.0, mask_length=3, power=2)
    given = tiny_mt4ssl.batch([9_000, 6_400])
    sample = {
        "net_input": {name: given[name] for name in ("source", "lengths")},
        "id": given["ids"],
        "ntokens": 15_400,
        "nsentences": 2,
    }
    result = model(**sample["net_input"], ids=given["ids"])
    criterion = Mt4sslCriterion(SslLossConfig(ssl_weights={"frame_power": 0.5}), None)
    loss, frames, log = criterion(model, sample)
    assert frames == result.frames > 0
    torch.testing.assert_close(loss, 0.5 * frames * result.losses["frame_power"].value)
    torch.testing.assert_close(log["power"] / log["power_count"], result.losses["frame_power"].value.detach())
    loss.backward()
    assert model.speech_encoder.mask_emb.grad.abs().sum() > 0


def test_the_options_of_a_branch_are_plain_and_keep_nothing_of_the_configuration() -> None:
    model = tiny_mt4ssl.build(label_layers=[2])
    assert type(model.ssl_head.options.label_layers) is list
    assert pickle.loads(pickle.dumps(model.ssl_head.options)) == model.ssl_head.options


def test_labels_and_options_that_a_branch_does_not_take_are_refused() -> None:
    register_branch("dummy")(Dummy)
    config = Mt4sslConfig(**{**tiny_mt4ssl.ENCODER, "ssl": "dummy"})
    with pytest.raises(ConfigError, match="ssl=dummy takes no task.labels, and has 1 label sets"):
        Mt4sslModel.build_model(config, SimpleNamespace(label_classes=[12]))
    for wrong in ("scale=1", ["scale"]):
        config.ssl_options = wrong
        with pytest.raises(ConfigError, match="model.ssl_options: got .*, wanted options by name, as {codes"):
            Mt4sslModel.build_model(config, SimpleNamespace(label_classes=[]))
    config.ssl_options = {"scales": 1.0}
    with pytest.raises(ConfigError, match="model.ssl_options: scales: no such option"):
        Mt4sslModel.build_model(config, SimpleNamespace(label_classes=[]))
