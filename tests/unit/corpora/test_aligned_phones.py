from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq_mtssl.corpora.alignments import FOLDS, read_alignments
from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.manifest import PairRow, read_audio_manifest, utterance_ids, write_pair_manifest
from fairseq_mtssl.data.phones import read_phone_segments
from fairseq_mtssl.errors import ConfigError, ManifestError, MissingExtraError
from fairseq_mtssl.frames import conv_length, parse_conv_layers

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "speechocean"
WAV2VEC = parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
SAMPLES = 8000  # half a second, 24 frames
PHONES = [(0.0, 0.1, "sil", ""), (0.1, 0.2, "k", "cat"), (0.2, 0.35, "ae", "cat"), (0.35, 0.45, "t", "cat")]
LONG_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.5
            text = "say ""so"" twice"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "AH0"
        intervals [3]:
            xmin = 0.3
            xmax = 0.5
            text = "T"
"""
SHORT_GRID = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n0.5\n<exists>\n2\n'
    '"TextTier"\n"bells"\n0\n0.5\n1\n0.25\n"ding"\n'
    '"IntervalTier"\n"ann - phones"\n0\n0.5\n2\n0\n0.3\n"AH0"\n0.3\n0.5\n"T"\n'
)


def record(path: Path, samples: int = SAMPLES, rate_hz: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(samples, dtype=np.int16), rate_hz, format=path.suffix[1:].upper())


def table_of(names: list[str], header: str = "utt\tstart\tend\tphone\tword") -> str:
    rows = ["\t".join([name, *map(str, phone)]) for name in names for phone in PHONES]
    return "\n".join([header, *rows]) + "\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six speakers with two flac files each in one folder, a table of phones, one of speakers beside it."""
    names = [f"{speaker}{take}" for speaker in "abcdef" for take in (1, 2)]
    for name in names:
        record(tmp_path / "in" / "wav" / f"{name}.flac")
    (tmp_path / "in" / "phones.tsv").write_text(table_of(names))
    lines = ["utt\tspeaker\twords", *(f"{name}\t{name[0]}\tcat" for name in names)]
    (tmp_path / "in" / "text.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(corpus: Path, *options: str, alignment: str = "in/phones.tsv") -> Path:
    out = corpus / "out"
    words = ["--audio", str(corpus / "in"), "--alignment", str(corpus / alignment), "--out", str(out)]
    prepare("aligned_phones", [*words, *options])
    return out


def test_one_command_makes_splits_by_speaker_with_phones_in_our_columns(corpus) -> None:
    out = run(corpus, "--test-share", "0.2")
    speakers = []
    for split in ("train", "valid", "test"):
        ids = utterance_ids(out, split)
        segments = read_phone_segments(out / f"{split}.phones.tsv")
        assert list(segments) == ids
        assert segments[ids[0]].phones == ["sil", "k", "ae", "t"]
        assert segments[ids[0]].ends_s.tolist() == [0.1, 0.2, 0.35, 0.45]
        speakers.append({name[0] for name in ids})
    assert [len(some) for some in speakers] == [4, 1, 1]
    assert set.union(*speakers) == set("abcdef")
    first = (out / "train.phones.tsv").read_text().splitlines()
    assert first[0] == "caption_id\tstart_s\tend_s\tphone\tword" and first[2].endswith("\t0.1\t0.2\tk\tcat")


def test_every_frame_has_the_phone_at_its_middle(corpus) -> None:
    out = run(corpus)
    lines = (out / "train.phn").read_text().splitlines()
    manifest = read_audio_manifest(out / "train.tsv")
    labels = lines[0].split()
    assert len(lines) == len(manifest) and len(labels) == conv_length(SAMPLES, WAV2VEC) == 24
    segments = read_phone_segments(out / "train.phones.tsv")[utterance_ids(out, "train")[0]]
    middles_s = (np.arange(24) + 0.5) / 50
    assert [None if label == "<pad>" else label for label in labels] == segments.at(middles_s)
    assert labels[4:6] == ["sil", "k"] and labels[-2:] == ["<pad>", "<pad>"]
    assert (out / "dict.phn.txt").read_text().splitlines() == ["ae 84", "k 60", "sil 60", "t 60"]


def test_items_are_triphones_without_silence(corpus) -> None:
    out = run(corpus, "--valid-speakers", "b")
    lines = (out / "valid.item").read_text().splitlines()
    assert lines[0] == "#file onset offset #phone prev-phone next-phone speaker"
    assert lines[1:] == ["b1 0.1 0.45 ae k t b", "b2 0.1 0.45 ae k t b"]
    assert not (out / "train.item").exists()
    out = run(corpus, "--valid-speakers", "b", "--item-span", "phone")
    assert (out / "valid.item").read_text().splitlines()[1] == "b1 0.2 0.35 ae k t b"


def test_the_choice_of_speakers_depends_on_the_seed_alone(corpus) -> None:
    def split(seed: int) -> list[str]:
        out = run(corpus, "--seed", str(seed), "--valid-share", "0.5")
        return utterance_ids(out, "valid")

    assert split(0) == split(0)
    assert len({tuple(split(seed)) for seed in range(4)}) > 1


def test_unknown_and_too_many_held_out_speakers_are_refused(corpus) -> None:
    with pytest.raises(ConfigError, match=r"got \['zoe'\], wanted some of"):
        run(corpus, "--test-speakers", "zoe")
    with pytest.raises(ConfigError, match="too few"):
        run(corpus, "--valid-share", "0.9", "--test-share", "0.9")


def test_absent_recordings_and_alignments_are_counted(corpus, capsys) -> None:
    (corpus / "in" / "wav" / "a1.flac").unlink()
    record(corpus / "in" / "wav" / "a9.flac")
    out = run(corpus)
    told = capsys.readouterr().err
    assert "skipped 1 recordings without alignment: wav/a9.flac" in told
    assert "skipped 1 alignments without recording: a1" in told
    assert sum(len(utterance_ids(out, split)) for split in ("train", "valid")) == 11


def test_all_faults_are_told_at_once_and_nothing_is_written(corpus) -> None:
    table = corpus / "in" / "phones.tsv"
    more = "a1\t0.3\t0.4\tx\tcat\nb1\t0.5\nb2\t0.5\t0.46\tx\nc1\t0.5\t0.9\tx\nc2\t0.46\t0.5\tx y\n"
    table.write_text(table.read_text() + more)
    record(corpus / "in" / "wav" / "d1.flac", rate_hz=8000)
    (corpus / "in" / "wav" / "d2.flac").write_bytes(b"no flac")
    with pytest.raises(ManifestError) as caught:
        run(corpus)
    text = "\n".join(caught.value.errors)
    for told in (
        "phones.tsv line 51: got 'b1\\t0.5', wanted utterance, start s, end s, phone",
        "phones.tsv line 52: b2, 'x' from 0.5 s to 0.46 s",
        "phone 'x y' holds a space",
        "a1: 'x' at 0.3 s overlaps 'ae'",
        "c1: phones until 0.9 s, but wav/c1.flac ends at 0.5 s",
        "d1.flac: sampled at 8000 Hz",
        "d2.flac: cannot be read as audio",
    ):
        assert told in text
    assert len(caught.value.errors) == 7
    assert not (corpus / "out").exists()


def test_speakers_must_be_known_to_split_by_them(corpus) -> None:
    (corpus / "in" / "text.tsv").rename(corpus / "who.tsv")
    with pytest.raises(ManifestError, match="12 of 12 recordings have no known speaker"):
        run(corpus)
    run(corpus, "--speakers", str(corpus / "who.tsv"))
    (corpus / "who.tsv").write_text("utt\twords\n")
    with pytest.raises(ManifestError, match="no column 'speaker'"):
        run(corpus, "--speakers", str(corpus / "who.tsv"))


@pytest.fixture
def timit(tmp_path: Path) -> Path:
    """TIMIT's layout: every speaker of four says SA1; sounds and `.phn` side by side."""
    for speaker in ("FAA0", "FBB0", "MCC0", "MDD0"):
        for sentence in ("SA1", "SX2"):
            base = tmp_path / "in" / "TRAIN" / "DR1" / speaker / sentence
            record(base.with_suffix(".WAV"))
            lines = ["0 1600 h#", "1600 3201 ax-h", "3201 5000 q", "5000 6000 bcl", "6000 8000 ix"]
            base.with_suffix(".PHN").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_timit_names_that_repeat_become_links_with_names_of_their_own(timit) -> None:
    out = run(timit, alignment="in")
    names = utterance_ids(out, "train") + utterance_ids(out, "valid")
    assert len(set(names)) == 8 and "TRAIN_DR1_FAA0_SA1" in names
    segments = read_phone_segments(out / "train.phones.tsv")
    assert list(segments) == utterance_ids(out, "train")
    assert segments[names[0]].ends_s[1] == 3201 / 16000
    manifest = read_audio_manifest(out / "train.tsv")
    assert soundfile.info(manifest.audio_path(0)).frames == SAMPLES
    assert {name.split("_")[2] for name in utterance_ids(out, "train")} & {
        name.split("_")[2] for name in utterance_ids(out, "valid")
    } == set()
    run(timit, alignment="in")  # the links made before are no recordings


def test_timit_folds_to_39_phones_and_drops_the_glottal_stop(timit) -> None:
    out = run(timit, "--fold", "timit39", alignment="in")
    segments = next(iter(read_phone_segments(out / "train.phones.tsv").values()))
    assert segments.phones == ["sil", "ah", "sil", "ih"]
    vowels = "aa ae ah ao aw ax ax-h axr ay eh er ey ih ix iy ow oy uh uw ux"
    stops = "b d g p t k dx q bcl dcl gcl pcl tcl kcl jh ch"
    others = "s sh z zh f th v dh m n ng em en eng nx l r w y hh hv el pau epi h#"
    all_61 = f"{vowels} {stops} {others}".split()
    folded = {FOLDS["timit39"](phone) for phone in all_61}
    assert len(all_61) == 61 and len(folded - {None}) == 39


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("grid", [LONG_GRID, SHORT_GRID], ids=["long", "short"])
def test_textgrids_are_read_in_both_forms_and_any_encoding(tmp_path, grid, encoding) -> None:
    (tmp_path / "10-20-0001.TextGrid").write_text(grid, encoding=encoding)
    found = read_alignments(tmp_path, tier="phones", fold="stress")
    assert not found.errors
    told = [(phone.start_s, phone.end_s, phone.phone, phone.word) for phone in found.phones["10-20-0001"]]
    if grid == LONG_GRID:
        assert told == [
            (0, 0.1, "sil", ""),
            (0.1, 0.3, "AH", 'say "so" twice'),
            (0.3, 0.5, "T", 'say "so" twice'),
        ]
    else:
        assert told == [(0, 0.3, "AH", ""), (0.3, 0.5, "T", "")]


def test_textgrids_without_the_tier_or_cut_short_are_errors(tmp_path) -> None:
    (tmp_path / "a.TextGrid").write_text(LONG_GRID[: LONG_GRID.index("AH0")])
    (tmp_path / "b.TextGrid").write_text(LONG_GRID.replace('"phones"', '"segments"'))
    (tmp_path / "c.TextGrid").write_text("<html>")
    errors = read_alignments(tmp_path, tier="phones", fold="none").errors
    assert len(errors) == 3
    assert "ends too early" in errors[0] and "no tier 'phones'" in errors[1] and "no TextGrid" in errors[2]


@pytest.mark.parametrize(
    "grid",
    [
        LONG_GRID[: LONG_GRID.index("        intervals [3]")],
        LONG_GRID[: LONG_GRID.index("    item [2]")],
        SHORT_GRID[: SHORT_GRID.index('"T"')],
        SHORT_GRID[: SHORT_GRID.index('"IntervalTier"')],
    ],
    ids=["long between intervals", "long between tiers", "short between intervals", "short between tiers"],
)
def test_textgrids_that_praatio_reads_though_they_are_cut_are_errors(tmp_path, grid) -> None:
    (tmp_path / "a.TextGrid").write_text(grid)
    (error,) = read_alignments(tmp_path, tier="phones", fold="none").errors
    assert "a.TextGrid: no TextGrid: it ends too early" in error


def test_textgrids_may_have_exponents_and_no_end_of_the_last_line(tmp_path) -> None:
    (tmp_path / "long.TextGrid").write_text(LONG_GRID.replace("xmax = 0.1\n", "xmax = 1.25E-2\n").rstrip())
    (tmp_path / "short.TextGrid").write_text(SHORT_GRID.replace("0.3\n", "3e-05\n").rstrip())
    found = read_alignments(tmp_path, tier="phones", fold="none")
    assert [phone.end_s for phone in found.phones["long"]] == [0.0125, 0.3, 0.5]
    assert [phone.end_s for phone in found.phones["short"]] == [3e-05, 0.5]


def test_a_textgrid_with_two_tiers_of_the_same_name_is_an_error(tmp_path) -> None:
    (tmp_path / "a.TextGrid").write_text(LONG_GRID.replace('"words"', '"phones"'))
    (error,) = read_alignments(tmp_path, tier="phones", fold="none").errors
    assert "2 tiers 'phones'; tiers are ['phones', 'phones']" in error


def test_without_praatio_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "praatio.utilities", None)
    (tmp_path / "a.TextGrid").write_text(LONG_GRID)
    with pytest.raises(MissingExtraError, match=r"fairseq-mtssl\[corpora\]"):
        read_alignments(tmp_path, tier="phones", fold="none")


def test_librispeech_names_its_speakers_itself(tmp_path) -> None:
    for speaker in (84, 174, 251):
        name = f"{speaker}-1-0000"
        record(tmp_path / "in" / str(speaker) / "1" / f"{name}.flac")
        grid = tmp_path / "mfa" / str(speaker) / f"{name}.TextGrid"
        grid.parent.mkdir(parents=True)
        grid.write_text(LONG_GRID)
    out = run(tmp_path, "--valid-speakers", "174", alignment="mfa")
    assert utterance_ids(out, "valid") == ["174-1-0000"]


def test_items_of_single_phones_are_an_alignment_and_stay_items(corpus) -> None:
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for speaker in "abc":
        lines += [f"{speaker}1 0.1 0.2 k SIL ae {speaker}", f"{speaker}1 0.2 0.35 ae k t {speaker}"]
    (corpus / "phone.item").write_text("\n".join(lines) + "\n")
    out = run(corpus, "--valid-speakers", "c", alignment="phone.item")
    assert (out / "valid.item").read_text().splitlines()[1:] == lines[-2:]
    assert read_phone_segments(out / "valid.phones.tsv")["c1"].phones == ["k", "ae"]


def test_items_of_triphones_are_refused_as_alignment(corpus) -> None:
    header = "#file onset offset #phone prev-phone next-phone speaker"
    lines = f"{header}\na1 0.0 0.35 k sil ae a\na1 0.1 0.45 ae k t a\n"
    (corpus / "triphone.item").write_text(lines)
    with pytest.raises(ManifestError, match="Give items of single phones"):
        run(corpus, alignment="triphone.item")


def test_splits_of_a_data_folder_get_phones_by_caption_id(corpus, capsys) -> None:
    data = corpus / "data"
    rows = [
        PairRow(f"wav/{name}.flac", SAMPLES, f"id-{name}", "i.png", "i", speaker="s")
        for name in ("a1", "a2", "b1")
    ]
    write_pair_manifest(data, "valid", rows, audio_root=corpus / "in")
    (data / "other.tsv").write_text(f"{corpus / 'in'}\nwav/f9.flac\t{SAMPLES}\n")
    (corpus / "in" / "phones.tsv").write_text(table_of(["a1", "id-b1"]))
    prepare("aligned_phones", ["--data", str(data), "--alignment", str(corpus / "in" / "phones.tsv")])
    assert list(read_phone_segments(data / "valid.phones.tsv")) == ["id-a1", "id-b1"]
    frames = (data / "valid.phn").read_text().splitlines()
    assert [len(line.split()) for line in frames] == [24, 0, 24]
    assert not (data / "other.phones.tsv").exists()
    assert "valid: 2 of 3 utterances are aligned" in capsys.readouterr().err
    # what it wrote is itself an alignment, and gives the same again
    before = (data / "valid.phones.tsv").read_bytes()
    prepare("aligned_phones", ["--data", str(data), "--alignment", str(data), "--splits", "valid"])
    assert (data / "valid.phones.tsv").read_bytes() == before


def test_a_folder_without_alignments_or_with_two_kinds_is_refused(corpus) -> None:
    with pytest.raises(ManifestError, match="no alignments, wanted"):
        run(corpus, alignment="in/wav")
    (corpus / "in" / "x.phn").write_text("0 1600 a\n")
    with pytest.raises(ManifestError, match="phn, table side by side"):
        run(corpus, alignment="in")
    with pytest.raises(ConfigError, match="is not there"):
        run(corpus, alignment="none")


def test_alignments_of_other_recordings_are_refused(corpus) -> None:
    (corpus / "in" / "phones.tsv").write_text(table_of(["zz"]))
    with pytest.raises(ManifestError, match="no recording is aligned: names such as 'zz' and 'wav/a1.flac'"):
        run(corpus)


def test_a_folder_that_holds_a_table_and_recordings_is_an_alignment(corpus) -> None:
    out = run(corpus, alignment="in")
    assert len(read_phone_segments(out / "train.phones.tsv")) == 10


@pytest.mark.skipif(not REAL.is_dir(), reason="real recordings are not here")
def test_real_speech_is_split_by_speaker(tmp_path) -> None:
    shutil.copy(REAL / "text.tsv", tmp_path / "text.tsv")
    lines = (REAL / "phones.tsv").read_text().splitlines()
    kept = [line for line in lines[1:] if line.split("\t")[0].endswith("1")]
    (tmp_path / "phones.tsv").write_text("\n".join([lines[0], *kept]) + "\n")
    out = tmp_path / "out"
    prepare(
        "aligned_phones",
        ["--audio", str(REAL), "--alignment", str(tmp_path / "phones.tsv"), "--out", str(out)],
    )
    speakers = dict(line.split("\t")[:2] for line in (REAL / "text.tsv").read_text().splitlines())
    train, valid = ({speakers[name] for name in utterance_ids(out, split)} for split in ("train", "valid"))
    assert train and valid and not train & valid
    assert list(read_phone_segments(out / "valid.phones.tsv")) == utterance_ids(out, "valid")
