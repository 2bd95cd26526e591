"""How fast updates are, and what they take: python tools/bench/train.py --json.

Prints one JSON object last. A ratio is the median of those of several rounds; each round measures both sides,
one after the other, because the speed of a machine that does other things drifts.

    padded_ratio         tokens per second of updates as in training (packs, policy and value network, both
                         losses, clipping, AdamW), over those of Hugging Face Trainer-like batches of the same
                         sequences: random batches of as many sequences as give the tokens of our packs in the
                         mean, padded to the longest, SDPA attention under a mask, logits of every place; same
                         mini-batches, losses and optimizer. One thread, one core. Lengths are those of
                         CodeContests dialogues, a quarter as long (updates.py says how they are drawn)
    padded_ratio_cpu     the same by CPU time: steadier where the machine does other things
    padded_ratio_micro   the same with lengths of dialogues on the micro problems, which are far more even
    padded_positions     positions of the padded batches, over their tokens
    padding_waste        of all positions that the networks compute, the share that are no token of a sample
                         that counts; the worst of 1, 2 and 8 ranks. Packs have no padding: what there is are
                         passes that keep step with other ranks
    rank_imbalance       tokens of the fullest rank, over the mean, less 1; the worst step on 2 and 8 ranks
    unfilled             share of `--pack-tokens` that packs leave free on one rank; it is not computed
    two_rank_ratio       tokens per second of two ranks on a core each, over one rank on one core, both with
                         FSDP2, the same mini-batches, one thread a rank; null with less than two cores
    two_rank_ratio_cpu   the same by the CPU time of the slower rank: it does not see waits
    chunked_memory_ratio most memory of log-probabilities in chunks, forwards and backwards, over that with
                         full logits: resident memory beyond the inputs, each in a fresh process. As in
                         updates neither side computes the entropy
    chunked_time_ratio   their time, likewise. The output layer is `--chunk-vocabulary` x `--chunk-hidden`;
                         tokens are `--chunk-tokens`, halved until full logits fit into the free memory
                         (`chunk_tokens_measured`)
    mfu                  floating-point operations of updates (mfu.py says which are counted) over the GPU's
                         peak, null without a GPU; `peak_over_plan` is the memory over what `rlef plan` says

With a GPU the shape for mfu is that of Llama 3.2 1B with an output layer of its own, else tiny, to try the
same code.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

if not __package__:  # started as a file: its folder is on the path, the project's root is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rlef_lightning.learning.minibatches import MiniBatch, make_minibatches
from rlef_lightning.types import TrainingSample
from tools.bench.parts import TINY_MODEL, on_core

ROOT = Path(__file__).resolve().parents[2]
Round = dict[str, float]
PARTS = ("padded", "ranks", "chunked", "mfu")
RANKS = (1, 2, 8)
VOCABULARY = 512
"""Of the tiny model."""
SCALE = 0.25
FULL_TENSORS = 3.3
"""Most tensors of the size of the logits that the full version holds at a time."""
SPARE_BYTES = 2 << 30


def samples_like(name: str, count: int) -> list[TrainingSample]:
    """Samples with the lengths of `contests` or `micro`."""
    from tools.bench.updates import contest_turns, micro_turns, sample

    draw = Random(0)
    turns = [contest_turns(draw, SCALE) if name == "contests" else micro_turns(draw) for _ in range(count)]
    return [sample(one, VOCABULARY, draw) for one in turns]


def lengths(samples: Sequence[TrainingSample]) -> int:
    """Tokens of all of them."""
    return sum(len(one.token_ids) for one in samples)


class Sides:
    """The same mini-batches, packed and padded; the networks of both sides."""

    def __init__(self, samples: list[TrainingSample], minibatches: int, pack_tokens: int) -> None:
        from tools.bench.updates import PaddedTrainer, loose_module, padded_batches

        self.tokens = lengths(samples)
        self.packed = make_minibatches(samples, minibatches, pack_tokens, 0)
        packs = sum(len(step.packs) for step in self.packed)
        # As many sequences a batch as give the tokens of our packs in the mean.
        rows = max(1, round(len(samples) / packs))
        # In the order in which make_minibatches has shuffled them: random.
        order = list(range(len(samples)))
        Random(0).shuffle(order)
        bounds = [len(order) * part // minibatches for part in range(minibatches + 1)]
        parts = [[samples[i] for i in order[a:b]] for a, b in pairwise(bounds)]
        self.padded = [padded_batches(part, rows) for part in parts]
        positions = sum(batch.token_ids.numel() for part in self.padded for batch in part)
        self.padded_positions = positions / self.tokens
        self.module = loose_module(str(TINY_MODEL), pack_tokens=pack_tokens)
        self.trainer = PaddedTrainer(str(TINY_MODEL))

    def round(self) -> Round:
        """Seconds and CPU seconds of both sides."""

        def packed(step: int) -> None:
            self.module.training_step(self.packed[step], 0)

        def padded(step: int) -> None:
            self.trainer.step(self.padded[step], self.packed[step])

        found: Round = dict.fromkeys(("packed_s", "packed_cpu_s", "padded_s", "padded_cpu_s"), 0.0)
        for step in range(len(self.packed)):
            for name, work in (("packed", packed), ("padded", padded)):
                began, cpu_began = time.perf_counter(), time.process_time()
                work(step)
                found[f"{name}_s"] += time.perf_counter() - began
                found[f"{name}_cpu_s"] += time.process_time() - cpu_began
        return found


def padded(options: argparse.Namespace) -> dict[str, Any]:
    """Packed against padded, and what the packs are like."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    try:
        with on_core(min(os.sched_getaffinity(0))):
            for suffix, like in (("", "contests"), ("_micro", "micro")):
                samples = samples_like(like, options.episodes)
                sides = Sides(samples, options.minibatches, options.pack_tokens)
                sides.round()
                rounds = [sides.round() for _ in range(options.rounds)]
                found |= _padded_numbers(rounds, sides, suffix)
    finally:
        torch.set_num_threads(threads)
    return found | waste(samples_like("contests", options.episodes), options.minibatches, options.pack_tokens)


def _padded_numbers(rounds: Sequence[Round], sides: Sides, suffix: str) -> dict[str, float]:
    def ratio(kind: str) -> float:
        return statistics.median(one[f"padded_{kind}"] / one[f"packed_{kind}"] for one in rounds)

    def tokens_per_s(side: str) -> float:
        return sides.tokens / statistics.median(one[f"{side}_s"] for one in rounds)

    return {
        f"padded_ratio{suffix}": ratio("s"),
        f"padded_ratio_cpu{suffix}": ratio("cpu_s"),
        f"padded_positions{suffix}": sides.padded_positions,
        f"packed_tokens_per_s{suffix}": tokens_per_s("packed"),
        f"padded_tokens_per_s{suffix}": tokens_per_s("padded"),
    }


def waste(samples: Sequence[TrainingSample], minibatches: int, pack_tokens: int) -> dict[str, float]:
    """How full packs and ranks are; counted, not timed."""
    shares = {
        n: [make_minibatches(samples, minibatches, pack_tokens, 0, rank=r, ranks=n) for r in range(n)]
        for n in RANKS
    }
    alone = [len(pack.token_ids) for step in shares[1][0] for pack in step.packs]
    return {
        "padding_waste": max(1 - _counted(share) / _computed(share) for share in shares.values()),
        "rank_imbalance": max(_imbalance(share) for share in shares.values()),
        "unfilled": 1 - sum(alone) / (len(alone) * pack_tokens),
    }


def _counted(share: Sequence[Sequence[MiniBatch]]) -> int:
    """Tokens of samples that count, over all ranks and steps."""
    steps = [step for rank in share for step in rank]
    return sum(sum(map(_tokens, step.packs[: len(step.packs) - step.fillers])) for step in steps)


def _computed(share: Sequence[Sequence[MiniBatch]]) -> int:
    return sum(pack.token_ids.numel() for rank in share for step in rank for pack in step.packs)


def _tokens(pack: Any) -> int:
    return int(pack.cu_seqlens[-1])


def _imbalance(share: Sequence[Sequence[MiniBatch]]) -> float:
    """The worst step's: the ranks wait for the fullest one in each."""
    steps = [[sum(map(_tokens, step.packs)) for step in ranks] for ranks in zip(*share, strict=True)]
    return max(max(tokens) / statistics.mean(tokens) - 1 for tokens in steps)


def ranks(options: argparse.Namespace) -> dict[str, Any]:
    """One rank against two."""
    from tools.bench.sharing import tokens_per_s

    if len(os.sched_getaffinity(0)) < 2:
        return {"two_rank_ratio": None}
    samples = samples_like("contests", options.episodes)
    with tempfile.TemporaryDirectory() as folder:
        found = tokens_per_s(
            str(TINY_MODEL), samples, options.minibatches, options.pack_tokens, options.rounds, Path(folder)
        )
    return {
        "two_rank_ratio": statistics.median(one["two_ranks"] / one["one_rank"] for one in found),
        # Blind to waits for the other rank, and steadier where the machine does other things.
        "two_rank_ratio_cpu": statistics.median(one["two_ranks_cpu"] / one["one_rank_cpu"] for one in found),
        "one_rank_tokens_per_s": statistics.median(one["one_rank"] for one in found),
        "two_rank_tokens_per_s": statistics.median(one["two_ranks"] for one in found),
    }


def free_bytes() -> int:
    """Memory that can be had without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) << 10


def fitting_tokens(tokens: int, vocabulary: int, hidden: int, free: int) -> int:
    """So many, halved until their full logits fit."""
    fixed = SPARE_BYTES + 4 * 3 * vocabulary * hidden
    while tokens > 64 and fixed + 4 * FULL_TENSORS * vocabulary * tokens > free:
        tokens //= 2
    return tokens


def chunked(options: argparse.Namespace) -> dict[str, Any]:
    """Full logits and chunks in turn, each in a process of its own."""
    vocabulary, hidden = options.chunk_vocabulary, options.chunk_hidden
    tokens = fitting_tokens(options.chunk_tokens, vocabulary, hidden, free_bytes())

    def once(kind: str) -> dict[str, float]:
        command = [sys.executable, "-m", "tools.bench.chunks", kind, *map(str, (tokens, vocabulary, hidden))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    rounds = [{kind: once(kind) for kind in ("full", "chunked")} for _ in range(options.chunk_rounds)]

    def ratio(name: str) -> float:
        return statistics.median(one["chunked"][name] / one["full"][name] for one in rounds)

    def median(kind: str, name: str) -> float:
        return statistics.median(one[kind][name] for one in rounds)

    return {
        "chunked_memory_ratio": ratio("bytes"),
        "chunked_time_ratio": ratio("seconds"),
        "chunked_time_ratio_cpu": ratio("cpu_s"),
        "chunk_tokens_measured": tokens,
        **{f"{kind}_mib": median(kind, "bytes") / 2**20 for kind in ("full", "chunked")},
        **{f"{kind}_s": median(kind, "seconds") for kind in ("full", "chunked")},
    }


def mfu(options: argparse.Namespace) -> dict[str, Any]:
    """Of this machine's GPU, or a trial of the same code on the CPU."""
    import torch

    from tools.bench.mfu import measure

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    shape = options.shape or ("llama-1b" if device == "cuda" else "tiny")
    pack_tokens = 4096 if device == "cuda" else 512
    found = measure(shape, device, pack_tokens, packs=8 if device == "cuda" else 2, steps=options.rounds)
    return {**found, "mfu_shape": shape, "mfu_device": device, "mfu_pack_tokens": pack_tokens}


def rounded(value: Any) -> Any:
    """Four digits after the point."""
    return round(value, 4) if isinstance(value, float) else value


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--minibatches", type=int, default=2, help="optimizer steps of a round")
    parser.add_argument("--pack-tokens", type=int, default=8192)
    parser.add_argument("--chunk-rounds", type=int, default=2)
    parser.add_argument("--chunk-tokens", type=int, default=8192)
    parser.add_argument("--chunk-vocabulary", type=int, default=128_256)
    parser.add_argument("--chunk-hidden", type=int, default=512)
    parser.add_argument("--shape", choices=("tiny", "llama-small", "llama-1b"), help="for mfu")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="for mfu")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = options_of()
    found: dict[str, Any] = {}
    for part in options.parts:
        began = time.perf_counter()
        found |= globals()[part](options)
        if not options.json:
            print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    machine = {"cpus": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2)}
    print(json.dumps({**vars(options), **machine, **{name: rounded(v) for name, v in found.items()}}))


if __name__ == "__main__":
    main()
