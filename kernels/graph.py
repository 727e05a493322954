"""CUDA graphs of functions over static tensors; on any other device the function itself, called plainly.

What may be captured reads and writes tensors that live as long as the graph does, has one shape, and never waits for
the device or asks it anything. The plain twin keeps to the same rules, so a CPU shows most mistakes against them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Lane:
    """A stream of its own, with what its graphs share: they run one after another on it, and nowhere else.

    Graphs of one lane share a memory pool, and cuBLAS's workspace belongs to the stream they are captured on: two
    graphs of one lane that ran at once would write over each other, two of different lanes never do.

    device: where. urgent: take this lane's kernels before those of other lanes. capture: False calls plainly even on a
    GPU (kernels that look at lengths on the host can't be captured).
    """

    def __init__(self, device: torch.device, *, urgent: bool = False, capture: bool = True) -> None:
        self.device = device
        self.captures = capture and device.type == "cuda"
        self.captured = 0
        """Graphs captured."""
        self.refused = 0
        """Graphs that could not be captured, and are called plainly."""
        self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle() if self.captures else None

    def entered(self) -> AbstractContextManager[object]:
        """Make the lane's stream the thread's current one."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def graph(self, function: Callable[[], None]) -> Graph:
        """Capture `function`, after calling it a few times: those calls must do no harm."""
        return Graph(self, function)

    def upload(self, values: list[int] | list[float] | list[list[int]], target: Tensor) -> None:
        """Copy numbers from the host into a static tensor of their shape, in the order of the lane's work."""
        self.copy(torch.tensor(values, dtype=target.dtype), target)

    def copy(self, values: Tensor, target: Tensor) -> None:
        """Copy a tensor of the host into a static one, in the order of the lane's work."""
        if self._stream is None:
            target.copy_(values)
        else:
            # Pinned memory comes from torch's pool, which gives it out again only after this copy is done.
            target.copy_(values.pin_memory(), non_blocking=True)

    def instant(self) -> Instant:
        """The moment when the device has done all that was asked of the lane so far."""
        return Instant(self)

    def download(self, *sources: Tensor) -> Download:
        """Begin to copy static tensors to the host."""
        return Download(self, sources)


class Download:
    """Device tensors on their way to the host; `take` waits for them."""

    def __init__(self, lane: Lane, sources: tuple[Tensor, ...]) -> None:
        self._event: torch.cuda.Event | None = None
        if lane.device.type != "cuda":
            self._copies = [source.clone() for source in sources]
            return
        self._copies = [torch.empty(source.shape, dtype=source.dtype, pin_memory=True) for source in sources]
        for copy, source in zip(self._copies, sources, strict=True):
            copy.copy_(source, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def take(self) -> list[Tensor]:
        """The tensors, on the host."""
        if self._event is not None:
            self._event.synchronize()  # lets other threads run meanwhile
        return self._copies


class Instant:
    """When the device came to a place in a lane's work."""

    def __init__(self, lane: Lane) -> None:
        self._at, self._event = time.perf_counter(), None
        if lane.device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record()

    def until(self, later: Instant) -> float:
        """Seconds to a later instant, which the device has come to."""
        if self._event is None or later._event is None:
            return later._at - self._at
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1000


class Graph:
    """A captured function; calling it replays the capture on the current stream, which is the lane's."""

    def __init__(self, lane: Lane, function: Callable[[], None]) -> None:
        self._function = function
        self.captured: torch.cuda.CUDAGraph | None = None
        with lane.entered():
            if lane.captures:
                self._capture(lane)
            else:
                function()  # on a CPU too, so that what is broken shows before anybody waits for it

    def _capture(self, lane: Lane) -> None:
        for _ in range(2):  # the first call may compile kernels, choose algorithms and grow workspaces
            self._function()
        torch.cuda.synchronize(lane.device)
        # The capture is kept beside what is run: a conditional node takes it as its body.
        captured = torch.cuda.CUDAGraph(keep_graph=True)
        try:
            # Other threads may use the GPU meanwhile: what they do is none of this capture's business.
            with torch.cuda.graph(captured, pool=lane._pool, stream=lane._stream, capture_error_mode="thread_local"):
                self._function()
            captured.instantiate()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("called without a CUDA graph, slower: %s", " ".join(str(error).split())[:200])
            lane.refused += 1
            return
        lane.captured += 1
        self.captured = captured

    def __call__(self) -> None:
        if self.captured is None:
            self._function()
        else:
            self.captured.replay()
