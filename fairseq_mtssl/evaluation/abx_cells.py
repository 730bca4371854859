"""ABX cells: which groups of tokens are compared, and how the errors of cells are averaged.

A group holds the tokens of one phone, spoken by one speaker in one context. A cell compares three groups: X
and A are of one phone, B is of another, and A and B are of one speaker. Within speaker, X is the group A
itself, and no token is compared with itself. Across speakers, X is of another speaker. An arm is a pair
(A, X); it has one cell for each possible B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONTEXTS = ("within", "any")
MAX_TOKENS, MAX_X_SPEAKERS = 10, 5


@dataclass(frozen=True, eq=False)
class Groups:
    """All groups; tokens are sorted by (context, speaker, phone).

    tokens: (K,) rows of the item file; group g holds `tokens[first[g] : first[g] + size[g]]`.
    context, speaker, phone: (G,) of the groups. A block is the groups of one speaker in one context;
    block: (G,) index of each group's block.
    block_first, block_groups: (B,) first group and number of groups of each block;
    block_token, block_tokens: (B,) first token and number of tokens of each block.
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
    """The cells of one condition (within or across speakers), in the order of their arms.

    arm_a, arm_x: (R,) groups A and X of each arm, in the order of A. arm: (C,) arm of each cell;
    b: (C,) group B of each cell.
    """

    groups: Groups
    arm_a: np.ndarray
    arm_x: np.ndarray
    arm: np.ndarray
    b: np.ndarray

    def __len__(self) -> int:
        return len(self.arm)

    def average(self, errors: np.ndarray) -> float | None:
        """Return the mean error in percent; None without cells.

        errors: (C,). Unweighted means are taken over contexts (and speakers of X) for each phone of A, phone
        of B and speaker, then over speakers, then over ordered pairs of phones.
        """
        if not len(self):
            return None
        groups, a = self.groups, self.arm_a[self.arm]
        keys = np.stack([groups.phone[a], groups.phone[self.b], groups.speaker[a]])
        by_speaker, values = _means(keys, errors)
        _, by_pair = _means(by_speaker[:2], values)
        return 100.0 * float(by_pair.mean())

    def used(self) -> np.ndarray:
        """Return (K,) bool: which tokens of `groups.tokens` some cell compares."""
        is_used = np.zeros(len(self.groups), dtype=bool)
        for groups in (self.arm_a[self.arm], self.arm_x[self.arm], self.b):
            is_used[groups] = True
        return np.repeat(is_used, self.groups.size)


@dataclass(frozen=True)
class Subsampler:
    """Limits of the number of comparisons; None is no limit.

    max_tokens: tokens per group, drawn once for all cells of the group.
    max_x_across: speakers of X per A across speakers, drawn once for all B.
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
    """Group the tokens, and draw at most max_tokens per group.

    context, speaker, phone: (N,) int64 of all tokens; kept: (N,) bool, the tokens that have frames.
    """
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
    """Return the cells of all ordered pairs of phones of a speaker in a context; A has two tokens or more."""
    arms = np.flatnonzero((groups.size >= 2) & (groups.block_groups[groups.block] >= 2))
    return _cells(groups, arms, arms)


def across_cells(groups: Groups, max_x_across: int | None, rng: np.random.Generator) -> Cells:
    """Return the cells of every A that has a B, with X of at most max_x_across other speakers."""
    order = np.lexsort((groups.speaker, groups.phone, groups.context))
    _, count = _runs(_number_runs(np.stack([groups.context[order], groups.phone[order]])))
    same_phone = np.repeat(count, count)
    first = np.repeat(np.cumsum(count) - count, count)
    has_b = groups.block_groups[groups.block[order]] >= 2
    row, partner = _pairs(np.flatnonzero(has_b), first[has_b], same_phone[has_b])
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
    """Pair each row with first, first + 1, … (count numbers): two arrays of length sum(count)."""
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(rows, count), np.repeat(first, count) + within


def _number_runs(keys: np.ndarray) -> np.ndarray:
    """Number the runs of equal sorted keys (J, N): returns (N,), 0 for the first run, 1 for the next, …"""
    if keys.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.cumsum((keys[:, 1:] != keys[:, :-1]).any(axis=0))])


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the length of each run of equal numbers."""
    size = np.bincount(numbers) if len(numbers) else np.zeros(0, dtype=np.int64)
    return np.cumsum(size) - size, size


def _some_of_each(group: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most `limit` members of each group: (N,) bool. group: (N,), equal numbers are adjacent."""
    order = np.lexsort((rng.random(len(group)), group))
    first, size = _runs(_number_runs(group[np.newaxis]))
    kept = np.zeros(len(group), dtype=bool)
    # equal numbers are adjacent in group, so the runs of group[order] have the same positions
    kept[order] = np.arange(len(group)) - np.repeat(first, size) < limit
    return kept


def _means(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the values of equal keys (J, N): returns the distinct keys (J, M) and their means (M,)."""
    distinct, index = np.unique(keys, axis=1, return_inverse=True)
    index = index.reshape(-1)
    return distinct, np.bincount(index, weights=values) / np.bincount(index)
