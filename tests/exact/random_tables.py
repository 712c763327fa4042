"""Random tables and columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

from .random_values import KEYS, MAKE, WIDE

SCHEMAS = ["shop", 'Größtes "Lager"']
JOURNAL = ("shop", "journal")
_LONG = "long_" * 12 + "end"  # 63 bytes
_TABLE_NAMES = ["same", "Order", "select", 'a "b"', "100%", "näme", _LONG, "sp ace"]
_COLUMN_NAMES = [
    *("name", "Name", "order", "user", "Größe", "with space", 'quo"te', "100%"),
    *("a.b", "it's", "\t", "new_record", "value", "VALUE", "{braces}", "\\", _LONG),
]


def quoted(*names: str) -> str:
    """Return an identifier for SQL with parameters."""
    return ".".join(
        '"' + name.replace('"', '""').replace("%", "%%") + '"' for name in names
    )


def literal(text: str) -> str:
    """Return a string literal for SQL with parameters."""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


@dataclass(frozen=True)
class Column:
    """
    A column.

    Attributes:
        name: The name, unquoted.
        type: The SQL type: a key of `MAKE`, `WIDE` or, for a key column, `KEYS`.
        wide: Whether many of its values are long.
        key: Whether it is part of the key.
        fixed: Whether it must not be dropped or altered.
        extra: The rest of its definition.
    """

    name: str
    type: str
    wide: bool = False
    key: bool = False
    fixed: bool = False
    extra: str = ""

    @property
    def definition(self) -> str:
        """The definition for CREATE TABLE."""
        return f"{quoted(self.name)} {self.type} {self.extra}"

    def value(self, random: Random) -> str | None:
        """Return a random value; not for key columns."""
        if random.random() < 0.1:
            return None
        return (WIDE if self.wide else MAKE)[self.type](random)


@dataclass
class Table:
    """
    A table and its current columns.

    Attributes:
        schema: The schema's name, unquoted.
        name: The table's name, unquoted.
        columns: All columns.
        identity: The columns of its replica identity, or `None` for FULL.
        constraints: The table constraints for CREATE TABLE.
        index: The index of its replica identity, if any.
        partitions: The number of partitions.
        parent: The table to which its column ``parent`` refers.
        size: The approximate number of rows.
    """

    schema: str
    name: str
    columns: list[Column]
    identity: tuple[str, ...] | None
    constraints: list[str] = field(default_factory=list)
    index: str = ""
    partitions: int = 0
    parent: Table | None = None
    size: int = 0

    @property
    def sql(self) -> str:
        """The quoted name."""
        return quoted(self.schema, self.name)

    @property
    def writable(self) -> list[Column]:
        """The columns that are not generated."""
        return [each for each in self.columns if "GENERATED" not in each.extra]

    @property
    def keys(self) -> list[Column]:
        """The columns of the key, if any."""
        return [column for column in self.columns if column.key]

    @property
    def loose(self) -> list[Column]:
        """The columns that can be dropped or altered."""
        return [each for each in self.columns if not (each.key or each.fixed)]

    @property
    def family(self) -> Table:
        """The table that stands for its locks."""
        return self.parent or self

    def create(self) -> list[str]:
        """Return the SQL that creates it."""
        parts = [*(column.definition for column in self.columns), *self.constraints]
        made = [f"CREATE TABLE {self.sql} ({', '.join(parts)})"]
        if self.partitions:
            made[0] += f" PARTITION BY HASH ({quoted(self.keys[0].name)})"
        names = [self.sql]
        for number in range(self.partitions):
            names.append(quoted(self.schema, f"{self.name[:50]} {number}"))
            made.append(
                f"CREATE TABLE {names[-1]} PARTITION OF {self.sql}"
                f" FOR VALUES WITH (MODULUS {self.partitions}, REMAINDER {number})"
            )
        if self.identity is None:
            made += [f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in names]
        if self.index:
            using = f"REPLICA IDENTITY USING INDEX {quoted(self.index)}"
            made.append(f"ALTER TABLE {self.sql} {using}")
        made += [
            f"ALTER TABLE {self.sql} ALTER {quoted(column.name)} SET STORAGE EXTERNAL"
            for column in self.columns
            if column.wide
        ]
        return made

    def row(self, random: Random, number: int) -> list[str | None]:
        """Return a row's values in the order of the writable columns."""
        return [
            KEYS[column.type](number) if column.key else column.value(random)
            for column in self.writable
        ]


class Columns:
    """A source of random columns that uses every type."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._types = self._shuffled()

    def deal(self, taken: list[str], count: int) -> list[Column]:
        """Return columns with new names, and add these to the names taken."""
        return [self.one(taken) for _ in range(count)]

    def one(self, taken: list[str]) -> Column:
        """Return a column with a new name, and add it to the names taken."""
        name = self._random.choice(_COLUMN_NAMES)
        while name in taken:
            name = self._random.choice([*_COLUMN_NAMES, f"column {len(taken)}"])
        taken.append(name)
        return Column(name, next(self._types))

    def wide(self, taken: list[str]) -> Column:
        """Return a column with values that are often TOASTed."""
        return replace(
            self.one(taken), type=self._random.choice(sorted(WIDE)), wide=True
        )

    def _shuffled(self) -> Iterator[str]:
        while True:
            yield from self._random.sample(sorted(MAKE), len(MAKE))


class Maker:
    """
    A factory of random tables.

    Args:
        random: The source of randomness.
        version: The server's version number, such as 180000.

    Attributes:
        published_generated: Whether to publish stored generated columns.
    """

    def __init__(self, random: Random, version: int) -> None:
        self._random, self._version = random, version
        self.published_generated = version >= 180000 and random.random() < 0.5
        self._columns = Columns(random)
        # Both schemas have the same table names, so the schema has to be respected.
        names = random.sample(_TABLE_NAMES, len(_TABLE_NAMES))
        self._names = iter([(schema, name) for name in names for schema in SCHEMAS])
        self._key_types = iter(random.sample(sorted(KEYS) * 2, len(KEYS) * 2))

    def table(self, *, keys: int, full: bool = False, wide: int = 0) -> Table:
        """Return a table whose first columns are the keys."""
        taken: list[str] = []
        columns = []
        for _ in range(keys):
            column = self._columns.one(taken)
            columns.append(
                replace(column, type=next(self._key_types), key=True, extra="NOT NULL")
            )
        names = tuple(taken)
        columns += [self._columns.wide(taken) for _ in range(wide)]
        columns += self._columns.deal(taken, self._random.randint(4, 7))
        schema, name = next(self._names)
        primary = [f"PRIMARY KEY ({', '.join(map(quoted, names))})"] if keys else []
        return Table(schema, name, columns, None if full else names, primary)

    def partitioned(self, *, full: bool) -> Table:
        """Return a table with partitions, between which rows move."""
        table = self.table(keys=1, full=full, wide=1)
        table.partitions = 3
        return table

    def indexed(self) -> Table:
        """Return a table with REPLICA IDENTITY USING INDEX."""
        table = self.table(keys=2, wide=1)
        primary, other = (quoted(column.name) for column in table.keys)
        table.index = "other key"
        table.constraints = [
            f"PRIMARY KEY ({primary})",
            f"CONSTRAINT {quoted(table.index)} UNIQUE ({other})",
        ]
        table.identity = (table.keys[1].name,)
        return table

    def family(self) -> list[Table]:
        """Return a table and another that refers to it."""
        parent, child = self.table(keys=1), self.table(keys=1, full=True)
        child.parent = parent
        refers = f"REFERENCES {parent.sql} ON UPDATE CASCADE ON DELETE CASCADE"
        child.columns.append(
            Column("parent", parent.keys[0].type, fixed=True, extra=refers)
        )
        return [parent, child]

    def generated(self, *, full: bool) -> Table:
        """Return a table with generated columns; FULL requires publishing them."""
        table = self.table(keys=1, full=full)
        table.columns += [
            Column("base", "text", fixed=True),
            Column("stored", "integer", fixed=True, extra=_GENERATED + " STORED"),
        ]
        # PostgreSQL 18 requires all columns of a replica identity to be published.
        if self._version >= 180000 and not full:
            table.columns.append(
                Column("virtual", "integer", fixed=True, extra=_GENERATED + " VIRTUAL")
            )
        return table

    def all(self) -> list[Table]:
        """Return tables of all kinds; parents come before tables that refer to them."""
        return [
            self.table(keys=1),
            self.table(keys=1, wide=2),
            self.table(keys=2, wide=1),
            self.table(keys=3),
            self.table(keys=0, full=True),
            self.table(keys=1, full=True, wide=2),
            self.table(keys=2, full=True),
            self.indexed(),
            self.partitioned(full=False),
            self.partitioned(full=True),
            self.generated(full=False),
            self.generated(full=self.published_generated or self._version < 180000),
            *self.family(),
        ]


_GENERATED = 'GENERATED ALWAYS AS (length("base"))'
