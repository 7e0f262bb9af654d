"""Schedules: which data set is retrained when, and who is notified of the outcome."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat, model_validator

from g2d_pipeline.config.base import Strict, split_slashes
from g2d_pipeline.errors import did_you_mean

Outcome = Literal["promoted", "kept", "finished", "refused", "failed"]
"""Outcomes of a run: of `retrain` all but `finished`, of another pipeline `finished` or `failed`."""
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
FIELDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
NAMES = {
    "month": dict(zip(MONTHS, range(1, 13), strict=True)),
    "weekday": dict(zip(DAYS, range(7), strict=True)),
}
LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of each month


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", value.strip()):
        return float(match[1]) * UNITS[match[2]]
    raise ValueError("a number with its unit: 90 s, 30 min, 6 h or 1 d")


def cron_fields(text: str) -> list[list[int] | None]:
    """The values that each of cron's five fields allows; None: every one. Sunday is 0.

    Allowed is what cron, systemd and Dagster read alike; else ValueError with field, value and what is."""
    parts = text.split()
    if len(parts) != len(FIELDS):
        hint = "0 3 * * * is every day at 03:00"
        raise ValueError(f"it has {len(parts)} fields; cron has five ({', '.join(FIELDS)}): {hint}")
    fields = [_values(part, name) for part, name in zip(parts, FIELDS, strict=True)]
    _, _, days, months, weekdays = fields
    if days and weekdays and any(part.startswith("*") for part in (parts[2], parts[4])):
        raise ValueError("*/n beside a weekday or a day of the month means different things: list the days")
    if days and not weekdays and min(days) > max(LONGEST[month - 1] for month in months or range(1, 13)):
        raise ValueError(f"there is no day {min(days)} in month {'/'.join(map(str, months or []))}")
    return fields


def _values(text: str, name: str) -> list[int] | None:
    """The numbers of one field; None for `*`."""
    if text == "*":
        return None
    low, high = FIELDS[name]
    known, values = NAMES.get(name, {}), set()
    for item in text.lower().split(","):
        match = re.fullmatch(r"(\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", item)
        ends = [low, high - (name == "weekday")]
        if match is not None and match[2]:
            numbers = [known.get(word, word) for word in (match[2], match[3] or match[2])]
            ends = [int(n) for n in numbers if str(n).isdecimal()]
        step = int(match[4] or 1) if match is not None else 0
        alone = match is not None and match[4] and match[2] and not match[3]  # 5/10: cron refuses it
        if alone or len(ends) < 2 or not low <= ends[0] <= ends[1] <= high or not 0 < step <= high:
            names = f", {'/'.join(known)}" if known else ""
            allowed = f"{low} to {high}{names}, *, a-b, */n, or a list with commas"
            raise ValueError(f"{name} {item!r} should be {allowed}")
        values |= {value % 7 if name == "weekday" else value for value in range(ends[0], ends[1] + 1, step)}
    return sorted(values)


def _cron(text: str) -> str:
    cron_fields(text)
    return " ".join(text.split())


def _timezone(name: str) -> str:
    known = available_timezones()
    if name not in known:
        raise ValueError(f"no such time zone.{did_you_mean(name, known)} One is Europe/Vienna")
    return name


Seconds = Annotated[PositiveFloat, BeforeValidator(_seconds)]


class Notify(Strict):
    """`command` gets the message as JSON on its standard input; `webhook_env`: the environment variable with
    the address to which it is posted. `on`: of which outcomes."""

    command: str | None = None
    webhook_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    on: Annotated[list[Outcome], BeforeValidator(split_slashes), Field(min_length=1)] = ["refused", "failed"]

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_word(cls, tree: Any) -> Any:
        """YAML reads the key `on` as true."""
        return {"on" if k is True else k: v for k, v in tree.items()} if isinstance(tree, dict) else tree

    def _problems(self) -> Iterator[str]:
        if not self.command and not self.webhook_env:
            yield "say command, webhook_env or both"


class Schedule(Strict):
    """`cron` in `timezone`: when `pipeline` runs for `dataset`, with `overrides` as after `--params`.
    `retries`: how often a stage that failed is tried again, after `retry_delay`; it goes on where it stopped.
    `timeout`: the longest time of a whole run. `active`: false: only started by hand."""

    dataset: str
    cron: Annotated[str, AfterValidator(_cron)]
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    pipeline: Literal["retrain", "evaluate", "distill", "teachers", "featurize", "ingest"] = "retrain"
    overrides: dict[str, Any] = {}
    retries: NonNegativeInt = 2
    retry_delay: Seconds = 60.0
    timeout: Seconds = 12 * 3600.0
    notify: Notify | None = None
    active: bool = True

    @model_validator(mode="before")
    @classmethod
    def _dataset_is_no_override(cls, tree: Any) -> Any:
        overrides = tree.get("overrides") if isinstance(tree, dict) else None
        for key in ("dataset", "study", "input"):
            if isinstance(overrides, dict) and key in overrides:
                raise ValueError(f"overrides.{key}: say dataset beside overrides; studies have no schedule")
        return tree
