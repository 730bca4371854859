"""Captions to be heard with the images they find, and images with the captions they find, as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq_mtssl.report.page import facts_markup

SMALL_PX = 64  # pictures of fewer pixels keep them visible instead of being blurred


@dataclass(frozen=True)
class Picture:
    """An image. name: its id. uri: its data, None where there is no file to show. side_px: of its square."""

    name: str
    uri: str | None
    side_px: int = 0
    label: str = ""


@dataclass(frozen=True)
class Clip:
    """A spoken caption. name: its id. text: what it says, "" if unknown. uri: its sound, seconds of it."""

    name: str
    text: str
    uri: str
    seconds: float
    label: str = ""
    speaker: str = ""

    @property
    def title(self) -> str:
        """What it says, or its id."""
        return self.text or self.name


@dataclass(frozen=True)
class Answer:
    """One that was found. right: it is relevant."""

    item: Picture | Clip
    score: float
    right: bool


@dataclass(frozen=True)
class Query:
    """One that was asked with and what it found, best first.

    own: a caption's own image. rank: of the best right answer among all candidates, from 1, the mean over
    the orders of ties; None if none is right. right_score: what that one scores.
    """

    item: Picture | Clip
    answers: Sequence[Answer]
    rank: float | None
    right_score: float | None
    candidates: int
    own: Picture | None = None

    @property
    def hit(self) -> bool:
        """Whether a right answer is among those shown."""
        return any(answer.right for answer in self.answers)


def gallery_markup(queries: Sequence[Query], name: str) -> str:
    """Cards, one a query, that a click opens, with a choice of hits, misses or all (`gallery.js`).

    name: of letters, no other gallery's of the page. Without the script every card is open.
    """
    cards = "\n".join(_card(query, f"{name}-{place}") for place, query in enumerate(queries, start=1))
    return f'<div class="gallery">\n{_tools(queries, name)}\n<ol class="cards">\n{cards}\n</ol>\n</div>'


def _tools(queries: Sequence[Query], name: str) -> str:
    hits = sum(query.hit for query in queries)
    choices = {"all": ("All", len(queries)), "hit": ("Hits", hits), "miss": ("Misses", len(queries) - hits)}
    labels = "".join(
        f'<label><input type="radio" name="{name}-show" value="{value}"{" checked" * (value == "all")}>'
        f"{word} {count}</label>"
        for value, (word, count) in choices.items()
    )
    return (
        f'<div class="tools"><fieldset><legend>Show</legend>{labels}</fieldset>'
        '<button type="button" class="all">Open all</button><output></output></div>'
    )


def _card(query: Query, name: str) -> str:
    title = query.item.title if isinstance(query.item, Clip) else f"Image {query.item.name}"
    parts = [
        f'<li class="card" id="{name}" data-outcome="{"hit" if query.hit else "miss"}">',
        f'<header><h3><button type="button" aria-expanded="true" aria-controls="{name}-more">'
        f"{html.escape(title)}</button></h3>{_badge(query)}</header>",
    ]
    if isinstance(query.item, Clip):
        parts += [_audio(query.item), _pictures(query)]
    else:
        parts.append(f'<div class="asked">{_picture(query.item, "figure", "own", "")}{_clips(query)}</div>')
    return "\n".join([*parts, _facts(query, f"{name}-more"), "</li>"])


def _badge(query: Query) -> str:
    kind, mark = ("right", "✓") if query.hit else ("wrong", "✗")
    rank = "no right answer" if query.rank is None else f"rank {_rank(query.rank)} of {query.candidates}"
    return f'<span class="badge {kind}">{mark} {rank}</span>'


def _rank(rank: float) -> str:
    """`3`, or `3.5` where the best right answer ties."""
    return f"{rank:.1f}".removesuffix(".0")


def _pictures(query: Query) -> str:
    own = [_picture(query.own, "li", "own", "its image")] if query.own is not None else []
    found = [
        _picture(
            answer.item,
            "li",
            "right" if answer.right else "wrong",
            f"{rank} {_mark(answer)}",
            f'<span class="more score">{answer.score:.3f}</span>',
        )
        for rank, answer in enumerate(query.answers, start=1)
        if isinstance(answer.item, Picture)
    ]
    return f'<ol class="pictures">{"".join([*own, *found])}</ol>'


def _picture(picture: Picture, tag: str, kind: str, caption: str, more: str = "") -> str:
    """One image with its caption; kind: own, right or wrong. tag: li, or figure outside a list."""
    what = {"own": "its own image", "right": "found, right", "wrong": "found, wrong"}[kind]
    name = html.escape(picture.name)
    if picture.uri is None:
        shown = f'<span class="absent">{name}</span>'
    else:
        small = ' class="small"' if picture.side_px < SMALL_PX else ""
        shown = f'<img{small} alt="{what}: {name}" title="{name}" src="{picture.uri}">'
    inside = f'{shown}<figcaption>{caption}{more}<span class="more">{name}</span></figcaption>'
    if tag == "figure":
        return f'<figure class="picture {kind}">{inside}</figure>'
    return f'<li><figure class="picture {kind}">{inside}</figure></li>'


def _clips(query: Query) -> str:
    rows = [
        f'<li class="{"right" if answer.right else "wrong"}"><span class="rank">{rank}</span>{_mark(answer)}'
        f'<span>{html.escape(answer.item.title)}</span><span class="score">{answer.score:.3f}</span>'
        f'<div class="more">{_audio(answer.item)}</div></li>'
        for rank, answer in enumerate(query.answers, start=1)
        if isinstance(answer.item, Clip)
    ]
    return f'<ol class="clips">{"".join(rows)}</ol>'


def _mark(answer: Answer) -> str:
    sign, word = ("✓", "right") if answer.right else ("✗", "wrong")
    return f'<span class="mark" role="img" aria-label="{word}">{sign}</span>'


def _audio(clip: Clip) -> str:
    label = html.escape(f"Listen: {clip.title}")
    return f'<audio controls preload="metadata" aria-label="{label}" src="{clip.uri}"></audio>'


def _facts(query: Query, name: str) -> str:
    facts = []
    if isinstance(query.item, Clip):
        facts += [("caption", query.item.name), ("speaker", query.item.speaker), ("label", query.item.label)]
        facts.append(("heard", f"{query.item.seconds:.2f} s"))
    else:
        facts.append(("label", query.item.label))
    if query.own is not None:
        facts.append(("its image", query.own.name))
    if query.rank is not None and query.right_score is not None:
        best = f"rank {_rank(query.rank)} of {query.candidates}, score {query.right_score:.3f}"
        facts.append(("best right answer", best))
    return facts_markup(facts, f' class="more" id="{name}"')
