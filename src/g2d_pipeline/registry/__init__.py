"""Registered models: versions, what is checked before a retraining, and which version predicts."""
