"""Retraining: gates, challenger, promotion, and what a version needs to be rebuilt (docs/retrain.md)."""
