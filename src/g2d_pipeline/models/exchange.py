"""Exchange between encoders, stage by stage: MMTM, the multimodal transfer module (Joze et al., CVPR 2020).

A model with an exchange runs its encoders side by side; between stages each modality's maps are scaled,
channel by channel, by what all modalities see. It is part of the architecture (`exchange: mmtm`): a saved
model predicts with it."""

from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.config import ENCODERS
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.encoders import Encoder, Trunk, initialise, load_encoder
from g2d_pipeline.models.encoders.base import fold, mean_of_frames

STAGES = 3  # after so many stages, the last ones, maps are scaled (published: the last three of ResNet-18)
RATIO = 4  # of squeezing (published)


def _itself(mean: Tensor) -> Tensor:
    return mean


class MMTM(nn.Module):
    """Squeeze s^m = mean over cells (and frames) `[B, C_m]`; z = relu(Σ_m S_m s^m + b); gate g^m = σ(E_m z +
    e_m). As in Wu et al. 2022 (σ without the factor 2 of Joze et al.), for any number of modalities; z is 2 Σ
    C_m / ratio wide. `means` (buffers): those of s^m and g^m over all training batches so far."""

    def __init__(self, channels: Mapping[str, int], ratio: int = RATIO) -> None:
        super().__init__()
        width = max(1, 2 * sum(channels.values()) // ratio)
        self.squeeze = nn.ModuleDict({m: nn.Linear(c, width, bias=False) for m, c in channels.items()})
        self.bias = nn.Parameter(torch.zeros(width))
        self.excite = nn.ModuleDict({m: nn.Linear(width, c) for m, c in channels.items()})
        self.register_buffer("batches", torch.tensor(0))
        self.means = nn.ModuleDict({m: nn.Module() for m in channels})
        for m, c in channels.items():
            self.means[m].register_buffer("signal", torch.zeros(c))
            self.means[m].register_buffer("gate", torch.zeros(c))
        self.average: Callable[[Tensor], Tensor] = _itself  # means of a part of a batch → the batch's

    def forward(
        self, signals: dict[str, Tensor], held: str = "", replaced: str = "signal"
    ) -> dict[str, Tensor]:
        """s: m → `[B, C_m]` gives g: m → `[B, C_m]`.

        `held`: a modality that gets a mean in place of what the others tell it: in its gate their signals
        (`replaced="signal"`), or its whole gate (`"gate"`)."""
        squeezed = {m: layer(signals[m]) for m, layer in self.squeeze.items()}
        hidden = (torch.stack(list(squeezed.values())).sum(dim=0) + self.bias).relu()
        gates = {m: layer(hidden).sigmoid() for m, layer in self.excite.items()}
        if self.training:
            self._remember(signals, gates)
        if held and replaced == "gate":
            mean = self.means[held].get_buffer("gate")
            gates[held] = mean.to(gates[held].dtype).expand_as(gates[held])
        elif held:
            signal_of = {m: self.means[m].get_buffer("signal") for m in self.squeeze if m != held}
            means = [self.squeeze[m](signal) for m, signal in signal_of.items()]
            hidden = (squeezed[held] + torch.stack(means).sum(dim=0) + self.bias).relu()
            gates[held] = self.excite[held](hidden).sigmoid()
        return gates

    @torch.no_grad()
    def _remember(self, signals: dict[str, Tensor], gates: dict[str, Tensor]) -> None:
        batches = cast(Tensor, self.batches).add_(1)
        for m in self.squeeze:
            for kind, values in (("signal", signals[m]), ("gate", gates[m])):
                mean = self.means[m].get_buffer(kind)
                mean += (self.average(values.float().mean(dim=0)) - mean) / batches


class Exchange(nn.Module):
    """Runs encoders stage by stage with an MMTM after each of the last `STAGES` that all of them have.

    `held`, `replaced`: for a training method to set around its batches (see `MMTM.forward`); evaluation
    ignores them. Raises ConfigError where an encoder has no stages."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        channels = {m: [_channels(part) for part in _stages(m, e)[:-1]] for m, e in encoders.items()}
        count = min(STAGES, *map(len, channels.values()))
        self.stages = nn.ModuleList(
            initialise(MMTM({m: c[i - count] for m, c in channels.items()})) for i in range(count)
        )
        self.held = ""
        self.replaced: Literal["signal", "gate"] = "signal"

    def average_by(self, average: Callable[[Tensor], Tensor] = _itself) -> None:
        """For a training method whose batches are shared by several devices: how their means are averaged."""
        for exchange in self.stages:
            cast(MMTM, exchange).average = average

    def forward(self, encoders: Mapping[str, Encoder], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """m → feature `[B, D_m]`."""
        parts = {m: _stages(m, encoder) for m, encoder in encoders.items()}
        maps, batch = {}, {}
        for m, encoder in encoders.items():
            x = encoder.normaliser(inputs[m]).float()
            batch[m] = x.shape[0]
            maps[m] = fold(x) if x.dim() == 5 else x
            for stage in parts[m][: -1 - len(self.stages)]:
                maps[m] = stage(maps[m])
        for i, exchange in enumerate(self.stages):
            maps = {m: parts[m][i - 1 - len(self.stages)](x) for m, x in maps.items()}
            means = {m: x.mean(dim=(2, 3)) for m, x in maps.items()}  # [T · B, C]
            signals = {m: s.view(-1, batch[m], s.shape[1]).mean(dim=0) for m, s in means.items()}
            gates = exchange(signals, self.held if self.training else "", self.replaced)
            for m, x in maps.items():
                maps[m] = x * gates[m].repeat(x.shape[0] // batch[m], 1)[:, :, None, None]
        features = {m: parts[m][-1](x) for m, x in maps.items()}
        for m, x in features.items():
            if inputs[m].dim() == 5:
                features[m] = mean_of_frames(x, batch[m], encoders[m].width)
        return features


def _channels(stage: nn.Module) -> int:
    return next(part.out_channels for part in reversed(list(stage.modules())) if isinstance(part, nn.Conv2d))


def _stages(modality: str, encoder: Encoder) -> list[nn.Module]:
    """The trunk's parts. Raises ConfigError where it has none."""
    if isinstance(encoder.trunk, Trunk) and encoder.trunk.has_stages:
        return encoder.trunk.stages()
    raise ConfigError(
        f"exchange mmtm: the encoder of {modality} has no stages with maps. Encoders that have: "
        f"{', '.join(encoders_with_stages())}"
    )


def encoders_with_stages() -> list[str]:
    """The names of our encoders that can exchange."""
    return [name for name in ENCODERS if load_encoder(name).has_stages]


def build_exchange(name: str | None, encoders: Mapping[str, Encoder]) -> Exchange | None:
    """The exchange of an architecture's key `exchange`. Raises ConfigError for another name than mmtm."""
    if name is None:
        return None
    if name != "mmtm":
        raise ConfigError(f"exchange = {name!r}. Allowed: mmtm")
    return Exchange(encoders)
