"""Data sets of the `datasets` library, from the hub or from this machine: the only place that needs it (the extra `datasets`).

For example
    hf:owner/name               a data set of the hub, or its copy in the cache
    hf:folder, hf:file.csv      a local folder of data files, one written by `save_to_disk`, or one file
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groupwise.errors import ConfigError, DataError, nearest
from groupwise.tasks.jsonl import HELDOUT, Row, converted

PREFIX = "hf:"
_LOADERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}


def parts(name: str, split: str = "train", test: str | None = None, config: str | None = None) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out: the split `test`, else the first of `HELDOUT` that is there, else none.

    Rows are counted from 1 in messages. `ConfigError`: the library or a split is missing. `DataError`: the data set is.
    """
    splits = _splits(name, config)
    if test is None:
        test = next((one for one in HELDOUT if one in splits and one != split), None)
    for wanted in (split, test):
        if wanted is not None and wanted not in splits:
            raise ConfigError(f"data set {name!r} has no split {wanted!r}; {nearest(wanted, splits)}")
    if split == test:
        raise ConfigError(f"data set {name!r}: the split {split!r} cannot be trained on and held out at once")
    return _rows(name, split, splits), _rows(name, test, splits) if test is not None else []


def _rows(name: str, split: str, splits: Mapping[str, Any]) -> list[Row]:
    return [converted(f"{name}, split {split!r}, row {n}", fields) for n, fields in enumerate(splits[split], start=1)]


def _splits(name: str, config: str | None) -> Mapping[str, Any]:
    """The splits by name; one without splits is all "train"."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"the data set {name!r} needs the datasets library: pip install 'groupwise[datasets]'") from error
    datasets.disable_progress_bars()
    local = Path(name)
    if not local.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1 or local.suffix in _LOADERS):
        raise DataError(f"data set {name!r}: there is no such file or folder (looked from {Path.cwd()})")
    try:
        if local.is_file():
            if local.suffix not in _LOADERS:
                raise ConfigError(f"data file {name!r}: datasets reads {', '.join(_LOADERS)}, not {local.suffix!r}")
            more = {"delimiter": "\t"} if local.suffix == ".tsv" else {}
            found = datasets.load_dataset(_LOADERS[local.suffix], data_files=name, **more)
        elif (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, config)
    except ConfigError:
        raise
    except Exception as error:  # the library and the clients under it have dozens of error types of their own
        raise DataError(f"the data set {name!r} cannot be loaded ({type(error).__name__}: {error}). It must be 'owner/name' on "
                        "the hub, with a network or a copy in the cache, or a local folder or file; several configurations: give "
                        "config=NAME") from error
    return found if isinstance(found, Mapping) else {"train": found}
