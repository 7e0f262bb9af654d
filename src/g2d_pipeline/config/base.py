"""What all settings share."""

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

Task = Literal["classification", "regression"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


def split_slashes(value: Any) -> Any:
    """`8/16` (`--params` cannot carry commas) → `["8", "16"]`; a single value → a list of one; None → []."""
    if isinstance(value, str):
        return [part.strip() for part in value.split("/")]
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


Names = Annotated[list[str], BeforeValidator(split_slashes)]
Counts = Annotated[list[PositiveInt], BeforeValidator(split_slashes)]
Seeds = Annotated[list[NonNegativeInt], BeforeValidator(split_slashes), Field(min_length=1)]
Numbers = Annotated[list[float], BeforeValidator(split_slashes)]
Positives = Annotated[list[PositiveFloat], BeforeValidator(split_slashes)]


def number_as_name(value: Any) -> Any:
    """454 → "454": YAML reads a column's name that is a number as one."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


ColumnName = Annotated[str, BeforeValidator(number_as_name)]
ColumnNames = Annotated[list[ColumnName], BeforeValidator(split_slashes)]


class Strict(BaseModel):
    """Refuses unknown keys, infinities and changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def _problems(self) -> Iterator[str]:
        """Faults between fields that are each valid by themselves; the first one is reported."""
        yield from ()

    @model_validator(mode="after")
    def _has_no_problem(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self


def by_tag(key: str, classes: Mapping[str, type[BaseModel]], folder: str, group: str) -> Any:
    """A union of settings classes of which the value of `key` chooses one; the class "" is for plug-ins: a
    module of `folder` (of the package) or an entry point of `group`, by name, or a dotted path."""

    def tag(value: Any) -> str | None:
        name = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        if not isinstance(name, str) or name in classes:
            return name or None
        place = Path(__file__).parents[1] / folder / name
        ours = place.is_dir() or place.with_suffix(".py").is_file()
        return "" if "." in name or ours or entry_points(group=group, name=name) else name

    tag.__name__ = key  # pydantic has it in messages
    tagged = tuple(Annotated[cls, Tag(name)] for name, cls in classes.items())
    return Annotated[Union[tagged], Discriminator(tag)]  # noqa: UP007
