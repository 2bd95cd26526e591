import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.learning.packing import collate, collate_sequences, pack, split_turns
from rlef_lightning.learning.samples import TokenSequence
from rlef_lightning.types import TrainingSample, TurnSpan


def sequence(length):
    return TokenSequence(token_ids=tuple(range(length)), spans=())


def sample(tokens, *spans):
    count = sum(stop - start for start, stop in spans)
    return TrainingSample(
        token_ids=tuple(tokens),
        spans=tuple(
            TurnSpan(start=a, stop=b, advantage=a / 2, value=float(a), value_target=float(b))
            for a, b in spans
        ),
        behaviour_logprobs=tuple(-0.5 * (i + 1) for i in range(count)),
        policy_logprobs=tuple(-0.25 * (i + 1) for i in range(count)),
    )


def test_first_fit_decreasing_by_hand():
    # Longest first: 7 -> pack 0; 6 -> pack 1; 3 -> pack 0 (full); 3 -> pack 1; 1 -> pack 1 (full).
    assert pack([sequence(n) for n in (3, 7, 3, 6, 1)], token_budget=10) == [[0, 1], [2, 3, 4]]


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(20, 50))
def test_packs_hold_everything_once(lengths, budget):
    packs = pack([sequence(n) for n in lengths], budget)
    assert sorted(i for members in packs for i in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= budget for members in packs)
    half_full = [members for members in packs if sum(lengths[i] for i in members) <= budget / 2]
    assert len(half_full) <= 1


def test_too_long_a_sample():
    with pytest.raises(ValueError, match=r"sample 1 has 11 tokens.*`pack_tokens`"):
        pack([sequence(3), sequence(11)], token_budget=10)


def test_layout_by_hand():
    packed = collate([sample((5, 6, 7, 8), (2, 4)), sample((5, 9, 4, 3), (1, 2), (3, 4))])
    assert packed.token_ids.tolist() == [5, 6, 7, 8, 5, 9, 4, 3]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert packed.cu_seqlens.tolist() == [0, 4, 8]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.max_seqlen == 4
    assert packed.response_index.tolist() == [1, 2, 4, 6]
    assert packed.target_ids.tolist() == [7, 8, 9, 3]
    assert packed.value_index.tolist() == [1, 4, 6]
    assert packed.turn_of_token.tolist() == [0, 0, 1, 2]
    assert packed.advantages.tolist() == [1.0, 0.5, 1.5]
    assert packed.old_values.tolist() == [2.0, 1.0, 3.0]
    assert packed.returns.tolist() == [4.0, 2.0, 4.0]
    assert packed.behaviour_logprobs.tolist() == [-0.5, -1.0, -0.5, -1.0]
    assert packed.policy_logprobs.tolist() == [-0.25, -0.5, -0.25, -0.5]


def test_targets_follow_their_index():
    packed = collate([sample(range(9), (2, 5), (7, 9)), sample(range(20, 24), (1, 3))])
    assert torch.equal(packed.token_ids[packed.response_index + 1], packed.target_ids)
    first_of_turn = [packed.turn_of_token.tolist().index(t) for t in range(3)]
    assert torch.equal(packed.response_index[first_of_turn], packed.value_index)


def test_scoring_and_training_share_the_layout():
    training = collate([sample((5, 6, 7, 8), (2, 4))])
    scoring = collate_sequences([TokenSequence(token_ids=(5, 6, 7, 8), spans=((2, 4),))])
    for name in ("token_ids", "position_ids", "cu_seqlens", "response_index", "target_ids", "value_index"):
        assert torch.equal(getattr(training, name), getattr(scoring, name))


def test_split_turns_undoes_the_packing():
    packed = collate_sequences([TokenSequence(token_ids=tuple(range(8)), spans=((1, 3), (4, 4), (5, 6)))])
    assert split_turns(torch.tensor([1.0, 2.0, 3.0]), packed) == [(1.0, 2.0), (), (3.0,)]
    with pytest.raises(ValueError, match="expected"):
        split_turns(torch.zeros(2), packed)


def test_to_moves_every_tensor():
    packed = collate([sample((5, 6), (1, 2))]).to("meta")
    assert packed.advantages.device.type == packed.token_ids.device.type == "meta"
    assert packed.max_seqlen == 2


@pytest.mark.parametrize("spans", [[(0, 2)], [(2, 9)], [(2, 3), (1, 2)], [(3, 2)]])
def test_spans_must_fit(spans):
    with pytest.raises(ValueError, match="sequence 0: span"):
        collate_sequences([TokenSequence(token_ids=(1, 2, 3, 4), spans=tuple(spans))])


def test_nothing_to_collate():
    with pytest.raises(ValueError, match="empty list"):
        collate([])


def test_logprobs_must_cover_the_spans():
    short = TrainingSample(token_ids=(1, 2), spans=(), behaviour_logprobs=(0.0,), policy_logprobs=())
    with pytest.raises(ValueError, match="sample 0 needs a log-probability"):
        collate([short])
