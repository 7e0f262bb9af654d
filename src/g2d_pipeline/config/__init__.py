"""Every parameter as a pydantic model: the only place that knows defaults and allowed values.

Nothing here imports torch or Kedro, so that a run with nothing to do starts at once. How files, method
defaults and `--params` are merged into these models is the business of `resolve.py`."""

from g2d_pipeline.config.base import *
from g2d_pipeline.config.layouts import *
from g2d_pipeline.config.modalities import *
from g2d_pipeline.config.models import *
from g2d_pipeline.config.retrain import *
from g2d_pipeline.config.run import *
from g2d_pipeline.config.stages import *
from g2d_pipeline.config.training import *
