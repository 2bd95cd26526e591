"""Samples -> packs of bounded size -> tensors without padding.

`PackedSequences` is the layout that every forward pass needs, `PackedBatch` adds what the losses need.
Letters in shapes: T tokens, N sequences, R response tokens, M turns of one pack (or
actions: with a value before each token every response token counts as a turn). Runs no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, chain
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from rlef_lightning.learning.samples import TokenSequence
from rlef_lightning.types import TrainingSample


class HasTokens(Protocol):
    """Anything with token ids: a TokenSequence or a TrainingSample."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the whole sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequences:
    """Several sequences end to end, and where their responses lie.

    Example: of (5, 6 | 7, 8) and (5 | 9), responses after the bar: token_ids [5, 6, 7, 8, 5, 9],
    position_ids [0, 1, 2, 3, 0, 1], cu_seqlens [0, 4, 6], max_seqlen 4, response_index [1, 2, 4],
    target_ids [7, 8, 9], value_index [1, 4], turn_of_token [0, 0, 1]
    """

    token_ids: Tensor
    """[T] int64."""
    position_ids: Tensor
    """[T] int64: the place within its own sequence."""
    cu_seqlens: Tensor
    """[N + 1] int32: where each sequence starts, and T at the end."""
    max_seqlen: int
    """Tokens of the longest sequence."""
    response_index: Tensor
    """[R] int64: the place whose hidden state predicts the response token (that token's place - 1)."""
    target_ids: Tensor
    """[R] int64: the response tokens."""
    value_index: Tensor
    """[M] int64: the last prompt token of each turn, where V is read (RLEF, sec. 2.2)."""
    turn_of_token: Tensor
    """[R] int64: the turn, 0 to M - 1, that a response token belongs to."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same pack with its tensors on `device`."""
        tensors = {name: value for name, value in _fields(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=non_blocking) for k, v in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch(PackedSequences):
    """One micro-batch of training: the layout and the numbers of the losses, float32."""

    advantages: Tensor
    """[M]; `advantages[turn_of_token]` is [R]: one number shared by a response's tokens."""
    old_values: Tensor
    """[M]: V at collection."""
    returns: Tensor
    """[M]: what V is fitted to."""
    behaviour_logprobs: Tensor
    """[R]: by the policy that sampled, natural log."""
    policy_logprobs: Tensor
    """[R]: by the trainer's weights at collection (pi_old), natural log."""
    reference_logprobs: Tensor
    """[R]: by the frozen initial policy, natural log; [0] where the loss has no KL."""


def pack(samples: Sequence[HasTokens], token_budget: int) -> list[list[int]]:
    """Which samples (by index) share a pack of at most `token_budget` tokens: first-fit decreasing.

    Deterministic: longest first, equal lengths in their given order; within a pack, ascending index.

    Raises ValueError when one sample alone is over the budget.
    """
    lengths = [len(sample.token_ids) for sample in samples]
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > token_budget:
            raise ValueError(
                f"sample {index} has {lengths[index]} tokens, but a pack holds at most {token_budget}: "
                f"raise `pack_tokens` to {lengths[index]} or more, or shorten the episodes"
            )
        place = next((p for p, free in enumerate(room) if free >= lengths[index]), len(packs))
        if place == len(packs):
            packs.append([])
            room.append(token_budget)
        packs[place].append(index)
        room[place] -= lengths[index]
    return [sorted(members) for members in packs]


def collate_sequences(sequences: Sequence[TokenSequence]) -> PackedSequences:
    """One pack of these sequences in their order, for scoring (no advantages yet).

    Raises ValueError on an empty list or a span that is not inside its sequence.
    """
    if not sequences:
        raise ValueError("cannot collate an empty list: a pack needs at least one sequence")
    lengths = [len(sequence.token_ids) for sequence in sequences]
    starts = [0, *accumulate(lengths)]
    spans = [_absolute(s, n, start) for n, (s, start) in enumerate(zip(sequences, starts, strict=False))]
    bounds = list(chain.from_iterable(spans))
    token_ids = _ints(chain.from_iterable(sequence.token_ids for sequence in sequences))
    response_index = _ints(i - 1 for start, stop in bounds for i in range(start, stop))
    return PackedSequences(
        token_ids=token_ids,
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.tensor(starts, dtype=torch.int32),
        max_seqlen=max(lengths),
        response_index=response_index,
        target_ids=token_ids[response_index + 1],
        value_index=_ints(start - 1 for start, _ in bounds),
        turn_of_token=_ints(t for t, (start, stop) in enumerate(bounds) for _ in range(start, stop)),
    )


def collate(samples: Sequence[TrainingSample]) -> PackedBatch:
    """One pack of these samples in their order, for training.

    Raises ValueError on an empty list, a span that is not inside its sample, or a wrong count of
    log-probabilities.
    """
    for number, sample in enumerate(samples):
        counts = {len(sample.behaviour_logprobs), len(sample.policy_logprobs), sample.response_tokens}
        if len(counts) > 1:
            raise ValueError(f"sample {number} needs a log-probability per response token, found {counts}")
    spans = [span for sample in samples for span in sample.spans]
    return PackedBatch(
        **_fields(collate_sequences([_sequence(sample) for sample in samples])),
        advantages=_floats([span.advantage for span in spans]),
        old_values=_floats([span.value for span in spans]),
        returns=_floats([span.value_target for span in spans]),
        behaviour_logprobs=_floats([x for s in samples for x in s.behaviour_logprobs]),
        policy_logprobs=_floats([x for s in samples for x in s.policy_logprobs]),
        reference_logprobs=_floats([x for s in samples for x in s.reference_logprobs]),
    )


def split_turns(per_token: Tensor, packed: PackedSequences) -> list[tuple[float, ...]]:
    """Numbers of response tokens, turn by turn: [R] -> M tuples, in the order of the pack.

    Raises ValueError when `per_token` is not [R].
    """
    if per_token.shape != packed.turn_of_token.shape:
        raise ValueError(
            f"per_token is {tuple(per_token.shape)}; expected {tuple(packed.turn_of_token.shape)}"
        )
    counts = torch.bincount(packed.turn_of_token, minlength=len(packed.value_index)).tolist()
    return [tuple(part.tolist()) for part in per_token.detach().split(counts)]


def _fields(packed: PackedSequences) -> dict[str, Any]:
    return {field.name: getattr(packed, field.name) for field in fields(packed)}


def _sequence(sample: TrainingSample) -> TokenSequence:
    bounds = tuple((span.start, span.stop) for span in sample.spans)
    return TokenSequence(token_ids=sample.token_ids, spans=bounds)


def _absolute(sequence: TokenSequence, number: int, offset: int) -> list[tuple[int, int]]:
    earlier = 1  # the first response needs a token before it, which predicts it and carries V
    length = len(sequence.token_ids)
    for start, stop in sequence.spans:
        if not earlier <= start <= stop <= length:
            raise ValueError(
                f"sequence {number}: span ({start}, {stop}) must lie in {earlier}..{length}, "
                "after a prompt and in order"
            )
        earlier = stop
    return [(start + offset, stop + offset) for start, stop in sequence.spans]


def _ints(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _floats(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
