"""Write docs/methods.md from the methods' docstrings, their YAML and a measurement: `python
scripts/methods_doc.py`."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

from g2d_pipeline.config import ENCODERS, FUSIONS, SGD, SmallCNN, Strict, TrainingSettings
from g2d_pipeline.methods import load
from g2d_pipeline.methods.base import Method, MethodContext
from g2d_pipeline.models import Encoder, MultimodalModel
from g2d_pipeline.overrides import METHOD_KEYS
from g2d_pipeline.training import Data, train_student, train_teacher
from g2d_pipeline.training.scoring import Evaluator

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENT = PROJECT / "docs" / "methods.md"
BATCHES = 8
HEAD = """# Methods

Made by `python scripts/methods_doc.py` from the docstrings in `src/g2d_pipeline/methods/` and the files in
`conf/base/methods/`; do not edit. `kedro run --params dataset=<d>,method=<name>` trains one,
`compare=a/b/c` several; every hyper-parameter can be given there, too (`alpha=0.5`, `weights.audio=2`). SMP,
the schedule, can be put on every method that says so: `smp=true`. How to write one of your own:
[extending.md](extending.md#add-a-method).

Costs are counted in a training of two modalities ({batches} batches, one epoch): samples that go forward
through the encoders, and backward passes, as multiples of joint training's. Validation is not counted.
"""


def methods() -> dict[str, dict[str, Any]]:
    """name → what its YAML says."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((PROJECT / "conf/base/methods").glob("*.yml")):
        found |= yaml.safe_load(file.read_text(encoding="utf-8"))["methods"]
    return found


def comments(name: str) -> dict[str, str]:
    """Parameter → the comment behind it in the method's YAML."""
    text = (PROJECT / f"conf/base/methods/{name}.yml").read_text(encoding="utf-8")
    return {m[1]: m[2].strip() for m in re.finditer(r"^ +(\w+):[^#\n]*# *(.+)$", text, re.MULTILINE)}


def head_comment(name: str) -> str:
    """The comment that a method's YAML begins with."""
    lines = (PROJECT / f"conf/base/methods/{name}.yml").read_text(encoding="utf-8").splitlines()
    return " ".join(
        line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)
    )


def first_paragraph(of: Any) -> str:
    """Of a docstring, on one line."""
    return " ".join(inspect.cleandoc(of.__doc__ or "").split("\n\n")[0].split())


def rest(of: Any) -> str:
    """The docstring after its first paragraph."""
    return "\n\n".join(inspect.cleandoc(of.__doc__ or "").split("\n\n")[1:])


def own(of: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters in a method's YAML, without the sections that every method has."""
    return {key: value for key, value in of.items() if key not in METHOD_KEYS}


# ------------------------------------------------------------------------------------------------------ costs
def wrapping(wrapper: Any, original: Any) -> Any:
    """A function, and so a method where a class has it, that calls the wrapper with the original first."""
    return lambda *arguments, **named: wrapper(original, *arguments, **named)


@contextmanager
def counting() -> Iterator[dict[str, float]]:
    """Count what happens while training: samples through encoders, and backward passes."""
    counts = {"forward": 0.0, "backward": 0.0}
    scoring = [False]  # validation is not counted

    def forward(original: Any, self: Any, x: torch.Tensor) -> torch.Tensor:
        counts["forward"] += 0 if scoring[0] else len(x)
        return original(self, x)  # type: ignore[no-any-return]

    def whole(original: Any, self: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        if self.exchange is not None and not scoring[0]:  # its encoders run stage by stage
            counts["forward"] += sum(len(x) for x in inputs.values())
        return original(self, inputs, *arguments, **named)

    def backward(original: Any, *arguments: Any, **named: Any) -> Any:
        counts["backward"] += 1
        return original(*arguments, **named)

    def score(original: Any, *arguments: Any, **named: Any) -> Any:
        scoring[0] = True
        try:
            return original(*arguments, **named)
        finally:
            scoring[0] = False

    replaced = (
        (Encoder, "forward", forward),
        (MultimodalModel, "forward", whole),
        (torch.autograd, "backward", backward),
        (torch.autograd, "grad", backward),
        (Evaluator, "score", score),
    )
    with ExitStack() as stack:
        for owner, name, wrapper in replaced:
            original = getattr(owner, name)
            stack.enter_context(mock.patch.object(owner, name, wrapping(wrapper, original)))
        yield counts


def tiny(task: str) -> Data:
    rng = np.random.default_rng(0)
    n = 16 * BATCHES + 32
    label = rng.integers(0, 3, n)
    inputs = {m: rng.normal(size=(n, 1, 8, 8)).astype(np.float32) + label[:, None, None, None] for m in "ab"}
    split = ["train"] * (16 * BATCHES) + ["val"] * 16 + ["test"] * 16
    return Data.from_arrays(inputs, label if task == "classification" else label / 4 + 0.1, split, task=task)


def costs(found: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """name → (samples through encoders, backward passes) a batch, as multiples of joint's."""
    training = TrainingSettings(epochs=1, batch_size=16, optimizer=SGD(lr=0.01), selection="last")
    encoders: dict[str, Strict] = dict.fromkeys("ab", SmallCNN(widths=[4, 6], grid=1))
    raw: dict[str, tuple[float, float]] = {}
    teachers: dict[str, Any] = {}
    for name, of in {"joint": found["joint"], **found}.items():
        cls = load(of.get("algorithm", name))
        task = "classification" if "classification" in cls.tasks else "regression"
        data = tiny(task)
        if task not in teachers:
            teachers[task] = {
                m: train_teacher(data, m, encoders[m], training=training, progress=False) for m in "ab"
            }
        fusion = of.get("fusion") or (
            "late" if cls.fusions is None or "late" in cls.fusions else cls.fusions[0]
        )
        with counting() as counted:
            train_student(
                data, encoders, teachers[task], method=of.get("algorithm", name), parameters=own(of),
                smp=of.get("smp"), fusion=fusion, training=training, progress=False,
            )  # fmt: skip
        after = 2 * 32  # `remember` looks once at val and test with every encoder
        raw[name] = ((counted["forward"] - after) / (2 * 16 * BATCHES), counted["backward"] / BATCHES)
    base = raw["joint"]
    return {name: (raw[name][0] / base[0], raw[name][1] / base[1]) for name in found}


# ------------------------------------------------------------------------------------------------------- text
def allowed(field: Any) -> str:
    """The range of a hyper-parameter in words."""
    text = re.sub(r"\btyping\.|\bannotated_types\.", "", str(field.annotation))
    choices = re.findall(r"Literal\[([^\]]+)\]", text)
    if choices:
        return " / ".join(c.strip(" '") for c in choices[0].split(","))
    bounds = [
        re.sub(r"(\w+)\(\w+=(.+)\)", lambda m: f"{SIGNS.get(m[1], m[1])} {m[2]}", str(m))
        for m in field.metadata
    ]
    kind = re.sub(r"<class '(\w+)'>", r"\1", text)
    return ", ".join([kind, *(b for b in bounds if "Strict" not in b and "Validator" not in b)])


SIGNS = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}


def source(name: str, of: dict[str, Any]) -> str:
    """Where a method comes from; a setting of another one says which."""
    algorithm = of.get("algorithm", name)
    return load(algorithm).source if algorithm == name else f"a setting of `{algorithm}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def passes(method: Method, setting: MethodContext) -> bool:
    """Whether a method takes a setting."""
    try:
        method.check(setting)
    except ValueError:
        return False
    return True


def where(cls: type[Method], of: dict[str, Any]) -> str:
    """Fusions, tasks, encoders, number of modalities, SMP: what `check` lets through, with the YAML's
    settings."""
    method = cls(cls.Parameters.model_validate(own(of)))
    settings = {name: {} for name in FUSIONS}
    if isinstance(brought := of.get("fusion"), dict):
        settings[brought["name"]] = brought
    good = [
        (fusion, task, encoder)
        for fusion, task, encoder in itertools.product(FUSIONS, ("classification", "regression"), ENCODERS)
        if passes(
            method,
            MethodContext(task, fusion, dict.fromkeys("ab", encoder), fusion_settings=settings[fusion]),
        )
    ]
    fusions, tasks, encoders = (tuple(dict.fromkeys(column)) for column in zip(*good, strict=True))
    fusion, task, encoder = good[0]
    smp = passes(
        method,
        MethodContext(task, fusion, dict.fromkeys("ab", encoder), smp=True, fusion_settings=settings[fusion]),
    )
    return "; ".join(
        [
            "every fusion" if set(fusions) == set(FUSIONS) else " / ".join(fusions),
            " and ".join(tasks),
            *([] if set(encoders) == set(ENCODERS) else ["encoders " + " / ".join(encoders)]),
            "any k ≥ 2" if cls.max_modalities is None else f"k ≤ {cls.max_modalities}",
            "SMP" if smp else "no SMP",
        ]
    )


def section(name: str, of: dict[str, Any], cost: tuple[float, float]) -> list[str]:
    cls = load(of.get("algorithm", name))
    lines = [f"## `{name}`", "", first_paragraph(cls)]
    if of.get("algorithm", name) != name:
        lines[-1] = f"A setting of `{of['algorithm']}`, without code of its own. {head_comment(name)}"
    elif more := rest(cls):
        lines += ["", more]
    lines += [
        "",
        f"- Equation: {cls.equation or '–'}",
        f"- Source: {source(name, of)}",
        f"- Works with: {where(cls, of)}",
    ]
    if of.get("fusion"):
        fusion = of["fusion"]
        lines.append(f"- Brings its fusion: `{fusion if isinstance(fusion, str) else fusion['name']}`")
    lines.append(f"- Teachers: {'yes' if cls.needs_teachers else 'for SMP only' if of.get('smp') else 'no'}")
    lines.append(f"- Cost a batch: encoders × {cost[0]:.2f}, backward passes × {cost[1]:.2f}")
    note = f": {cls.not_exact}" if cls.not_exact else ""
    lines.append(f"- On several devices: {cls.distributed or 'not said'}{note}")
    if cls.no_sharding:
        lines.append(f"- Not with `compute.strategy: fsdp`: it {cls.no_sharding}")
    fields, said = cls.Parameters.model_fields, comments(name)
    if fields:
        lines += ["", "| hyper-parameter | default | allowed | |", "|---|---|---|---|"]
        for key, field in fields.items():
            default = of.get(key, field.get_default(call_default_factory=True))
            lines.append(
                f"| `{key}` | {cell(str(default))} | {cell(allowed(field))} | {cell(said.get(key, ''))} |"
            )
    return [*lines, ""]


def document() -> str:
    """The whole text; equal inputs give equal text."""
    found = methods()
    measured = costs(found)
    lines = [
        HEAD.format(batches=BATCHES),
        "| method | source | works with | encoders × | backward × |",
        "|---|---|---|---|---|",
    ]
    for name, of in found.items():
        cls = load(of.get("algorithm", name))
        forward, backward = measured[name]
        lines.append(
            f"| [`{name}`](#{name}) | {cell(source(name, of))} | {cell(where(cls, of))} | "
            f"{forward:.2f} | {backward:.2f} |"
        )
    lines.append("")
    for name, of in found.items():
        lines += section(name, of, measured[name])
    lines += ["# Fusions", "", "| fusion | settings | |", "|---|---|---|"]
    for name, settings in FUSIONS.items():
        keys = [f"`{key}`" for key in settings.model_fields if key not in ("name", "unimodal_readout")]
        lines.append(f"| `{name}` | {', '.join(keys) or '–'} | {cell(first_paragraph(settings))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = document()
    DOCUMENT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{DOCUMENT.relative_to(PROJECT)}: {len(methods())} methods\n")
