"""A study's file: a grid of data sets, methods and options, or a search for the best method."""

from collections import Counter
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from g2d_pipeline.config.base import Names, Seeds, Share, Strict, split_slashes
from g2d_pipeline.config.run import ComputeSettings

# Keys of `kedro run` → those of a study.
SHORT = {"dataset": "datasets", "method": "methods", "seed": "seeds", "metric": "metrics"}
# Keys of `kedro run` without a meaning here → the remedy.
REFUSED = {
    "compare": "a study compares its methods: say methods",
    "rebuild": "a study makes what is missing: kedro run --params rebuild=true makes anew what you doubt",
    "workers": "a study has workers of `threads` threads: say compute.workers",
}
Options = dict[str, Any]
Values = Annotated[list[Any], BeforeValidator(split_slashes), Field(min_length=1)]


class Study(Strict):
    """`compute`: changes of that of `parameters.yml`: engine and workers, of `threads` each."""

    title: str = ""
    like: str | None = None  # another study, of which this one changes what it says
    compute: ComputeSettings = ComputeSettings()
    threads: PositiveInt = 1


class StudySettings(Study):
    """`options`: the same in all cells, as after `--params`; `of_dataset`: those of a data set. `vary`: the
    values of an option; options that change together share a key (`alpha/beta: [0/1, 1/0]`). Every
    combination of data set, values, method and seed is trained once. `metrics`: of the table (none: the
    task's first headline metric)."""

    datasets: Annotated[Names, Field(min_length=1)]
    methods: Annotated[Names, Field(min_length=1)]
    seeds: Seeds = [0, 1, 2]
    options: Options = {}
    of_dataset: dict[str, Options] = {}
    vary: dict[str, Values] = {}
    metrics: Names = []
    published: PositiveInt | None = None  # the table of the paper (`published.csv`) to be compared with

    @field_validator("datasets", "methods", "seeds", "metrics")
    @classmethod
    def _are_different(cls, values: list[Any]) -> list[Any]:
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"{'/'.join(map(str, twice))} comes twice: every cell is declared once")
        return values

    @field_validator("options", "of_dataset", "vary")
    @classmethod
    def _are_options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        trees = value.values() if info.field_name == "of_dataset" else [value]
        for key in (part for tree in trees for keys in tree for part in keys.split("/")):
            first = SHORT.get(key, key).partition(".")[0]
            if first in StudySettings.model_fields or first in REFUSED:
                remedy = REFUSED.get(first, f"say {first} beside {info.field_name}, not in it")
                raise ValueError(f"{key}: {remedy}")
        return value

    @field_validator("vary")
    @classmethod
    def _differ(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in axes.items():
            parts = key.split("/")
            for value in values:
                if len(parts) > 1 and len(split_slashes(value)) != len(parts):
                    raise ValueError(f"{key}: {value} should have {len(parts)} values with / between")
            texts = Counter(str(float(v)) if isinstance(v, int | float) else str(v) for v in values)
            if twice := [text for text, count in texts.items() if count > 1]:
                raise ValueError(f"{key}: {'/'.join(twice)} comes twice: every cell is declared once")
        return axes


class AdviseSettings(Study):
    """Which method for a data set, within `minutes`: a race of `methods` (none named: all) by successive
    halving on validation. In each of `rungs`, a share of the epochs, the `keep` best go on; the last ones,
    `finalists`, are trained with all epochs, and with all `seeds` where the time allows. Methods of `first`
    come first where it does not. `margin`: a smaller gain (of accuracy; of an error its share) is not worth a
    remedy."""

    dataset: str
    minutes: PositiveFloat
    methods: Names = []
    first: Names = []
    options: Options = {}
    seeds: Seeds = [0, 1, 2, 3, 4]
    rungs: Annotated[list[Share], BeforeValidator(split_slashes)] = [0.25, 0.5]
    keep: Share = 0.34
    finalists: PositiveInt = 2
    margin: NonNegativeFloat = 0.02

    @field_validator("rungs")
    @classmethod
    def _rise(cls, rungs: list[float]) -> list[float]:
        if any(b <= a for a, b in pairwise([*rungs, 1.0])):
            raise ValueError("shares of the epochs rise, and stay below 1: 0.25/0.5")
        return rungs
