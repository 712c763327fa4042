"""Random tables, as one that writes to them sees them."""

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
    """Return a name as in SQL that has parameters."""
    return ".".join(
        '"' + name.replace('"', '""').replace("%", "%%") + '"' for name in names
    )


def literal(text: str) -> str:
    """Return a text as in SQL that has parameters."""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


@dataclass(frozen=True)
class Column:
    """
    A column.

    Attributes:
        name: unquoted.
        type: in SQL; what `MAKE`, `WIDE` or, of a key, `KEYS` has.
        wide: many of its values are long.
        key: tells rows apart.
        fixed: it stays, under its name.
        extra: what else its definition says.
    """

    name: str
    type: str
    wide: bool = False
    key: bool = False
    fixed: bool = False
    extra: str = ""

    @property
    def definition(self) -> str:
        """What CREATE TABLE says of it."""
        return f"{quoted(self.name)} {self.type} {self.extra}"

    def value(self, random: Random) -> str | None:
        """Return a value for a column that is no key."""
        if random.random() < 0.1:
            return None
        return (WIDE if self.wide else MAKE)[self.type](random)


@dataclass
class Table:
    """
    A table and its columns as they are now.

    Attributes:
        schema, name: unquoted.
        columns: all of them.
        identity: what its replica identity tells of rows: columns, or all for `None`.
        constraints: what CREATE TABLE says after the columns.
        index: of its replica identity, or nothing.
        partitions: how many it has.
        parent: what its column ``parent`` refers to.
        size: about how many rows it has.
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
        """The name in SQL."""
        return quoted(self.schema, self.name)

    @property
    def writable(self) -> list[Column]:
        """The columns that are not generated."""
        return [each for each in self.columns if "GENERATED" not in each.extra]

    @property
    def keys(self) -> list[Column]:
        """The columns that tell rows apart, if any."""
        return [column for column in self.columns if column.key]

    @property
    def loose(self) -> list[Column]:
        """The columns that may be dropped or become others."""
        return [each for each in self.columns if not (each.key or each.fixed)]

    @property
    def family(self) -> Table:
        """The table on which its locks depend."""
        return self.parent or self

    def create(self) -> list[str]:
        """Return the SQL that makes it."""
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
        """Return a row, in the order of the writable columns."""
        return [
            KEYS[column.type](number) if column.key else column.value(random)
            for column in self.writable
        ]


class Columns:
    """Deals out columns so that each type is in some table."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._types = self._shuffled()

    def deal(self, taken: list[str], count: int) -> list[Column]:
        """Return columns whose names are not taken; takes them."""
        return [self.one(taken) for _ in range(count)]

    def one(self, taken: list[str]) -> Column:
        """Return a column whose name is not taken; takes it."""
        name = self._random.choice(_COLUMN_NAMES)
        while name in taken:
            name = self._random.choice([*_COLUMN_NAMES, f"column {len(taken)}"])
        taken.append(name)
        return Column(name, next(self._types))

    def wide(self, taken: list[str]) -> Column:
        """Return one with values that are stored apart."""
        return replace(
            self.one(taken), type=self._random.choice(sorted(WIDE)), wide=True
        )

    def _shuffled(self) -> Iterator[str]:
        while True:
            yield from self._random.sample(sorted(MAKE), len(MAKE))


class Maker:
    """
    Makes random tables.

    Args:
        version: of the server, such as 180000.

    Attributes:
        published_generated: generated columns that are stored are to be published.
    """

    def __init__(self, random: Random, version: int) -> None:
        self._random, self._version = random, version
        self.published_generated = version >= 180000 and random.random() < 0.5
        self._columns = Columns(random)
        # The same names in both schemas, so that these are told apart.
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
        """Return one with partitions, between which rows move."""
        table = self.table(keys=1, full=full, wide=1)
        table.partitions = 3
        return table

    def indexed(self) -> Table:
        """Return one with REPLICA IDENTITY USING INDEX."""
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
        """Return a table and one that refers to it."""
        parent, child = self.table(keys=1), self.table(keys=1, full=True)
        child.parent = parent
        refers = f"REFERENCES {parent.sql} ON UPDATE CASCADE ON DELETE CASCADE"
        child.columns.append(
            Column("parent", parent.keys[0].type, fixed=True, extra=refers)
        )
        return [parent, child]

    def generated(self, *, full: bool) -> Table:
        """Return one with generated columns; FULL wants them published."""
        table = self.table(keys=1, full=full)
        table.columns += [
            Column("base", "text", fixed=True),
            Column("stored", "integer", fixed=True, extra=_GENERATED + " STORED"),
        ]
        # Of a replica identity PostgreSQL 18 wants all to be published.
        if self._version >= 180000 and not full:
            table.columns.append(
                Column("virtual", "integer", fixed=True, extra=_GENERATED + " VIRTUAL")
            )
        return table

    def all(self) -> list[Table]:
        """Return tables of all kinds, parents before those that refer to them."""
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
