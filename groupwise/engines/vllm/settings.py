"""The settings of an engine that is a process of its own; plain Python, read by every command."""

import math
from dataclasses import dataclass
from typing import Literal

from groupwise.errors import ConfigError


@dataclass(frozen=True)
class EngineSettings:
    """How another process samples (engine=vllm)."""

    engine_python: str = ""
    """The Python that has vLLM; empty: $GROUPWISE_VLLM_PYTHON, else .venv-vllm here (`make setup-vllm`), else this one."""
    engine_address: str = ""
    """HOST:PORT of a `groupwise serve` on another machine; empty: a process of this one."""
    engine_inside: bool = False
    """A thread of this process samples, whose own Python must have vLLM; what is lost there cannot be started again."""
    engine_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of its weights and products; auto: that of the learner's products."""
    engine_memory: float = 0.0
    """GiB for its cache of keys and values; 0: 1 on a processor, what vLLM finds free on a GPU."""
    engine_threads: int = 0
    """Threads of it on a processor; 0: as many as there are cores, up to 16."""
    engine_deadline: float = 300.0
    """Seconds without a sign of life after which it is ended and started again."""
    engine_restarts: int = 3
    """Times that it is started again for one and the same work, before the run stops."""
    engine_window: int = 0
    """Versions of the weights by which the oldest token of a completion may lie behind those that the engine has when it ends."""
    engine_tolerance: float = 0.0
    """Nats by which log-probs of learner and engine may differ in the mean; 0: 1e-4 in float32, 0.05 in bfloat16."""

    def __post_init__(self) -> None:
        for name, least in (("engine_memory", 0.0), ("engine_threads", 0), ("engine_restarts", 0), ("engine_window", 0),
                            ("engine_tolerance", 0.0)):
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least {least} and finite, got {getattr(self, name)}")
        if not 1.0 <= self.engine_deadline < math.inf:
            raise ConfigError(f"engine_deadline must be at least 1 second and finite, got {self.engine_deadline}")
        if self.engine_address:
            address_of(self.engine_address)
        if self.engine_inside and (more := [name for name in ("engine_python", "engine_address", "engine_threads")
                                            if getattr(self, name)]):
            raise ConfigError(f"engine_inside and {more[0]}: the engine is in the run's own process, with its Python and its "
                              "threads; leave one of them off")


def address_of(text: str) -> tuple[str, int]:
    """Host and port. ConfigError: it is not HOST:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"engine_address must be HOST:PORT, such as gpu7:8300, got {text!r}")
    return host.strip("[]"), int(port)
