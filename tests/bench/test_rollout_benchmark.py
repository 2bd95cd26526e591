"""The benchmark of rollouts: ratios come from both sides of a round, and both sides do the same work."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlef_lightning.dialogue import ChatFormat, extract_code
from rlef_lightning.problems import MicroProblems
from rlef_lightning.types import Report, Sampling
from tools.bench import collector_cost, parts, rollout
from tools.bench.lockstep import play_in_lockstep

ROOT = Path(__file__).parents[2]
SMALL = (
    "--rounds=1", "--workers=2", "--sequences=8", "--episodes=4", "--response-tokens=16", "--slow-episodes=4",
    "--slow-response-tokens=16", "--few=2", "--many=4",
)  # fmt: skip
WORD = "print('?')"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return parts.tiny_tokenizer()


def a_round(**sides: float) -> dict[str, float]:
    names = {name for pair in rollout.RATIOS.values() for name in pair}
    return {**dict.fromkeys(names, 1.0), **sides}


def test_ratios_are_medians_of_the_rounds_own_ratios() -> None:
    rounds = [  # a machine that is twice as slow in one round, and ten times in another
        a_round(tokens_per_s=90.0, plain_tokens_per_s=100.0, sync_ms=3.0),
        a_round(tokens_per_s=40.0, plain_tokens_per_s=50.0, sync_ms=6.0, copy_ms=2.0),
        a_round(tokens_per_s=9.5, plain_tokens_per_s=10.0, sync_ms=50.0, copy_ms=10.0),
    ]
    found = rollout.summarise(rounds)
    assert (found["efficiency"], found["sync_ratio"], found["tokens_per_s"]) == (0.9, 3.0, 40.0)


@pytest.mark.parametrize("name", rollout.RATIOS)
def test_each_ratio_moves_with_both_of_its_sides(name: str) -> None:
    over, under = rollout.RATIOS[name]
    assert rollout.summarise([a_round(**{over: 6.0})])[name] == 6.0
    assert rollout.summarise([a_round(**{under: 4.0})])[name] == 0.25


def test_rounds_in_which_the_engine_had_half_a_core_do_not_count() -> None:
    quiet = a_round(slow_tokens_per_s=1.6, lockstep_core_share=0.97)
    loaded = a_round(slow_tokens_per_s=0.8, lockstep_core_share=0.5)
    found = rollout.summarise([quiet, loaded, loaded])
    assert (found["lockstep_ratio"], found["disturbed_rounds"]) == (1.6, 2)
    assert found["ranges"]["lockstep_ratio"] == [1.6, 1.6]
    assert found["ranges"]["efficiency"] == [1.0, 1.0]
    # Where every round was disturbed the number is there all the same, and said to be so.
    alone = rollout.summarise([loaded, loaded])
    assert (alone["lockstep_ratio"], alone["disturbed_rounds"]) == (0.8, 2)


class Sides(rollout.Bench):
    """Notes in which order the lock-step's sides are played."""

    def __init__(self) -> None:
        self.options = rollout.options_of([])
        self.problems, self.tokenizer, self.rounds, self.order = [], parts.tiny_tokenizer(), 0, ""

    async def _collected_slowly(self, *arguments: Any) -> rollout.Round:
        self.order += "c"
        return {}

    async def _in_lockstep(self, *arguments: Any) -> rollout.Round:
        self.order += "l"
        return {}


def test_every_second_round_begins_with_the_other_side() -> None:
    bench = Sides()
    bench.options.parts = ("lockstep",)
    for _ in range(3):
        asyncio.run(rollout.one_round(bench))
    assert bench.order == "lccllc"


def test_on_a_cpu_nothing_is_said_of_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert rollout.asleep(None, []) == {}


def test_sleep_is_measured_where_there_is_memory_to_free(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Sleeper:
        def sleep(self) -> None:
            calls.append("sleep")

        def sync_weights(self, weights: object) -> None:
            calls.append("sync")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: ((3 if calls else 1) * 2**30, 8 * 2**30))
    found = rollout.asleep(Sleeper(), [])
    assert calls == ["sleep", "sync"]
    assert found["sleep_frees_gib"] == 2.0


def test_every_tenth_program_is_a_loop(tokenizer: Any) -> None:
    chat = parts.ProgramChat(tokenizer, slow_every=10)
    programs = [extract_code(chat.decode((5, 6))) for _ in range(40)]
    assert [place for place, code in enumerate(programs, 1) if code == parts.LOOP] == [10, 20, 30, 40]
    assert programs.count(parts.QUICK) == 36


def test_an_answer_is_read_up_to_its_end(tokenizer: Any) -> None:
    ids = tokenizer("```python\nprint(1)\n```<|end|>noise", add_special_tokens=False)["input_ids"]
    assert extract_code(parts.FirstAnswerChat(tokenizer).decode(ids)) == "print(1)"
    assert extract_code(ChatFormat(tokenizer).decode(ids)) is None


@pytest.mark.parametrize("model", parts.SHAPES)
def test_a_model_without_an_end(model: str, tmp_path: Path) -> None:
    config = json.loads(Path(parts.endless_folder(tmp_path, model), "config.json").read_text())
    assert config["eos_token_id"] is None
    assert {name: config[name] for name in parts.SHAPES[model]} == parts.SHAPES[model]
    assert not (tmp_path / "model.safetensors").exists()


def test_lengths_are_even_between_half_and_all() -> None:
    lengths = {parts.exact_length(Sampling(max_response_tokens=8), seed) for seed in range(100)}
    assert lengths == {5, 6, 7, 8}


def test_a_core_is_given_back() -> None:
    before = os.sched_getaffinity(0)
    with parts.on_core(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_the_collectors_cost_is_that_of_long_prompts(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer)
    (problem,) = collector_cost.long_problems(chat, 1000, 1)
    assert 1000 <= len(chat.first_prompt(problem.statement)) <= 1200
    assert asyncio.run(collector_cost.cpu_s_per_turn(chat, (5, 2), 1000, 2)) > 0


class Recorder:
    """In place of engine and executor: what was asked for, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.prompts: list[tuple[int, ...]] = []

    def plain(self, requests: Sequence[parts.Request]) -> list[tuple[int, ...]]:
        self.events.append(("generate", len(requests)))
        self.prompts += [prompt for prompt, _ in requests]
        return [(7,) * length for _, length in requests]

    async def judge(self, code: str, tests: Sequence[object], **_: object) -> Report:
        self.events.append(("execute", 1))
        assert code == WORD
        return Report(results=(collector_cost.WRONG,) * len(tests))


def test_the_lock_step_generates_all_then_executes_all(tokenizer: Any) -> None:
    world, chat = Recorder(), parts.ProgramChat(tokenizer)
    problems, prompts = MicroProblems(train=3).problems("train"), parts.tiny_prompts()
    found = asyncio.run(
        play_in_lockstep(world, world, chat, prompts, problems, Sampling(max_response_tokens=6), 2)  # type: ignore[arg-type]
    )
    assert world.events == [("generate", 3), *[("execute", 1)] * 3] * 2
    assert 3 * 2 * 4 <= found.tokens <= 3 * 2 * 6
    for first, second in zip(world.prompts[:3], world.prompts[3:], strict=True):
        assert second[: len(first)] == first
    assert found.generating_s > 0
    assert found.executing_s > 0


def last_line(*arguments: str) -> dict[str, Any]:
    """What the benchmark prints last."""
    command = [sys.executable, "tools/bench/rollout.py", "--json", *SMALL, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("--dry-run",)], ids=["tiny", "gpu-dry-run"])
def test_the_benchmark_prints_all_its_numbers(mode: tuple[str, ...]) -> None:
    found = last_line(*mode)
    asked = ("efficiency", "lockstep_ratio", "overhead_ms_per_turn", "growth_64_to_4096", "sync_ratio")
    for name in (*asked, "tokens_per_s", "plain_tokens_per_s", "sync_gb_per_s", "lockstep_bound"):
        assert found[name] > 0
    # Of eight samples of a prompt seven find its whole blocks: 7 of 8 times 1024 of about 1060 tokens. Later
    # turns find those of their own past as well.
    assert 0.8 < found["prefix_hit_rate"] < 1
    assert found["efficiency_turns"] >= 4
    # Programs of our choice are in every response; whether those of the model are is up to the model.
    if found["model"] != "tiny":
        assert found["efficiency_programs"] == found["efficiency_turns"]
