"""config.json of a run's networks, longest episode -> nothing, or a ConfigError: windows of attention.

Packed attention reaches back to the start of an episode. Computes nothing: see attention.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlef_lightning.errors import ConfigError
from rlef_lightning.models.skeleton import read_config

CONTEXT = "data.engine.init_args.max_context_tokens"


def check_windows(folders: Mapping[str, str], context_tokens: int) -> None:
    """Refuse networks some of whose layers look back over less than the longest episode.

    Args:
        folders: Hugging Face folders by the option that names them.
        context_tokens: Most tokens of an episode.

    Raises:
        ConfigError: names the option, its window, and the context that would fit.
    """
    for option, folder in folders.items():
        window = sliding_window(folder, option)
        if window is not None and context_tokens > window:
            raise ConfigError(
                f"{CONTEXT} is {context_tokens}, and {option}={folder!r} has a sliding window of {window} "
                "tokens (config.json), beyond which the trainer computes no attention: set "
                f"max_context_tokens to {window} at most, or use a model without a window"
            )


def sliding_window(folder: str, option: str) -> int | None:
    """Tokens of the window that any of the layers has; None: all of them attend to everything before."""
    config = read_config(folder, option).get_text_config()
    layers = getattr(config, "layer_types", None)
    windowed = layers is None or "sliding_attention" in layers
    window: int | None = getattr(config, "sliding_window", None)
    return window if windowed else None
