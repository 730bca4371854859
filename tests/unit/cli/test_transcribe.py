"""`mtssl transcribe` with a model that hears exactly what the samples say, and batches of a real one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from tiny_encoder import ENCODER, encoder_sizes
from torch import Tensor, nn

from fairseq_mtssl import checkpoints
from fairseq_mtssl.checkpoints import LoadedModel
from fairseq_mtssl.cli.main import main
from fairseq_mtssl.errors import CheckpointError, ClipTooShortError, ConfigError
from fairseq_mtssl.inference import recognition

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ABCEHLN"]
HOP = 10  # samples of a frame
TEXTS = ["BALL", "HE CAN", "A", "CABLE BALL"]


class Listener(nn.Module):
    """Frame t says symbol round(100 x) where x is the sample at 10 t; an even chance for 0.5 more."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, source: Tensor, padding_mask: Tensor | None) -> dict[str, Any]:
        self.batches.append(len(source))
        lengths = torch.full((len(source),), source.size(1))
        if padding_mask is not None:
            lengths = (~padding_mask).sum(1)
        if int(lengths.min()) < HOP:
            raise ClipTooShortError(int(lengths.min()), HOP)
        # (B, S) -> (T, B)
        said = (source[:, ::HOP][:, : source.size(1) // HOP] * 100).round().long().T
        padding = None if padding_mask is None else padding_mask[:, ::HOP][:, : len(said)]
        if padding is not None:  # padding that is not cut off would spell
            said = said.masked_fill(padding.T, SYMBOLS.index("N"))
        return {"encoder_out": 9.0 * nn.functional.one_hot(said, len(SYMBOLS)), "padding_mask": padding}

    def get_normalized_probs(self, net_output: dict[str, Any], log_probs: bool) -> Tensor:
        assert log_probs
        return net_output["encoder_out"].log_softmax(-1)


def write_speech(path: Path, text: str, rate_hz: int = 16_000) -> int:
    """Samples that the listener hears as the text, a blank after every letter."""
    frames = [index for letter in f"{text} ".replace(" ", "|") for index in (SYMBOLS.index(letter), 0)]
    wav = np.repeat(np.array(frames, dtype=np.float32) / 100, HOP)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate_hz, subtype="FLOAT", format="WAV")
    return len(wav)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener) -> str:
    """A file that `load_model` turns into the listener."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"")
    cfg = OmegaConf.create({"model": {"_name": "speech_ctc", "normalize": False}, "task": {"labels": "ltr"}})
    task = SimpleNamespace(target_dictionary=SimpleNamespace(symbols=SYMBOLS))
    monkeypatch.setattr(checkpoints, "load_model", lambda _: LoadedModel(listener.eval(), task, cfg))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    sizes = [write_speech(folder / "audio" / f"{i}.wav", text) for i, text in enumerate(TEXTS)]
    rows = "".join(f"{i}.wav\t{size}\n" for i, size in enumerate(sizes))
    (folder / "test.tsv").write_text(f"audio\n{rows}")
    (folder / "test.wrd").write_text("BALL\nHE CAN NOT\nB\nCABLE BALL\n")
    return folder


def transcribe(checkpoint: str, *more: str) -> int:
    return main(["transcribe", "--checkpoint", checkpoint, "--device", "cpu", *more])


def test_a_split_is_transcribed_and_measured(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    out, table = tmp_path / "new" / "wer.json", tmp_path / "new" / "heard.tsv"
    assert transcribe(checkpoint, "--data", str(data), "--json", str(out), "--hypotheses", str(table)) == 0
    answer = json.loads(out.read_text())
    hypotheses = answer.pop("hypotheses")
    # NOT is lost, A is heard for B: 2 of 7 words; " NOT" and A of 4 + 10 + 1 + 10 characters
    assert answer == {
        "split": "test",
        "utterances": 4,
        "wer": 28.571429,
        "cer": 20.0,
        "words": 7,
        "characters": 25,
        "substitutions": 1,
        "deletions": 1,
        "insertions": 0,
        "decoder": {"name": "greedy"},
    }
    assert [row["hypothesis"] for row in hypotheses] == TEXTS
    assert hypotheses[1] == {"file": "1.wav", "hypothesis": "HE CAN", "reference": "HE CAN NOT"}
    lines = table.read_text().splitlines()
    assert lines[0].split("\t") == ["file", "hypothesis", "reference"]
    assert lines[3].split("\t") == ["2.wav", "A", "B"]
    printed = capsys.readouterr().out
    assert "split test, greedy decoding" in printed and "28.57" in printed and f"wrote {table}" in printed


def test_batches_of_any_size_give_the_same_transcripts(
    checkpoint: str, data: Path, listener: Listener, tmp_path: Path
) -> None:
    pytest.importorskip("jiwer")
    answers = []
    for seconds in ("0", "0.03", "100"):
        out = tmp_path / f"{seconds}.json"
        assert (
            transcribe(checkpoint, "--data", str(data), "--batch-seconds", seconds, "--json", str(out)) == 0
        )
        answers.append(out.read_text())
    assert answers[0] == answers[1] == answers[2]
    # frames of 20 samples a letter: 220, 140, 100, 40 samples; 480 at once hold two, then two
    assert listener.batches == [1, 1, 1, 1, 2, 2, 4]


def test_letters_stand_in_for_absent_words(checkpoint: str, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    (data / "test.wrd").unlink()
    spelled = ["B A L L |", "H E | C A N |", "A |", "C A B L E | B A L L |"]
    (data / "test.ltr").write_text("".join(f"{line}\n" for line in spelled))
    out = tmp_path / "wer.json"
    assert transcribe(checkpoint, "--data", str(data), "--json", str(out)) == 0
    assert json.loads(out.read_text())["wer"] == 0


def test_a_lexicon_and_a_language_model_are_used_and_recorded(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    pytest.importorskip("flashlight.lib.text.decoder")
    lexicon, arpa, out = tmp_path / "lexicon.lst", tmp_path / "lm.arpa", tmp_path / "wer.json"
    lexicon.write_text(
        "".join(f"{word}\t{' '.join(word)} |\n" for word in ("BALL", "HE", "CAN", "B", "CABLE"))
    )
    grams = "".join(
        f"-0.8\t{word}\t-0.1\n" for word in ("<unk>", "<s>", "</s>", "BALL", "HE", "CAN", "B", "CABLE")
    )
    bigrams = "-0.3\tHE CAN\n"
    arpa.write_text(
        f"\\data\\\nngram 1=8\nngram 2=1\n\n\\1-grams:\n{grams}\n\\2-grams:\n{bigrams}\n\\end\\\n"
    )
    options = ("--lexicon", str(lexicon), "--lm", str(arpa), "--beam", "20", "--word-score", "0")
    assert transcribe(checkpoint, "--data", str(data), *options, "--json", str(out)) == 0
    answer = json.loads(out.read_text())
    # A is no word of the lexicon
    assert [row["hypothesis"] for row in answer["hypotheses"]] == ["BALL", "HE CAN", "", "CABLE BALL"]
    assert answer["decoder"] == {
        "name": "lexicon_beam",
        "beam": 20,
        "beam_threshold": 50.0,
        "lm_weight": 2.0,
        "word_score": 0.0,
        "lm": str(arpa),
        "lexicon_words": 5,
        "lexicon": str(lexicon),
    }
    assert "lexicon beam decoding" in capsys.readouterr().out


def test_recordings_get_a_line_each_and_bad_ones_are_named(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, short = tmp_path / "good.wav", tmp_path / "short.wav"
    write_speech(good, "HE CAN")
    soundfile.write(short, np.zeros(5), 16_000)
    assert transcribe(checkpoint, str(good)) == 0
    assert capsys.readouterr().out == f"{good}\tHE CAN\n"
    out = tmp_path / "heard.json"
    names = [str(short), str(good), str(tmp_path / "none.wav")]
    assert transcribe(checkpoint, *names, "--batch-seconds", "9", "--json", str(out)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"skipped {short}: a clip of 5 samples") and lines[1] == f"{good}\tHE CAN"
    assert lines[2].startswith(f"skipped {names[2]}: cannot be read")
    answer = json.loads(out.read_text())
    assert answer["hypotheses"] == [{"file": str(good), "hypothesis": "HE CAN"}]
    assert [row["file"] for row in answer["skipped"]] == [names[0], names[2]]


def test_recordings_that_cannot_be_used_fail_a_split_all_at_once(
    checkpoint: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    (data / "audio" / "0.wav").unlink()
    soundfile.write(data / "audio" / "2.wav", np.full(40, np.nan), 16_000, subtype="FLOAT")
    assert transcribe(checkpoint, "--data", str(data)) == 2
    error = capsys.readouterr().err
    assert "test.tsv: 2 errors" in error
    assert "line 2: " in error and "0.wav: cannot be read" in error
    assert "line 4: " in error and "not finite" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "give either --data DIR with --split S, or recordings"),
        (("--data", "DATA", "a.wav"), "give either --data DIR with --split S, or recordings"),
        (("--data", "DATA", "--lm", "x.arpa"), "--lm is a model of words; give --lexicon"),
        (
            ("--data", "DATA", "--beam", "5", "--lm-weight", "1"),
            "missing; --beam is of the beam search; give --lexicon too; --lm-weight is of",
        ),
        (("--data", "DATA", "--split", "none"), "none.tsv"),
        (("--data", "DATA", "--lexicon", "none.lst"), "none.lst"),
    ],
)
def test_faults_are_one_message_and_exit_2(
    checkpoint: str, data: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    assert transcribe(checkpoint, *(str(data) if word == "DATA" else word for word in more)) == 2
    assert message in capsys.readouterr().err


def test_references_must_fit_the_manifest(
    checkpoint: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    (data / "test.wrd").write_text("BALL\n\nA\n")
    assert transcribe(checkpoint, "--data", str(data)) == 2
    error = capsys.readouterr().err
    assert "line 2 is empty" in error and "3 lines for 4 utterances of test.tsv" in error
    (data / "test.wrd").unlink()
    assert transcribe(checkpoint, "--data", str(data)) == 2
    assert "nor is test.ltr: nothing to measure against" in capsys.readouterr().err


def test_a_checkpoint_that_was_not_fine_tuned_is_refused() -> None:
    for dictionary in (None, SimpleNamespace(symbols=["<s>", "<pad>", "</s>", "<unk>", "0", "1"])):
        with pytest.raises(CheckpointError, match="spells no words.*Fine-tune it first"):
            recognition.vocabulary_of(SimpleNamespace(target_dictionary=dictionary), "c.pt")


def test_nan_is_a_fault_of_its_recording() -> None:
    class Broken(Listener):
        def get_normalized_probs(self, net_output: dict[str, Any], log_probs: bool) -> Tensor:
            return net_output["encoder_out"] * torch.nan

    read = {"device": torch.device("cpu"), "batch_samples": None}
    clip = np.zeros(40, np.float32)
    found = recognition.recognise(Broken(), lambda _: "", ["a.wav"], [40], lambda _: clip, **read)
    assert found.texts == {} and found.errors[0].startswith("a.wav: the model gives NaN")


def test_the_real_model_says_the_same_alone_and_in_a_batch() -> None:
    from fairseq_mtssl.models.speech_ctc import SpeechCtcConfig, SpeechCtcModel

    tiny = {**ENCODER, "encoder_layers": 2, "conv_pos": 8}
    sizes = encoder_sizes(tiny, "layer_norm", padding_exact=True).plain()
    torch.manual_seed(0)
    model = SpeechCtcModel(SpeechCtcConfig(encoder=sizes), len(SYMBOLS)).eval()
    clips = [
        np.random.default_rng(i).normal(size=size).astype(np.float32) for i, size in enumerate((6400, 3200))
    ]
    cpu = torch.device("cpu")
    together = recognition.log_probabilities(model, clips, cpu)
    assert [row.shape for row in together] == [(19, len(SYMBOLS)), (9, len(SYMBOLS))]
    for clip, row in zip(clips, together, strict=True):
        (alone,) = recognition.log_probabilities(model, [clip], cpu)
        # float32 sums in another order
        np.testing.assert_allclose(row, alone, atol=1e-4)


def test_options_of_the_beam_search_are_refused_without_it() -> None:
    from fairseq_mtssl.cli.transcribe import check_search

    nothing = SimpleNamespace(
        lexicon=None, lm=None, beam=None, beam_threshold=None, lm_weight=None, word_score=None
    )
    check_search(nothing)  # type: ignore[arg-type]
    nothing.word_score = 0.0
    with pytest.raises(ConfigError, match="--word-score is of the beam search"):
        check_search(nothing)  # type: ignore[arg-type]
