"""Re-learning (Wei et al., ECCV 2024): an encoder that overfits starts over, in part."""

import logging
import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from g2d_pipeline.methods._scores import quantile_edges
from g2d_pipeline.methods.base import Batch, Method, MethodParameters, State
from g2d_pipeline.models import Output

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]


def purity(labels: Array, clusters: Array) -> float:
    """The share of samples that have the commonest label of their cluster; labels and clusters `[N]`."""
    from sklearn.metrics.cluster import contingency_matrix

    return float(contingency_matrix(labels, clusters).max(axis=0).sum() / len(labels))


def cluster_purity(features: Array, labels: Array, classes: int) -> float:
    """Purity of k-means clusters of features `[N, D]`, as many as there are classes (or distinct features, if
    fewer). Each dimension is scaled to [−1, 1] before, and the seed is fixed (both as in the code)."""
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import minmax_scale

    scaled = minmax_scale(features, feature_range=(-1, 1))
    count = min(classes, len(np.unique(scaled, axis=0)))
    return purity(labels, KMeans(n_clusters=count, random_state=0, n_init=1).fit_predict(scaled))


def strength(train: float, val: float, scale: float, gap: Literal["ahead", "absolute"] = "ahead") -> float:
    """α = tanh(λ·gap) of the purities; gap = train − val, or 0 if negative; `absolute`: its size."""
    difference = train - val
    return math.tanh(scale * (abs(difference) if gap == "absolute" else max(difference, 0.0)))


@torch.no_grad()
def reinitialise(encoder: nn.Module, start: dict[str, Tensor], alpha: float) -> None:
    """θ ← (1 − α)·θ + α·θ_init, in place; exactly θ_init for α = 1. Buffers (running statistics) stay."""
    for name, parameter in encoder.named_parameters():
        parameter.lerp_(start[name].to(parameter), alpha)


class Relearning(Method):
    """Every few epochs each encoder is moved back towards its initialisation, the more the more it overfits.

    It overfits as far as the purity of k-means clusters of its train features exceeds that of its val
    features. Only encoders that learnt in the epoch are moved (SMP leaves the others alone), never after the
    last epoch, after which nothing could be learnt again; the optimizer's momentum stays. Classes in a
    regression: quantile bins of the target (our definition)."""

    class Parameters(MethodParameters):
        reinit_epoch: PositiveInt = 15
        reinit_num: NonNegativeInt = 2
        gap_scale: NonNegativeFloat = 3.0
        gap: Literal["ahead", "absolute"] = "ahead"
        bins: Annotated[int, Field(ge=2)] = 10

    parameters: Parameters
    equation = "θ^m ← (1 − α^m)·θ^m + α^m·θ_init^m, α^m = tanh(λ·(P_train^m − P_val^m)); L = L_S"
    source = "Wei et al., ECCV 2024, purity gap and soft re-initialisation"
    distributed = "exact"
    no_sharding = "keeps whole weights of encoders, and moves back to them"

    def on_fit_start(self, state: State) -> None:
        p = self.parameters
        self.done = 0  # re-initialisations so far
        self.start: dict[str, dict[str, Tensor]] = {}
        if not self._due():
            return
        for m in state.model.modalities:
            self.start[m] = {n: w.detach().clone() for n, w in state.model.encoders[m].named_parameters()}
        if state.epochs <= p.reinit_epoch:
            why = f"the first time is after epoch {p.reinit_epoch}: say more epochs or a smaller reinit_epoch"
            logger.warning("relearning: nothing is learnt again in %d epochs, %s", state.epochs, why)

    def _due(self) -> bool:
        return self.done < self.parameters.reinit_num and self.parameters.gap_scale > 0

    def phase(self, epoch: int, state: State) -> int:
        """One more than the re-initialisations before the epoch: finished after the last one."""
        p = self.parameters
        return 1 + min(p.reinit_num if p.gap_scale > 0 else 0, (epoch - 1) // p.reinit_epoch)

    def on_epoch_start(self, state: State) -> None:
        self.learnt: list[str] = []  # modalities whose encoders learnt in this epoch

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        self.learnt = [m for m in state.model.modalities if m in self.learnt or m in state.active]
        return super().loss(output, batch, state)

    def on_epoch_end(self, state: State) -> None:
        p = self.parameters
        if not self._due() or state.epoch % p.reinit_epoch or state.epoch == state.epochs:
            return
        self.done += 1
        for m, (train, val) in state.agree(self.purities(state)).items():
            alpha = strength(train, val, p.gap_scale, p.gap)
            what = f"purity {train:.3f} on train, {val:.3f} on val, moved back by α = {alpha:.3f}"
            logger.info("relearning: after epoch %d, %s: %s", state.epoch, m, what)
            if alpha > 0:
                reinitialise(state.model.encoders[m], self.start[m], alpha)
                state.mark_updated([m])
        if not self._due():
            self.start = {}  # no longer needed, and out of the checkpoints

    def purities(self, state: State) -> dict[str, tuple[float, float]]:
        """m → the purity of its clusters on train and on val, of the modalities that learnt in this epoch."""
        labels = {split: state.targets(state.rows(split)).cpu().numpy() for split in ("train", "val")}
        classes = state.task.outputs
        if classes == 1:  # a regression
            edges = quantile_edges(torch.from_numpy(labels["train"]), self.parameters.bins).numpy()
            labels = {split: np.searchsorted(edges, target) for split, target in labels.items()}
            classes = len(edges) + 1
        purities: dict[str, list[float]] = {m: [] for m in self.learnt}
        for split, target in labels.items():
            outputs = [output.features for _, output in state.evaluate(state.rows(split))]
            for m, values in purities.items():
                features = np.concatenate([f[m].float().cpu().numpy() for f in outputs])
                values.append(cluster_purity(features, target, classes))
        return {m: (train, val) for m, (train, val) in purities.items()}
