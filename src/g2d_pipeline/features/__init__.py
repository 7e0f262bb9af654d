"""Raw samples → arrays a model can read: the transforms of each kind of modality, and the store of arrays.

Nothing here imports torch, pandas or scikit-learn before a store is written or read."""

from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.features.writing import write_store

__all__ = ["FeatureStore", "open_store", "write_store"]
