"""How fast episodes are played: python tools/bench/rollout.py --json.

Prints one JSON object last. A ratio is the median of those of several rounds; each round measures both
sides, one after the other and every second round the other way round, because the speed of a machine that
does other things drifts. Where the engine has a core of its own, its CPU time over the clock's while it
did nothing but generate says how much of that core it had: of `efficiency` and `lockstep_ratio` rounds
with less than 0.9 are left out, if there are others, and `disturbed_rounds` counts them. `ranges` holds
each ratio's least and largest.

    efficiency            tokens per second of multi-turn episodes with real execution, over those of one
                          call of `LLM.generate` with the same contexts and lengths (all turns' prompts at
                          once, no seeds, no log-probabilities). Engine on one core, execution on another,
                          in both. With few episodes the last ones weigh more, whose turns come one after
                          another while the batch runs empty
    efficiency_cpu        the same by this process's CPU time: steadier where the machine does other things,
                          but blind to waits for programs
    lockstep_ratio        tokens per second of the collector, over those of all generate, all execute, repeat
                          (lockstep.py), where every tenth program is a loop that runs to a limit of 2 s
    overhead_ms_per_turn  CPU time of the collector for one turn at 1,000 prompt tokens, over an engine and an
                          executor that cost nothing (collector_cost.py)
    growth_64_to_4096     the same cost with 4,096 episodes, 256 of them in flight at a time, over 64
    sync_ratio            a weight sync, cached prefixes dropped, over a plain copy: `copy_` of the same
                          tensors, one after the other, into others of the same shapes and format that are
                          there. The first sync of an engine, which is slower, is not among those measured
    sleep_ms, wake_ms     on a GPU: putting the engine to sleep, and waking it with new weights;
                          `sleep_frees_gib` is what the trainer gets meanwhile
    prefix_hit_rate       share of the prompts' tokens that the engine had cached, with 8 episodes a problem
                          and 1,000 tokens a first prompt

The model is tools/tiny_model/model without an end of sequence, so that lengths are exact: responses are even
between half and all of `--response-tokens` (256 for the lock-step, whose responses are longer so that
sampling takes about as long as execution; `lockstep_bound` is the most that the ratio could be). What it
samples after its answer is not read. For the lock-step the chat reads a program of ours out of every
response, whatever was sampled.

With --gpu the model has the shape of Llama 3.2 1B with random weights, in bfloat16, on no particular cores,
and the chat reads a quick program out of every response; `sync_gb_per_s` is then what the sync moves.
--dry-run does the same with a small shape on the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: its folder is on the path, the project's root is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rlef_lightning.dialogue import ChatFormat
from rlef_lightning.problems import MicroProblems
from rlef_lightning.rollout import Collector, Pace, PlaySettings
from rlef_lightning.types import Problem, Sampling
from tools.bench import collector_cost, parts
from tools.bench.lockstep import play_in_lockstep

Round = dict[str, float]
SLOW_EVERY = 10
LIMIT_S = 2.0
PARTS = ("cost", "sync", "efficiency", "lockstep", "prefixes")
SYNCS = 9


class Bench:
    """One engine and one executor, and what is measured with them.

    Args:
        options: Of the command line.
        engine_core: Core of this process; None: any.
        executor_core: Core of the programs; None: any.
    """

    def __init__(
        self, options: argparse.Namespace, engine_core: int | None, executor_core: int | None
    ) -> None:
        self.options, self._engine_core, self._executor_core = options, engine_core, executor_core
        self.tokenizer, self.prompts = parts.tiny_tokenizer(), parts.tiny_prompts()
        self.executor = parts.executor(options.workers)
        self.engine = parts.ExactEngine(**parts.engine_options(options.model, options.sequences))
        self.problems = list(MicroProblems(train=options.episodes).problems("train"))
        self.rounds = 0

    async def start(self, folder: Path) -> None:
        """Executor and engine on their cores; the model's folder is made in `folder`."""
        with parts.on_core(self._executor_core):
            await self.executor.start()
        self._stack = ExitStack()
        self._stack.enter_context(parts.on_core(self._engine_core))
        self.engine.start(parts.endless_folder(folder, self.options.model), ())
        self.weights = parts.weights(self.options.model, folder)

    async def close(self) -> None:
        """Ends what `start` started."""
        await self.executor.close()
        self.engine.close()
        self._stack.close()

    def fresh(self) -> None:
        """New weights in the engine, and no cached prefix."""
        self.engine.sync_weights(self.weights)
        self.engine.forget()

    async def collect(self, problems: Sequence[Problem], chat: Any, most: int, samples: int = 1) -> Round:
        """Episodes of three turns: how long they took, their turns and sampled tokens."""
        pace = Pace(max_in_flight=self.options.sequences * 3 // 2)
        collector = Collector(self.engine, self.executor, chat, self.prompts, pace)
        sampling = Sampling(max_response_tokens=most)
        settings = PlaySettings(
            turn_limit=3, samples_per_problem=samples, sampling=sampling, cut_responses="read"
        )
        self.fresh()
        with tempfile.TemporaryDirectory() as folder, collector_cost.fresh_log(folder) as log:
            began = time.process_time()
            found = await collector.collect(problems, settings, 0, log=log)
            cpu_s = time.process_time() - began
        turns = [turn for episode in found.episodes for turn in episode.turns]
        programs = sum(turn.code is not None for turn in turns)
        return {
            "seconds": found.seconds,
            "cpu_s": cpu_s,
            "turns": len(turns),
            "programs": programs,
            "tokens": found.response_tokens,
        }

    async def efficiency(self) -> Round:
        """Episodes, then the plain call with what they asked for."""
        tiny = self.options.model == "tiny"
        chat = parts.FirstAnswerChat(self.tokenizer) if tiny else parts.ProgramChat(self.tokenizer)
        played = await self.collect(self.problems, chat, self.options.response_tokens)
        requests = list(self.engine.requests)
        self.fresh()
        began, cpu_began = time.perf_counter(), time.process_time()
        tokens = sum(map(len, self.engine.plain(requests)))
        plain_s, plain_cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        return {
            "tokens_per_s": played["tokens"] / played["seconds"],
            "plain_tokens_per_s": tokens / plain_s,
            "tokens_per_cpu_s": played["tokens"] / played["cpu_s"],
            "plain_tokens_per_cpu_s": tokens / plain_cpu_s,
            "plain_core_share": plain_cpu_s / plain_s,
            "efficiency_turns": played["turns"],
            "efficiency_programs": played["programs"],
        }

    async def lockstep(self) -> Round:
        """The collector and the lock-step, each with every tenth program slow."""
        problems = parts.with_limits(self.problems[: self.options.slow_episodes], LIMIT_S, public_tests=1)
        most, found = self.options.slow_response_tokens, Round()
        sides = [self._collected_slowly, self._in_lockstep]
        for side in sides if self.rounds % 2 else reversed(sides):
            found |= await side(problems, parts.ProgramChat(self.tokenizer, SLOW_EVERY), most)
        return found

    async def _collected_slowly(self, problems: Sequence[Problem], chat: Any, most: int) -> Round:
        played = await self.collect(problems, chat, most)
        return {"slow_tokens_per_s": played["tokens"] / played["seconds"]}

    async def _in_lockstep(self, problems: Sequence[Problem], chat: Any, most: int) -> Round:
        self.fresh()
        sampling = Sampling(max_response_tokens=most)
        stepped = await play_in_lockstep(
            self.engine, self.executor, chat, self.prompts, problems, sampling, turn_limit=3
        )
        both_s = stepped.generating_s + stepped.executing_s
        return {
            "lockstep_tokens_per_s": stepped.tokens / both_s,
            "lockstep_bound": both_s / max(stepped.generating_s, stepped.executing_s),
            "lockstep_core_share": stepped.generating_cpu_s / stepped.generating_s,
        }

    async def prefixes(self) -> Round:
        """Eight episodes of each problem, in the order of the collector."""
        chat = parts.FirstAnswerChat(self.tokenizer)
        problems = collector_cost.long_problems(chat, 1000, max(2, self.options.episodes // 8))
        await self.collect(problems, chat, 32, samples=8)
        return {"prefix_hit_rate": self.engine.cached_tokens / self.engine.prompt_tokens}

    async def cost(self) -> Round:
        """The collector alone; few episodes are measured several times, on both sides of the many."""
        chat = ChatFormat(self.tokenizer)
        encoded = self.tokenizer(collector_cost.RESPONSE, add_special_tokens=False)["input_ids"]
        response_ids = (*encoded, chat.stop_token_ids[0])

        async def milliseconds(episodes: int) -> float:
            return 1000 * await collector_cost.cpu_s_per_turn(chat, response_ids, 1000, episodes)

        few = [await milliseconds(self.options.few) for _ in range(6)][1:]
        at_many = await milliseconds(self.options.many)
        few += [await milliseconds(self.options.few) for _ in range(5)]
        return {"overhead_ms_per_turn": statistics.median(few), "overhead_ms_at_many": at_many}

    async def sync(self) -> Round:
        """Syncs and plain copies in turn; then, where the engine sleeps, sleeping and waking."""
        self.engine.sync_weights(self.weights)
        targets = [tensor.clone() for _, tensor in self.weights]

        def copy() -> None:
            for target, (_, tensor) in zip(targets, self.weights, strict=True):
                target.copy_(tensor)

        pairs = [(timed(lambda: self.engine.sync_weights(self.weights)), timed(copy)) for _ in range(SYNCS)]
        sync_s, copy_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        size = sum(tensor.numel() * tensor.element_size() for _, tensor in self.weights)
        found = {"sync_ms": 1000 * sync_s, "copy_ms": 1000 * copy_s, "sync_gb_per_s": size / sync_s / 1e9}
        return found | asleep(self.engine, self.weights)


def timed(work: Callable[[], object]) -> float:
    """Seconds, the device's work included."""
    import torch

    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def asleep(engine: Any, weights: Sequence[tuple[str, Any]]) -> Round:
    """What sleeping takes and brings; nothing on a CPU, where an engine cannot."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free, _ = torch.cuda.mem_get_info()
    sleep_s = timed(engine.sleep)
    freed, _ = torch.cuda.mem_get_info()
    wake_s = timed(lambda: engine.sync_weights(weights))
    return {"sleep_ms": 1000 * sleep_s, "wake_ms": 1000 * wake_s, "sleep_frees_gib": (freed - free) / 2**30}


RATIOS = {
    "efficiency_cpu": ("tokens_per_cpu_s", "plain_tokens_per_cpu_s"),
    "efficiency": ("tokens_per_s", "plain_tokens_per_s"),
    "lockstep_ratio": ("slow_tokens_per_s", "lockstep_tokens_per_s"),
    "growth_64_to_4096": ("overhead_ms_at_many", "overhead_ms_per_turn"),
    "sync_ratio": ("sync_ms", "copy_ms"),
}


CORE_SHARES = {"efficiency": "plain_core_share", "lockstep_ratio": "lockstep_core_share"}
"""By what a round is seen to have been disturbed. CPU time is counted for all: one core is all there is."""
UNDISTURBED = 0.9


def undisturbed(rounds: Sequence[Round], ratio: str) -> list[Round]:
    """Those in which the engine had its core for itself; all, if there is none."""
    share = CORE_SHARES.get(ratio, "")
    return [one for one in rounds if one.get(share, 1.0) >= UNDISTURBED] or list(rounds)


def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds, and medians of the ratios within each round."""
    names = dict.fromkeys(name for one in rounds for name in one)
    found = {name: statistics.median(one[name] for one in rounds if name in one) for name in names}
    ranges: dict[str, list[float]] = {}
    for name, (over, under) in RATIOS.items():
        ratios = [one[over] / one[under] for one in undisturbed(rounds, name) if over in one]
        if ratios:
            found[name] = statistics.median(ratios)
            ranges[name] = [round(min(ratios), 4), round(max(ratios), 4)]
    disturbed = sum(
        any(one.get(share, 1.0) < UNDISTURBED for share in CORE_SHARES.values()) for one in rounds
    )
    rounded = {name: round(value, 4) for name, value in found.items()}
    return {**rounded, "ranges": ranges, "disturbed_rounds": disturbed}


async def one_round(bench: Bench) -> Round:
    """Everything that was asked for, once."""
    found: Round = {}
    for part in bench.options.parts:
        found |= await getattr(bench, part)()
    bench.rounds += 1
    return found


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = (cores[0], cores[-1]) if options.model == "tiny" else (None, None)
    bench = Bench(options, *pinned)
    with tempfile.TemporaryDirectory() as folder:
        await bench.start(Path(folder))
        try:
            rounds = []
            for number in range(options.rounds):
                found = await one_round(bench)
                if pinned[0] is None:  # without a core of its own the shares say nothing
                    found = {name: value for name, value in found.items() if "core_share" not in name}
                rounds.append(found)
                if not options.json:
                    print(f"round {number}: {json.dumps(summarise(rounds[-1:]))}", flush=True)
        finally:
            await bench.close()
    machine = {"cpus": len(cores), "load_average": round(os.getloadavg()[0], 2)}
    return {**vars(options), **machine, **summarise(rounds)}


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; sizes that are not given are those of the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--gpu", action="store_const", dest="model", const="llama-1b", default="tiny")
    parser.add_argument("--dry-run", action="store_const", dest="model", const="llama-small")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="programs that run at the same time")
    parser.add_argument("--sequences", type=int, default=32, help="most sequences in the engine's batch")
    parser.add_argument("--episodes", type=int, default=256, help="as an iteration of configs/tiny.yaml")
    parser.add_argument("--response-tokens", type=int, default=192)
    parser.add_argument("--slow-episodes", type=int, default=48)
    parser.add_argument("--slow-response-tokens", type=int, default=768)
    parser.add_argument("--few", type=int, default=64, help="episodes of the smaller cost")
    parser.add_argument("--many", type=int, default=4096, help="episodes of the larger cost")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = options_of()
    if options.model == "tiny":
        os.environ["OMP_NUM_THREADS"] = "1"
    print(json.dumps(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
