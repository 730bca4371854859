"""ABX cells: which groups of tokens are compared, and how the errors of cells are averaged.

A group is the tokens of one phone, by one speaker, in one context. In a cell, X and A are tokens of one
phone, B of another; A and B are by the same speaker. Within speaker, X is by that speaker, too: any token of
A but the one it is compared with. Across speakers, X is by another. An arm is a pair (A, X); it has one cell
for every B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONTEXTS = ("within", "any")
MAX_TOKENS, MAX_X_SPEAKERS = 10, 5


@dataclass(frozen=True, eq=False)
class Groups:
    """Tokens in the order of (context, speaker, phone).

    tokens: (K,) rows of the item file; group g has `tokens[first[g] : first[g] + size[g]]`.
    speaker, phone: (G,) of the groups; block: (G,) numbers those of one speaker in one context.
    block_first, block_groups, block_token, block_tokens: (B,) first group, how many; first token, how many.
    """

    tokens: np.ndarray
    first: np.ndarray
    size: np.ndarray
    context: np.ndarray
    speaker: np.ndarray
    phone: np.ndarray
    block: np.ndarray
    block_first: np.ndarray
    block_groups: np.ndarray
    block_token: np.ndarray
    block_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one condition, in the order of their arms.

    arm_a, arm_x: (R,) groups, in the order of A. arm: (C,) the arm of each cell; b: (C,) its group B.
    """

    groups: Groups
    arm_a: np.ndarray
    arm_x: np.ndarray
    arm: np.ndarray
    b: np.ndarray

    def __len__(self) -> int:
        return len(self.arm)

    def average(self, errors: np.ndarray) -> float | None:
        """Mean error in percent, unweighted at each step; None without cells.

        errors: (C,). First over contexts (and speakers of X) for each A, B and speaker, then over speakers,
        then over the ordered pairs of phones.
        """
        if not len(self):
            return None
        groups, a = self.groups, self.arm_a[self.arm]
        keys = np.stack([groups.phone[a], groups.phone[self.b], groups.speaker[a]])
        by_speaker, values = _means(keys, errors)
        _, by_pair = _means(by_speaker[:2], values)
        return 100.0 * float(by_pair.mean())

    def used(self) -> np.ndarray:
        """(K,) bool: tokens of `groups.tokens` that some cell compares."""
        groups = np.zeros(len(self.groups), dtype=bool)
        for each in (self.arm_a[self.arm], self.arm_x[self.arm], self.b):
            groups[each] = True
        return np.repeat(groups, self.groups.size)


@dataclass(frozen=True)
class Subsampler:
    """max_tokens: of a group; max_x_across: that X is taken from for each A; None takes all.

    A group's tokens are drawn once for all of its cells, and the speakers of X once for all B.
    """

    max_tokens: int | None = MAX_TOKENS
    max_x_across: int | None = MAX_X_SPEAKERS
    seed: int = 0


def make_groups(
    context: np.ndarray,
    speaker: np.ndarray,
    phone: np.ndarray,
    kept: np.ndarray,
    max_tokens: int | None,
    rng: np.random.Generator,
) -> Groups:
    """context, speaker, phone: (N,) int64 of all tokens; kept: (N,) bool, those that have frames."""
    tokens = np.flatnonzero(kept)
    tokens = tokens[np.lexsort((phone[tokens], speaker[tokens], context[tokens]))]
    keys = np.stack([context[tokens], speaker[tokens], phone[tokens]])
    if max_tokens is not None:
        tokens = tokens[_some_of_each(_number_runs(keys), max_tokens, rng)]
        keys = np.stack([context[tokens], speaker[tokens], phone[tokens]])
    group = _number_runs(keys)
    first, size = _runs(group)
    block = _number_runs(keys[:2, first])
    block_first, block_groups = _runs(block)
    return Groups(
        tokens=tokens,
        first=first,
        size=size,
        context=keys[0, first],
        speaker=keys[1, first],
        phone=keys[2, first],
        block=block,
        block_first=block_first,
        block_groups=block_groups,
        block_token=first[block_first],
        block_tokens=np.add.reduceat(size, block_first) if len(size) else size,
    )


def within_cells(groups: Groups) -> Cells:
    """Every ordered pair of phones of a speaker in a context, A having two tokens or more."""
    able = (groups.size >= 2) & (groups.block_groups[groups.block] >= 2)
    arms = np.flatnonzero(able)
    return _cells(groups, arms, arms)


def across_cells(groups: Groups, max_x_across: int | None, rng: np.random.Generator) -> Cells:
    """Every A that has a B, with X from other speakers of its phone and context, all or some of them."""
    order = np.lexsort((groups.speaker, groups.phone, groups.context))
    _, count = _runs(_number_runs(np.stack([groups.context[order], groups.phone[order]])))
    sharing = np.repeat(count, count)
    first = np.repeat(np.cumsum(count) - count, count)
    able = groups.block_groups[groups.block[order]] >= 2
    row, partner = _pairs(np.flatnonzero(able), first[able], sharing[able])
    a, x = order[row], order[partner]
    a, x = a[a != x], x[a != x]
    by_a = np.argsort(a, kind="stable")
    a, x = a[by_a], x[by_a]
    if max_x_across is not None:
        kept = _some_of_each(a, max_x_across, rng)
        a, x = a[kept], x[kept]
    return _cells(groups, a, x)


def _cells(groups: Groups, a: np.ndarray, x: np.ndarray) -> Cells:
    block = groups.block[a]
    arm, b = _pairs(np.arange(len(a)), groups.block_first[block], groups.block_groups[block])
    kept = b != a[arm]
    return Cells(groups, a, x, arm[kept], b[kept])


def _pairs(rows: np.ndarray, first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row beside first, first + 1, … (count of them): two arrays of sum(count)."""
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(rows, count), np.repeat(first, count) + within


def _number_runs(keys: np.ndarray) -> np.ndarray:
    """(J, N) sorted keys -> (N,) 0, 1, …, one more wherever a key changes."""
    if keys.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.cumsum((keys[:, 1:] != keys[:, :-1]).any(axis=0))])


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each run of equal numbers."""
    size = np.bincount(numbers) if len(numbers) else np.zeros(0, dtype=np.int64)
    return np.cumsum(size) - size, size


def _some_of_each(group: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool: at most so many of each group, drawn at random. group: (N,), equal ones side by side."""
    order = np.lexsort((rng.random(len(group)), group))
    first, size = _runs(_number_runs(group[np.newaxis]))
    kept = np.zeros(len(group), dtype=bool)
    # group is sorted: the runs of group[order] stand where those of group do
    kept[order] = np.arange(len(group)) - np.repeat(first, size) < limit
    return kept


def _means(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the values whose keys, (J, N), are equal: the distinct keys, (J, M), and (M,) means."""
    distinct, place = np.unique(keys, axis=1, return_inverse=True)
    place = place.reshape(-1)
    return distinct, np.bincount(place, weights=values) / np.bincount(place)
