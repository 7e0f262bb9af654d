"""A trained model + raw samples → predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from g2d_pipeline.config import PredictSettings
from g2d_pipeline.errors import ConfigError

MISSING = "input is missing: say what to predict, a table or a folder. For example: --params input=new.csv"


def predict_samples(model: Any, settings: PredictSettings) -> Callable[[Path], int]:
    """What writes the predictions of `settings.input` by the `model` (a `serving.Predictor`) into a file, and
    returns how many they are."""
    if settings.input is None:
        raise ConfigError(MISSING)
    source = Path(settings.options.project) / Path(settings.input).expanduser()

    def write(file: Path) -> int:
        from g2d_pipeline.serving.writing import write_predictions

        return write_predictions(model, source, file, wait=settings.wait)

    return write
