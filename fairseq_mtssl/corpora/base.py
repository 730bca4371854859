"""What a corpus is, the registry of corpora, and how one is prepared.

To add a corpus, write a file that ends in `register_corpus(Corpus(NAME, __doc__, add_arguments, prepare))`,
and import it where `fairseq_mtssl.corpora` imports the others. A file of another package is named as a plugin
instead (see `fairseq_mtssl.plugins`). The corpus is then prepared with `mtssl prepare NAME`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairseq_mtssl.errors import MtsslError
from fairseq_mtssl.registry import Registry


@dataclass(frozen=True)
class Corpus:
    """How one corpus becomes a data folder.

    name: as in `mtssl prepare NAME`. description: the text of its `--help`, whose first line is the summary.
    add_arguments: adds the options to a parser; `--out`, the data folder to make, should be among them.
    prepare: writes the data folder that the parsed options ask for, and raises MtsslError with all that is
    wrong before it writes anything. What is slow to import is imported in it.
    """

    name: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[argparse.Namespace], None]

    @property
    def summary(self) -> str:
        """The first line of the description."""
        return self.description.strip().partition("\n")[0]


CORPORA: Registry[Corpus] = Registry("mtssl prepare", "corpus", "corpora")


def register_corpus(corpus: Corpus) -> None:
    """Make a corpus known by its name. Raises: ConfigError if the name is taken."""
    CORPORA.register(corpus.name)(corpus)


def parse(name: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of a corpus. argv: the words of the command line, by default those of the program."""
    corpus = CORPORA.named(name)
    parser = argparse.ArgumentParser(
        description=corpus.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    corpus.add_arguments(parser)
    return parser.parse_args(argv)


def prepare(name: str, argv: Sequence[str] | None = None) -> None:
    """Write the data folder of a corpus. argv: its options as words. Raises: MtsslError for faulty input."""
    CORPORA.named(name).prepare(parse(name, argv))


def run_script(main: Callable[[], object]) -> int:
    """Call the main function of a script, and print an error of the user's without its traceback.

    Returns: the exit status of the script.
    """
    try:
        main()
    except MtsslError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
