"""Rows of Parquet files: the only place that needs pyarrow (the extra `parquet`)."""

from groupwise.errors import ConfigError, DataError
from groupwise.tasks.jsonl import Row, converted, existing


def rows(path: str) -> list[Row]:
    """The rows of a file, counted from 1 in messages. `ConfigError`: pyarrow is missing; `DataError`: it cannot be read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ConfigError(f"reading {path!r} needs pyarrow: pip install 'groupwise[parquet]'") from error
    try:
        found = parquet.read_table(existing(path)).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({error})") from error
    return [converted(f"{path}, row {n}", fields) for n, fields in enumerate(found, start=1)]
