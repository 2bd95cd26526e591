"""RLEFModule: policy, reference and value network, and one PPO step (RLEF, sec. 2.2 and 3).

Episodes -> `score` -> TrainingSamples; MiniBatch -> `training_step` -> new weights. It samples nothing
and runs no programs: that is the data module's work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor

from rlef_lightning.continuing import check_loaded, save_run
from rlef_lightning.errors import TrainingError
from rlef_lightning.evaluation import Evaluated, evaluation_metrics, solution
from rlef_lightning.learning.minibatches import MiniBatch
from rlef_lightning.learning.objectives import PPO, Objective
from rlef_lightning.learning.packing import PackedBatch, collate_sequences, split_turns
from rlef_lightning.learning.samples import TokenSequence
from rlef_lightning.models.lora import Lora
from rlef_lightning.ranks import Ranks, summed
from rlef_lightning.resuming import drop_frozen
from rlef_lightning.scoring import Networks, Scored, response_logprobs, score
from rlef_lightning.types import Episode
from rlef_lightning.updating import Trained, adamw, clip_gradients, parameter_groups

if TYPE_CHECKING:
    from rlef_lightning.models.assembly import Wanted
    from rlef_lightning.models.building import Place

DType = Literal["float32", "bfloat16"]


class RLEFModule(L.LightningModule):
    """Policy, frozen reference and value network of RLEF, trained by PPO.

    Args:
        model_folder: Hugging Face folder of the initial policy.
        objective: What is maximised: PPO (the paper's), TokenValuePPO, GRPO or RLOO; without a class, PPO's
            numbers.
        reference_folder: Of the frozen reference; null: model_folder, as in the paper (RLEF, sec. 2.2).
        value_folder: Of a value network of its own; null: model_folder, as in the paper.
        value_network: "own": a second network, as in the paper (RLEF, sec. 2.2); "shared": a head on the
            policy's hidden states, so that one pass gives log-probabilities and values.
        value_loss_weight: Of the value loss where the trunk is shared: the policy's weights are moved by
            policy loss + this x value loss. An own network has its loss to itself.
        lora: Train low-rank adapters of the policy in the place of its weights; the reference is then the
            policy without them. null: train all weights, as in the paper.
        learning_rate: Of the policy's AdamW (RLEF, sec. 3: 2e-7).
        value_learning_rate: Of the value network; null: the policy's. The paper does not state it.
        weight_decay: Of both networks (RLEF, sec. 3: 0.1).
        betas: AdamW's averaging factors; the paper does not state them.
        warmup_steps: Optimizer steps of the linear warm-up (RLEF, sec. 3: 50); constant afterwards.
        gradient_clip_norm: Largest gradient norm of each network; null: no clipping. Not stated in the paper.
        pack_tokens: Most tokens of one forward pass: bounds the memory of activations, and must hold the
            longest episode.
        reference_dtype: Number format of the frozen reference; with LoRA of the weights that policy and
            reference share.
        compute_dtype: Number format of forward and backward passes over sharded weights (with
            ShardedStrategy); weights, gradients and optimizer state stay in float32. null: float32.
        recompute_activations: Keep each layer's input only and compute the layer again in the backward pass:
            a third more computation, a fraction of the memory.
        offload_reference: With ShardedStrategy: keep the reference's shards in the host's memory.
        offload_optimizer: Keep Adam's averages in the host's memory; each is on the device for its step only.
        seed: Of the value network's random output layer, and of adapters.
        allow_changes: Go on from the checkpoint of a run that other options decided; what differs is logged.
    """

    def __init__(
        self,
        model_folder: str,
        objective: Objective = PPO(),  # noqa: B008 (frozen)
        reference_folder: str | None = None,
        value_folder: str | None = None,
        value_network: Literal["own", "shared"] = "own",
        value_loss_weight: float = 0.1,
        lora: Lora | None = None,
        learning_rate: float = 2e-7,
        value_learning_rate: float | None = None,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_steps: int = 50,
        gradient_clip_norm: float | None = 1.0,
        pack_tokens: int = 8192,
        reference_dtype: DType = "float32",
        compute_dtype: DType | None = None,
        recompute_activations: bool = False,
        offload_reference: bool = False,
        offload_optimizer: bool = False,
        seed: int = 0,
        allow_changes: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        # Where nothing is trained there is no value network. `on_load_checkpoint` is strict about the rest.
        self.strict_loading = False
        self.register_state_dict_post_hook(drop_frozen)
        self.model_folder = model_folder
        self.reference_folder, self.value_folder = reference_folder, value_folder
        self.objective = objective
        self.value_network, self.value_loss_weight, self.lora = value_network, value_loss_weight, lora
        self.learning_rate = learning_rate
        self.value_learning_rate = learning_rate if value_learning_rate is None else value_learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.warmup_steps = warmup_steps
        self.gradient_clip_norm = gradient_clip_norm
        self.pack_tokens = pack_tokens
        self.reference_dtype, self.compute_dtype = reference_dtype, compute_dtype
        self.recompute_activations, self.seed = recompute_activations, seed
        self.offload_reference, self.offload_optimizer = offload_reference, offload_optimizer
        self.allow_changes = allow_changes
        self.reference_fingerprint = ""
        self.policy: Any = None
        self.value: Any = None
        # In a tuple, so that it is no part of the module: neither checkpoints nor optimizers know it.
        self._frozen: tuple[Any, ...] = ()
        # What was logged last. Lightning's callback_metrics also keep what only earlier epochs had.
        self.epoch_metrics: dict[str, float] = {}
        self.evaluation_metrics: dict[str, float] = {}
        self._steps: list[dict[str, float]] = []
        self._updating = (0, 0.0)

    # ---- building -----------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build the networks, sharded where the strategy says so; only the policy where nothing is trained.

        Raises:
            CheckpointError: the model folder is missing or torn.
            ConfigError: options of sharded networks without sharding.
        """
        from rlef_lightning.models.assembly import build_networks, reference_fingerprint

        if self.policy is not None:
            return
        wanted = self._wanted()
        trained = self._place(recompute=self.recompute_activations, offload=False)
        frozen = self._place(recompute=False, offload=self.offload_reference and wanted.trains)
        self.policy, reference, self.value = build_networks(wanted, trained, frozen)
        self._frozen = () if reference is None else (reference,)
        self.reference_fingerprint = reference_fingerprint(wanted, frozen)

    @property
    def reference(self) -> Any:
        """The frozen initial policy; None where nothing is trained."""
        return self._frozen[0] if self._frozen else None

    def _place(self, *, recompute: bool, offload: bool) -> Place:
        from rlef_lightning.models.building import place_of

        # The mesh is set by Lightning's strategy.
        mesh = None if self._device_mesh is None else self._device_mesh["data_parallel"]
        return place_of(mesh, self.compute_dtype, recompute=recompute, offload=offload)

    def _reshard(self) -> None:
        """After passes without gradients: else the networks' roots would stay whole on every rank."""
        from rlef_lightning.models.sharding import reshard

        for network in (self.policy, self.reference, self.value):
            if isinstance(network, torch.nn.Module):
                reshard(network)

    def check_folders(self, context_tokens: int) -> None:
        """Refuse networks that do not fit each other, or the context: raises CheckpointError, ConfigError."""
        from rlef_lightning.models.assembly import check_wanted

        offloads = self.offload_reference
        check_wanted(self._wanted(), offloads_reference=offloads, context_tokens=context_tokens)

    def _wanted(self) -> Wanted:
        from rlef_lightning.models.assembly import Wanted

        return Wanted(
            model_folder=self.model_folder,
            reference_folder=self.reference_folder,
            value_folder=self.value_folder,
            trains=self._trains(),
            values=None if self.objective.value_level is None else self.value_network,
            reference_dtype=getattr(torch, self.reference_dtype),
            lora=self.lora,
            seed=self.seed,
        )

    def _trains(self) -> bool:
        return self._trainer is None or self._trainer.state.fn == "fit"

    def configure_optimizers(self) -> Any:
        """One AdamW with a parameter group for policy and value each, and the linear warm-up."""
        rates = {"learning_rate": self.learning_rate, "value_learning_rate": self.value_learning_rate}
        groups = parameter_groups(self.policy, self.value, **rates)
        optimizer = adamw(groups, self.betas, self.weight_decay, offload=self.offload_optimizer)
        warmup = max(1, self.warmup_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # ---- the engine's side ---------------------------------------------------------------------

    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights under the names of its checkpoint, whole and one at a time.

        Sharded weights are gathered from all ranks, so all of them must exhaust the iterator.
        """
        from rlef_lightning.models.weights import engine_weights

        self._reshard()
        return engine_weights(self.policy.model)

    @torch.no_grad()
    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token after the first, by the policy as it is now; all ranks ask alike."""
        tokens = [TokenSequence(token_ids=tuple(ids), spans=((1, len(ids)),)) for ids in sequences]
        packed = collate_sequences(tokens).to(self.device)
        logprobs, _ = response_logprobs(self.policy, packed, 1.0, with_entropy=False)
        self._reshard()
        return [list(row) for row in split_turns(logprobs, packed)]

    # ---- scoring -------------------------------------------------------------------------------

    def score(
        self,
        episodes: Sequence[Episode],
        temperature: float,
        ranks: Ranks | None = None,
        check: Callable[[], None] | None = None,
    ) -> Scored:
        """One pass of the three networks over fresh episodes: everything that the updates need.

        Args:
            episodes: Just sampled, by the weights that the policy has now.
            temperature: At which they were sampled.
            ranks: Who share the work; all of them have the same episodes.
            check: Is called before each pack, by all ranks together; what it raises ends the scoring.
        """
        level = self.objective.value_level
        networks = Networks(policy=self.policy, reference=self.reference, value=self.value, value_level=level)
        try:
            return score(episodes, networks, self.objective, self.pack_tokens, temperature, ranks, check)
        finally:
            self._reshard()

    # ---- updating ------------------------------------------------------------------------------

    def training_step(self, batch: MiniBatch, batch_idx: int) -> None:
        """One optimizer step on one mini-batch, its packs one after the other (RLEF, sec. 2.2)."""
        began = time.perf_counter()
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        shares: dict[str, Tensor] = {}
        counted = len(batch.packs) - batch.fillers
        for number, packed in enumerate(batch.packs):
            for name, share in self._backward(packed, batch, counts=number < counted).items():
                shares[name] = shares[name] + share if name in shares else share
        # Read once a step: a device would wait for its host after each pack.
        read = torch.stack(list(shares.values())).tolist()
        sums = summed(dict(zip(shares, read, strict=True)), self.device)
        sums |= self._clipped(optimizer, batch_idx)
        sums["learning_rate"] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad()  # their memory is the engine's until the next update
        schedule.step()
        self._steps.append(sums)
        tokens = sum(len(packed.token_ids) for packed in batch.packs[:counted])
        self._updating = (self._updating[0] + tokens, self._updating[1] + time.perf_counter() - began)
        # Logged here, not at the end of the epoch, where callbacks read the metrics before the module logs.
        if self.trainer.is_last_batch:
            self._log_updates()

    def _clipped(self, optimizer: Any, step: int) -> dict[str, float]:
        """Norms of the gradients, which no step is taken with where they are not finite."""
        try:
            return clip_gradients({"policy": self.policy, "value": self.value}, self.gradient_clip_norm)
        except TrainingError as error:
            optimizer.zero_grad()
            raise TrainingError(f"epoch {self.current_epoch}, step {step}: {error}") from error

    def _backward(self, packed: PackedBatch, batch: MiniBatch, *, counts: bool) -> dict[str, Tensor]:
        """Adds the pack's gradients; of a pack that does not count, zeros, in step with the other ranks."""
        trained = Trained(
            policy=self.policy,
            value=self.value,
            objective=self.objective,
            value_loss_weight=self.value_loss_weight,
        )
        numbers: dict[str, Tensor] = {}
        for loss, shown in trained.losses(packed, batch, counts=counts):
            self.manual_backward(loss)
            numbers |= shown
        return numbers

    def _log_updates(self) -> None:
        """Means over this epoch's optimizer steps, and the throughput of updating."""
        means = {name: sum(step[name] for step in self._steps) / len(self._steps) for name in self._steps[0]}
        tokens, seconds = self._updating
        means["updating_tokens_per_s"] = summed({"tokens": tokens}, self.device)["tokens"] / seconds
        self._log_epoch(means)
        self._steps, self._updating = [], (0, 0.0)

    def _log_epoch(self, numbers: dict[str, float]) -> None:
        named = {f"train/{name}": number for name, number in numbers.items()}
        self.epoch_metrics |= named
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_train_epoch_start(self) -> None:
        """Log what the data module measured while it collected this epoch's episodes."""
        self.epoch_metrics, self.evaluation_metrics = {}, {}
        metrics: dict[str, float] = self.trainer.datamodule.collection_metrics  # type: ignore[attr-defined]
        self._log_epoch(metrics)

    # ---- evaluation ----------------------------------------------------------------------------

    def validation_step(self, batch: Evaluated, batch_idx: int) -> None:
        """Log the solve rate of one evaluation."""
        self._log_evaluation(evaluation_metrics(batch, "validation"))

    def test_step(self, batch: Evaluated, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the solve rate of one of the evaluations of `data.tests`."""
        self._log_evaluation(evaluation_metrics(batch, f"test/{batch.name}"))

    def _log_evaluation(self, metrics: dict[str, float]) -> None:
        self.evaluation_metrics = metrics
        self.log_dict(metrics, batch_size=1, add_dataloader_idx=False, sync_dist=True)

    def predict_step(self, batch: Evaluated, batch_idx: int) -> list[dict[str, Any]]:
        """Hand the solutions on; a prediction writer takes them."""
        return [solution(episode) for episode in batch.collection.episodes]

    # ---- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what decides the run, and what adapters are of: for resuming and for `rlef export`."""
        save_run(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse one of other networks, adapters or values, or of another run: raises CheckpointError."""
        check_loaded(self, checkpoint, trains=self._trains())
