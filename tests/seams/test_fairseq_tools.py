"""fairseq's own tools on what the plugin has trained."""

from __future__ import annotations

import re

import pytest
from conftest import run_here

from fairseq_mtssl.checkpoints import load_model


@pytest.fixture
def trained(corpus, joint_run):
    """A data folder and a checkpoint of the joint model."""
    return corpus, joint_run / "checkpoint_last.pt"


@pytest.fixture
def mt4ssl(corpus, mt4ssl_run):
    """A data folder and an mt4ssl checkpoint, its label folder beside the data."""
    return corpus, mt4ssl_run / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def user_dir() -> str:
    """The folder of the plugin, as `mtssl user-dir` prints it."""
    return run_here(["mtssl", "user-dir"]).stdout.strip()


def validate(trained, task: str, user_dir: str, folder) -> str:
    """What fairseq-validate prints of a trained model, the plugin given as a user would."""
    data, checkpoint = trained
    words = ["fairseq-validate", "--user-dir", user_dir, str(data), "--task", task]
    words += ["--path", str(checkpoint), "--valid-subset", "valid", "--batch-size", "4", "--cpu"]
    run = run_here([*words, "--num-workers", "0"], cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_fairseq_validate_measures_retrieval_given_the_user_dir(trained, user_dir, tmp_path) -> None:
    shown = validate(trained, "joint_ssl_vgs", user_dir, tmp_path)
    assert re.search(r"valid on 'valid' subset .*s2i_r10 [\d.]+", shown)


def test_fairseq_loads_a_checkpoint_by_itself(trained) -> None:
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), cfg, task = load_model_ensemble_and_task([str(trained[1])])
    assert type(model).__name__ == "JointSslVgsModel" and type(task).__name__ == "JointSslVgsTask"


def test_fairseq_validate_measures_both_heads_given_the_user_dir(mt4ssl, user_dir, tmp_path) -> None:
    shown = validate(mt4ssl, "mt4ssl", user_dir, tmp_path)
    assert re.search(r"valid on 'valid' subset .*acc_on [\d.]+.*acc_off [\d.]+", shown)


def test_fairseq_loads_an_mt4ssl_checkpoint_by_itself(mt4ssl) -> None:
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), cfg, task = load_model_ensemble_and_task([str(mt4ssl[1])])
    assert type(model).__name__ == "Mt4sslModel" and type(task).__name__ == "Mt4sslTask"
    assert [len(each) for each in task.dictionaries] == [10]


@pytest.mark.parametrize("which", ["trained", "mt4ssl"])
def test_no_row_is_left_out_whatever_multiple_fairseq_validate_asks_for(which, request) -> None:
    """fairseq drops a last batch that is no multiple of required_batch_size_multiple, 8 by default."""
    data, checkpoint = request.getfixturevalue(which)
    task = load_model(checkpoint, str(data)).task
    task.load_dataset("valid")
    batches = task.get_batch_iterator(task.dataset("valid"), max_sentences=4, required_batch_size_multiple=8)
    found = [index for batch in batches.next_epoch_itr(shuffle=False) for index in batch["id"].tolist()]
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
