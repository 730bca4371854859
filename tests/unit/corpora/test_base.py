"""The registry of corpora and its two doors: `mtssl prepare` and the scripts of manifests/."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_mtssl.cli import main as cli
from fairseq_mtssl.corpora import base
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
OURS = (
    *("aligned_phones", "fewer_pairs", "librispeech", "pairs"),
    *("scenes", "spoken_digits", "spokencoco"),
)
OUTSIDE_CORPUS = '''"""Beeps of a made-up corpus.

    mtssl prepare beeps --out beeps
"""

from pathlib import Path

from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.data.manifest import write_audio_manifest


def add_arguments(parser):
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--beeps", type=int, default=2)


def prepare(args):
    args.out.mkdir()
    names = [f"beep{number}.wav" for number in range(args.beeps)]
    write_audio_manifest(args.out / "train.tsv", "audio", names, [400] * len(names))


register_corpus(Corpus("beeps", __doc__, add_arguments, prepare))
'''


def run_outside(folder: Path, *words: str, corpus: str = OUTSIDE_CORPUS) -> subprocess.CompletedProcess[str]:
    """Run `mtssl` where a package outside ours, which names one plugin, is installed in a folder."""
    about = folder / "beeping-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: beeping\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fairseq_mtssl.plugins]\nbeeps = beeping_corpus\n")
    (folder / "beeping_corpus.py").write_text(corpus)
    command = [sys.executable, "-m", "fairseq_mtssl.cli.main", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_corpus_of_another_package_is_one_file_and_one_entry_point(tmp_path: Path) -> None:
    done = run_outside(tmp_path / "site", "prepare", "beeps", "--out", str(tmp_path / "out"), "--beeps", "3")
    assert done.returncode == 0, done.stderr
    assert read_audio_manifest(tmp_path / "out" / "train.tsv").sizes.tolist() == [400, 400, 400]


def test_help_lists_the_corpora_of_plugins_beside_ours(tmp_path: Path) -> None:
    done = run_outside(tmp_path, "prepare", "--help")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) >= {*OURS, "beeps"}
    assert "Beeps of a made-up corpus." in done.stdout


@pytest.mark.parametrize(
    ("found", "faulty"),
    [
        ('    parser.add_argument("--beeps"', "    1 / 0\n" + '    parser.add_argument("--beeps"'),
        ('"beeps", __doc__', '"beeps", None'),
    ],
    ids=["options", "description"],
)
def test_a_corpus_of_a_plugin_that_cannot_add_its_command_is_left_out_with_a_warning(
    found: str, faulty: str, tmp_path: Path
) -> None:
    corpus = OUTSIDE_CORPUS.replace(found, faulty)
    assert corpus != OUTSIDE_CORPUS
    done = run_outside(tmp_path, "user-dir", corpus=corpus)
    assert done.returncode == 0 and done.stdout.strip() == str(ROOT / "fairseq_mtssl")
    assert "the corpus 'beeps' of the plugin beeps is left out" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_outside(tmp_path, "prepare", "beeps", "--out", str(tmp_path / "out"), corpus=corpus)
    assert done.returncode == 2 and "invalid choice: 'beeps'" in done.stderr


def test_the_corpora_of_earlier_versions_are_registered_and_keep_their_scripts() -> None:
    assert set(OURS) <= set(base.CORPORA.names())
    assert sorted(path.stem for path in (ROOT / "manifests").glob("*.py")) == sorted(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_script_prepares_the_corpus_of_its_name(name: str) -> None:
    source = (ROOT / "manifests" / f"{name}.py").read_text(encoding="utf-8")
    assert f'base.prepare("{name}")' in source and f"`mtssl prepare {name}`" in source


def write_table(folder: Path) -> Path:
    (folder / "pairs.tsv").write_text("audio\timage\timage_id\tsplit\na.wav\tb.png\tb\tnowhere\n")
    return folder / "pairs.tsv"


def test_a_script_takes_the_options_of_its_corpus_and_ends_with_one_message(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "manifests" / "pairs.py"), "--table", str(write_table(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path / 'pairs.tsv'}: 1 error\n  line 2: got split 'nowhere'")
    assert "Traceback" not in done.stderr


def test_the_command_says_the_same_under_its_own_name(tmp_path: Path, capsys) -> None:
    words = ["prepare", "pairs", "--table", str(write_table(tmp_path)), "--out", str(tmp_path / "out")]
    assert cli.main(words) == cli.USER_ERROR
    assert capsys.readouterr().err.startswith(f"mtssl prepare: {tmp_path / 'pairs.tsv'}: 1 error\n  line 2")


def test_an_unknown_corpus_is_refused_with_the_names_of_the_known(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["prepare", "fsdd"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert all(name in told for name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_the_help_of_a_corpus_is_its_description(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["prepare", name, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert f"mtssl prepare {name}" in printed and "--out" in printed
    assert base.CORPORA.named(name).summary in printed.replace("\n", " ")


def test_two_corpora_of_one_name_are_refused() -> None:
    corpus = base.CORPORA.named("scenes")
    with pytest.raises(ConfigError, match="two corpora are called 'scenes'"):
        base.register_corpus(corpus)
