"""Settings that would train on something else than it seems to are refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

from rlef_lightning.checks import (
    check_counts,
    check_groups,
    check_trainer,
    check_training,
    check_waiting,
)
from rlef_lightning.errors import ConfigError
from rlef_lightning.learning.objectives import GRPO, PPO
from rlef_lightning.rollout import PlaySettings
from rlef_lightning.types import Sampling


def sharding(ranks: int) -> ModelParallelStrategy:
    """A strategy that shards over so many ranks, as it is once the processes have met."""
    strategy = ModelParallelStrategy()
    size = SimpleNamespace(size=lambda: ranks)
    strategy._device_mesh = {"data_parallel": size}  # type: ignore[assignment]
    return strategy


def trainer(**changes: Any) -> Any:
    good = {
        "state": SimpleNamespace(fn="fit"),
        "world_size": 1,
        "reload_dataloaders_every_n_epochs": 1,
        "precision": "32-true",
    }
    return SimpleNamespace(**{**good, **changes})


def test_good_settings_pass() -> None:
    check_trainer(trainer())
    check_trainer(trainer(world_size=2, strategy=sharding(2)))
    check_training(PlaySettings(), pack_tokens=512, max_context_tokens=512)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"world_size": 2, "strategy": object()}, r"strategy=object would train 2 models.*trainer\.devices"),
        ({"world_size": 2, "strategy": sharding(1)}, "data_parallel_size is 1 of 2 processes"),
        ({"reload_dataloaders_every_n_epochs": 0}, "reload_dataloaders_every_n_epochs is 0"),
        ({"precision": "bf16-mixed"}, "bf16-mixed"),
    ],
)
def test_trainers_that_go_silently_wrong_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_trainer(trainer(**change))


def test_training_samples_come_from_the_whole_distribution() -> None:
    with pytest.raises(ConfigError, match=r"top_p is 0\.95"):
        check_training(PlaySettings(sampling=Sampling(top_p=0.95)), pack_tokens=512, max_context_tokens=512)


def test_a_pack_holds_the_longest_episode() -> None:
    with pytest.raises(ConfigError, match=r"pack_tokens is 511.*512"):
        check_training(PlaySettings(), pack_tokens=511, max_context_tokens=512)


def test_counts_start_at_one() -> None:
    check_counts(minibatches_per_epoch=1)
    with pytest.raises(ConfigError, match=r"data\.minibatches_per_epoch is 0"):
        check_counts(minibatches_per_epoch=0)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 1.5}, {"max_response_tokens": 0}])
def test_sampling_numbers_have_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Sampling(**wrong)


def test_a_comparison_needs_something_to_compare_with() -> None:
    message = r"data\.play\.samples_per_problem is 1; model\.objective=GRPO .* needs at least 2"
    with pytest.raises(ConfigError, match=message):
        check_groups(PlaySettings(samples_per_problem=1), GRPO())
    with pytest.raises(ConfigError, match=r"model\.objective=PPO"):
        check_groups(PlaySettings(samples_per_problem=1), PPO(normalisation="group"))
    check_groups(PlaySettings(samples_per_problem=2), GRPO())
    check_groups(PlaySettings(samples_per_problem=1), PPO())


def test_the_slowest_episode_is_dropped_before_other_ranks_give_up() -> None:
    check_waiting(1200.0, {"data.rank_timeout_s": 1800.0})
    for slowest, said in ((1800.0, "is 1800"), (None, "is null")):
        with pytest.raises(
            ConfigError, match=rf"max_episode_s {said}; .* less than data\.rank_timeout_s \(1800\)"
        ):
            check_waiting(slowest, {"data.rank_timeout_s": 1800.0})
    engine = "data.engine.init_args.rank_timeout_s"
    with pytest.raises(
        ConfigError, match=rf"less than {engine} \(600\).* raise data.rank_timeout_s and {engine}"
    ):
        check_waiting(1200.0, {"data.rank_timeout_s": 1800.0, engine: 600.0})
