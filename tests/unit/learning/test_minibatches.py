from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.minibatches import balanced, make_minibatches
from rlef_lightning.types import TrainingSample, TurnSpan


def sample(name, lengths=((2, 3),)):
    """Turns as (prompt tokens, response tokens); every token is the sample's name."""
    stops = list(accumulate(prompt + response for prompt, response in lengths))
    responses = sum(response for _, response in lengths)
    return TrainingSample(
        token_ids=(name,) * stops[-1],
        spans=tuple(
            TurnSpan(start=stop - response, stop=stop, advantage=0.0, value=0.0, value_target=0.0)
            for stop, (_, response) in zip(stops, lengths, strict=True)
        ),
        behaviour_logprobs=(-1.0,) * responses,
        policy_logprobs=(-1.0,) * responses,
    )


def names(minibatch):
    """The samples in a mini-batch, by the first token of each sequence."""
    return [int(pack.token_ids[start]) for pack in minibatch.packs for start in pack.cu_seqlens[:-1]]


def test_sizes_by_hand():
    # Bounds are 10 * part // 4 = 0, 2, 5, 7, 10.
    parts = make_minibatches([sample(n) for n in range(10)], 4, pack_tokens=100, seed=0)
    assert [len(names(part)) for part in parts] == [2, 3, 2, 3]


@given(count=st.integers(1, 6), extra=st.integers(0, 12), seed=st.integers(0, 99))
def test_every_sample_once_in_parts_of_nearly_one_size(count, extra, seed):
    samples = [sample(n, ((1 + n % 3, 1 + n % 4),)) for n in range(count + extra)]
    parts = make_minibatches(samples, count, pack_tokens=10, seed=seed)
    sizes = [len(names(part)) for part in parts]
    assert len(parts) == count
    assert max(sizes) - min(sizes) <= 1
    assert sorted(name for part in parts for name in names(part)) == list(range(count + extra))


@given(budget=st.integers(9, 40), seed=st.integers(0, 99))
def test_counts_are_those_of_the_packs(budget, seed):
    shapes = [((2, 3),), ((1, 1), (2, 3)), ((3, 2), (1, 1), (1, 1)), ((4, 0), (1, 4))]
    samples = [sample(n, shapes[n % 4]) for n in range(11)]
    parts = make_minibatches(samples, 3, pack_tokens=budget, seed=seed)
    for part in parts:
        assert part.response_tokens == sum(len(pack.target_ids) for pack in part.packs)
        assert part.turns == sum(len(pack.value_index) for pack in part.packs)
        assert all(len(pack.token_ids) <= budget for pack in part.packs)
    # Samples 0, 4, 8 have 3 tokens in 1 turn; 1, 5, 9 have 4 in 2; 2, 6, 10 have 4 in 3; 3, 7 have 4 in 2.
    assert sum(part.response_tokens for part in parts) == 3 * 3 + 3 * 4 + 3 * 4 + 2 * 4
    assert sum(part.turns for part in parts) == 3 * 1 + 3 * 2 + 3 * 3 + 2 * 2


def test_the_counts_do_not_depend_on_the_packing():
    samples = [sample(n) for n in range(6)]
    small, large = (make_minibatches(samples, 2, pack_tokens=budget, seed=1) for budget in (5, 100))
    assert [len(part.packs) for part in small] == [3, 3]
    assert [len(part.packs) for part in large] == [1, 1]
    for one, other in zip(small, large, strict=True):
        assert (one.response_tokens, one.turns) == (other.response_tokens, other.turns) == (9, 3)
        assert sorted(names(one)) == sorted(names(other))


def test_the_seed_decides_the_parts():
    samples = [sample(n) for n in range(12)]

    def parts(seed):
        return [set(names(part)) for part in make_minibatches(samples, 3, 100, seed)]

    assert parts(5) == parts(5)
    assert parts(5) != parts(6)
    assert parts(5) != [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]


def test_the_temperature_is_carried():
    assert make_minibatches([sample(0)], 1, 100, seed=0)[0].temperature == 1.0
    assert make_minibatches([sample(0)], 1, 100, seed=0, temperature=0.5)[0].temperature == 0.5


def test_to_moves_every_pack():
    (part,) = make_minibatches([sample(n) for n in range(3)], 1, pack_tokens=5, seed=0)
    moved = part.to("meta")
    assert [pack.token_ids.device for pack in moved.packs] == [torch.device("meta")] * 3
    assert (moved.response_tokens, moved.turns) == (part.response_tokens, part.turns)


def test_fewer_samples_than_parts():
    with pytest.raises(
        ConfigError, match=r"^3 episodes .* 4 mini-batches: lower data\.minibatches_per_epoch or raise"
    ):
        make_minibatches([sample(n) for n in range(3)], 4, 100, seed=0)


def test_a_sample_that_no_pack_holds():
    with pytest.raises(
        ConfigError, match=r"has 5 tokens, but a pack holds at most 4: .*\(model\.pack_tokens\)"
    ):
        make_minibatches([sample(0)], 1, pack_tokens=4, seed=0)


@given(
    count=st.integers(1, 3),
    extra=st.integers(0, 12),
    ranks=st.integers(1, 5),
    budget=st.integers(7, 30),
    seed=st.integers(0, 99),
)
def test_ranks_share_the_mini_batches_of_one(count, extra, ranks, budget, seed):
    samples = [sample(n, ((1 + n % 3, 1 + n % 4),)) for n in range(count + extra)]
    alone = make_minibatches(samples, count, budget, seed)
    shares = [make_minibatches(samples, count, budget, seed, rank=r, ranks=ranks) for r in range(ranks)]
    for number, whole in enumerate(alone):
        parts = [share[number] for share in shares]
        # As many passes on every rank, since the weights are gathered for each; what is added does not count.
        assert len({len(part.packs) for part in parts}) == 1
        assert min(part.fillers for part in parts) == 0
        counted = [name for part in parts for name in names_of(part.packs[: len(part.packs) - part.fillers])]
        assert sorted(counted) == sorted(names(whole))
        assert {(part.response_tokens, part.turns) for part in parts} == {
            (whole.response_tokens, whole.turns)
        }


def names_of(packs):
    return [int(pack.token_ids[start]) for pack in packs for start in pack.cu_seqlens[:-1]]


@given(sizes=st.lists(st.integers(0, 50), max_size=20), parts=st.integers(1, 5))
def test_shares_differ_by_less_than_the_largest_item(sizes, parts):
    shares = balanced(sizes, parts)
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in share) for share in shares]
    assert max(totals) - min(totals) <= max(sizes, default=0)


def test_shares_by_hand():
    # 5 to the first, 4 and 3 to the second (0 < 5, 4 < 5), 2 to the first (5 < 7), 1 to either (7 = 7).
    assert balanced([1, 2, 3, 4, 5], 2) == [[0, 1, 4], [2, 3]]
