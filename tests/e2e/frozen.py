"""The last import of the server. Its forks inherit what `inspect.stack()`, which Kedro's settings call, finds out
about every module; and no collection of theirs walks, and so copies, what was imported."""

import gc
import inspect

inspect.stack()
gc.collect()
gc.freeze()
