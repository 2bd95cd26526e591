"""A small random Llama, episodes without an engine, and a training step without a Trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.learning.minibatches import MiniBatch
from rlef_lightning.module import RLEFModule
from rlef_lightning.types import Completion, Episode, Report, StopReason, TestResult, Turn, Verdict

VOCABULARY = 61


def model_folder(path: Path, *, tied: bool) -> str:
    """A random Llama of three layers."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


def episodes(count: int) -> list[Episode]:
    """Of one turn each, 5 to 30 tokens long; every third one fails."""
    draw = torch.Generator().manual_seed(3)
    return [_episode(number, draw) for number in range(count)]


def _episode(number: int, draw: torch.Generator) -> Episode:
    length = int(torch.randint(5, 31, (1,), generator=draw))
    ids = tuple(torch.randint(VOCABULARY, (length,), generator=draw).tolist())
    verdict = Verdict.ACCEPTED if number % 3 else Verdict.WRONG_ANSWER
    result = TestResult(verdict=verdict, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0)
    report = Report(results=(result,))
    completion = Completion(
        token_ids=ids[3:], logprobs=(-4.0,) * (length - 3), finish_reason="stop", policy_version=1
    )
    turn = Turn(
        prompt_token_ids=ids[:3],
        completion=completion,
        response="",
        code="pass",
        public_report=report,
        feedback=None,
    )
    return Episode(
        problem_id=f"p{number}",
        sample_index=0,
        seed=number,
        turns=(turn,),
        private_report=report,
        stop_reason=StopReason.TURN_LIMIT,
    )


def take_step(
    module: RLEFModule, batch: MiniBatch, options: Any, logged: dict[str, float], *, last: bool
) -> None:
    module.optimizers = lambda: options["optimizer"]  # type: ignore[method-assign,assignment,return-value]
    module.lr_schedulers = lambda: options["lr_scheduler"]  # type: ignore[method-assign]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign,assignment]
    module.log_dict = lambda numbers, **how: logged.update(numbers)  # type: ignore[method-assign,assignment]
    module._trainer = SimpleNamespace(is_last_batch=last, current_epoch=0)  # type: ignore[assignment]
    module.training_step(batch, 0)


def gradients_of(module: RLEFModule, batch: MiniBatch) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """By the weight's name, after clipping, of a step that moves nothing; and what was logged."""
    gradients: dict[str, torch.Tensor] = {}
    logged: dict[str, float] = {}

    def keep() -> None:
        gradients.update({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

    optimizer = SimpleNamespace(zero_grad=module.zero_grad, step=keep, param_groups=[{"lr": 0.0}])
    schedule = SimpleNamespace(step=lambda: None)
    take_step(module, batch, {"optimizer": optimizer, "lr_scheduler": schedule}, logged, last=True)
    return gradients, logged
