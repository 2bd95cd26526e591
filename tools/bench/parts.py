"""Model folder, executor -> an engine whose responses have exact lengths, and programs by choice.

What the benchmark of rollouts is put together from. It measures nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.execution import Executor, SubprocessExecutor
from rlef_lightning.generation import VLLMEngine
from rlef_lightning.types import Completion, Problem, Sampling

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = ROOT / "tools" / "tiny_model" / "model"
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "llama-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "dtype": "bfloat16",
    },
    "llama-small": {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024,
    },
}  # fmt: skip
"""What differs from the tiny model's config; llama-1b is Llama 3.2 1B with an output layer of its own."""
Request = tuple[tuple[int, ...], int]
"""Prompt ids and the length of the response."""
QUICK = "print('?')"
LOOP = "while True:\n    pass"


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """This thread, and what it starts meanwhile, on one core only; None: wherever it may run."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tiny_prompts() -> Prompts:
    """The wording that the tiny model knows."""
    import yaml

    config = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    return Prompts(**config["data"]["prompts"])


def tiny_tokenizer() -> Any:
    """The tiny model's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_MODEL, local_files_only=True)


def executor(workers: int) -> Executor:
    """The real one; not started."""
    return SubprocessExecutor(workers=workers)


def endless_folder(folder: Path, model: str) -> str:
    """The tiny model's folder without weights, in another shape, and without an end of sequence.

    So responses end at their limit only.
    """
    for file in TINY_MODEL.glob("*"):
        if file.name not in ("model.safetensors", "generation_config.json"):
            shutil.copy(file, folder)
    config = json.loads((TINY_MODEL / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None, **SHAPES[model]}))
    return str(folder)


def weights(model: str, folder: Path) -> list[tuple[str, Any]]:
    """The tiny model's tensors, or random ones in the shape of the folder's config, on its device."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    if model == "tiny":
        return list(load_file(TINY_MODEL / "model.safetensors").items())
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    return [(name, parameter.detach()) for name, parameter in network.named_parameters()]


def engine_options(model: str, sequences: int) -> dict[str, Any]:
    """The engine's, for this model."""
    on_gpu = model == "llama-1b"
    return {
        "dtype": "bfloat16" if on_gpu else "float32",
        "max_context_tokens": 4096,
        "max_sequences": sequences,
        "enforce_eager": not on_gpu,
    }


def exact_length(sampling: Sampling, seed: int) -> int:
    """Tokens of the response with this seed: even between half of `max_response_tokens` and all of it."""
    most = sampling.max_response_tokens
    return most // 2 + seed % (most - most // 2) + 1


class ExactEngine(VLLMEngine):
    """VLLMEngine whose responses have a length that their seed decides, and which keeps what it was asked.

    They differ, so that requests end at different steps. Start it on an `endless_folder` without stop tokens.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.requests: list[Request] = []
        """In the order of submission."""
        self.prompt_tokens = 0
        """Of the requests that have been answered."""
        self.cached_tokens = 0
        """Those of them that were cached."""

    def forget(self) -> None:
        """Begin to count anew."""
        self.requests.clear()
        self.prompt_tokens = self.cached_tokens = 0

    def _finish(self, output: Any) -> None:
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0
        super()._finish(output)

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        """As in VLLMEngine, with the length of the seed."""
        length = exact_length(sampling, seed)
        self.requests.append((tuple(prompt_token_ids), length))
        return super().submit(prompt_token_ids, replace(sampling, max_response_tokens=length), seed)

    def plain(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """One call of `LLM.generate` with these contexts and lengths; the sampled ids."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": list(prompt)} for prompt, _ in requests]
        wanted = [
            SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False)
            for _, length in requests
        ]
        with self._compiling():
            outputs = self._llm.generate(prompts, wanted, use_tqdm=False)
        return [tuple(output.outputs[0].token_ids) for output in outputs]


class FirstAnswerChat(ChatFormat):
    """A chat that reads a response up to its first end of turn: the engine has no stop tokens."""

    def decode(self, completion_ids: Sequence[int]) -> str:
        """The text of the answer alone."""
        ends = [place for place, token in enumerate(completion_ids) if token in self.stop_token_ids]
        return super().decode(completion_ids[: ends[0]] if ends else completion_ids)


class ProgramChat(ChatFormat):
    """A chat in which every response holds a program of our choice, whatever was sampled.

    Every `slow_every`-th response holds an endless loop, the others a quick program that is wrong.
    """

    def __init__(self, tokenizer: Any, slow_every: int = 0) -> None:
        super().__init__(tokenizer)
        self._slow_every = slow_every
        self._count = 0

    def decode(self, completion_ids: Sequence[int]) -> str:
        """A response around the program."""
        self._count += 1
        slow = self._slow_every and self._count % self._slow_every == 0
        return f"```python\n{LOOP if slow else QUICK}\n```"


def with_limits(problems: Sequence[Problem], cpu_s: float, *, public_tests: int) -> list[Problem]:
    """The same problems with another time limit and only their first public tests."""
    return [
        replace(
            problem,
            public_tests=problem.public_tests[:public_tests],
            limits=replace(problem.limits, cpu_s=cpu_s, wall_s=60.0),
        )
        for problem in problems
    ]
