"""Child processes that never outlive their parent, however the parent ends."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO, Any

# The shell waits for the child; its own child waits for the end of the pipe that only
# the parent holds. The kernel closes that pipe also when the parent is killed with -9.
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


# A server that is ending may still write while its directory goes.
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
    """Return a process that removes the directory when this one ends, or at `end`."""
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
    Start ``command`` so that it ends when this process does.

    Args:
        command: program and arguments.
        signal: name of the signal that ends it, without ``SIG``.
        options: for `subprocess.Popen` (``env``, ``user``, ``stdout``, …).

    Closing the ``stdin`` of what is returned ends the child, see `end`.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "sh", signal, *command],
        stdin=subprocess.PIPE,
        text=True,
        # A Ctrl-C on the terminal is for the parent, which ends its children in order.
        start_new_session=True,
        **options,
    )


def end(process: subprocess.Popen[str], timeout: float = 30) -> int:
    """Send the child its signal and return its exit status when it has ended."""
    stdin: IO[str] | None = process.stdin
    if stdin and not stdin.closed:
        stdin.close()
    return process.wait(timeout)
