"""Build the tiny warm-started model: python -m tools.tiny_model.build [--out FOLDER].

Micro problems -> judged dialogues -> tokenizer -> supervised training -> a Hugging Face folder. Two
phases: first dialogues that always repair (the skill), then dialogues that mostly do not (the habit), so
that the model can use feedback but seldom does, as an instruct model before RLEF. The same seed gives
the same bytes on the same kind of processor; the folder that is shipped was built by this command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.learning.logprobs import token_logprobs
from rlef_lightning.learning.packing import collate_sequences
from rlef_lightning.learning.samples import TokenSequence
from rlef_lightning.models.attention import IMPLEMENTATION
from rlef_lightning.models.networks import PolicyNetwork
from rlef_lightning.models.weights import export_folder
from rlef_lightning.problems.micro import micro_tasks
from rlef_lightning.types import Problem, Report
from tools.tiny_model.demonstrations import HABIT, SKILL, Manner, demonstrate
from tools.tiny_model.tokenizer import train_tokenizer

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "tiny.yaml"
VOCABULARY = 512
THREADS = 2  # fixed: sums over threads depend on their number


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of supervised training."""

    manner: Manner
    dialogues: int
    steps: int
    learning_rate: float
    batch: int = 16


PHASES = (
    Phase(manner=SKILL, dialogues=24_000, steps=6_000, learning_rate=3e-3),
    Phase(manner=HABIT, dialogues=12_000, steps=800, learning_rate=5e-4),
)


class PublicJudge:
    """Judges on the public tests through the real executor, each program of a problem once."""

    def __init__(self, executor: SubprocessExecutor) -> None:
        self._executor = executor
        self._known: dict[tuple[str, str], asyncio.Future[Report]] = {}

    async def __call__(self, code: str, problem: Problem) -> Report:
        """The report of `code` on the problem's public tests."""
        key = (code, problem.id)
        if key not in self._known:
            work = self._executor.judge(
                code,
                problem.public_tests,
                limits=problem.limits,
                rule=problem.rule,
                stop_at_first_failure=False,
            )
            self._known[key] = asyncio.ensure_future(work)
        return await self._known[key]


async def write_dialogues(phase: Phase, prompts: Prompts, seed: int) -> list[list[str]]:
    """Demonstrations on training problems, in a fixed order."""
    tasks = micro_tasks("train", 6000, 0)
    executor = SubprocessExecutor(workers=2)
    await executor.start()
    try:
        judge = PublicJudge(executor)
        work = [
            demonstrate(tasks[i % len(tasks)], phase.manner, prompts, judge, Random(f"{seed} {i}"))
            for i in range(phase.dialogues)
        ]
        return list(await asyncio.gather(*work))
    finally:
        await executor.close()


def encode(texts: Sequence[str], chat: ChatFormat, tokenizer: PreTrainedTokenizerFast) -> TokenSequence:
    """User and assistant texts in turn -> tokens, with the assistant's as spans."""
    prompt = chat.first_prompt(texts[0])
    spans: list[tuple[int, int]] = []
    for index in range(1, len(texts), 2):
        ids = tokenizer(texts[index], add_special_tokens=False, split_special_tokens=True).input_ids
        completion = (*ids, tokenizer.eos_token_id)
        spans.append((len(prompt), len(prompt) + len(completion)))
        if index + 1 < len(texts):
            prompt = chat.continue_prompt(prompt, completion, texts[index + 1])
        else:
            prompt = (*prompt, *completion)
    return TokenSequence(token_ids=prompt, spans=tuple(spans))


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A random Llama of 0.8 million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=IMPLEMENTATION, dtype=torch.float32)


def train(model: LlamaForCausalLM, samples: Sequence[TokenSequence], phase: Phase, seed: int) -> None:
    """Maximise the log-probability of the responses; cosine schedule with a short warm-up."""
    network = PolicyNetwork(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    rng, began = Random(seed), time.perf_counter()
    for step in range(phase.steps):
        rate = phase.learning_rate * min(1.0, step / 100) * _cosine(step / phase.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        packed = collate_sequences(rng.sample(list(samples), phase.batch))
        loss = network(
            packed, lambda hidden, weight, p=packed: -token_logprobs(hidden, weight, p.target_ids)[0].mean()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 499:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True)


def _cosine(progress: float) -> float:
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def tiny_prompts(config: Path = CONFIG) -> Prompts:
    """The wording of configs/tiny.yaml: the model is trained on what it will be told."""
    given: dict[str, Any] = yaml.safe_load(config.read_text())["data"]["prompts"]
    known = {field.name for field in fields(Prompts)}
    return Prompts(**{name: value for name, value in given.items() if name in known})


def build(out: Path, seed: int, phases: Sequence[Phase] = PHASES) -> None:
    """Write model, tokenizer and chat template to `out`."""
    torch.set_num_threads(THREADS)
    prompts = tiny_prompts()
    dialogues = [asyncio.run(write_dialogues(phase, prompts, seed + n)) for n, phase in enumerate(phases)]
    texts = [text for written in dialogues for dialogue in written[:6000] for text in dialogue]
    tokenizer = train_tokenizer(texts, VOCABULARY)
    chat = ChatFormat(tokenizer)
    model = new_model(tokenizer, seed)
    for number, (phase, written) in enumerate(zip(phases, dialogues, strict=True)):
        train(model, [encode(dialogue, chat, tokenizer) for dialogue in written], phase, seed + number)
    export_folder(model, tokenizer, out)


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "model", help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.perf_counter()
    build(arguments.out, arguments.seed)
    print(json.dumps({"folder": str(arguments.out), "minutes": round((time.perf_counter() - began) / 60, 1)}))


if __name__ == "__main__":
    main()
