"""G²D: gradient-guided distillation for multimodal learning, as a Kedro project with a PyTorch core."""

__version__ = "0.1.0"
