"""How much is not computed: floating-point operations of training, ours ÷ the published way (reference.py).

Those of convolutions and matrix products, counted by PyTorch: the same on every machine. Made-up data in the
published shapes, the recipes' encoders. Phases are epochs in which one modality learns; `whole` is a run of
300 epochs, half of them a phase and half joint, with all that ours computes once (features of a resting
encoder; the answers that teachers remember, one forward each). Validation is on neither side.

`bound`: the least that an exact method can do in the phase: the learning encoder forward and backward, and,
where the input is augmented anew for every batch, the teachers' and the resting encoder's forward on it.
`learner`: the first of these alone. `heads`: an epoch in which all learn with `logits: modality`, ÷ the same
with the published logits (bar: 1.02)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from common import RECIPES, Costs, Recipe, made_up, model_of, ours, reference, write_result
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from g2d_pipeline.training import Data

ROWS, BATCH = 4, 4  # operations grow evenly with both: few samples tell as much as many


def convolution_backward(
    grad_shape: Any, x_shape: Any, w_shape: Any, *others: Any, out_shape: Any = None
) -> int:
    """As many operations as forward for each of the two gradients that is asked for, with groups and without.

    PyTorch 2.11's own formula forgets the groups of the weight's gradient (pytorch/pytorch#183405): up to 960
    times too many for a depth-wise convolution of MobileNetV2."""
    *_, transposed, _, _, mask = others
    return int(conv_flop_count(x_shape, w_shape, grad_shape, transposed)) * (bool(mask[0]) + bool(mask[1]))


def counting() -> FlopCounterMode:
    """A counter, to be entered."""
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward}
    )


def encoder_flops(recipe: Recipe, data: Data, modality: str) -> tuple[float, float]:
    """FLOPs of an encoder on all training rows: (forward, forward and backward)."""
    encoder = model_of(recipe, data, modality).encoders[modality]
    x = torch.from_numpy(data.arrays[modality][data.rows["train"]])
    with counting() as forward, torch.no_grad():
        encoder(x)
    with counting() as both:
        encoder(x).sum().backward()
    return float(forward.get_total_flops()), float(both.get_total_flops())


def measure(recipe: Recipe) -> list[dict[str, Any]]:
    """A row for each norm of resting encoders and each modality that learns alone."""
    data = made_up(recipe, ROWS)
    flops = {m: encoder_flops(recipe, data, m) for m in recipe.modalities}
    augmented = [m for m, of in recipe.modalities.items() if of.augment is not None]
    with counting() as counter:
        theirs = reference(recipe, data, BATCH, counter.get_total_flops)
    phase_bar, whole_bar = (0.65, 0.78) if augmented else (0.50, 0.70)
    rows = []
    first = next(iter(recipe.modalities))
    epochs = []
    for drawn in ("multimodal", "modality"):
        with counting() as counter:
            epochs.append(
                ours(recipe, data, first, "frozen", BATCH, counter.get_total_flops, drawn=drawn).joint
            )
    for norm, view, alone in settings(recipe, augmented):
        with counting() as counter:
            costs = ours(recipe, data, alone, norm, BATCH, counter.get_total_flops, view)
        online_teachers = augmented if view == "augmented" else []
        remembered = sum(flops[m][0] for m in recipe.modalities if m not in online_teachers)
        costs = Costs(costs.phase, costs.joint, costs.once + remembered)
        live = sum(
            flops[m][0] * ((m in online_teachers) + (m != alone)) for m in augmented
        )  # and resting encoders
        row: dict[str, Any] = {
            "recipe": recipe.name,
            "augmented": augmented,
            "suppressed_norm": norm,
            "teacher_view": view,
            "learns_alone": alone,
            "published_order": alone == recipe.prioritised,
            "phase": costs.phase / theirs,
            "phase_bar": phase_bar,
            "bound": (flops[alone][1] + live) / theirs,
            "learner": flops[alone][1] / theirs,
            "joint": costs.joint / theirs,
            "whole": costs.mean() / theirs,
            "whole_bar": whole_bar,
            "heads": round(epochs[1] / epochs[0], 5),
            "reference_gflop_per_sample": theirs / ROWS / 1e9,
        }
        rows.append({k: round(v, 3) if isinstance(v, float) and k != "heads" else v for k, v in row.items()})
    return rows


def settings(recipe: Recipe, augmented: list[str]) -> Iterator[tuple[Any, Any, str]]:
    """(norm of resting encoders, what teachers see, who learns alone): those that differ."""
    for norm in ("frozen", "batch") if len(augmented) < len(recipe.modalities) else ("frozen",):
        for alone in recipe.modalities:
            yield norm, "augmented", alone
    if augmented:
        yield "frozen", "clean", recipe.prioritised


def main() -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    rows = []
    print(
        f"{'recipe':9} {'rests':7} {'teachers':10} {'learns alone':13} "
        "phase (bar)    bound  learner  joint  whole (bar)   heads"
    )
    for recipe in RECIPES:
        for row in measure(recipe):
            star = "*" if row["published_order"] else " "
            print(
                f"{row['recipe']:9} {row['suppressed_norm']:7} {row['teacher_view']:10} "
                f"{row['learns_alone'] + star:13} "
                f"{row['phase']:.3f} ({row['phase_bar']:.2f})  {row['bound']:.3f}  {row['learner']:.3f}    "
                f"{row['joint']:.3f}  {row['whole']:.3f} ({row['whole_bar']:.2f})  {row['heads']:.5f}",
                flush=True,
            )
            rows.append(row)
    print(f"* the published ranking prioritises it. {time.monotonic() - began:.0f} s")
    write_result("flops", rows, samples=ROWS, batch_size=BATCH)


if __name__ == "__main__":
    main()
