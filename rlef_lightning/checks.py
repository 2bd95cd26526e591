"""Settings -> nothing, or a ConfigError: what would run but train on something else than it seems to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlef_lightning.errors import ConfigError
from rlef_lightning.rollout import PlaySettings

if TYPE_CHECKING:
    import lightning.pytorch as L


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse a trainer with which `fit` would go silently wrong.

    Raises:
        ConfigError: several processes, old episodes, or weights in a coarse number format.
    """
    if trainer.world_size > 1:
        raise ConfigError(f"{trainer.world_size} processes were asked for; set trainer.devices to 1")
    # An attribute that Lightning sets from outside the class, hence unknown to type checkers.
    reload_every = getattr(trainer, "reload_dataloaders_every_n_epochs", 1)
    if reload_every != 1:
        raise ConfigError(
            f"trainer.reload_dataloaders_every_n_epochs is {reload_every}; it must be 1, or the updates "
            "go on with old episodes"
        )
    if trainer.precision != "32-true":
        raise ConfigError(
            f"trainer.precision is {trainer.precision}; it must be 32-true, for a learning rate of 2e-7 "
            "is below the resolution of bfloat16 weights"
        )


def check_training(play: PlaySettings, pack_tokens: int, max_context_tokens: int) -> None:
    """Refuse ways of playing that the updates cannot take.

    Raises:
        ConfigError: responses drawn from a part of the distribution, or packs shorter than an episode.
    """
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
