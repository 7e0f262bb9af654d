"""Kedro dataset classes: every artefact is there whole or not at all, and is never read when stale."""
