"""MT4SSL on real speech: how the speech is split, what is drawn from it, what is refused."""

from __future__ import annotations

import json

import pytest
import soundfile
from spoken_sentences import RATE_HZ, SPEAKERS, add_speech, make_data, utterances, write_tones

from examples.speechocean import speech
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ManifestError


def test_speakers_are_split_half_to_train_a_sixth_to_valid_a_third_to_test(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    speakers = json.loads((data / "corpus.json").read_text())["speakers"]
    assert {split: len(some) for split, some in speakers.items()} == {"train": 3, "valid": 1, "test": 2}
    assert len({name for some in speakers.values() for name in some}) == SPEAKERS
    again = make_data(folders, tmp_path / "again")
    assert json.loads((again / "corpus.json").read_text())["speakers"] == speakers


def test_pretraining_has_the_train_speakers_and_all_of_the_other_speech(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    assert utterances(data, "pretrain") == [*utterances(data, "train"), "m0", "m1", "m2"]
    manifest = read_audio_manifest(data / "pretrain.tsv")
    for row, size in enumerate(manifest.sizes.tolist()):
        info = soundfile.info(manifest.audio_path(row))
        assert (info.format, info.samplerate, info.frames) == ("WAV", RATE_HZ, size)
    text = (data / "transcripts.tsv").read_text().splitlines()
    assert text[0] == "utt\twords" and "m1\tit was a bear" in text


def test_labelled_speech_is_a_fixed_draw_within_its_minutes(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    chosen, sizes = utterances(data, "train_10m"), read_audio_manifest(data / "train_10m.tsv").sizes
    assert 4 * RATE_HZ < sizes.sum() <= 6 * RATE_HZ  # 0.1 min; the longest clip is 2 s
    assert set(chosen) < set(utterances(data, "pretrain"))
    add_speech(folders, data, 0.1)
    assert utterances(data, "train_10m") == chosen
    assert speech.draw({"a": 5, "b": 5}, 10) == {"a": 5, "b": 5} and speech.draw({"a": 5}, 4) == {}


def test_items_too_short_for_a_frame_at_25_hz_are_left_out(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    every = [line.split()[3] for line in (data / "test.item").read_text().splitlines()[1:]]
    kept = [line.split()[3] for line in (data / "test.abx.item").read_text().splitlines()[1:]]
    assert every == ["IY"] * 4 and kept == []  # 30 ms, the only phone between two others
    (data / "test.item").write_text("#h\nx 0.1 0.14 IY a b s\nx 0.1 0.1399 IY a b s\n")
    assert speech.keep_items(data, "test") == (1, 2)


def test_recordings_without_words_or_with_the_name_of_another_are_named(folders, tmp_path) -> None:
    data = make_data(folders, tmp_path / "data")
    write_tones(folders[1] / "audio" / "stray.wav", 1.0, 100)
    write_tones(folders[1] / "audio" / f"{utterances(data, 'train')[0]}.wav", 1.0, 100)
    with pytest.raises(ManifestError) as caught:
        add_speech(folders, data, 0.1)
    assert "stray.wav: text.tsv has no words" in str(caught.value)
    assert "a recording of this name came before" in str(caught.value)
    with pytest.raises(ManifestError, match="holds no .opus, .flac, .wav"):
        speech.find_recordings(folders[0])
