"""Episodes -> counts per problem -> n@k solve rate, the paper's metric (RLEF, sec. 3).

Does not play episodes and does not judge them: it reads what the public and private reports say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rlef_lightning.types import Episode


def n_at_k(samples: int, passing_public: int, correct: int, n: int, k: int) -> float:
    """Probability that any of n solutions, selected from k of the samples, is correct (RLEF, sec. 3).

    The k are drawn from all `samples` without replacement; the n are then drawn uniformly from those of
    the k that pass the public tests (all of them where fewer than n do). A correct solution passes the
    public tests too. With m ~ Hypergeometric(samples, passing_public, k) public passes among the k, those
    are a uniform subset of all P passes, so that P(none of min(n, m) is correct) is a ratio of binomials.

    Example: n_at_k(samples=4, passing_public=2, correct=1, n=1, k=1) == 0.25
    """
    _check_counts(samples, passing_public, correct, n, k)
    total = 0.0
    for passes in range(1, min(k, passing_public) + 1):
        selected = min(n, passes)
        p_passes = (
            comb(passing_public, passes) * comb(samples - passing_public, k - passes) / comb(samples, k)
        )
        p_all_wrong = comb(passing_public - correct, selected) / comb(passing_public, selected)
        total += p_passes * (1.0 - p_all_wrong)
    return total


def _check_counts(samples: int, passing_public: int, correct: int, n: int, k: int) -> None:
    if not 0 <= correct <= passing_public <= samples:
        raise ValueError(
            "n@k needs 0 <= correct <= passing_public <= samples, got "
            f"correct={correct}, passing_public={passing_public}, samples={samples}"
        )
    if n < 1 or not 1 <= k <= samples:
        raise ValueError(f"n@k needs n >= 1 and 1 <= k <= samples, got n={n}, k={k}, samples={samples}")


def problem_key(problem_id: str) -> int:
    """A signed 64-bit key of a problem's id, the same in every process (Python's own hash is salted)."""
    digest = hashlib.blake2b(problem_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class SolveRate(Metric):
    """n@k over problems, in [0, 1]; every turn of the limit counts as a sample (RLEF, sec. 3).

    A rollout of at most `turn_limit` turns uses up `turn_limit` of the k samples, played or not, and
    offers one solution, its last: 1@3 at 3 turns is one rollout, 10@100 at 3 turns is 33 rollouts.

    Example: SolveRate(n=10, k=100, turn_limit=3).rollouts_needed == 33
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    rows: list[Tensor] | Tensor
    """int64 of shape (episodes, 3): problem key, last solution passes the public tests, solved.

    A list of such tables while they are added up, one table while they are gathered from all ranks.
    """

    def __init__(self, n: int, k: int, turn_limit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n < 1 or turn_limit < 1 or k < turn_limit:
            raise ValueError(
                f"n@k needs n >= 1, turn_limit >= 1 and k >= turn_limit (one rollout uses turn_limit of the "
                f"k samples), got n={n}, k={k}, turn_limit={turn_limit}"
            )
        self.n, self.k, self.turn_limit = n, k, turn_limit
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @property
    def rollouts_needed(self) -> int:
        """How many rollouts make up the k samples."""
        return self.k // self.turn_limit

    def update(self, episodes: Sequence[Episode]) -> None:
        """Add judged episodes; the rollouts of one problem may come in any order and on any rank."""
        rows = [[problem_key(e.problem_id), int(e.turns[-1].passed_public), int(e.solved)] for e in episodes]
        if rows and isinstance(self.rows, list):
            self.rows.append(torch.tensor(rows, dtype=torch.int64, device=self.device))

    def compute(self) -> Tensor:
        """Mean of n@k over the problems: float64 of shape ()."""
        return self._problem_scores().mean().to(self.device)

    def confidence_interval(self, resamples: int = 200, seed: int = 0) -> tuple[float, float]:
        """95% interval (low, high) by bootstrap over problems (RLEF, sec. 3). All ranks must call it."""
        if resamples < 1:
            raise ValueError(f"the bootstrap needs resamples >= 1, got {resamples}")
        # compute() is synced by torchmetrics; any other method has to ask for it.
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, process_group=self.process_group):
            scores = self._problem_scores()
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(len(scores), (resamples, len(scores)), generator=generator)
        means = scores[picks].mean(dim=1)
        low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
        return low, high

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the ranks' rows; one without episodes sends an empty int64 table.

        torchmetrics would send an empty float table of one dimension, which all_gather cannot join.
        """
        if isinstance(self.rows, list) and not self.rows:
            self.rows.append(torch.empty((0, 3), dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)

    def _problem_scores(self) -> Tensor:
        """n@k of each problem in the order of its key: float64 of shape (problems,), on the CPU."""
        counts = self._counts()
        short = [samples for samples, _, _ in counts if samples < self.rollouts_needed]
        if short:
            raise ValueError(
                f"{self.n}@{self.k} at {self.turn_limit} turns needs {self.rollouts_needed} rollouts of each "
                f"problem, but {len(short)} of {len(counts)} problems have fewer (as few as {min(short)}); "
                f"raise the number of samples per problem to {self.rollouts_needed} or more, or lower k"
            )
        scores = [n_at_k(*count, n=self.n, k=self.rollouts_needed) for count in counts]
        return torch.tensor(scores, dtype=torch.float64)

    def _counts(self) -> list[tuple[int, int, int]]:
        """(rollouts, public passes, solved) of each problem, in the order of the keys."""
        tables = [self.rows] if isinstance(self.rows, Tensor) else self.rows
        if not sum(map(len, tables)):
            raise ValueError("the solve rate of no episodes is not defined: update() was given none")
        rows = torch.cat(tables).cpu()
        _, index = rows[:, 0].unique(return_inverse=True)
        flags = torch.cat([torch.ones_like(rows[:, :1]), rows[:, 1:]], dim=1)
        sums = torch.zeros((int(index.max()) + 1, 3), dtype=torch.int64).index_add_(0, index, flags)
        return [(samples, passes, solved) for samples, passes, solved in sums.tolist()]
