"""Weights to start from: a local file of torchvision's names → an encoder's trunk. Nothing is downloaded.

Called where a training begins and nowhere else: a saved model is rebuilt from its own file alone."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # the error's name; files are read by torch with `weights_only`
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from g2d_pipeline.errors import DataError, data_error, media_fault
from g2d_pipeline.models.encoders import Trunk
from g2d_pipeline.models.multimodal import MultimodalModel

logger = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"  # of batch norm: old torch versions' files lack it; it changes no output
REMEDY = "give a file of torchvision's weights for this encoder, or leave `weights` out to start at random."


def load_pretrained(
    model: MultimodalModel,
    architecture: dict[str, Any],
    files: Mapping[str, Path] | None = None,
    start: Path | None = None,
) -> None:
    """Fill the trunk of every encoder whose settings name `weights`, in place; `architecture`: see
    `build_model`. `files`: modality → where its file lies, instead of the path in the settings; `start`: see
    `load_trunks`. Raises DataError where a file is missing, broken or does not fit."""
    for m, section in architecture["modalities"].items():
        settings = section["encoder"]
        if not settings.get("weights"):
            continue
        path = (files or {}).get(m) or Path(settings["weights"]).expanduser()
        try:
            load_trunk(cast(Trunk, model.encoders[m].trunk), settings["name"], path)
        except DataError as error:
            raise DataError(f"modality {m}: {error}") from error
        logger.info("The encoder of %s starts from %s", m, path)
    if start is not None:
        load_trunks(model, start)


def load_trunk(trunk: Trunk, name: str, path: Path) -> None:
    """Fill a trunk from a file of torchvision's names; the classifier's weights in it are ignored.

    A stem for another number of channels is averaged over the file's channels and spread over the trunk's, so
    that a grey image, equal in all channels, is answered as before. Raises DataError, naming weights that are
    missing, not expected, of another shape or not finite; then nothing was changed."""
    if trunk.weight_names is None:
        raise data_error(f"The encoder {name} takes no file of weights", [], REMEDY)
    theirs, ours, classifier, stem = trunk.weight_names
    weights = {k: v for k, v in read_weights(path).items() if not k.startswith(classifier)}
    expected = {theirs + k.removeprefix(ours): v for k, v in trunk.state_dict().items()}
    if stem in weights and weights[stem].dim() == 4:
        weights[stem] = _spread(weights[stem], expected[stem].shape[1], path)
    faults = [(k, "missing") for k in expected if k not in weights and not k.endswith(COUNTER)]
    faults += [(k, "not expected") for k in weights if k not in expected]
    for k, weight in weights.items():
        if k in expected and weight.shape != expected[k].shape:
            shapes = f"{list(weight.shape)} instead of {list(expected[k].shape)}"
            faults.append((f"{k}: {shapes}", "of another shape"))
        elif k in expected and (bad := int((~weight.isfinite()).sum())):
            faults.append((f"{k}: {bad} of {weight.numel()} values", "not finite"))
    if faults:
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(kind for _, kind in faults).items())
        headline = f"The weights {path} do not fit {name} ({counts})"
        raise data_error(headline, [f"{kind}: {what}" for what, kind in faults], REMEDY)
    with torch.no_grad():
        for k, weight in weights.items():
            expected[k].copy_(weight)


def load_trunks(model: MultimodalModel, path: Path) -> None:
    """Fill the trunk of every encoder, in place, from a model's `model.safetensors`; normalisers stay those
    of the data. Raises DataError, naming the first weight that is missing or of another shape."""
    theirs, ours = read_weights(path), model.state_dict()
    names = [name for name in ours if re.match(r"encoders\.[^.]+\.trunk\.", name)]
    for name in names:
        shape = list(theirs[name].shape) if name in theirs else None
        if shape != list(ours[name].shape):
            fault = f"{name} is {shape or 'absent'}, not {list(ours[name].shape)}"
            remedy = "say retrain.init_from=scratch, which starts anew."
            raise data_error(f"The weights {path} do not fit: {fault}", [], remedy)
    model.load_state_dict(ours | {name: theirs[name] for name in names})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a .safetensors, .pth or .pt file, on the CPU; a checkpoint's `state_dict` or `model`
    is found. Raises DataError where the file is missing, empty, a Git-LFS pointer, a web page, broken or
    holds anything else than tensors (nothing in it is executed)."""
    if fault := media_fault(path):
        raise data_error(f"The weights {path.resolve()} can not be used: the file {fault}", [], REMEDY)
    try:
        safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise almost anything for a broken file
        headline = f"The weights {path.resolve()} can not be read"
        raise data_error(headline, [_reason(error)], f"download the file again, or {REMEDY}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise data_error(f"The weights {path.resolve()} are not a mapping of names to tensors", [], REMEDY)
    return {str(k): v for k, v in content.items()}


def _reason(error: Exception) -> str:
    """Why a file could not be read. torch's own words would advise to execute what stands in it."""
    if isinstance(error, UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", str(error))
        return f"it holds {named[1]}, and only tensors are read" if named else "it is not a file of tensors"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _spread(weight: Tensor, channels: int, path: Path) -> Tensor:
    """`[K, c, h, w]` → `[K, C, h, w]`: the sum over channels, shared equally among C."""
    if weight.shape[1] == channels:
        return weight
    logger.warning("%s: its stem for %d channels is averaged for %d", path, weight.shape[1], channels)
    return weight.float().sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
