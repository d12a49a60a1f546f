"""Candidates from PostgreSQL with the extension pgvector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import CandidateSourceError, InvalidInputError, MissingExtraError

__all__ = ["PgVector"]


class PgVector:
    """A table of PostgreSQL, made where there is none: id, version and vector of each document.

    It compares every vector, exactly. A graph of pgvector's (`CREATE INDEX ... USING hnsw`) finds much less, because
    documents and queries do not spread alike over the coordinates of these vectors (docs/tuning.md).

    Args:
        conninfo: of libpq, such as "postgresql://user@host/database".
        table: its name, with a schema in front or without.
        connections: how many at most, so how many searches at a time.

    Raises:
        MissingExtraError: psycopg is not installed.
        CandidateSourceError: the database cannot be reached, or has no pgvector and may not make it.
        InvalidInputError: `table` is no name.
    """

    def __init__(self, conninfo: str, table: str = "fastlane_candidates", *, connections: int = 8) -> None:
        try:
            import psycopg
            from psycopg import sql
            from psycopg_pool import ConnectionPool, PoolTimeout
        except ImportError as error:
            raise MissingExtraError("PgVector needs psycopg: pip install 'fastlane-rag[pgvector]'") from error
        if not isinstance(table, str) or not all(table.split(".")) or table.count(".") > 1:
            raise InvalidInputError(f"table must be a name, or a schema and a name with a dot between, not {table!r}")
        self._sql: Any = sql
        self._table: Any = sql.Identifier(*table.split("."))
        self._wrong = (psycopg.Error, PoolTimeout)
        with self._refusals():
            # Under a lock, because several that start at once would race for both.
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("SELECT pg_advisory_lock(4701213)")
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                columns = "(id text PRIMARY KEY, version text NOT NULL, vector vector NOT NULL)"
                connection.execute(self._query("CREATE TABLE IF NOT EXISTS {} " + columns))
            self._pool: Any = ConnectionPool(conninfo, min_size=1, max_size=connections, open=True, timeout=30)

    def upsert(self, ids: Sequence[str], vectors: NDArray[np.float32], versions: Sequence[str]) -> None:
        """Store documents, or replace them, in one transaction."""
        rows = [(*one, _text(vector)) for *one, vector in zip(ids, versions, vectors, strict=True)]
        query = self._query(
            "INSERT INTO {} (id, version, vector) VALUES (%s, %s, %s::vector) "
            "ON CONFLICT (id) DO UPDATE SET version = excluded.version, vector = excluded.vector"
        )
        with self._refusals(), self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(query, rows)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents."""
        with self._refusals(), self._pool.connection() as connection:
            connection.execute(self._query("DELETE FROM {} WHERE id = ANY(%s)"), [list(ids)])

    def versions(self) -> dict[str, str]:
        """The version of every document that is stored, by its id."""
        with self._refusals(), self._pool.connection() as connection:
            return dict(connection.execute(self._query("SELECT id, version FROM {}")).fetchall())

    def candidates(self, vector: NDArray[np.float32], n: int, ids: Sequence[str] | None = None) -> list[str]:
        """The ids of the n documents of greatest inner product with a vector."""
        where = self._sql.SQL("" if ids is None else "WHERE id = ANY(%(ids)s)")
        nearest = self._sql.SQL("SELECT id FROM {} {} ORDER BY vector <#> %(vector)s::vector LIMIT %(n)s")
        query = nearest.format(self._table, where)
        told = {"vector": _text(vector), "n": n, "ids": None if ids is None else list(ids)}
        with self._refusals(), self._pool.connection() as connection:
            return [id_ for (id_,) in connection.execute(query, told)]

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _query(self, text: str) -> Any:
        return self._sql.SQL(text).format(self._table)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except self._wrong as error:
            raise CandidateSourceError(f"PostgreSQL, table {self._table.as_string()}: {str(error).strip()}") from error


def _text(vector: NDArray[np.float32]) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"
