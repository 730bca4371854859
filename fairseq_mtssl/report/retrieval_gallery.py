"""A gallery as HTML: spoken captions with the images that they retrieve, and images with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fairseq_mtssl.report.page import render

SMALL_PX = 64  # a smaller image is enlarged without smoothing, so that its pixels can be seen


@dataclass(frozen=True)
class Picture:
    """An image. name: its id. uri: its data URI, None without a file. side_px: the side of its square."""

    name: str
    uri: str | None
    side_px: int = 0
    label: str = ""

    @property
    def title(self) -> str:
        """The heading of its card."""
        return f"Image {self.name}"

    @property
    def is_small(self) -> bool:
        """Whether it is enlarged without smoothing."""
        return self.side_px < SMALL_PX


@dataclass(frozen=True)
class Clip:
    """A spoken caption. name: its id. text: its words, "" if unknown. uri: its sound as a data URI."""

    name: str
    text: str
    uri: str
    seconds: float
    label: str = ""
    speaker: str = ""

    @property
    def title(self) -> str:
        """Its words, or its id."""
        return self.text or self.name


@dataclass(frozen=True)
class Answer:
    """A retrieved candidate. right: whether it is relevant."""

    item: Picture | Clip
    score: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A query and its best candidates, in the order of their ranks.

    rank: of the best relevant candidate among all `candidates`, from 1, the mean over the possible orders of
    ties; None if no candidate is relevant. right_score: the score of that candidate. own: the image that a
    caption describes.
    """

    item: Picture | Clip
    answers: Sequence[Answer]
    rank: float | None
    right_score: float | None
    candidates: int
    own: Picture | None = None

    @property
    def hit(self) -> bool:
        """Whether a relevant candidate is among the answers."""
        return any(answer.right for answer in self.answers)

    @property
    def is_spoken(self) -> bool:
        """Whether the query is a caption and its answers are images."""
        return isinstance(self.item, Clip)

    @property
    def place(self) -> str:
        """Text such as `rank 3 of 10` (`rank 3.5 of 10` for a tie); "" if no candidate is relevant."""
        if self.rank is None:
            return ""
        return f"rank {self.rank:.1f}".removesuffix(".0") + f" of {self.candidates}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """The pairs of name and text on the opened card."""
        facts = [("label", self.item.label)]
        if isinstance(self.item, Clip):
            facts = [("caption", self.item.name), ("speaker", self.item.speaker), *facts]
            facts.append(("heard", f"{self.item.seconds:.2f} s"))
        if self.own is not None:
            facts.append(("its image", self.own.name))
        if self.place and self.right_score is not None:
            facts.append(("best right answer", f"{self.place}, score {self.right_score:.3f}"))
        return facts


def gallery_markup(queries: Sequence[Query], name: str) -> Markup:
    """A card for each query, which a click opens, and a choice of hits, misses or all (`gallery.js`).

    Without the script all cards are open. name: letters, different for every gallery of the page.
    """
    hits = sum(query.hit for query in queries)
    choices = [("all", "All", len(queries)), ("hit", "Hits", hits), ("miss", "Misses", len(queries) - hits)]
    return render("gallery", queries=queries, name=name, choices=choices)
