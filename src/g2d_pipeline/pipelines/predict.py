"""A trained model + raw samples → predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from g2d_pipeline.config import PredictSettings
from g2d_pipeline.errors import ConfigError

MISSING = "input is missing: say what to predict, a table or a folder. For example: --params input=new.csv"


def predict_samples(model: Any, settings: PredictSettings) -> Callable[[Path], int]:
    """Returns a function that writes the predictions of `model` (a `serving.Predictor`) for `settings.input`
    to a file and returns their number. Raises ConfigError if `settings.input` is not set."""
    if settings.input is None:
        raise ConfigError(MISSING)
    source = Path(settings.options.project) / Path(settings.input).expanduser()

    def write(file: Path) -> int:
        from g2d_pipeline.serving.predictor import write_predictions

        return write_predictions(model, source, file, wait=settings.wait)

    return write
