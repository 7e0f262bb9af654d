"""Every parameter as a pydantic model: the only place that knows defaults and allowed values.

Nothing here imports torch or Kedro, so that a run with nothing to do starts at once. How files, method
defaults and `--params` are merged into these models is the business of `resolve.py`."""

from __future__ import annotations

from g2d_pipeline.config.augment import AudioAugment, AugmentSettings, ImageAugment, TabularAugment
from g2d_pipeline.config.base import (
    SPLITS,
    Counts,
    Fraction,
    Names,
    Numbers,
    Seeds,
    Split,
    Strict,
    Task,
    split_slashes,
)
from g2d_pipeline.config.encoders import (
    ENCODER_GROUP,
    ENCODERS,
    MLP,
    Bag,
    EncoderSettings,
    ExternalEncoder,
    MobileNetV2,
    ResNet18,
    SmallCNN,
    Transformer,
)
from g2d_pipeline.config.features import (
    AudioFeatures,
    FeatureSettings,
    ImageFeatures,
    SequenceFeatures,
    TabularFeatures,
    TextFeatures,
    VectorFeatures,
    VideoFeatures,
)
from g2d_pipeline.config.fusion import (
    FUSION_GROUP,
    FUSIONS,
    BiGated,
    Concat,
    Cosine,
    CrossAttention,
    ExternalFusion,
    FiLM,
    FusionSettings,
    Late,
    Shared,
    Sum,
    Weighted,
)
from g2d_pipeline.config.layouts import (
    AVMNIST,
    MISME,
    AVDigits,
    CremaD,
    Join,
    LayoutSettings,
    SplitFractions,
    SplitSettings,
    SpokenMNIST,
    Table,
    TargetSettings,
    URFunny,
    VGGSound,
)
from g2d_pipeline.config.modalities import (
    AudioModality,
    ImageModality,
    ModalitySettings,
    SequenceModality,
    TabularModality,
    TextModality,
    VectorModality,
    VideoModality,
)
from g2d_pipeline.config.run import DatasetSettings, RunSettings
from g2d_pipeline.config.smp import SMPSettings, parse_tau
from g2d_pipeline.config.stages import (
    DistillSettings,
    EvaluateSettings,
    FeaturizeSettings,
    IngestSettings,
    RunOptions,
    StudentRun,
    TeacherRun,
    TeachersSettings,
)
from g2d_pipeline.config.training import (
    SGD,
    Adam,
    AdamW,
    CosineSchedule,
    LRSchedule,
    MultiStepSchedule,
    OptimizerSettings,
    PlateauSchedule,
    StepSchedule,
    TrainingSettings,
    WarmupSchedule,
    parse_batch_size,
)
