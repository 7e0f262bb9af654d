"""The errors that are meant for people: one readable message, an exit status, no traceback."""

from __future__ import annotations


class G2DError(Exception):
    """A failure that the user can act on; the command line prints the message alone and exits with `exit_status`."""

    exit_status = 1


class ConfigError(G2DError, ValueError):
    """A parameter is wrong: the message names the file, the key, the value and what is allowed (exit status 2)."""

    exit_status = 2


class DataError(G2DError, ValueError):
    """Raw data or an artefact is wrong: the message names the file, the row and the remedy (exit status 1)."""


class LockedError(G2DError):
    """Another run holds the data folder (exit status 1)."""
