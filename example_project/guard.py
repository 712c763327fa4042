"""Child processes that never outlive their parent, however the parent ends."""

from __future__ import annotations

import subprocess
from typing import IO, Any

# The shell waits for the child; its own child waits for the end of the pipe that only
# the parent holds. The kernel closes that pipe also when the parent is killed with -9.
_SCRIPT = """
exec 3<&0 </dev/null
signal=$1 leftover=$2
shift 2
"$@" 3<&- &
child=$!
(read -r _ <&3; kill -s "$signal" "$child") 2>/dev/null &
watcher=$!
wait "$child"
status=$?
kill "$watcher" 2>/dev/null
[ -n "$leftover" ] && rm -rf "$leftover"
exit "$status"
"""


def guarded(
    command: list[str],
    *,
    signal: str = "TERM",
    leftover: str = "",
    **options: Any,
) -> subprocess.Popen[str]:
    """
    Start ``command`` so that it ends when this process does.

    Args:
        command: program and arguments.
        signal: name of the signal that ends it, without ``SIG``.
        leftover: a directory to remove after its end.
        options: for `subprocess.Popen` (``env``, ``user``, ``stdout``, …).

    Closing the ``stdin`` of what is returned ends the child, see `end`.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "sh", signal, leftover, *command],
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
