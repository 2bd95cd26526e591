"""`rlef`: fit, validate, test and predict from a YAML config, through LightningCLI."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

# Before torch and vllm are imported: idle worker threads must sleep, not spin, because the sandboxed
# programs need the same cores; and a log line per fork of a tokenizer helps nobody.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_HINT = (
    ". Free some disk, or write elsewhere: the paths of the loggers and callbacks under trainer. The last "
    "whole checkpoint is kept; go on from it with --ckpt_path last"
)

_MEMORY_HINT = (
    ". Lower model.pack_tokens or the engine's gpu_memory_utilization, set model.recompute_activations=true, "
    "or take more devices; `rlef plan` says what needs how much. Go on with --ckpt_path last"
)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Command-line arguments; None: those of the process. Errors that this package raises on
            purpose are printed in one line, with exit code 1.
    """
    from rlef_lightning.errors import RankError, RLEFError
    from rlef_lightning.fast_help import skip_imports, start_without_stand_ins, unused_modules

    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["doctor"]:  # before Lightning is loaded
        from rlef_lightning.execution.doctor import main as examine

        raise SystemExit(examine(arguments[1:]))
    # A program that calls this goes on after help, so only the command line may leave modules out.
    unused = unused_modules(arguments) if args is None else ()
    if arguments[:1] in (["plan"], ["export"]):
        unused = ()
    if unused:
        skip_imports(unused)
    try:
        _run(arguments, from_command_line=args is None)
    except RLEFError as error:
        # The engine, say, may have met the end of another rank first.
        lost = lost_rank(error) and not isinstance(error, RankError)
        _fail(explained(error) if lost else str(error), error)
    except OSError as error:
        if error.errno is None:
            _fail(str(error), error)
        where = f": {error.filename}" if error.filename else ""
        hint = _DISK_HINT if error.errno in _DISK_FULL else ""
        _fail(f"{error.strerror}{where}{hint}", error)
    except SystemExit as error:
        # Where Lightning itself ends a run at SIGTERM, it has no code; a scheduler must not take it for a
        # finished one.
        if type(error).__name__ == "SIGTERMException":
            raise SystemExit(error.code or 128 + signal.SIGTERM) from error
        raise
    except Exception as error:
        if unused:
            start_without_stand_ins()
        if not (message := explained(error)):
            raise
        _fail(message, error)


def explained(error: Exception) -> str:
    """What to say in the place of a traceback; empty: not an error whose cause is known."""
    if lost_rank(error):
        return f"another process of this run has ended, or hangs; its messages say why ({error})"
    if out_of_memory(error):
        return f"the memory of a device is full: {str(error).partition(chr(10))[0].rstrip('.')}{_MEMORY_HINT}"
    # Lightning's own, also where devices and nodes are not those of the launcher.
    ours = type(error).__name__ == "MisconfigurationException" or str(error).startswith("You set `")
    return str(error) if ours else ""


def lost_rank(error: BaseException | None) -> bool:
    """True when a computation with other processes broke off, by gloo or NCCL, here or in a cause of this."""
    if error is None:
        return False
    broken = type(error).__name__ in ("DistBackendError", "DistNetworkError")
    gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    return broken or gloo or lost_rank(error.__cause__)


def out_of_memory(error: Exception) -> bool:
    """True when memory of a GPU, or of the host for a tensor, could not be had."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _fail(message: str, error: BaseException) -> NoReturn:
    print(f"rlef: error: {message}", file=sys.stderr)
    raise SystemExit(1) from error


def _checkpoint_folders(cli: Any) -> list[Path]:
    return [Path(callback.dirpath or "") for callback in cli.trainer.checkpoint_callbacks]


def recover_checkpoints(cli: Any) -> None:
    """Find those again that a kill has left moved aside for new ones: else a run would start anew."""
    from rlef_lightning.placing import recover_all

    for folder in _checkpoint_folders(cli):
        recover_all(folder)


def require_last(cli: Any) -> None:
    """Refuse to evaluate the untrained model where `last` was asked for and there is none.

    Raises:
        CheckpointError: no last.ckpt in the folder of a checkpoint callback.
    """
    from rlef_lightning.errors import CheckpointError
    from rlef_lightning.shards import is_checkpoint

    recover_checkpoints(cli)
    if getattr(cli.config[cli.subcommand], "ckpt_path", None) != "last":
        return
    folders = _checkpoint_folders(cli)
    if not any(is_checkpoint(folder / "last.ckpt") for folder in folders):
        searched = ", ".join(sorted({str(folder) for folder in folders})) or "none"
        raise CheckpointError(f"--ckpt_path last: there is no last.ckpt; searched: {searched}")


def _run(args: list[str], *, from_command_line: bool) -> None:
    if args[:1] == ["export"]:
        from rlef_lightning.models.exporting import main as export

        raise SystemExit(export(args[1:]))
    if args[:1] == ["plan"]:
        from rlef_lightning.plan.command import main as plan
        from rlef_lightning.plan.command import parse

        options, of_fit = parse(args[1:])
        if from_command_line:
            sys.argv[1:] = ["fit", *of_fit]
        config = _command_line(["fit", *of_fit], from_command_line=from_command_line, only_parse=True)
        raise SystemExit(plan(options, config))
    _command_line(args, from_command_line=from_command_line, only_parse=False)


def _silence() -> None:
    """What Lightning says at every start and nobody needs."""
    # It recommends a product of its makers.
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "Tip:" not in record.getMessage())
    # vLLM's process group of one makes it believe that there are several processes.
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")


def _command_line(args: list[str], *, from_command_line: bool, only_parse: bool) -> Any:
    """Run a command of Lightning's, or only read its options: they are returned."""
    import jsonargparse
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    _silence()
    from rlef_lightning.datamodule import RolloutDataModule
    from rlef_lightning.learning.objectives import Objective
    from rlef_lightning.module import RLEFModule

    # The sentences under dataclass fields are their options' help. An objective is a data class, and yet one
    # of several by class_path; without one, the values are PPO's.
    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True, subclasses_enabled=[Objective]
    )

    class RLEFCLI(LightningCLI):
        """LightningCLI with the two fixed classes; everything else is injected by the config."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.link_arguments("model.model_folder", "data.model_folder")
            parser.link_arguments("model.pack_tokens", "data.pack_tokens")

        def _parse_ckpt_path(self) -> None:
            """Options come from the config alone. Lightning would read the checkpoint here already, to lay
            hyper-parameters that were saved in it over the config and the command line."""

        before_fit = recover_checkpoints
        before_validate = before_test = before_predict = require_last

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            """The commands; only the one that is asked for, as each costs a parser of all options."""
            known = LightningCLI.subcommands()
            asked = next((word for word in args if word in known), None)
            return known if asked is None else {asked: known[asked]}

    class OptionsOnly(RLEFCLI):
        """Makes neither trainer nor module: the machine need not be the one that the config is for."""

        def instantiate_classes(self) -> None:
            self.config_init = self.config

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    kind = OptionsOnly if only_parse else RLEFCLI
    cli = kind(
        RLEFModule,
        RolloutDataModule,
        args=None if from_command_line else args,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=False if only_parse else 0,
        auto_configure_optimizers=False,
    )
    return cli.config[cli.subcommand]


if __name__ == "__main__":
    main()
