"""UME, the uni-modal ensemble (Du et al., ICML 2023): the teachers' own mean, with nothing trained on it."""

import torch

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods._weights import REMEDY, start_as_teachers
from g2d_pipeline.methods.base import Method, Rows, State

TRIED = 32  # samples of val on which a copy is compared with its teacher


class UME(Method):
    """Unimodal models, each trained alone, predict by the mean of their logits; nothing is trained together.

    The student is made of the teachers' encoders and heads, in late fusion; `average: probabilities` of that
    fusion takes the mean of their softmaxes. With one modality it is the teacher. In weighted fusion (ours)
    w_m is in inverse proportion to the teacher's task loss on val, its held-out precision in a regression: a
    poor predictor does not pull a good one to the middle."""

    needs_teachers = True
    equation = "l = Σ_m w_m u^m of the unimodal teachers; w_m = 1/k (late) or ∝ 1 / L^m on val (weighted)"
    source = "Du et al., ICML 2023, uni-modal ensemble"
    distributed = "exact"
    fusions = ("late", "weighted")
    works_with_smp = False
    no_smp = "trains nothing, so SMP has nothing to schedule"

    def epochs(self, epochs: int) -> int:
        return 1  # an epoch without a batch: scored and kept as any other

    def rows(self, rows: Rows, state: State) -> Rows:
        return rows[:0]

    def on_fit_start(self, state: State) -> None:
        start_as_teachers(state, "ume")
        self._compare(state)

    def _compare(self, state: State) -> None:
        """Equal shapes can still compute something else (attention's heads): compare outputs."""
        rows = state.rows("val")[:TRIED]
        for batch, output in state.evaluate(rows):
            for m, logits in state.unimodal_logits(output).items():
                remembered = state.teachers[m].view(batch.index.numpy(), logits.device).logits
                if not torch.allclose(logits, remembered, rtol=1e-2, atol=1e-2):  # another device, TF32
                    raise ConfigError(
                        f"ume: a copy of the teacher of {m} answers differently on val than the teacher "
                        f"remembers: its encoder has other settings. {REMEDY}"
                    )
