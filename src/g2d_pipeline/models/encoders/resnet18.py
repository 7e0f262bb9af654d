"""ResNet-18 (torchvision's trunk) for images, spectrograms and clips (datasets.md §0.2)."""

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from g2d_pipeline.models.encoders.base import CLIP, IMAGE, Shape, Trunk


class ResNet18(Trunk, ResNet):  # type: ignore[misc]
    """`[N, C, H, W]` → `[N, 512]` (clips: `[N, 512 · h · w]`); any number of channels."""

    dimensions = (IMAGE, CLIP)
    has_stages = True
    weight_names = ("", "", "fc.", "conv1.weight")

    def __init__(self, shape: Shape) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
        self.fc = nn.Identity()
        if len(shape) == CLIP:
            self.avgpool = nn.Identity()
        self.width = 512

    def stages(self) -> list[nn.Module]:
        stem = map(self.get_submodule, ("conv1", "bn1", "relu", "maxpool", "layer1"))
        layers = [self.get_submodule(f"layer{i}") for i in (2, 3, 4)]
        pool, fc = self.get_submodule("avgpool"), self.get_submodule("fc")
        return [nn.Sequential(*stem), *layers, nn.Sequential(pool, nn.Flatten(), fc)]
