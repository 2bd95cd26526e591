import pytest
import torch
from transformers import AutoModelForCausalLM

from rlef_lightning.models import attention
from rlef_lightning.models.attention import IMPLEMENTATION, no_mask, packed_arguments, packed_attention
from rlef_lightning.models.networks import hidden_states, load_policy


def padded(model, sequences):
    """transformers' own attention on the same sequences, padded on the right: [T, V] of real tokens."""
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens in sequences])
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask]


def loss_of(logits, packed):
    targets = packed.token_ids[packed.response_index + 1]
    return torch.nn.functional.cross_entropy(logits[packed.response_index], targets)


def gradients(model, loss):
    return dict(
        zip(
            (n for n, _ in model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )


def test_packed_equals_padded_equals_one_by_one(folder, sequences, packed):
    ours = load_policy(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    together = hidden_states(ours, packed) @ ours.get_output_embeddings().weight.T
    alone = torch.cat([theirs(input_ids=tokens[None], use_cache=False).logits[0] for tokens in sequences])
    batch = padded(theirs, sequences)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, batch, rtol=1e-5, atol=1e-5)

    found = gradients(ours, loss_of(together, packed))
    for other in (alone, batch):
        loss = loss_of(other, packed)
        torch.testing.assert_close(loss_of(together, packed), loss, rtol=1e-5, atol=1e-5)
        for name, wanted in gradients(theirs, loss).items():
            torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(folder, packed):
    model = load_policy(folder).train()
    plain = gradients(model.base_model, hidden_states(model, packed).square().mean())
    model.gradient_checkpointing_enable()
    again = gradients(model.base_model, hidden_states(model, packed).square().mean())
    for name, wanted in plain.items():
        torch.testing.assert_close(again[name], wanted)


def test_neighbours_do_not_leak(folder, sequences, pack_of):
    model = load_policy(folder)
    changed = [(sequences[0] + 1) % 61, *sequences[1:]]
    with torch.no_grad():
        before = hidden_states(model, pack_of(sequences))
        after = hidden_states(model, pack_of(changed))
    assert (before[:7] != after[:7]).any()
    assert torch.equal(before[7:], after[7:])


def test_no_mask_is_built(folder, packed, monkeypatch):
    model = load_policy(folder)
    masks = []

    def watch(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return packed_attention(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, IMPLEMENTATION, watch)
    hidden_states(model, packed)
    assert masks == [None] * 3


def test_rows_without_padding_need_no_pack(folder, sequences):
    ours = load_policy(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    batch = torch.stack([sequences[1], sequences[3]])
    wanted = theirs(input_ids=batch).logits
    found = ours(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_generating_token_by_token(folder, sequences):
    prompt = sequences[0][None]
    answers = [
        model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False, use_cache=True
        )
        for model in (load_policy(folder), AutoModelForCausalLM.from_pretrained(folder))
    ]
    assert torch.equal(*answers)


def test_padding_is_refused(folder):
    model = load_policy(folder)
    with pytest.raises(ValueError, match="takes no padding"):
        model(input_ids=torch.ones(1, 3, dtype=torch.long), attention_mask=torch.tensor([[0, 1, 1]]))
    assert no_mask(attention_mask=torch.ones(1, 3)) is None


def call(**options):
    q = torch.zeros(options.pop("rows", 1), 2, 4, 8)
    cu = torch.tensor([0, 4], dtype=torch.int32)
    return packed_attention(
        torch.nn.Module(), q, q, q, options.pop("mask", None), **packed_arguments(cu, 4), **options
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.zeros(1, 1, 4, 4)}, "takes no mask"),
        ({"sliding_window": 3}, "4 tokens is over the model's sliding window of 3"),
        ({"softcap": 30.0}, "softcap"),
        ({"is_causal": False}, "plain and causal"),
        ({"rows": 2}, "a batch of 2 rows"),
    ],
)
def test_what_it_does_not_compute_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        call(**options)


def test_a_wide_sliding_window_is_plain_attention():
    assert torch.equal(call(sliding_window=4)[0], call()[0])


@pytest.mark.parametrize("knows_gqa", [True, False])
def test_variable_length_kernel_gets_the_right_rows(monkeypatch, knows_gqa):
    """The kernel itself needs a GPU; here a stand-in of the same form computes what it promises."""

    def kernel(q, k, v, cu_q, *rest, scale, window_size, enable_gqa=False):
        assert torch.equal(rest[0], cu_q)
        assert rest[1:] == (5, 5)
        assert window_size == (-1, 0)
        assert enable_gqa is knows_gqa
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return attention._one_by_one(q, k, v, cu_q, dropout=0.0, scaling=scale)[0]

    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    arguments = packed_arguments(torch.tensor([0, 5, 9], dtype=torch.int32), 5)
    wanted, _ = packed_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, **arguments)
    monkeypatch.setattr(attention, "_kernel", lambda: (kernel, knows_gqa))
    monkeypatch.setattr(attention, "_kernel_fits", lambda query: True)
    found, _ = packed_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, **arguments)
    torch.testing.assert_close(found, wanted)


def test_installed_torch_has_the_kernel():
    kernel, _ = attention._kernel()
    assert callable(kernel)
