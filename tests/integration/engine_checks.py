"""Checks of the embedded engine that hold on every device."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlef_lightning.generation import VLLMEngine
from rlef_lightning.models.weights import engine_weights
from rlef_lightning.types import Completion, Sampling

STOP = 2


def tiny_folder(folder: Path, *, tied: bool) -> Path:
    """A random Llama with 64 ids."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        eos_token_id=STOP,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def shaken(folder: Path, seed: int) -> PreTrainedModel:
    """The folder's model with every weight moved, as after some training."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


@torch.no_grad()
def expected_logprobs(model: PreTrainedModel, ids: list[int], temperature: float = 1.0) -> list[float]:
    """By transformers, token by token after the first."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double() / temperature
    targets = torch.tensor(ids[1:])[:, None]
    return torch.log_softmax(logits, -1).gather(1, targets).squeeze(1).tolist()


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    """Over tokens."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def sample(engine: VLLMEngine, requests: list[tuple[list[int], Sampling, int]]) -> list[Completion]:
    """All requests in one batch."""

    async def run() -> list[Completion]:
        futures = [engine.submit(*request) for request in requests]
        while not all(future.done() for future in futures):
            engine.step()
            await asyncio.sleep(0)
        return [future.result() for future in futures]

    return asyncio.run(run())


def assert_copies(engine: VLLMEngine) -> None:
    """Syncs after the first were copies, where this version of vLLM shows its model; else vLLM's reload."""
    assert engine._into is not None
    assert engine._into.reason == "" or not hasattr(engine._llm, "apply_model")


def check_engine(engine: VLLMEngine, folder: Path, tolerance: float) -> None:
    """Sync three times, sample, and compare with transformers."""
    engine.start(str(folder), [STOP])
    for version in (1, 2, 3):
        model = shaken(folder, version)
        engine.sync_weights(engine_weights(model))
        assert engine.policy_version == version
        _check_prompt_logprobs(engine, model, tolerance)
        _check_samples(engine, model, tolerance)


def _check_prompt_logprobs(engine: VLLMEngine, model: PreTrainedModel, tolerance: float) -> None:
    probes = [[5, 9, 11, 40, 63, 3], list(range(3, 60))]
    for ids, ours in zip(probes, engine.prompt_logprobs(probes), strict=True):
        assert largest_difference(ours, expected_logprobs(model, ids)) <= tolerance


def _check_samples(engine: VLLMEngine, model: PreTrainedModel, tolerance: float) -> None:
    warm, cold = Sampling(max_response_tokens=12), Sampling(temperature=0.5, max_response_tokens=12)
    requests = [([5, 9, n], sampling, n) for n in range(10, 20) for sampling in (warm, cold)]
    completions = sample(engine, requests)
    for (prompt, sampling, _), completion in zip(requests, completions, strict=True):
        ids = [*prompt, *completion.token_ids]
        expected = expected_logprobs(model, ids, sampling.temperature)[len(prompt) - 1 :]
        assert largest_difference(list(completion.logprobs), expected) <= tolerance
        assert completion.policy_version == engine.policy_version
        stopped = completion.token_ids[-1] == STOP
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.token_ids) == 12
    # The same seeds draw the same tokens, whatever else is in the batch; other seeds draw others.
    again = sample(engine, list(reversed(requests)))
    assert [c.token_ids for c in reversed(again)] == [c.token_ids for c in completions]
    others = sample(engine, [(prompt, sampling, seed + 1000) for prompt, sampling, seed in requests])
    assert [c.token_ids for c in others] != [c.token_ids for c in completions]
