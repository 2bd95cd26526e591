"""RolloutDataModule: fresh multi-turn rollouts each epoch (RLEF, sec. 2 and 3).

Weights -> engine -> proof -> episodes -> scores -> MiniBatches. It owns the engine and the executor; it
computes no loss. Everything random is derived from the seed and the epoch, so no state need be saved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader

from rlef_lightning import checks
from rlef_lightning.collecting import NOTHING, collect, let_sleep, waits
from rlef_lightning.dialogue import Prompts
from rlef_lightning.errors import ConfigError
from rlef_lightning.evaluation import EVALUATION_SAMPLING, Evaluated, Evaluation, collection_metrics
from rlef_lightning.execution import Executor
from rlef_lightning.generation import Engine
from rlef_lightning.learning.minibatches import MiniBatch, make_minibatches
from rlef_lightning.loaders import Played, loader
from rlef_lightning.models.agreeing import together
from rlef_lightning.problems import ProblemSource, Split
from rlef_lightning.ranks import Ranks
from rlef_lightning.rollout import Collection, Collector, EpisodeLog, Pace, PlaySettings, Store
from rlef_lightning.rollout.chat import read_chat
from rlef_lightning.rollout.collector import donors_of, with_donors
from rlef_lightning.rollout.fitting import fitting
from rlef_lightning.rollout.order import epoch_problems
from rlef_lightning.rollout.play import derive_seed
from rlef_lightning.rollout.store import Origin, Writer, problems_fingerprint, settings_fingerprint
from rlef_lightning.stopping import Stopped, Stopping
from rlef_lightning.syncing import sync
from rlef_lightning.types import Problem

if TYPE_CHECKING:
    from rlef_lightning.module import RLEFModule

Phase = Literal["collecting", "scoring", "evaluating"]
PhaseListener = Callable[[Phase, int, int], None]
"""Told the phase, and how many of how many episodes are done."""


class RolloutDataModule(L.LightningDataModule):
    """Plays episodes with the newest weights and hands them on as packed mini-batches.

    Args:
        problems: Source of the three splits.
        engine: Samples responses.
        executor: Runs programs.
        model_folder: Folder of the tokenizer; set from model.model_folder.
        pack_tokens: Most tokens of a pack; set from model.pack_tokens.
        prompts: The wording of the dialogue.
        system_prompt: Said before the first message; null: nothing.
        template_arguments: Passed on to the chat template, as {enable_thinking: false} for Qwen 3.
        play: How training episodes are played; problems_per_epoch times samples_per_problem make a batch.
        problems_per_epoch: Problems of one epoch (RLEF, sec. 3: 1024 rollouts).
        minibatches_per_epoch: Optimizer steps of one epoch (RLEF, sec. 3: 4).
        validation: What `validate` and the fit loop measure.
        tests: What `test` measures, by name.
        prediction: How `predict` plays the test split.
        pace: How sampling and execution are interleaved.
        store: Where finished episodes are kept for a resumed run; null: nowhere, and an interrupted epoch is
            played again from its start.
        long_prompts: A problem whose first prompt does not fit the context: "error", or "skip" it.
        parity_tolerance: Largest difference of a log-probability between engine and trainer after a sync.
            1e-4 for float32 on both sides; about 0.1 where the engine computes in bfloat16.
        rank_timeout_s: With several processes: how long one waits for the others at the end of a collection.
        seed: Decides the order of problems and every sample.
    """

    def __init__(
        self,
        problems: ProblemSource,
        engine: Engine,
        executor: Executor,
        model_folder: str = "",
        pack_tokens: int = 8192,
        prompts: Prompts = Prompts(),  # noqa: B008 (frozen)
        system_prompt: str | None = None,
        template_arguments: dict[str, Any] | None = None,
        play: PlaySettings = PlaySettings(),  # noqa: B008 (frozen)
        problems_per_epoch: int = 1024,
        minibatches_per_epoch: int = 4,
        validation: Evaluation = Evaluation(),  # noqa: B008
        tests: dict[str, Evaluation] | None = None,
        prediction: PlaySettings = PlaySettings(sampling=EVALUATION_SAMPLING),  # noqa: B008 (frozen)
        pace: Pace = Pace(),  # noqa: B008 (frozen)
        store: Store | None = None,
        long_prompts: Literal["error", "skip"] = "error",
        parity_tolerance: float = 1e-4,
        rank_timeout_s: float = 1800.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.check_counts(
            problems_per_epoch=problems_per_epoch, minibatches_per_epoch=minibatches_per_epoch
        )
        self.problems, self.engine, self.executor = problems, engine, executor
        self.model_folder, self.pack_tokens = model_folder, pack_tokens
        self.prompts, self.system_prompt = prompts, system_prompt
        self.template_arguments = template_arguments
        self.play, self.prediction, self.pace, self.store = play, prediction, pace, store
        self.problems_per_epoch, self.minibatches_per_epoch = problems_per_epoch, minibatches_per_epoch
        self.validation = validation
        self.tests = tests or {"feedback": validation}
        self.long_prompts, self.parity_tolerance, self.seed = long_prompts, parity_tolerance, seed
        self.rank_timeout_s = rank_timeout_s
        self.collection_metrics: dict[str, float] = {}
        self.listener: PhaseListener | None = None
        self.splits: dict[Split, Sequence[Problem]] = {}
        self._runner: asyncio.Runner | None = None
        self._ranks = Ranks(alone=True)
        self._stopping = Stopping(self._ranks)
        self._epoch_batches: tuple[int, list[MiniBatch]] | None = None
        self._weights = ""

    # ---- life cycle ----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load tokenizer and problems, and start the engine.

        Raises:
            CheckpointError: the folder has no tokenizer or no chat template.
            DataError: the problems cannot be read.
            EngineError: the engine cannot start.
            ConfigError: settings that do not go together.
        """
        if self._runner is not None:
            return
        checks.check_trainer(self._trainer)
        if self._trainer.world_size > 1:
            checks.check_waiting(self.pace.max_episode_s, waits(self.rank_timeout_s, self.engine))
        self._module.check_folders(self.engine.max_context_tokens)
        self._ranks = Ranks(self.rank_timeout_s, alone=self._trainer.world_size == 1)
        self._stopping = Stopping(self._ranks)
        if stage == "fit":
            checks.check_training(self.play, self.pack_tokens, self.engine.max_context_tokens)
            checks.check_groups(self.play, self._module.objective)
        said = partial(read_chat, self.model_folder, self.system_prompt, self.template_arguments)
        self._tokenizer, self._chat = together(said)
        needed: tuple[Split, ...] = ("train", "validation") if stage == "fit" else _SPLITS_OF_STAGE[stage]
        for play in (play for split in needed for play in self._plays(split)):
            checks.check_answers(play, self._chat)
        self.splits = together(lambda: {split: self._fitting(split) for split in needed})
        self.engine.start(self.model_folder, self._chat.stop_token_ids)
        let_sleep(self.engine)
        self._collector = Collector(self.engine, self.executor, self._chat, self.prompts, self.pace)
        self._runner = asyncio.Runner()

    def teardown(self, stage: str) -> None:
        """Stop the executor's processes and free the engine."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            runner.run(self.executor.close())
        finally:
            runner.close()
            self.engine.close()

    def on_exception(self, exception: BaseException) -> None:
        """Leave nothing behind: Lightning calls no teardown after an exception."""
        try:
            self.teardown("exception")
        except Exception:  # the first error is the one to report
            logging.getLogger(__name__).exception("while cleaning up after %r", exception)

    def _fitting(self, split: Split) -> Sequence[Problem]:
        room = self.engine.max_context_tokens - self._response_limit(split)
        problems = self.problems.problems(split)
        return fitting(problems, split, self._chat, self.prompts, room, skip=self.long_prompts == "skip")

    def _response_limit(self, split: Split) -> int:
        """Most tokens of a response that any play of this split may sample."""
        return max(play.sampling.max_response_tokens for play in self._plays(split))

    def _plays(self, split: Split) -> list[PlaySettings]:
        """The ways to play that may be asked for."""
        if split == "train":
            return [self.play]
        if split == "validation":
            return [self.validation.play]
        return [self.prediction, *(test.play for test in self.tests.values())]

    # ---- loaders -------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[MiniBatch]:
        """Collect and score this epoch's episodes; one item is one optimizer step of this rank."""
        epoch, limit = self._epoch, self._trainer.max_epochs
        if limit is not None and 0 <= limit <= epoch:
            return loader([])  # a finished run that is resumed: Lightning asks before it sees the end
        # After a resume Lightning may ask twice for one epoch; its episodes are sampled once.
        if self._epoch_batches is None or self._epoch_batches[0] != epoch:
            self._epoch_batches = (epoch, self._collect_epoch(epoch))
        return loader(self._epoch_batches[1])

    def val_dataloader(self) -> DataLoader[Evaluated]:
        """Play the validation split."""
        return self._evaluation_loader("validation", "validation", self.validation)

    def test_dataloader(self) -> list[DataLoader[Evaluated]]:
        """Play the test split once for each entry of `tests`."""
        return [self._evaluation_loader("test", name, test) for name, test in self.tests.items()]

    def predict_dataloader(self) -> DataLoader[Evaluated]:
        """Play the test split as `prediction` says."""
        play = self.prediction
        needed = Evaluation(play=play, n=1, k=play.turn_limit)
        return self._evaluation_loader("test", "prediction", needed)

    def _evaluation_loader(self, split: Split, name: str, evaluation: Evaluation) -> DataLoader[Evaluated]:
        """One item, played when it is asked for: Lightning may make the loader epochs before it runs it."""
        return loader(Played(lambda: self._evaluate(split, name, evaluation)))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Mini-batches move; episodes are text and numbers and stay."""
        return batch.to(device) if isinstance(batch, MiniBatch) else batch

    # ---- collecting ----------------------------------------------------------------------------

    def _collect_epoch(self, epoch: int) -> list[MiniBatch]:
        parity = self._sync_engine()
        seed = derive_seed(self.seed, "train", epoch)
        problems = epoch_problems(self.splits["train"], epoch, self.problems_per_epoch, self.seed)
        collection = self._collect("train", problems, self.play, seed, "collecting")
        began = time.perf_counter()
        self._tell("scoring", 0, len(collection.episodes))
        temperature = self.play.sampling.temperature
        with self._stopping.in_step(self._trainer) as check:
            scored = self._module.score(collection.episodes, temperature, self._ranks, check)
        tokens = sum(len(sample.token_ids) for sample in scored.samples)
        self.collection_metrics = {
            **collection_metrics(collection, self.play.turn_limit),
            **scored.metrics,
            "parity": parity,
            "scoring_tokens_per_s": tokens / (time.perf_counter() - began),
        }
        order = derive_seed(self.seed, "minibatches", epoch)
        ranks = {"rank": self._ranks.rank, "ranks": self._ranks.size}
        counts = (self.minibatches_per_epoch, self.pack_tokens, order)
        return make_minibatches(scored.samples, *counts, temperature, **ranks)

    def _evaluate(self, split: Split, name: str, evaluation: Evaluation) -> Evaluated:
        parity = self._sync_engine()
        problems = self.splits[split][: evaluation.problems]
        seed = derive_seed(self.seed, split, name)
        title = name if split == name else f"{split}-{name}"
        collection = self._collect(title, problems, evaluation.play, seed, "evaluating")
        return Evaluated(name=name, evaluation=evaluation, collection=collection, parity=parity)

    def _collect(
        self,
        name: str,
        problems: Sequence[Problem],
        play: PlaySettings,
        seed: int,
        phase: Phase,
        *,
        last: bool = True,
    ) -> Collection:
        """All episodes, on every rank; what random feedback is taken from is a collection of its own."""
        donors = NOTHING
        if play.feedback == "random":
            what = (f"{name}-donors", problems, donors_of(play), derive_seed(seed, "donors"), phase)
            donors = self._collect(*what, last=False)
        # Not between an epoch's updates and its checkpoint, as in a validation: they would be lost.
        self._stopping.listen(self._trainer, now=phase == "collecting" or self._trainer.state.fn != "fit")
        with self._log(name, problems, play, seed) as log:
            given = {"log": log, "check": self._stopping.check, "donors": donors.episodes}
            play_share = partial(self._play, problems, play, seed, partial(self._tell, phase), **given)
            shown = (self._ranks, self.engine, problems, play, self.pace, log)
            collection = collect(play_share, *shown, last=last)
        self._stopping.end(self._trainer)
        return with_donors(collection, donors)

    def _play(self, *asked: Any, **options: Any) -> Collection:
        """`Collector.collect` for this rank; the last two of `asked` are its share and what is elsewhere."""
        if self._runner is None:
            raise ConfigError("the data module is not set up: use it through a Lightning Trainer")
        *first, elsewhere = asked
        try:
            return self._runner.run(self._collector.collect(*first, elsewhere=elsewhere, **options))
        except Stopped:  # the ranks meet as usual, and then end together
            return NOTHING

    def _log(
        self, name: str, problems: Sequence[Problem], play: PlaySettings, seed: int
    ) -> AbstractContextManager[EpisodeLog | None]:
        if self.store is None:
            return nullcontext()
        dialogue = [play, self.prompts, self.system_prompt, self._chat.frames]
        players, room = [self.engine, self.executor], self.engine.max_context_tokens
        origin = Origin(
            collection=name,
            epoch=self._epoch if self._trainer.state.fn == "fit" else None,
            seed=seed,
            weights=self._weights,
            settings=settings_fingerprint(dialogue, self._tokenizer, players, room),
            problems=problems_fingerprint(problems),
        )
        version, ranks = self.engine.policy_version, self._ranks
        writer = Writer(rank=ranks.rank, world_size=ranks.size, policy_version=version)
        log = EpisodeLog(self.store, origin, writer, ranks.any)
        if log.restored:
            asked = len(problems) * play.samples_per_problem
            rank_zero_info(f"{len(log.restored)} of {asked} episodes are read back from {log.path}")
        return log

    def _tell(self, phase: Phase, done: int, total: int) -> None:
        if self.listener is not None:
            self.listener(phase, done, total)

    # ---- weights -------------------------------------------------------------------------------

    @property
    def _trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise ConfigError("the data module has no trainer: use it through Lightning's Trainer")
        return self.trainer

    @property
    def _epoch(self) -> int:
        """After a resume `current_epoch` lags behind by one when Lightning asks for episodes first."""
        current: Any = self._trainer.fit_loop.epoch_progress.current
        return int(current.processed)

    @property
    def _module(self) -> RLEFModule:
        return cast("RLEFModule", self._trainer.lightning_module)

    def _sync_engine(self) -> float:
        """New weights for the engine; raises EngineError unless it has them."""
        limits = self.parity_tolerance, self._ranks, self.pace.max_engine_silence_s
        parity, self._weights = sync(self.engine, self._module, self._tokenizer, *limits)
        return parity


_SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "validate": ("validation",), "test": ("test",), "predict": ("test",),
}  # fmt: skip
