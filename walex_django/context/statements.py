"""What a statement does, as far as its words tell."""

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
    """Return the first word of a statement in upper case, or nothing."""
    if found := _FIRST.match(sql):
        return found[1].upper()
    return next((word for word in _words(sql) if word != ";"), "")


def writing_word(sql: str) -> str:
    """
    Return the word by which one or several statements may write rows, or nothing.

    Functions that write, and rules and triggers of what only reads, are not seen.

    Args:
        sql: as the driver gets it, placeholders and all.

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
    """Yield words and semicolons, without what is quoted or commented out."""
    place = 0
    while found := _TOKEN.search(sql, place):
        place = found.end()
        if found[0] == "/*":
            place = _end_of_comment(sql, place)
        elif word := found["word"]:
            yield word.upper()


def _end_of_comment(sql: str, place: int) -> int:
    depth = 1  # they nest
    while depth and (found := _COMMENT.search(sql, place)):
        depth += 1 if found[0] == "/*" else -1
        place = found.end()
    return len(sql) if depth else place
