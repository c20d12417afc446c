"""What a command can't do as it was asked to: one sentence, and exit status 2."""

from __future__ import annotations

__all__ = ["CommandError", "missing"]


class CommandError(Exception):
    """The message is for the person at the command line."""


def missing(package: str | None) -> CommandError:
    """The sentence for a package that is not installed."""
    return CommandError(f'{package or "a package"} is not installed; run: pip install ".[demo]" in the clone')
