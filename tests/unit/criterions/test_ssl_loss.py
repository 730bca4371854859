"""The loss of a self-supervised branch: weighted as by hand arithmetic, logged as sums with counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from fairseq_mtssl.criterions.ssl_loss import SslLoss, SslLossConfig, reduce_measures
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.ssl.base import Loss, Measure, Reduction, SslResult

SUM, MEAN, BATCH = Reduction.SUM, Reduction.MEAN, Reduction.BATCH


def result(frames: int, **losses: tuple[float, Reduction]) -> SslResult:
    """Make the result of one batch, without measures."""
    found = {name: Loss(torch.tensor(value), reduction) for name, (value, reduction) in losses.items()}
    return SslResult(frames=frames, losses=found)


def build(**changes: Any) -> SslLoss:
    return SslLoss(SslLossConfig(**changes))


FIRST = result(6, regression=(12.0, SUM), contrastive=(1.5, MEAN), diversity=(0.4, BATCH))
SECOND = result(2, regression=(3.0, SUM), contrastive=(0.5, MEAN), diversity=(0.2, BATCH))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("regression", (12 + 3) / 8),  # a sum over the frames of each batch
        ("contrastive", (6 * 1.5 + 2 * 0.5) / 8),  # a mean over the frames of each batch
        ("diversity", (0.4 + 0.2) / 2),  # one value per batch, independent of its number of frames
    ],
)
def test_each_reduction_of_two_batches_by_hand(name: str, mean: float) -> None:
    alone = [SslResult(each.frames, {name: each.losses[name]}) for each in (FIRST, SECOND)]
    loss = build(diversity_weight=1.0)
    assert loss.weighted_sum(alone, is_sum=False).item() == pytest.approx(mean)
    # fairseq divides the sum by the eight frames of both
    assert loss.weighted_sum(alone, is_sum=True).item() == pytest.approx(8 * mean)


@pytest.mark.parametrize(("name", "mean"), [("regression", 2.0), ("contrastive", 1.5), ("diversity", 0.4)])
def test_each_reduction_of_one_batch_by_hand(name: str, mean: float) -> None:
    alone = [SslResult(6, {name: FIRST.losses[name]})]
    loss = build(diversity_weight=1.0)
    assert loss.weighted_sum(alone, is_sum=False).item() == pytest.approx(mean)
    assert loss.weighted_sum(alone, is_sum=True).item() == pytest.approx(6 * mean)


@pytest.mark.parametrize(("is_sum", "factor"), [(False, 1), (True, 8)])
def test_losses_are_weighted_by_their_names_and_others_by_one(is_sum: bool, factor: int) -> None:
    loss = build(online_weight=2.0, diversity_weight=0.1)
    wanted = 2 * 15 / 8 + 1 * 10 / 8 + 0.1 * 0.3
    assert loss.weighted_sum([FIRST, SECOND], is_sum).item() == pytest.approx(factor * wanted)


def test_every_field_weights_the_loss_of_its_name() -> None:
    names = {
        "online_weight": "regression",
        "offline_weight": "classification",
        "unmasked_weight": "classification_unmasked",
        "diversity_weight": "diversity",
        "feature_penalty": "feature_penalty",
    }
    for option, name in names.items():
        given = [result(2, **{name: (3.0, BATCH)})]
        assert build(**{option: 0.5}).weighted_sum(given, is_sum=False).item() == 1.5, option


def test_ssl_weights_apply_to_losses_with_and_without_a_field() -> None:
    batches = [result(4, own=(3.0, MEAN), other=(5.0, BATCH), regression=(8.0, SUM))]
    assert build(ssl_weights={"own": 0.5}).weighted_sum(batches, is_sum=False).item() == 0.5 * 3 + 5 + 8 / 4
    found = build(ssl_weights={"other": 0.0, "regression": 10.0}).weighted_sum(batches, is_sum=False)
    assert found.item() == 3 + 10 * 8 / 4


def test_a_loss_without_weight_gets_no_gradient() -> None:
    on, off = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    losses = {"own": Loss(on * 3, MEAN), "diversity": Loss(off * 3, BATCH)}
    build(diversity_weight=0.0).weighted_sum([SslResult(4, losses)], is_sum=True).backward()
    assert on.grad == 12.0 and off.grad is None


def test_a_weight_of_a_loss_that_the_branch_lacks_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build(ssl_weights={"contrast": 2.0, "penalty": 1.0}).weighted_sum([FIRST], is_sum=False)
    for name in ("contrast", "penalty"):
        wanted = f"{name}: no such loss; this batch has regression, contrastive, diversity"
        assert wanted in caught.value.errors


def test_all_invalid_weights_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build(
            online_weight=0.0,
            offline_weight=-1.0,
            unmasked_weight=-0.1,
            diversity_weight=-0.2,
            feature_penalty=-0.3,
            ssl_weights={"own": -0.4},
        )
    assert [error.split(":")[0] for error in caught.value.errors] == [
        "online_weight 0.0",
        "offline_weight -1.0",
        "unmasked_weight -0.1",
        "diversity_weight -0.2",
        "feature_penalty -0.3",
        "ssl_weights.own -0.4",
    ]


@pytest.mark.parametrize("given", ["contrastive=2", {"contrastive": "2"}, [2.0]])
def test_weights_that_are_not_numbers_by_name_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="ssl_weights .*: wanted weights by name, as {contrastive: 2}"):
        build(ssl_weights=given)


def test_a_batch_without_masked_frames_has_a_finite_loss_and_one_without_losses_is_refused() -> None:
    empty = result(0, regression=(0.0, SUM), contrastive=(0.0, MEAN), diversity=(0.4, BATCH))
    for is_sum in (False, True):
        # it counts as one frame, with only the loss that is not over frames
        assert build(diversity_weight=1.0).weighted_sum([empty], is_sum).item() == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="the batch has no labels and the model no online targets"):
        build().weighted_sum([result(3)], is_sum=False)


def measured(frames: int, measures: dict[str, Measure], *counts: list[float]) -> SslResult:
    return SslResult(frames, {}, measures, [torch.tensor(each) for each in counts])


def test_measures_are_logged_as_sums_with_their_counts_and_reduced_to_their_mean() -> None:
    loss, logs = build(), []
    for batch in (
        [measured(6, {"own": Measure(12.0, 6)}), measured(2, {"own": Measure(torch.tensor(2.0), 2)})],
        [measured(8, {"own": Measure(6.0, 8), "late": Measure(torch.tensor(3.0), torch.tensor(4))})],
    ):
        logs.append({"sample_size": 1})
        loss.log(batch, logs[-1])
    assert float(logs[0]["own"]) == 14.0 and logs[0]["own_count"] == 8
    with metrics.aggregate() as meters:
        reduce_measures(logs, 2)
    values = meters.get_smoothed_values()
    assert values["own"] == pytest.approx(20 / 16)
    assert values["late"] == pytest.approx(3 / 4)  # batches without it are not counted
    assert set(values) == {"own", "late"}


def test_a_measure_that_counts_nothing_is_no_division_by_zero() -> None:
    for zero in (0, torch.tensor(0)):
        log: dict[str, Any] = {}
        build().log([measured(0, {"own": Measure(torch.tensor(0.0), zero)})], log)
        with metrics.aggregate() as meters:
            reduce_measures([log], 1)
        assert meters.get_smoothed_values()["own"] == 0


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([[1.0, 3.0]], {"frequent_off": 75.0, "chance_off": 50.0}),
        ([[1.0, 3.0], [1.0, 0.0, 3.0, 0.0]], {"frequent_off_0": 75.0, "chance_off_1": 25.0}),
    ],
)
def test_a_label_set_alone_has_no_number_in_its_keys(
    counts: list[list[float]], wanted: dict[str, float]
) -> None:
    log: dict[str, Any] = {}
    build().log([measured(4, {}, *counts)], log)
    for name, percent in wanted.items():
        assert float(log[name] / log[f"{name}_count"]) == pytest.approx(percent)
    assert ("frequent_off" in log) is (len(counts) == 1)


def test_the_collapse_check_uses_means_and_skips_branches_without_variances(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loss = build(collapse_check_updates=2, min_target_var=0.5)
    loss.watch({"loss": 1.0}, 2)
    assert not caplog.records
    loss.watch({"target_var": torch.tensor(4.0), "target_var_count": 10}, 4)
    (record,) = caplog.records
    assert "update 4: target_var is 0.4, below 0.5" in record.message
