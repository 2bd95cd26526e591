"""Settings -> nothing, or a ConfigError: what would run but train on something else than it seems to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlef_lightning.dialogue import ChatFormat
from rlef_lightning.dialogue.context import THOUGHT_END
from rlef_lightning.errors import ConfigError
from rlef_lightning.rollout import PlaySettings

if TYPE_CHECKING:
    import lightning.pytorch as L

    from rlef_lightning.learning.objectives import Objective


def check_counts(**counts: int) -> None:
    """Refuse numbers of things below 1.

    Raises:
        ConfigError: names the option.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"data.{name} is {count}; it must be at least 1")


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse a trainer with which a run would go silently wrong.

    Raises:
        ConfigError: processes that would not share one model, old episodes, or computations in another
            number format.
    """
    if trainer.world_size > 1:
        strategy = trainer.strategy
        check_strategy(type(strategy).__name__, _sharded_over(strategy), trainer.world_size)
    # An attribute that Lightning sets from outside the class, hence unknown to type checkers.
    if trainer.state.fn == "fit":
        check_reload(getattr(trainer, "reload_dataloaders_every_n_epochs", 1))
    check_precision(trainer.precision)


def check_reload(epochs: int) -> None:
    """Refuse to train on the episodes of an earlier epoch; raises ConfigError."""
    if epochs != 1:
        raise ConfigError(
            f"trainer.reload_dataloaders_every_n_epochs is {epochs}; it must be 1, or the updates go on with "
            "old episodes"
        )


def check_precision(precision: str | int) -> None:
    """Refuse number formats of Lightning's; raises ConfigError."""
    if str(precision) not in ("32-true", "32"):
        raise ConfigError(
            f"trainer.precision is {precision}; it must be 32-true: scoring and updating must "
            "compute alike, and steps of 2e-7 are below the resolution of bfloat16 weights"
        )


def check_strategy(name: str, sharded_over: int | None, size: int) -> None:
    """Several processes share the weights by FSDP2, and nothing else keeps their gradients together.

    Args:
        name: Of the strategy's class.
        sharded_over: Processes that hold one model together; None: a strategy that does not shard by FSDP2.
        size: All processes.

    Raises:
        ConfigError: not all of them do.
    """
    if sharded_over is None:
        raise ConfigError(
            f"{size} processes with trainer.strategy={name} would train {size} models; use "
            "rlef_lightning.sharded.ShardedStrategy (configs/trainer/), or set trainer.devices to 1"
        )
    if sharded_over != size:
        raise ConfigError(
            f"trainer.strategy's data_parallel_size is {sharded_over} of {size} processes; the weights are "
            "sharded over all of them: use rlef_lightning.sharded.ShardedStrategy"
        )


def _sharded_over(strategy: object) -> int | None:
    from lightning.pytorch.strategies import ModelParallelStrategy

    if not isinstance(strategy, ModelParallelStrategy):
        return None
    return int(strategy.device_mesh["data_parallel"].size())


def check_training(play: PlaySettings, pack_tokens: int, max_context_tokens: int) -> None:
    """Refuse ways of playing that the updates cannot take.

    Raises:
        ConfigError: responses drawn from a part of the distribution, or packs shorter than an episode.
    """
    if play.sampling.temperature == 0:
        raise ConfigError("data.play.sampling.temperature is 0; training needs samples, above 0 (paper: 1)")
    if play.sampling.top_p < 1:
        raise ConfigError(
            f"data.play.sampling.top_p is {play.sampling.top_p}; training needs 1, because the trainer's "
            "probabilities are those of all tokens"
        )
    if pack_tokens < max_context_tokens:
        raise ConfigError(
            f"model.pack_tokens is {pack_tokens}; a pack must hold the longest episode, {max_context_tokens} "
            "tokens (data.engine.init_args.max_context_tokens)"
        )


def check_waiting(max_episode_s: float | None, timeouts: Mapping[str, float]) -> None:
    """Refuse ranks that would give up on one another before the slowest episode is dropped.

    Args:
        max_episode_s: data.pace.max_episode_s.
        timeouts: Seconds that a rank which is done waits for those that still play, by option.

    Raises:
        ConfigError: an episode may last as long as that, or for ever.
    """
    option, timeout_s = min(timeouts.items(), key=lambda item: item[1])
    if max_episode_s is None or max_episode_s >= timeout_s:
        found = "null" if max_episode_s is None else f"{max_episode_s:g}"
        raise ConfigError(
            f"data.pace.max_episode_s is {found}; with several ranks it must be less than {option} "
            f"({timeout_s:g}), or ranks that are done give up on one that waits for a slow episode: lower "
            f"it, or raise {' and '.join(timeouts)}"
        )


def check_answers(play: PlaySettings, chat: ChatFormat) -> None:
    """Refuse to take the drafts in a model's thoughts for its answers.

    Raises:
        ConfigError: the model thinks and nothing says where its answer begins, or it cannot be seen.
    """
    mark = play.answer_after
    if mark is None and chat.thinks:
        raise ConfigError(
            "answer_after is null, and the chat template leaves it to the model to end its thoughts "
            f"({THOUGHT_END}): a draft there would be judged as its answer. Set data.play.answer_after, and "
            f"that of each evaluation and of data.prediction, to {THOUGHT_END!r}, or to '' to read whole "
            "responses, or let it not think (for Qwen 3 data.template_arguments: {enable_thinking: false})"
        )
    if mark and not chat.shows(mark):
        raise ConfigError(
            f"answer_after is {mark!r}, which the tokenizer leaves out of a response's text: no response "
            "could have valid code"
        )


def check_groups(play: PlaySettings, objective: Objective) -> None:
    """Refuse a comparison of episodes of one problem where each problem has one.

    Raises:
        ConfigError: an objective that needs groups, and groups of one episode.
    """
    if objective.needs_groups and play.samples_per_problem < 2:
        raise ConfigError(
            f"data.play.samples_per_problem is {play.samples_per_problem}; model.objective="
            f"{type(objective).__name__} compares the episodes of one problem with each other and needs at "
            "least 2 of them (4 to 16 are usual; lower data.problems_per_epoch accordingly)"
        )
