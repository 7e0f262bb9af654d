"""Retraining on a schedule, by Dagster, cron, systemd or Kubernetes: each runs the project's own commands."""
