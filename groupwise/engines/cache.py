"""A key-value cache whose rows can be repeated, dropped and trimmed in place: the native engine's working memory."""

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from groupwise.errors import EngineError


def window_of(config: PreTrainedConfig) -> int | None:
    """The smallest attention window of the model's layers, or None. EngineError if it keeps anything but keys and values."""
    layers = DynamicCache(config=config).layers
    kinds = {type(layer) for layer in layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise EngineError(f"the native engine caches keys and values only, and {config.model_type} keeps something else too "
                          f"({names})")
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows, default=None)


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [rows, heads, length, size], in buffers that hold `capacity` positions from the start.

    Windowed layers keep everything too: masks, not the cache, do the windowing, so rows and padding can be cut alike everywhere.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0
        self.place: Tensor | None = None
        self.is_initialized = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write new positions after the old ones; views of all of them."""
        if not self.is_initialized:
            rows, heads, _, size = key_states.shape
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys = key_states.new_empty(rows, heads, self.capacity, size)
            self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
            self.is_initialized = True
        if self.place is not None:
            self.keys.index_copy_(2, self.place, key_states)
            self.values.index_copy_(2, self.place, value_states)
            return self.keys, self.values
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length:end] = key_states
        self.values[:, :, self.length:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def fix(self, place: Tensor) -> None:
        """From now on write one position at the index that `place` [1] holds, and show the whole buffers, zero where nothing
        was written: nothing that a captured graph could not repeat.
        """
        self.place = place
        self.keys[:, :, self.length:] = 0.0
        self.values[:, :, self.length:] = 0.0

    def get_seq_length(self) -> int:
        """Positions held."""
        return self.length

    def select(self, rows: Tensor, start: int, capacity: int) -> None:
        """Keep these rows (repeats allowed), forget the first `start` positions, make room for `capacity` in all."""
        for name in ("keys", "values"):
            old: Tensor = self.__dict__[name]
            kept = old[:, :, start:self.length].index_select(0, rows)
            if len(rows) <= len(old) and capacity <= old.shape[2]:
                new = old[:len(rows)]  # the buffer is kept: fresh memory is dear on a CPU
            else:
                new = old.new_empty(len(rows), old.shape[1], capacity, old.shape[3])
            new[:, :, :self.length - start] = kept
            self.__dict__[name] = new
        self.length -= start
        self.place = None


class RowCache(Cache):  # type: ignore[misc]
    """A cache of `RowLayer`s, one per layer that caches, for any model that caches keys and values only."""

    def __init__(self, config: PreTrainedConfig, capacity: int) -> None:
        super().__init__(layers=[RowLayer(capacity) for _ in DynamicCache(config=config).layers])

    def fix(self, length: int, place: Tensor) -> int:
        """`RowLayer.fix` on every layer that holds something, at this length; the positions that the buffers hold."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.length = length
                layer.fix(place)
        return max(layer.keys.shape[2] for layer in self.layers if layer.is_initialized)

    def select(self, rows: Int[Tensor, " n"], start: int, capacity: int) -> None:
        """`RowLayer.select` on every layer that holds something (layers may share another one's keys)."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.select(rows, start, capacity)
