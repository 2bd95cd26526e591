"""Tiny random language models on disk, and packs of random tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SIZE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZE, num_key_value_heads=4, tie_word_embeddings=False),
    "qwen2-grouped": Qwen2Config(**SIZE, num_key_value_heads=2, tie_word_embeddings=True),
    # Norms of queries and keys; heads that are wider than their share of the hidden state.
    "qwen3": Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=64, tie_word_embeddings=False),
}


@pytest.fixture(scope="session", params=CONFIGS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def sequences():
    g = torch.Generator().manual_seed(1)
    return [torch.randint(61, (length,), generator=g) for length in (7, 12, 3, 12, 1)]


@pytest.fixture(scope="session")
def pack_of():
    return make_pack


@pytest.fixture(scope="session")
def packed(sequences):
    return make_pack(sequences)


def make_pack(sequences):
    """All tokens but each sequence's first are responses; V is read at the first."""
    lengths = torch.tensor([len(tokens) for tokens in sequences])
    ends = lengths.cumsum(0)
    starts = ends - lengths
    return SimpleNamespace(
        token_ids=torch.cat(sequences),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.cat([torch.zeros(1), ends]).to(torch.int32),
        max_seqlen=int(lengths.max()),
        response_index=torch.cat([torch.arange(a, b - 1) for a, b in zip(starts, ends, strict=True)]),
        value_index=starts,
    )
