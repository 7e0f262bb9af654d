"""Kedro data sets whose artefacts are whole or absent, and never read when stale."""
