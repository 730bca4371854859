"""Statistics over all ranks: two processes must train like one with the batches of both."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import gloo_ranks
import pytest
import sync_two_ranks
import torch
from tiny_grounding import build_joint

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.tasks.vgs_retrieval import VgsRetrievalTask, VgsRetrievalTaskConfig, WatchedTask

ALL = [0, 1, 2, 3, 4, 5]


def case(alpha: float, rows: list[list[int]], last_counts: bool = True, **settings: Any) -> dict[str, Any]:
    return {"alpha": alpha, "rows": rows, "counted": [True, last_counts], "settings": settings}


EQUAL = {
    **{f"alpha {alpha}": case(alpha, [[0, 1, 2, 3], [4, 5]]) for alpha in (0.0, 0.5, 1.0)},
    **{f"dummy, alpha {alpha}": case(alpha, [ALL, [0, 1]], last_counts=False) for alpha in (0.5, 1.0)},
    "labels of a teacher": case(0.5, [[0, 1, 2, 3], [4, 5]], ssl="data2vec", average_top_k_layers=2),
}
"""What must be as in one process; the rows of both ranks, or of the first alone, are `ALL`."""
CASES = {**EQUAL, "paper": case(1.0, [[0, 1, 2], [3, 4, 5]], preset="paper")}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo ranks made of every case, in one start of the processes."""
    return gloo_ranks.run_cases(sync_two_ranks, CASES, tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The functions that the ranks run, and no chance in this process."""
    monkeypatch.setattr(sync_two_ranks.Wav2vec2, "_draw_negatives", None)
    monkeypatch.setattr(sync_two_ranks.quantizer.nn.functional, "gumbel_softmax", None)
    sync_two_ranks.without_chance()
    return sync_two_ranks


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_have_the_loss_gradients_and_statistics_of_one_process(
    two_ranks: list[dict[str, Any]], script: ModuleType, name: str
) -> None:
    wanted = script.learn(script.build(EQUAL[name]["settings"]), ALL, EQUAL[name]["alpha"])
    ranks = [rank[name] for rank in two_ranks]
    counted = [rank for rank, counts in zip(ranks, EQUAL[name]["counted"], strict=True) if counts]
    # The mean of the ranks' losses is that of all. Rounding errors of 17 layers' float32 sums: about 1e-6.
    loss = torch.stack([rank["loss"] for rank in counted]).mean()
    torch.testing.assert_close(loss, wanted["loss"], atol=1e-5, rtol=1e-5)
    used = set(wanted["gradients"])
    assert used
    # DistributedDataParallel divides by two ranks, fairseq by the batches that count
    scale = 2 / len(counted)
    for rank in ranks:
        assert used <= set(rank["gradients"])
        norm = torch.stack([gradient.norm() for gradient in wanted["gradients"].values()]).norm()
        for key in used:
            difference = (scale * rank["gradients"][key] - wanted["gradients"][key]).norm()
            assert difference <= 1e-5 * norm, key
        for key, buffer in wanted["buffers"].items():
            torch.testing.assert_close(rank["buffers"][key], buffer, atol=1e-5, rtol=1e-5)


def test_running_statistics_of_the_paper_drift_apart_until_they_are_shared(
    two_ranks: list[dict[str, Any]],
) -> None:
    first, second = (rank["paper"] for rank in two_ranks)
    both = [(key, buffer, second["buffers"][key]) for key, buffer in first["buffers"].items()]
    assert any("running_var" in key and not torch.equal(one, other) for key, one, other in both)
    for key, buffer in first["buffers"].items():
        assert torch.equal(first["shared"][key], buffer)
        assert torch.equal(second["shared"][key], buffer)


def test_a_task_shares_buffers_before_validation_and_says_which_batches_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WatchedTask, "train_step", lambda *_: None)
    monkeypatch.setattr("fairseq_mtssl.tasks.vgs_retrieval.begin_update", lambda *_: None)
    task = VgsRetrievalTask(VgsRetrievalTaskConfig(data="none", lr=[0.1], max_update=4, update_freq=[1]))
    calls: list[Any] = []
    model = SimpleNamespace(
        begin_batch=lambda counted: calls.append(counted), share_buffers=lambda: calls.append("shared")
    )
    task.begin_valid_epoch(1, model)
    monkeypatch.setattr(task, "_begin_session", lambda *_: SimpleNamespace(reach=lambda _: None))
    task.cfg.max_epoch = 0
    task._resolve_schedule(4)
    criterion = SimpleNamespace(enter=lambda _: None)
    for dummy in (False, True):
        task.train_step({"net_input": {"images": 0}}, model, criterion, None, 0, ignore_grad=dummy)
    assert calls == ["shared", True, False]


@pytest.mark.parametrize(("changes", "is_refused"), [({}, True), ({"sync_ranks": False}, False)])
def test_an_image_encoder_whose_batch_norms_stay_apart_is_refused_with_several_ranks(
    changes: dict[str, Any], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, joined = build_joint(**changes).train(), build_joint(**changes).train()
    for model in (alone, joined):
        model.image_encoder.extra = torch.nn.BatchNorm2d(3)
    alone.begin_batch(counted=True)
    monkeypatch.setattr(joined.ranks, "several", lambda: True)
    if not is_refused:
        joined.begin_batch(counted=True)
        return
    with pytest.raises(ConfigError, match=r"1 batch norms \(image_encoder.extra.*ViT.*sync_ranks=false"):
        joined.begin_batch(counted=True)
    joined.image_encoder.extra.eval()
    joined.begin_batch(counted=True)
