"""Problems that a user can solve, each in one line."""

from __future__ import annotations

_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")
_LESS_MEMORY = {"upscale": "; try a smaller --tile", "train": "; try a smaller batch or patch: -r batch=8, -r patch=24"}


def line_of(error: BaseException, command: str) -> str | None:
    """The problem behind an error of a command, with its cure where there is one; None: a fault of this program."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _is_shortage(error)):
        what = str(error) if isinstance(error, MemoryError) else ""
        return (what or "not enough memory") + _LESS_MEMORY.get(command, "")
    # FloatingPointError: a loss is not finite
    if isinstance(error, ValueError | OSError | ImportError | FloatingPointError) or _is_told(error):
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _is_shortage(error: RuntimeError) -> bool:
    """PyTorch's allocators say "out of memory" on a GPU, "can't allocate memory" on the CPU."""
    return type(error).__name__ != "StudyError" and any(words in str(error) for words in _MEMORY)


def _is_told(error: BaseException) -> bool:
    """A RuntimeError that is written for the user: runs of a study that failed, or a ~ where there is no home."""
    return type(error).__name__ == "StudyError" or "determine home directory" in str(error)
