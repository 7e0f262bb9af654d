"""What is predicted: the loss, the confidence and the prediction of a classification or a regression.

Everything that differs between the two stands here, so that models, methods and the trainer never ask which
it is. Both have `outputs`, the width C of the logits; `metric`, the name of the selection metric, and
`higher_is_better`; `heads_average`: whether the mean of heads that are each right is a better prediction
(log-odds add up evidence; the mean of a good and a poor number is a mediocre number)."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from g2d_pipeline.errors import DataError


@dataclass(frozen=True)
class Classification:
    """Cross-entropy over C classes; ρ = softmax(logits)[y]."""

    class_names: tuple[str, ...]
    metric = "accuracy"
    higher_is_better = True
    heads_average = True

    @property
    def outputs(self) -> int:
        return len(self.class_names)

    def encode(self, target: Tensor) -> Tensor:
        """Targets as stored `[N]` → as trained on `[N]` (class indices, or scaled values)."""
        return target.long()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Task loss of logits `[B, C]` against encoded targets `[B]`: a scalar, the batch mean."""
        return F.cross_entropy(logits, target)

    def confidence(self, logits: Tensor, target: Tensor) -> Tensor:
        """ρ of each sample `[B]` in (0, 1]: confidence in the encoded target (Eq. 5)."""
        return logits.softmax(dim=1).gather(1, target[:, None]).squeeze(1)

    def distill(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Logit distillation KL(teacher ‖ student) of logits `[B, C]`, batch mean (Eq. 3)."""
        log_p = F.log_softmax(teacher / temperature, dim=1)
        log_q = F.log_softmax(student / temperature, dim=1)
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """How far the predictions of logits q `[B, C]` are from those of p, a sample `[B]`: KL(p ‖ q)."""
        log_p, log_q = F.log_softmax(p, dim=1), F.log_softmax(q, dim=1)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)

    def predict(self, logits: Tensor) -> Tensor:
        """Logits `[B, C]` → predictions `[B]` as stored: class indices, or values in its unit."""
        return logits.argmax(dim=1)

    def score(self, logits: Tensor, target: Tensor) -> float:
        """The selection metric over a split: accuracy as a fraction, or RMSE in the target's unit."""
        return float((logits.argmax(dim=1) == target).double().mean())

    def to_json(self) -> dict[str, Any]:
        """Enough for `task_from_json` to rebuild it."""
        return {"name": "classification", "class_names": list(self.class_names)}


@dataclass(frozen=True)
class Regression:
    """Mean squared error on the scaled target; ρ = exp(−(p − y)² / (2 s²)) (g2d.md §2-3, our definitions).

    The scaled target is (y − offset) / scale: min-max on train with `output="sigmoid"`, standardised with
    `"identity"`. `spread` is the standard deviation s of the train target, in the target's own unit.
    `logit_loss="bernoulli"`: KL between Bernoulli(sigmoid(teacher)) and Bernoulli(sigmoid(student)), the
    closest to the equation; `"mse"`: mean squared difference of the two scaled predictions (the one for
    `identity`, where a number is no log-odds)."""

    offset: float
    scale: float
    spread: float
    output: Literal["sigmoid", "identity"] = "sigmoid"
    logit_loss: Literal["bernoulli", "mse"] = "bernoulli"
    outputs = 1
    metric = "rmse"
    higher_is_better = False
    heads_average = False

    def activate(self, logits: Tensor) -> Tensor:
        """Logits `[B, 1]` → scaled predictions `[B]`."""
        value = logits.squeeze(1)
        return value.sigmoid() if self.output == "sigmoid" else value

    def encode(self, target: Tensor) -> Tensor:
        return ((target - self.offset) / self.scale).float()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(self.activate(logits), target)

    def confidence(self, logits: Tensor, target: Tensor) -> Tensor:
        error = (self.activate(logits) - target) * (self.scale / self.spread)
        return (-0.5 * error.square()).exp()

    def distill(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        if self.logit_loss == "mse" or self.output == "identity":
            return F.mse_loss(self.activate(student), self.activate(teacher))
        p, q = teacher.squeeze(1) / temperature, student.squeeze(1) / temperature
        yes = p.sigmoid() * (F.logsigmoid(p) - F.logsigmoid(q))
        no = (-p).sigmoid() * (F.logsigmoid(-p) - F.logsigmoid(-q))
        return (yes + no).mean() * temperature**2

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """Half the squared difference over s², the KL of two Gaussians of that variance (our definition)."""
        return 0.5 * ((self.activate(p) - self.activate(q)) * (self.scale / self.spread)).square()

    def predict(self, logits: Tensor) -> Tensor:
        return self.activate(logits).double() * self.scale + self.offset

    def score(self, logits: Tensor, target: Tensor) -> float:
        error = self.activate(logits).double() - target.double()
        return float(error.square().mean().sqrt() * self.scale)

    def to_json(self) -> dict[str, Any]:
        return {"name": "regression", **asdict(self)}


Task = Classification | Regression


def regression_task(
    target: dict[str, float], output: Literal["auto", "sigmoid", "identity"] = "auto"
) -> Regression:
    """The regression whose scaling comes from the train statistics `{min, max, mean, std}` of the target.

    `output`: see `TargetSettings`. Raises DataError (a ValueError) where the train target is constant."""
    if not target["max"] > target["min"]:
        raise DataError(f"the train target is constant ({target['min']:g}): nothing can be learnt from it")
    if output == "sigmoid" or (output == "auto" and target["min"] >= 0 and target["max"] <= 1):
        return Regression(target["min"], target["max"] - target["min"], target["std"], "sigmoid")
    return Regression(target["mean"], target["std"], target["std"], "identity", "mse")


def task_from_json(data: dict[str, Any]) -> Task:
    """The inverse of `Task.to_json`."""
    data = dict(data)
    if data.pop("name") == "classification":
        return Classification(tuple(data["class_names"]))
    return Regression(**data)
