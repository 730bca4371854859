"""Two processes: gradients sent while the backward pass goes on, held to fairseq's plain `legacy_ddp`.

One start of the processes (`two_ranks.py`) for all runs. Of an epoch's five batches each rank has three, the
last of rank 1 being a repetition without weight; update_freq 2 makes updates of two batches and of one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import environment
from tiny_corpora import make_corpus, make_labels, write_transcripts
from tiny_recipes import TINY, TINY_MT4SSL
from training import weights

SCRIPT = Path(__file__).with_name("two_ranks.py")
LEGACY = {"distributed_training.ddp_backend": "legacy_ddp"}
SHARED = {
    "dataset.batch_size": 2,
    "dataset.disable_validation": True,
    "optimization.update_freq": [2],
    "checkpoint.save_interval_updates": 0,
    "checkpoint.no_epoch_checkpoints": True,
}
# Of 16 pixels the convolutions leave one cell a channel, which a group norm makes 0 whatever the picture;
# batch norms over embeddings that are all alike would make a loss of rounding errors.
JOINT = {
    **TINY,
    **SHARED,
    "common.seed": 5,
    "task.image_size": 64,
    "task.phases": [
        {"name": "ssl", "alpha": 0, "length": "2 updates"},
        {"name": "both", "alpha": 0.5, "length": "2 updates"},
        {"name": "vgs", "alpha": 1, "length": "rest"},
    ],
    "optimization.max_update": 6,
    "optimizer.weight_decay": 0.1,
    "checkpoint.save_interval_updates": 3,
}
MT4SSL = {**TINY_MT4SSL, **SHARED, "model.encoder_layerdrop": 0.5, "optimization.max_update": 4}
# Adam with these steps by g / (|g| + 1), so not at all for a gradient of zeros, which is what legacy_ddp
# gives to parameters that no rank has used.
NO_MEMORY = {
    "common.seed": 4,
    "optimizer.adam_betas": "(0.0,0.0)",
    "optimizer.adam_eps": 1.0,
    "optimizer.weight_decay": 0.0,
    "optimization.lr": [0.1],
}
CTC = {
    **SHARED,
    "model.layerdrop": 0.0,
    "model.feature_grad_mult": 0.0,
    "model.freeze_finetune_updates": 1,
    "model.mask_length": 3,
    "dataset.max_tokens": None,
    "dataset.num_workers": 0,
    "optimization.max_update": 3,
    "optimizer.weight_decay": 0.1,
}
BRANCHES = {
    "ssl": ("ssl_head.", "speech_encoder.encoder.layers.2.", "speech_encoder.mask_emb"),
    "vgs": ("speech_head.", "image_encoder.", "logit_scale"),
}
Update = dict[str, Any]


def runs(folder: Path) -> dict[str, dict[str, Any]]:
    """What both ranks train, in this order."""
    data = make_corpus(folder / "data")
    write_transcripts(data)
    mt4ssl = {**MT4SSL, "task.labels": [str(make_labels(folder / "labels", data))]}
    stopped = {"checkpoint.restore_file": str(folder / "joint_legacy" / "checkpoint_2_3.pt")}
    pretrained = {"model.pretrained": str(folder / "mt4ssl" / "checkpoint_last.pt")}
    settings = {
        "joint": ("joint_sequential_small", JOINT),
        "joint_legacy": ("joint_sequential_small", {**JOINT, **LEGACY}),
        "joint_resumed": ("joint_sequential_small", {**JOINT, **stopped}),
        "mt4ssl": ("mt4ssl_small", {**mt4ssl, **NO_MEMORY}),
        "mt4ssl_legacy": ("mt4ssl_small", {**mt4ssl, **NO_MEMORY, **LEGACY}),
        "mt4ssl_decaying": ("mt4ssl_small", {**mt4ssl, "optimizer.weight_decay": 0.1}),
        "ctc": ("ctc_small", {**CTC, **pretrained}),
    }
    return {name: {"data": data, "recipe": r, "settings": each} for name, (r, each) in settings.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ranks have trained."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(runs(folder), folder / "runs.pt")
    logs = [folder / f"rank{rank}.log" for rank in range(2)]
    started = []
    for rank, log in enumerate(logs):
        with log.open("w") as out:
            command = [sys.executable, str(SCRIPT), str(folder), str(rank)]
            started.append(subprocess.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, list[Update]]]:
    """Of each rank, by run: the start and every update, as `two_ranks.Watch` has it."""
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def batches(update: Update) -> list[list[str]]:
    """The events of each batch of an update."""
    found: list[list[str]] = []
    for event in update["events"]:
        if event == "batch":
            found.append([])
        else:
            found[-1].append(event)
    return found


def layers_used(update: Update) -> list[set[int]]:
    """The layers that had a gradient in each batch of an update."""
    names = [f"speech_encoder.encoder.layers.{layer}.fc1.weight" for layer in range(3)]
    return [{layer for layer, name in enumerate(names) if name in events} for events in batches(update)]


def moved(before: Update, after: Update) -> set[str]:
    """The weights that differ."""
    old, new = before["weights"], after["weights"]
    return {name for name in new if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("run", ["joint", "mt4ssl"])
def test_weights_are_those_of_legacy_ddp_after_every_update(ranks: Any, run: str) -> None:
    ours, legacy = ranks[0][run], ranks[0][f"{run}_legacy"]
    assert len(ours) == len(legacy) == {"joint": 7, "mt4ssl": 5}[run]
    assert any("bucket" in update["events"] for update in ours)
    assert not any("bucket" in update["events"] for update in legacy)
    for mine, theirs in zip(ours, legacy, strict=True):
        # sums of the same two numbers: a rounding error an update, of weights up to 1
        torch.testing.assert_close(mine["weights"], theirs["weights"], atol=1e-6, rtol=0)


def test_what_one_rank_or_the_first_batch_alone_has_used_is_among_what_was_compared(ranks: Any) -> None:
    """Layerdrop's draws decide: after a change that draws otherwise, look for another seed."""
    by_rank = [[layers_used(update) for update in rank["mt4ssl"][1:]] for rank in ranks]
    alone = [set.union(*a) ^ set.union(*b) for a, b in zip(*by_rank, strict=True)]
    assert any(alone)
    first_only = [a[0] - a[-1] - b[-1] for a, b in zip(*by_rank, strict=True) if len(a) == 2]
    assert any(first_only)


def test_both_ranks_hold_the_same_weights_after_every_update(ranks: Any) -> None:
    assert any(name.startswith("ssl_head.teacher.") for name in ranks[0]["mt4ssl"][0]["weights"])
    for run in ranks[0]:
        for update, (one, other) in enumerate(zip(ranks[0][run], ranks[1][run], strict=True)):
            different = [
                name for name, w in one["weights"].items() if not torch.equal(w, other["weights"][name])
            ]
            assert different == [], f"{run}, update {update}"


@pytest.mark.parametrize("run", ["joint", "mt4ssl"])
def test_gradients_are_sent_once_an_update_while_its_last_backward_pass_goes_on(ranks: Any, run: str) -> None:
    counts = set()
    for rank in ranks:
        updates = [batches(update) for update in rank[run][1:]]
        assert [len(update) for update in updates[:4]] == [2, 1, 2, 1]
        for *earlier, last in updates:
            assert all("bucket" not in events for events in earlier)
            assert last.index("bucket") < len(last) - 10  # more than ten gradients were still to come
            counts.add(last.count("bucket"))
    (count,) = counts
    assert count > 1


def test_a_dead_branch_neither_moves_nor_decays_and_revives(ranks: Any) -> None:
    for run in ("joint", "joint_legacy"):
        updates = ranks[0][run]
        dead = {1: "vgs", 2: "vgs", 5: "ssl", 6: "ssl"}
        for number in range(1, 7):
            changed = moved(updates[number - 1], updates[number])
            for branch, names in BRANCHES.items():
                of_branch = {name for name in updates[0]["weights"] if name.startswith(names)}
                still = dead.get(number) == branch
                assert bool(changed & of_branch) != still, f"{run}, update {number}, {branch}"
                if still and run == "joint":
                    assert not updates[number]["with_gradient"] & of_branch


def test_layers_that_no_rank_has_used_are_left_alone_and_all_others_move(ranks: Any) -> None:
    runs = [rank["mt4ssl_decaying"] for rank in ranks]
    idle = 0
    for number in range(1, len(runs[0])):
        used = set().union(*(layers for run in runs for layers in layers_used(run[number])))
        changed = moved(runs[0][number - 1], runs[0][number])
        for layer in range(3):
            of_layer = {
                name for name in changed if name.startswith(f"speech_encoder.encoder.layers.{layer}.")
            }
            assert bool(of_layer) == (layer in used), f"update {number}, layer {layer}"
        idle += 3 - len(used)
    assert idle > 0


def test_a_frozen_encoder_thaws_and_frozen_convolutions_never_do(ranks: Any) -> None:
    updates = ranks[0]["ctc"]
    first, later = moved(updates[0], updates[1]), moved(updates[1], updates[3])
    assert first == {"proj.weight", "proj.bias"}
    convolutions = {name for name in updates[0]["weights"] if "feature_extractor" in name}
    assert not later & convolutions
    assert later >= {n for n in updates[0]["weights"] if n.startswith("speech_encoder.encoder.layers.")}


def test_a_run_of_legacy_ddp_goes_on_as_if_it_had_never_been_another(folder: Path, ranks: Any) -> None:
    for rank in ranks:
        resumed, whole = rank["joint_resumed"], rank["joint"][3:]
        assert len(resumed) == len(whole) == 4
        for one, other in zip(resumed, whole, strict=True):
            torch.testing.assert_close(one["weights"], other["weights"], atol=1e-6, rtol=0)
    ours, legacy = (weights(folder / run / "checkpoint_last.pt") for run in ("joint", "joint_legacy"))
    assert ours.keys() == legacy.keys() >= ranks[0]["joint"][0]["weights"].keys()
