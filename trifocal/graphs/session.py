"""Run an ONNX graph whose weights come from a weight file."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import WeightsError
from trifocal.utils.threads import Background, thread_count

__all__ = ["GRAPHS", "Graphs", "has_graphs", "network_record", "session_options"]

GRAPHS = Path(__file__).parent.parent / "weights" / "graphs"

# Optimisers that ran at export (`graph_export.folded`); they take a third of the time to open a graph.
AT_EXPORT = ["ConstantFolding", "ConstantSharing", "CommonSubexpressionElimination"]

# With waiting threads that spin for 20 µs before they sleep, a graph of many small operations takes 12 % less
# time; from 50 µs on, two processes on two cores get slower (benchmarks/busy.py). ONNX Runtime knows the
# duration since version 1.26.
SPIN_MICROSECONDS, SHORT_SPINS = "20", (1, 26)

Array = NDArray[Any]


class Graphs:
    """The graphs of a network, by name; a session is opened when a graph is first run, or in the background
    after `prefetch`. Several threads may run them.

    Args:
        name: of the network in the record of the bundled graphs.
        weights: by their names in the weight file, floats as float32. The arrays are used, not copied.

    Raises:
        WeightsError: on first use, for a graph that is not installed, or weights that do not fit it.
    """

    def __init__(self, name: str, weights: Mapping[str, Array]) -> None:
        self.files: dict[str, str] = network_record(name)["graphs"]
        self.weights = weights
        self._sessions: dict[str, Background[Any]] = {}
        self._extended: Graphs | None = None
        self._lock = Lock()  # of the two

    def __contains__(self, graph: str) -> bool:
        return graph in self.files

    def prefetch(self, *graphs: str) -> None:
        """Begin to open sessions in the background; `run` waits for them, and raises their errors."""
        with self._lock:
            for graph in {*graphs} - self._sessions.keys():
                path = GRAPHS / self.files[graph]
                self._sessions[graph] = Background(partial(open_graph, path, self.weights))

    def run(self, graph: str, last: bool = True, /, **inputs: Array) -> list[Array]:
        """The outputs of a graph.

        Args:
            last: False keeps the memory of a large graph for its next run.
        """
        self.prefetch(graph)
        session = self._sessions[graph].result()
        arrays = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        frees = last and self.files[graph] in record()["large"]
        outputs: list[Array] = session.run(None, arrays, freeing() if frees else None)
        return outputs

    def with_weights(self, others: Mapping[str, Array]) -> Graphs:
        """These graphs, with further weights, for graphs that need both."""
        with self._lock:
            if self._extended is None:
                self._extended = copy.copy(self)
                self._extended.weights = {**others, **self.weights}
                self._extended._sessions, self._extended._lock = {}, Lock()
            return self._extended

    def __deepcopy__(self, memo: dict[int, Any]) -> Graphs:
        """Sessions cannot be copied, and neither they nor the weights change."""
        return self


@lru_cache(maxsize=1)
def record() -> dict[str, Any]:
    """What `trifocal export-onnx` wrote about the bundled graphs: opset and exporter, the weights that each
    file needs, which files are "large" (to optimise them takes longer than to run them), and for each network
    its sizes and its graphs by name.
    """
    path = GRAPHS / "graphs.json"
    found: dict[str, Any] = (
        json.loads(path.read_text("utf-8")) if path.exists() else {"networks": {}, "weights": {}, "large": []}
    )
    return found


def has_graphs(name: str) -> bool:
    """Whether graphs of a network are bundled."""
    return name in record()["networks"]


def network_record(name: str) -> dict[str, Any]:
    """The sizes of a network, and under "graphs" the file of each of its graphs."""
    found: dict[str, Any] = record()["networks"][name]
    return found


def session_options(threads: int | None = None) -> Any:
    """Options of an onnxruntime session: errors only, that many threads (`thread_count` if None), and waiting
    threads soon sleep.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads or thread_count()
    short_spins = version_numbers(onnxruntime.__version__) >= SHORT_SPINS
    options.add_session_config_entry("session.intra_op.allow_spinning", "01"[short_spins])
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    return options


def version_numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in version.split(".")[:2])


def freeing() -> Any:
    """Options of a run that returns the memory of the arena afterwards."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def open_graph(path: Path, weights: Mapping[str, Array]) -> Any:
    """An onnxruntime session for a graph, with its weights."""
    import onnxruntime

    if not path.exists():
        raise WeightsError(f"The graph {path.name} is not installed; install Trifocal again.")
    content = path.read_bytes()
    options = session_options()
    large = path.name in record()["large"]
    # The sizes of other graphs differ from tile to tile, and the arena would keep the largest.
    options.enable_cpu_mem_arena = large
    # With a pattern, the second run takes as much memory again, and 20 ms longer than the third.
    options.enable_mem_pattern = not large
    if large:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = record()["weights"][path.name]
    try:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
        options.add_external_initializers(names, values)
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=AT_EXPORT
        )
    except Exception as error:
        raise WeightsError(
            f"The weights do not fit the graph {path.name}: {error}. Give others, or use the torch engine."
        ) from error
