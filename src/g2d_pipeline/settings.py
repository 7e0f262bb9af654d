"""Kedro's settings of this project."""

import warnings

from g2d_pipeline.catalog.loader import Catalog, ProjectConfigLoader
from g2d_pipeline.hooks import ProjectHooks

# Kedro registers its resolvers under OmegaConf's older name; the warning is for Kedro's developers.
warnings.filterwarnings("ignore", message=r"register_new_resolver\(\) is deprecated")
warnings.filterwarnings("ignore", message="The 'preview_fn' feature is experimental")

HOOKS = (ProjectHooks(),)
DATA_CATALOG_CLASS = Catalog
CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
    "config_patterns": {
        "parameters": ["parameters*", "datasets/*", "methods/*"],
        "catalog": ["catalog*"],
        "studies": ["studies/*"],
        "schedules": ["schedules*"],
    },
}
