"""A registered version as MLflow loads it: the file that lies beside the model ("models from code").

MLflow executes it, so `serving.registered.verify` compares it with the installed one; after a change the hash
of the former file belongs into `serving.registered.EARLIER`."""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from g2d_pipeline.serving import load_model


class RegisteredModel(PythonModel):
    """`mlflow.pyfunc.load_model(…).predict(data)`: what `load_model(…).predict(data)` returns."""

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = load_model(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        return self.predictor.predict(model_input)


set_model(RegisteredModel())
