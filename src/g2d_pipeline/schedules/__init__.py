"""Retraining on a schedule: by Dagster, cron, systemd or Kubernetes, each around the project's own commands."""
