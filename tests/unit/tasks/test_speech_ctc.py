"""The settings of the recipes of CTC fine-tuning, and the words that their validation counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import tasks
from training import compose

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.tasks.speech_ctc import check_post_process

PIECES = ["▁THE", "▁CAT", "▁DO", "G", "▁SAT", "▁ON", "▁A", "▁MAT"]
LETTERS = ["|", "A", "B", "C"]


def composed(recipe: str, **more: Any) -> Any:
    return compose(recipe, **{"task.data": "d", "model.pretrained": "p", **more})


class Says:
    """A model in evaluation mode whose most probable symbols are these, with a blank after each."""

    training = False

    def __init__(self, symbols: list[int], count: int) -> None:
        # (L,) -> (2 L, 1, symbols)
        spelled = torch.tensor([frame for symbol in symbols for frame in (symbol, 0)])
        self.log_probs = (10.0 * torch.nn.functional.one_hot(spelled, count).float()).log_softmax(-1)[:, None]

    def __call__(self, **_: Any) -> dict[str, Any]:
        return {"padding_mask": None}

    def get_normalized_probs(self, net_output: Any, log_probs: bool) -> torch.Tensor:
        return self.log_probs


def word_errors(
    data: Path, symbols: list[str], reference: str, hypothesis: str, **more: Any
) -> tuple[int, int]:
    """Return (errors, words) of one utterance as validation with the ctc_10h recipe counts them."""
    (data / "dict.unit.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))
    cfg = composed("ctc_10h", **{"task.data": str(data), "task.labels": "unit", **more})
    task = tasks.setup_task(cfg.task)
    index = task.target_dictionary.index
    target = torch.tensor([[index(symbol) for symbol in reference.split()]])
    sample = {
        "id": torch.tensor([0]),
        "net_input": {},
        "target": target,
        "target_lengths": torch.tensor([target.size(1)]),
        "ntokens": target.size(1),
    }
    model = Says([index(symbol) for symbol in hypothesis.split()], len(task.target_dictionary))
    _, _, counted = task.build_criterion(cfg.criterion)(model, sample)
    return counted["w_errors"], counted["w_total"]


def test_a_wrong_subword_is_one_word_error_of_a_six_word_reference(tmp_path: Path) -> None:
    reference, hypothesis = "▁THE ▁DO G ▁SAT ▁ON ▁A ▁MAT", "▁THE ▁CAT ▁SAT ▁ON ▁A ▁MAT"
    assert word_errors(tmp_path, PIECES, reference, hypothesis) == (1, 6)


def test_a_wrong_letter_is_one_word_error_of_two(tmp_path: Path) -> None:
    assert word_errors(tmp_path, LETTERS, "A B | C A |", "A B | C B |") == (1, 2)


def test_symbols_that_mark_no_words_count_as_words_themselves(tmp_path: Path) -> None:
    assert word_errors(tmp_path, ["AA", "K", "T"], "K AA T", "K T T") == (1, 3)


def test_a_given_mode_is_used_if_the_dictionary_allows_it(tmp_path: Path) -> None:
    setting = {"criterion.post_process": "none"}
    # four letters and two word ends, each of which counts as a word
    assert word_errors(tmp_path, LETTERS, "A B | C A |", "A B | C B |", **setting) == (1, 6)


@pytest.mark.parametrize(
    ("asked", "symbols", "hint"),
    [
        ("letter", PIECES, "begin with '▁'; give sentencepiece"),
        ("sentencepiece", LETTERS, "the symbol '|'; give letter"),
        ("letter", ["AA", "K", "T"], "marks no words; give none"),
    ],
)
def test_a_mode_that_contradicts_the_dictionary_is_refused(asked: str, symbols: list[str], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_post_process(asked, symbols)
    assert "criterion.post_process" in str(caught.value) and hint in str(caught.value)


def test_the_saved_configuration_contains_the_mode_that_was_used(tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("▁A 1\n")
    cfg = composed("ctc_10h", **{"task.data": str(tmp_path)})
    tasks.setup_task(cfg.task).build_criterion(cfg.criterion)
    assert cfg.criterion.post_process == "sentencepiece"


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        # freeze, validate after, updates, learning rate, layerdrop, channel probability
        # MT4SSL's finetuning/base_10h; the others: wav2vec's finetuning/base_10m, base_1h, base_100h
        ("ctc_10h", (0, 0, 20_000, 5e-5, 0.05, 0.5)),
        ("ctc_10m", (10_000, 10_000, 13_000, 5e-5, 0.1, 0.25)),
        ("ctc_1h", (10_000, 10_000, 13_000, 5e-5, 0.1, 0.25)),
        ("ctc_100h", (0, 0, 80_000, 3e-5, 0.1, 0.5)),
    ],
)
def test_the_recipes_follow_the_papers_they_cite(recipe: str, wanted: tuple[float, ...]) -> None:
    cfg = composed(recipe)
    model, optimization = cfg.model, cfg.optimization
    assert wanted == (
        *(model.freeze_finetune_updates, cfg.dataset.validate_after_updates),
        *(optimization.max_update, optimization.lr[0], model.layerdrop, model.mask_channel_prob),
    )
