"""What `fit` would refuse of a config, in its own words: its own checks, on what can be known beforehand.

Builds no trainer and no network, and reads tokenizers only where the folders have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rlef_lightning.checks import (
    check_groups,
    check_precision,
    check_reload,
    check_strategy,
    check_training,
    check_waiting,
)
from rlef_lightning.errors import CheckpointError, ConfigError
from rlef_lightning.models.assembly import Wanted, check_context, check_options, check_wanted
from rlef_lightning.plan.asked import Asked


def refusals(asked: Asked) -> Iterator[str]:
    """All of them, where `fit` would say the first one alone."""
    for check in _checks(asked):
        try:
            check()
        except (ConfigError, CheckpointError) as error:
            yield str(error)


def _checks(asked: Asked) -> Iterator[Callable[[], None]]:
    """In the order in which `fit` comes to them."""
    if asked.ranks > 1:
        yield partial(check_strategy, asked.strategy, sharded_over(asked), asked.ranks)
        yield partial(check_waiting, asked.max_episode_s, asked.waits)
    yield partial(check_reload, asked.reload_every)
    yield partial(check_precision, asked.precision)
    wanted = Wanted(
        model_folder=asked.model_folder,
        reference_folder=asked.reference_folder,
        value_folder=asked.value_folder,
        values=asked.values,
        lora=asked.lora,
    )
    # A plan can be made of a config.json alone, without a tokenizer to compare.
    if any(Path(asked.model_folder).glob("tokenizer*")):
        context_tokens, offloads = asked.max_context_tokens, asked.offload_reference
        yield partial(check_wanted, wanted, offloads_reference=offloads, context_tokens=context_tokens)
    else:
        yield partial(check_options, wanted, offloads_reference=asked.offload_reference)
        yield partial(check_context, wanted, asked.max_context_tokens)
    yield partial(check_training, asked.play, asked.pack_tokens, asked.max_context_tokens)
    yield partial(check_groups, asked.play, asked.objective)


def sharded_over(asked: Asked) -> int | None:
    """Ranks that hold one model together; None: the strategy does not shard."""
    if asked.strategy == "ShardedStrategy":
        return asked.ranks
    if asked.strategy != "ModelParallelStrategy":
        return None
    # Lightning's "auto" is the number of nodes.
    return asked.nodes if asked.data_parallel_size is None else asked.data_parallel_size
