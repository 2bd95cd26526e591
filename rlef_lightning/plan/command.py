"""rlef plan --config CONFIG [more options of fit] [--hardware NAME] [--json]

Says, before anything is loaded, what a run would do: from problems to optimizer steps, the memory of each
GPU in each phase, the bytes that it moves, an estimate of the time, and every setting that will not fit or
looks wrong. Takes the options of `rlef fit`. Needs of the model folder no more than its config.json, and no
GPU: the networks are sharded for real, on the meta device, for as many ranks as the config has. Ends with 1
when something is wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlef_lightning.errors import CheckpointError
from rlef_lightning.plan.advice import findings
from rlef_lightning.plan.asked import Asked, asked_of
from rlef_lightning.plan.batches import Lengths, batches, longest
from rlef_lightning.plan.hardware import (
    COMPUTE_SHARE,
    GIB,
    HARDWARE,
    MEMORY_SHARE,
    NETWORK_SHARE,
    RESERVED_BYTES,
    Hardware,
)
from rlef_lightning.plan.memory import memory
from rlef_lightning.plan.shapes import shapes
from rlef_lightning.plan.traffic import at_once, seconds, traffic


def make_plan(asked: Asked, hardware: Hardware, lengths: Lengths) -> dict[str, Any]:
    """Everything that the command prints, as plain values. Raises CheckpointError, ConfigError."""
    sizes = shapes(
        asked.model_folder,
        asked.ranks,
        values=asked.values,
        reference_folder=asked.reference_folder,
        value_folder=asked.value_folder,
        lora=asked.lora,
    )
    counts = batches(asked, lengths)
    held = memory(asked, sizes, hardware)
    moved = traffic(asked, sizes, counts, lengths)
    spent = seconds(asked, sizes, counts, moved, lengths, hardware)
    return {
        "config": asdict(asked) | {"ranks": asked.ranks},
        "hardware": asdict(hardware),
        "shapes": asdict(sizes),
        "lengths": asdict(lengths) | {"sequence": lengths.sequence},
        "batches": asdict(counts) | {"sequences_at_once": at_once(asked, sizes, lengths, hardware)},
        "memory": asdict(held),
        "traffic": asdict(moved),
        "seconds": asdict(spent) | {"epoch": spent.epoch},
        "assumptions": assumptions(hardware),
        "findings": [asdict(one) for one in findings(asked, sizes, counts, held, lengths, hardware)],
    }


def assumptions(hardware: Hardware) -> list[str]:
    """What the estimates rest on."""
    return [
        f"{hardware.name}: {hardware.memory_bytes / 1e9:.0f} GB at {hardware.memory_bytes_per_s / 1e12:g} "
        f"TB/s, {hardware.flops_per_s / 1e12:g} Tflop/s in bfloat16, "
        f"{hardware.link_bytes_per_s / 1e9:g} GB/s within a node of {hardware.gpus_per_node}, "
        f"{hardware.network_bytes_per_s / 1e9:g} GB/s for each GPU between nodes",
        f"of the peaks a run gets {COMPUTE_SHARE:g} (products), {MEMORY_SHARE:g} (memory), "
        f"{NETWORK_SHARE:g} (links)",
        f"{RESERVED_BYTES / GIB:g} GiB of each GPU for CUDA, NCCL and the allocator; activations of a "
        "Llama-like layer",
        "all episodes have the mean length, and as many share a pack as fit whole; set the lengths with "
        "--prompt-tokens and the like",
        "programs run while others are sampled, and cost no time",
    ]


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(the plan's own options, those of fit)."""
    parser = argparse.ArgumentParser(
        prog="rlef plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hardware", choices=sorted(HARDWARE), default="h100-80gb", help="default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    for name in ("prompt", "response", "feedback"):
        parser.add_argument(
            f"--{name}-tokens", type=float, help=f"mean {name}; default: a guess from the limits"
        )
    parser.add_argument(
        "--turns", type=float, help="mean responses of an episode; default: most of the limit"
    )
    return parser.parse_known_args(list(arguments))


def lengths_of(options: argparse.Namespace, asked: Asked) -> Lengths:
    """The guess, with what was given on the command line in its place."""
    given = {
        "prompt": options.prompt_tokens, "response": options.response_tokens,
        "feedback": options.feedback_tokens, "turns": options.turns,
    }  # fmt: skip
    return replace(longest(asked), **{name: value for name, value in given.items() if value is not None})


def check_folder(path: str) -> None:
    """Raises CheckpointError where there is nothing to plan from, and says how little would do."""
    if not Path(path, "config.json").is_file():
        raise CheckpointError(
            f"{path} (setting `model.model_folder`) has no config.json. A plan needs nothing else of it: "
            "for Llama 3.1 8B and 70B the project has one, as in "
            "--model.model_folder configs/architectures/llama-3.1-70b"
        )


def main(options: argparse.Namespace, config: Any) -> int:
    """Plan a parsed config; the exit code."""
    asked = asked_of(config)
    check_folder(asked.model_folder)
    plan = make_plan(asked, HARDWARE[options.hardware], lengths_of(options, asked))
    if options.json:
        print(json.dumps(plan))
    else:
        from rlef_lightning.plan.page import show

        show(plan)
    return int(any(finding["kind"] == "wrong" for finding in plan["findings"]))
