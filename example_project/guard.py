"""Child processes that never outlive their parent, even if the parent is killed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO, Any

# The shell waits for the command. A subshell waits for end-of-file on a pipe that only
# the parent writes to; the kernel closes it even if the parent is killed with SIGKILL.
_SCRIPT = """
exec 3<&0 </dev/null
signal=$1
shift
"$@" 3<&- &
child=$!
(read -r _ <&3; kill -s "$signal" "$child") 2>/dev/null &
watcher=$!
wait "$child"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"""


# A server that is shutting down may still write files while they are removed.
_REMOVE = """
read -r _
for try in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" 2>/dev/null
    [ -e "$1" ] || exit 0
    sleep 0.2
done
exit 1
"""


def removed_at_end(directory: Path) -> subprocess.Popen[str]:
    """Start a process that removes the directory when this one exits, or on `end`."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _REMOVE, "sh", str(directory)],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def guarded(
    command: list[str],
    *,
    signal: str = "TERM",
    **options: Any,
) -> subprocess.Popen[str]:
    """
    Start a command that is stopped when this process exits.

    Args:
        command: The program and its arguments.
        signal: The name of the signal that stops it, without ``SIG``.
        options: Options of `subprocess.Popen` (``env``, ``user``, ``stdout``, …).

    Returns:
        The process. Closing its ``stdin`` stops the command; see `end`.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "sh", signal, *command],
        stdin=subprocess.PIPE,
        text=True,
        # On Ctrl-C, only the parent gets the signal, and stops its children in order.
        start_new_session=True,
        **options,
    )


def end(process: subprocess.Popen[str], timeout: float = 30) -> int:
    """Stop a process of this module, and return its exit status once it has exited."""
    stdin: IO[str] | None = process.stdin
    if stdin and not stdin.closed:
        stdin.close()
    return process.wait(timeout)
