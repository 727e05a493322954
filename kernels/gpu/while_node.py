"""A loop on the device: one CUDA graph launch that runs a captured body until a flag in device memory is 0.

Source: conditional nodes of CUDA graphs (CUDA programming guide, "Conditional graph nodes"; drivers from 12.4 on). The
driver is asked by cuda-python, which torch does not need: without it, or on a CPU, the host runs the same loop and
looks at the flag after each turn.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Final

import torch
from torch import Tensor

from ..graph import Graph

OLDEST_DRIVER: Final = 12_040

SET_CONDITION: Final = """
.version 8.0
.target sm_80
.address_size 64

.extern .func cudaGraphSetConditional (.param .b64 handle, .param .b32 value);

.visible .entry set_condition (.param .u64 handle, .param .u64 flag)
{
    .reg .b32 %value;
    .reg .b64 %handle, %flag;
    ld.param.u64 %handle, [handle];
    ld.param.u64 %flag, [flag];
    cvta.to.global.u64 %flag, %flag;
    ld.global.u32 %value, [%flag];
    {
        .param .b64 first;
        .param .b32 second;
        st.param.b64 [first], %handle;
        st.param.b32 [second], %value;
        call.uni cudaGraphSetConditional, (first, second);
    }
    ret;
}
"""
"""The kernel that ends each turn: it tells the node what the flag says. Text, so that no compiler is needed."""


def refusal(device: torch.device) -> str | None:
    """Why a loop can't run on this device by itself, in one line; None when it can."""
    if device.type != "cuda":
        return "a loop on the device needs a GPU"
    try:
        api = _api()
        version = _checked(api, api.cuDriverGetVersion())
    except ImportError:
        return "a loop on the device needs cuda-python (pip install cuda-bindings)"
    except Exception as error:
        return f"cuda-python can't ask the driver: {' '.join(str(error).split())}"
    if version < OLDEST_DRIVER:
        have = f"{version // 1000}.{version // 10 % 100}"
        return f"a loop on the device needs a driver of CUDA 12.4 or newer, this one is of {have}"
    return None


class WhileLoop:
    """`before` once, then `body`, again and again while `goes_on` is not 0; calling it launches on the current stream.

    before, body: graphs of one lane. goes_on: int32 (), which the body writes. Raises RuntimeError, one line, when the
    driver takes no such graph.
    """

    def __init__(self, before: Graph, body: Graph, goes_on: Tensor) -> None:
        self._before, self._body, self._goes_on = before, body, goes_on  # the driver's graph reads their memory
        captured = before.captured, body.captured
        self.on_device = captured[0] is not None and captured[1] is not None and refusal(goes_on.device) is None
        if self.on_device:
            self._launch = self._built(*(graph.raw_cuda_graph() for graph in captured if graph is not None))

    def __call__(self) -> None:
        if self.on_device:
            _checked(self._driver, self._driver.cuGraphLaunch(self._launch, torch.cuda.current_stream().cuda_stream))
            return
        self._before()
        self._body()
        while self._goes_on.item():
            self._body()

    def _built(self, before: int, body: int) -> Any:
        """The executable graph: `before`, then the node with `body` and the kernel that decides in it."""
        self._driver = cu = _api()
        context = _checked(cu, cu.cuCtxGetCurrent())
        module = _checked(cu, cu.cuModuleLoadData(SET_CONDITION.encode() + b"\0"))
        function = _checked(cu, cu.cuModuleGetFunction(module, b"set_condition"))
        graph = _checked(cu, cu.cuGraphCreate(0))
        # At each launch the condition is 1: the first turn needs no asking.
        handle = _checked(cu, cu.cuGraphConditionalHandleCreate(graph, context, 1, cu.CU_GRAPH_COND_ASSIGN_DEFAULT))
        first = _checked(cu, cu.cuGraphAddChildGraphNode(graph, None, 0, cu.CUgraph(init_value=before)))
        loop = cu.CUgraphNodeParams()
        loop.type = cu.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        loop.conditional.handle = handle
        loop.conditional.type = cu.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_WHILE
        loop.conditional.size = 1
        loop.conditional.ctx = context
        _checked(cu, cu.cuGraphAddNode(graph, [first], None, 1, loop))
        turn = loop.conditional.phGraph_out[0]
        work = _checked(cu, cu.cuGraphAddChildGraphNode(turn, None, 0, cu.CUgraph(init_value=body)))
        decide = cu.CUDA_KERNEL_NODE_PARAMS()
        decide.func, decide.sharedMemBytes = function, 0
        decide.gridDimX = decide.gridDimY = decide.gridDimZ = 1
        decide.blockDimX = decide.blockDimY = decide.blockDimZ = 1
        decide.kernelParams = ((int(handle), self._goes_on.data_ptr()), (ctypes.c_uint64, ctypes.c_void_p))
        _checked(cu, cu.cuGraphAddKernelNode(turn, [work], 1, decide))
        return _checked(cu, cu.cuGraphInstantiate(graph, 0))


def _api() -> Any:
    return importlib.import_module("cuda.bindings.driver")


def _checked(api: Any, result: tuple[Any, ...]) -> Any:
    """The value of a call of the driver. Raises RuntimeError with the driver's own name for what went wrong."""
    status, *values = result
    if status != api.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver refused a loop on the device: {api.CUresult(status).name}")
    return values[0] if values else None
