"""Episodes + networks -> TrainingSamples: the one pass without gradients between sampling and updating.

Log-probabilities of policy and reference, values, entropy; the arithmetic on them is learning's. It
changes no weights and logs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlef_lightning.learning.diagnostics import engine_mismatch, explained_variance
from rlef_lightning.learning.logprobs import chunk_rows, token_logprobs
from rlef_lightning.learning.objectives import Objective
from rlef_lightning.learning.packing import PackedSequences, collate_sequences, pack, split_turns
from rlef_lightning.learning.samples import TokenSequence, episode_sequence, to_training_sample
from rlef_lightning.models.lora import WithoutAdapters
from rlef_lightning.models.networks import PolicyNetwork, PolicyValueNetwork, ValueNetwork
from rlef_lightning.ranks import Ranks
from rlef_lightning.types import ActionLevel, Episode, ScoredEpisode, TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What scores."""

    policy: PolicyNetwork
    reference: PolicyNetwork | WithoutAdapters
    value: ValueNetwork | None
    """None for an objective without values, and where the policy's trunk has the value head."""
    value_level: ActionLevel | None = "turn"
    """Where values are read: at the last prompt token of each turn, or before each response token."""

    def policy_and_values(
        self, packed: PackedSequences, temperature: float
    ) -> tuple[Tensor, Tensor, list[tuple[float, ...]]]:
        """Log-probability and entropy of each response token, [R]; of each turn its value, those of its
        tokens, or none."""
        if self.value_level is None or not isinstance(self.policy, PolicyValueNetwork):
            return *response_logprobs(self.policy, packed, temperature), self.values(packed)
        read = self._where_read(packed)
        logprobs, entropy, values = logprobs_and_values(self.policy, read, temperature)
        return logprobs, entropy, self._by_turn(values, packed)

    def values(self, packed: PackedSequences) -> list[tuple[float, ...]]:
        """Those of a value network of its own."""
        if self.value is None:
            return [()] * len(packed.value_index)
        return self._by_turn(self.value(self._where_read(packed)), packed)

    def _where_read(self, packed: PackedSequences) -> PackedSequences:
        # Only places that predict a response token are read: no value of a feedback token exists.
        tokens = self.value_level == "token"
        return replace(packed, value_index=packed.response_index) if tokens else packed

    def _by_turn(self, values: Tensor, packed: PackedSequences) -> list[tuple[float, ...]]:
        tokens = self.value_level == "token"
        return split_turns(values, packed) if tokens else [(value,) for value in values.tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Episodes made ready for training."""

    samples: list[TrainingSample]
    metrics: dict[str, float]
    """KL, entropy, value fit, engine/trainer mismatch; see docs/metrics.md."""


@dataclass(slots=True)
class _EpisodeNumbers:
    """Per turn of one episode: its tokens' log-probabilities by two networks, and its values."""

    policy: list[tuple[float, ...]]
    reference: list[tuple[float, ...]]
    values: list[tuple[float, ...]]


def response_logprobs(
    network: PolicyNetwork | WithoutAdapters,
    packed: PackedSequences,
    temperature: float,
    *,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each response token: two tensors [R], in nats; without it [0]."""
    result: tuple[Tensor, Tensor] = network(packed, _head(packed, temperature, with_entropy))
    return result


def logprobs_and_values(
    network: PolicyValueNetwork, packed: PackedSequences, temperature: float, *, with_entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the values at `packed.value_index`, [M] float32, of one forward pass."""
    (logprobs, entropy), values = network(
        packed, _head(packed, temperature, with_entropy), packed.value_index
    )
    return logprobs, entropy, values


def _head(
    packed: PackedSequences, temperature: float, with_entropy: bool
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def head(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(
            hidden,
            weight,
            packed.target_ids,
            temperature,
            chunk_rows(len(weight), hidden.device.type),
            with_entropy=with_entropy,
        )

    return head


@dataclass(slots=True)
class _PackNumbers:
    """What the networks say of one pack."""

    episodes: dict[int, _EpisodeNumbers]
    """By the episode's index."""
    entropy: Tensor
    """[R], on the CPU."""


def score(
    episodes: Sequence[Episode],
    networks: Networks,
    objective: Objective,
    pack_tokens: int,
    temperature: float,
    ranks: Ranks | None = None,
    check: Callable[[], None] | None = None,
) -> Scored:
    """Samples in the episodes' order, and what there is to log of them.

    Args:
        episodes: Just sampled, by the weights that the policy has now.
        networks: Policy, reference and value network, on one device or sharded over the ranks.
        objective: Rewards, KL, advantages.
        pack_tokens: Most tokens of one forward pass.
        temperature: At which the episodes were sampled.
        ranks: With several of them all have the same episodes. Each computes every so-many-th pack, and what
            the networks said is gathered: all of them return the same.
        check: Is called before each pack, by all ranks together; what it raises, on all of them, ends this.
    """
    ranks = Ranks(alone=True) if ranks is None else ranks
    sequences = [episode_sequence(episode) for episode in episodes]
    packs = pack(sequences, pack_tokens)
    own = _score_packs(sequences, packs, networks, temperature, ranks, check)
    by_pack = dict(item for part in ranks.gather(own) for item in part.items())
    numbers = {i: n for part in by_pack.values() for i, n in part.episodes.items()}
    entropy = torch.cat([by_pack[number].entropy for number in range(len(packs))])
    return _assemble(episodes, [numbers[i] for i in range(len(sequences))], entropy, objective)


@torch.no_grad()
def _score_packs(
    sequences: Sequence[TokenSequence],
    packs: Sequence[Sequence[int]],
    networks: Networks,
    temperature: float,
    ranks: Ranks,
    check: Callable[[], None] | None,
) -> dict[int, _PackNumbers]:
    """This rank's packs, by number."""
    found: dict[int, _PackNumbers] = {}
    for first in range(0, len(packs), ranks.size):
        if check is not None:
            check()
        number = first + ranks.rank
        # Ranks that share weights must take as many passes; the last one may be in vain.
        members = packs[number] if number < len(packs) else packs[-1][:1]
        found[number] = _score_pack(sequences, members, networks, temperature)
    return {number: numbers for number, numbers in found.items() if number < len(packs)}


def _score_pack(
    sequences: Sequence[TokenSequence], members: Sequence[int], networks: Networks, temperature: float
) -> _PackNumbers:
    device = next(networks.policy.parameters()).device
    packed = collate_sequences([sequences[i] for i in members]).to(device)
    policy, entropy, values = networks.policy_and_values(packed, temperature)
    reference, _ = response_logprobs(networks.reference, packed, temperature, with_entropy=False)
    turns = iter(zip(split_turns(policy, packed), split_turns(reference, packed), values, strict=True))
    numbers = {}
    for i in members:
        own = [next(turns) for _ in sequences[i].spans]
        numbers[i] = _EpisodeNumbers(*(list(column) for column in zip(*own, strict=True)))
    return _PackNumbers(episodes=numbers, entropy=entropy.cpu())


def _assemble(
    episodes: Sequence[Episode], numbers: Sequence[_EpisodeNumbers], entropy: Tensor, objective: Objective
) -> Scored:
    scored = objective.score(
        episodes,
        [n.policy for n in numbers],
        [n.reference for n in numbers],
        [n.values for n in numbers],
    )
    samples = [
        to_training_sample(
            s, n.policy, n.reference if objective.kl == "loss" else None, objective.action_level
        )
        for s, n in zip(scored, numbers, strict=True)
    ]
    metrics = _metrics(scored, samples, entropy)
    return Scored(samples=samples, metrics=metrics | (_value_fit(scored) if objective.value_level else {}))


def _metrics(
    scored: Sequence[ScoredEpisode], samples: Sequence[TrainingSample], entropy: Tensor
) -> dict[str, float]:
    behaviour = torch.tensor([x for sample in samples for x in sample.behaviour_logprobs])
    policy = torch.tensor([x for sample in samples for x in sample.policy_logprobs])
    mismatch = engine_mismatch(behaviour, policy)
    ratios = [k for s in scored for k in s.mean_log_ratios]
    return {
        "kl": sum(ratios) / len(ratios),
        "entropy": float(entropy.mean()),
        "return": sum(s.episode_return for s in scored) / len(scored),
        "mismatch_mean": mismatch.mean_abs,
        "mismatch_max": mismatch.max_abs,
        "mismatch_kl": mismatch.approx_kl,
    }


def _value_fit(scored: Sequence[ScoredEpisode]) -> dict[str, float]:
    values = torch.tensor([v for s in scored for v in s.values])
    returns = torch.tensor([r for s in scored for r in s.returns])
    return {"value_explained_variance": explained_variance(values, returns)}
