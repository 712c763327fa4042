"""Statements that write rows are recognised by their keywords."""

from __future__ import annotations

import pytest

from walex_django.context.statements import first_word, writing_word


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("INSERT INTO a VALUES (%s)", "INSERT"),
        ("update a set b = 1", "UPDATE"),
        (" \n\tDelete FROM a", "DELETE"),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DO NOTHING", "MERGE"),
        ("TRUNCATE a", "TRUNCATE"),
        ("COPY a FROM '/tmp/a'", "COPY"),
        ("CALL a()", "CALL"),
        ("DO $$ BEGIN NULL; END $$", "DO"),
        ("-- why\nINSERT INTO a VALUES (1)", "INSERT"),
        ("/* it's /* nested */ SELECT */ INSERT INTO a VALUES (1)", "INSERT"),
        ("WITH b AS (SELECT 1) INSERT INTO a SELECT * FROM b", "INSERT"),
        ("WITH b AS (DELETE FROM a RETURNING *) SELECT * FROM b", "DELETE"),
        ("((WITH b AS (UPDATE a SET c = 1 RETURNING *) TABLE b))", "UPDATE"),
        ("SET LOCAL a.b = '1'; UPDATE a SET b = 1", "UPDATE"),
        ("; ;DELETE FROM a", "DELETE"),
    ],
)
def test_writing_statement_is_recognised(sql: str, word: str) -> None:
    assert writing_word(sql) == word


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "SELECT 1",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT * FROM a FOR UPDATE",
        "WITH b AS (SELECT 1) SELECT * FROM a FOR UPDATE",
        "WITH b AS (SELECT 1) SELECT * FROM a FOR NO KEY UPDATE",
        'WITH "insert" AS (SELECT 1) SELECT \'delete from a\' FROM "insert"',
        "WITH a AS (SELECT E'it\\'s; DELETE') SELECT 1 -- UPDATE",
        "WITH a AS (SELECT $x$ INSERT $$ $x$) SELECT 1 /* DELETE */",
        "SELECT ';' || $$; DELETE FROM a$$ || \"; UPDATE\" /* ; TRUNCATE a",
        "SELECT inserted, updated_at, undo FROM a; TABLE insertions",
        "SAVEPOINT a",
        "VACUUM a",
        "CREATE INDEX CONCURRENTLY a ON b (c)",
    ],
)
def test_reading_statement_is_not_recognised(sql: str) -> None:
    assert writing_word(sql) == ""


def test_first_word_is_found_after_comments() -> None:
    assert first_word('/* a */ rollback to savepoint "s1"') == "ROLLBACK"
    assert first_word("-- nothing") == ""
