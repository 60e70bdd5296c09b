"""Rollouts as JSON values and back, exactly: what a checkpoint keeps of groups that are sampled and not yet learnt from."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn, VersionSpan
from groupwise.core.verdict import Component, Verdict
from groupwise.errors import CheckpointError

TYPES = {kind.__name__: kind for kind in (Completion, Component, Context, Episode, Group, Prompt, Rollout, Span, Turn, Verdict,
                                          VersionSpan)}
GIVEN = {"Prompt": ("answer", "meta", "messages")}
"""Fields that hold JSON values already, whose lists must stay lists."""
KIND = "_kind"


def plain(value: Any) -> Any:
    """JSON values of a tree of rollouts. Tuples become lists, and tuples again in `made`: rollouts hold no lists."""
    name = type(value).__name__
    if TYPES.get(name) is type(value):
        given = GIVEN.get(name, ())
        items = {f.name: getattr(value, f.name) for f in fields(value)}
        return {KIND: name} | {key: _json(x) if key in given else plain(x) for key, x in items.items()}
    if isinstance(value, np.ndarray):
        return {KIND: "array", "type": str(value.dtype), "shape": list(value.shape), "values": value.ravel().tolist()}
    if isinstance(value, Mapping):
        return {key: plain(x) for key, x in value.items()}
    return [plain(x) for x in value] if isinstance(value, tuple) else value


def made(tree: Any) -> Any:
    """What `plain` was given. CheckpointError: a kind that it does not write."""
    if isinstance(tree, list):
        return tuple([made(x) for x in tree])
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(KIND)
    if kind is None:
        return {key: made(x) for key, x in tree.items()}
    if kind == "array":
        return np.array(tree["values"], dtype=tree["type"]).reshape(tree["shape"])
    if kind not in TYPES:
        raise CheckpointError(f"the checkpoint holds a {kind!r} among its rollouts, which this version does not know: resume "
                              "with the version that wrote it")
    given = GIVEN.get(kind, ())
    items = {key: x if key in given else made(x) for key, x in tree.items() if key != KIND}
    if kind == "Prompt":
        items["messages"] = tuple(items["messages"])
    return TYPES[kind](**items)


def _json(value: Any) -> Any:
    """Mappings that cannot be written as they are, as dicts."""
    if isinstance(value, Mapping):
        return {key: _json(x) for key, x in value.items()}
    return [_json(x) for x in value] if isinstance(value, list | tuple) else value
