"""Forward passes of encoders that do not learn, in evaluation mode: what folding batch norm and packing
weights would save, and how many samples a forward should take.

CPU milliseconds a sample on one thread, least of rounds that take turns; `difference`: the largest one to the
features as they are, over the largest feature."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from common import write_result
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils import mkldnn

from g2d_pipeline.config import MobileNetV2, ResNet18, SmallCNN, Strict
from g2d_pipeline.models.encoders import build_encoder

ROUNDS, BATCH = 3, 16
CHUNKS = (8, 16, 32, 64, 256)
CASES: dict[str, tuple[tuple[int, ...], Strict]] = {
    "resnet18, 3 × 224 × 224": ((3, 224, 224), ResNet18()),
    "resnet18, 1 × 257 × 188": ((1, 257, 188), ResNet18()),
    "resnet18, 3 × 64 × 64": ((3, 64, 64), ResNet18()),
    "mobilenet_v2, 3 × 224 × 224": ((3, 224, 224), MobileNetV2()),
    "small_cnn, 1 × 129 × 63": ((1, 129, 63), SmallCNN(stride=2)),
    "small_cnn, 1 × 28 × 28": ((1, 28, 28), SmallCNN()),
}
Forward = Callable[[Tensor], Tensor]


def trained(shape: tuple[int, ...], encoder: Strict) -> nn.Module:
    """An encoder's trunk with running statistics, its channels innermost."""
    torch.manual_seed(0)
    trunk: Any = build_encoder(encoder, shape).trunk
    with torch.no_grad():
        for _ in range(3):
            trunk.train()(torch.randn(4, *shape))
    model: nn.Module = trunk.eval()
    return model


def ways(model: nn.Module, x: Tensor) -> dict[str, Forward]:
    """The same forward in several ways; the first one is ours."""
    with torch.no_grad():
        folded = fuse(copy.deepcopy(model)).to(memory_format=torch.channels_last)
        packed = mkldnn.to_mkldnn(fuse(copy.deepcopy(model).to(memory_format=torch.contiguous_format)))
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(copy.deepcopy(model), x)))
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)

    def without_inference_mode(x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            features: Tensor = model(x)
            return features

    return {
        "as it is": model,
        "no_grad, not inference_mode": without_inference_mode,
        "default memory format": plain,
        "batch norm folded": folded,
        "folded, weights packed (MKLDNN)": lambda x: packed(x.to_mkldnn()).to_dense(),
        "torch.jit.optimize_for_inference": frozen,
    }


def seconds(forward: Forward, x: Tensor) -> float:
    start = time.process_time()
    forward(x)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, (shape, encoder) in CASES.items():
        model = trained(shape, encoder)
        x = torch.randn(BATCH, *shape)
        with torch.no_grad():
            outputs = {way: (forward, forward(x)) for way, forward in ways(model, x).items()}
        with torch.inference_mode():
            times = [{way: seconds(f, x) for way, (f, _) in outputs.items()} for _ in range(ROUNDS)]
            by_size = {n: seconds(model, torch.randn(n, *shape)) / n * 1e3 for n in CHUNKS}
        expected = outputs["as it is"][1]
        for way, (_, features) in outputs.items():
            difference = float((features - expected).abs().max() / expected.abs().max())
            least = min(of[way] for of in times) / BATCH * 1e3
            ratio = min(of[way] for of in times) / min(of["as it is"] for of in times)
            row = {"encoder": name, "way": way, "ms": round(least, 3), "ratio": round(ratio, 3)}
            rows.append(row | {"difference": difference})
            print(
                f"{name:28} {way:34} {least:8.3f} ms × {ratio:.3f}, difference {difference:.1e}", flush=True
            )
        by_size = {n: round(ms, 3) for n, ms in by_size.items()}
        rows.append({"encoder": name, "ms_by_samples_of_a_forward": by_size})
        print(f"{name:28} ms a sample by samples of a forward: {by_size}", flush=True)
    write_result("frozen", rows, rounds=ROUNDS, batch_size=BATCH)


if __name__ == "__main__":
    main()
