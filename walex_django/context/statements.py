"""Recognition of SQL statements that write."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WRITES = frozenset(
    ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "CALL", "DO")
)
_FIRST = re.compile(r"[\s(]*([a-z]+)\b", re.IGNORECASE)
_TOKEN = re.compile(
    r"""
    --[^\n]* | /\*
    | \be'(?:\\.|[^'\\])*' | '[^']*' | "[^"]*"
    | \$([^\W\d]\w*|)\$.*?\$\1\$
    | (?P<word>;|[^\W\d][\w$]*)
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_COMMENT = re.compile(r"/\*|\*/")


def first_word(sql: str) -> str:
    """Return the first word of a statement in upper case, or an empty string."""
    if match := _FIRST.match(sql):
        return match[1].upper()
    return next((word for word in _words(sql) if word != ";"), "")


def writing_word(sql: str) -> str:
    """
    Return the keyword by which one or more statements may write rows.

    Functions that write are not recognized, and neither are rules and triggers of
    statements that only read.

    Args:
        sql: The SQL as passed to the driver, including placeholders.

    Returns:
        The keyword, such as ``"INSERT"``, or an empty string if nothing writes.

    Source: PostgreSQL, "SQL Commands" and "Lexical Structure".
    """
    word = first_word(sql)
    if word in _WRITES:
        return word
    if word != "WITH" and ";" not in sql:
        return ""
    return _search(sql)


def _search(sql: str) -> str:
    first = previous = ""
    for word in _words(sql):
        if word == ";":
            first = ""
        elif not first:
            first = word
            if word in _WRITES:
                return word
        elif first == "WITH" and _writes_within(word, previous):
            return word
        previous = word
    return ""


def _writes_within(word: str, previous: str) -> bool:
    if word == "UPDATE":
        return previous not in {"FOR", "KEY"}  # SELECT … FOR NO KEY UPDATE
    return word in {"INSERT", "DELETE", "MERGE"}


def _words(sql: str) -> Iterator[str]:
    """Yield the words and semicolons that are not quoted or commented out."""
    position = 0
    while match := _TOKEN.search(sql, position):
        position = match.end()
        if match[0] == "/*":
            position = _end_of_comment(sql, position)
        elif word := match["word"]:
            yield word.upper()


def _end_of_comment(sql: str, position: int) -> int:
    depth = 1  # comments nest
    while depth and (match := _COMMENT.search(sql, position)):
        depth += 1 if match[0] == "/*" else -1
        position = match.end()
    return len(sql) if depth else position
