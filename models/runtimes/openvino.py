"""The CPU's fast runtime: encoder and decoder step as OpenVINO graphs.

The graphs are built in memory from the loaded modules, about a second for both, so that no
exported file can go stale (docs/adr: runtimes). They are converted by the PyTorch front end
itself and not by ``openvino.convert_model``, which would send usage statistics.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.decoders import Decoder, DecoderState
from models.encoders import Encoder, LowerStages
from models.fusion import Memory
from models.runtimes.engine import RuntimeUnavailable, Stepper, select_clips

try:
    import openvino
    from openvino import opset13
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
except ImportError:  # there are platforms without a wheel
    openvino = None

__all__ = ["Graph", "OpenVinoEngine", "Runner", "encoder_graph", "step_graph"]

_ANY = -1
_SMALL = 65_536
"""Elements of an input that is sooner copied than handed over."""


class Graph:
    """A module traced to a graph: ``model`` is an ``openvino.Model``.

    Args:
        module: In evaluation mode, on the CPU; takes and returns tensors only.
        examples: Inputs to trace with.
        shapes: For each input its shape, -1 where a dimension may be any.

    """

    def __init__(
        self, module: nn.Module, examples: Sequence[Tensor], shapes: Sequence[Sequence[int]]
    ) -> None:
        self.model = _convert(_frozen(module, examples))
        for port, example, shape in zip(self.model.inputs, examples, shapes, strict=True):
            node = port.get_node()
            node.set_element_type(_element_type(example))
            node.set_partial_shape(openvino.PartialShape(list(shape)))
        self.model.validate_nodes_and_infer_types()

    def weights_to_8_bits(self) -> None:
        """Keep the weights of products and look-ups as eight-bit integers, each row with its scale.

        Symmetric and to the nearest, as checkpoints keep some (:mod:`models.checkpoint`); it needs
        no data.
        """
        for node in self.model.get_ordered_ops():
            if node.get_type_name() in ("MatMul", "Gather"):
                for port in node.inputs():
                    source = port.get_source_output().get_node()
                    if source.get_type_name() == "Constant" and _is_matrix(source):
                        port.replace_source_output(_in_8_bits(source.data).output(0))
        self.model.validate_nodes_and_infer_types()

    def compile(self, precision: str, threads: int) -> Runner:
        """Compile for this CPU; ``precision`` is ``f32`` or ``bf16``."""
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        return Runner(openvino.Core().compile_model(self.model, "CPU", settings))

    def save(self, file: Path) -> None:
        """Write the graph as ``file`` (.xml) and its weights beside it (.bin), in float32."""
        openvino.save_model(self.model, file, compress_to_fp16=False)


class Runner:
    """Runs a compiled graph; not thread-safe.

    Each hand-over of an input costs some 30 us in the Python interface. So small inputs are copied
    into the same place for as long as they have the same shape, and a large one that is the same
    tensor as in the run before is not handed over again.
    """

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = range(len(compiled.outputs))
        # Kept, because the request reads them in place; a small one is the runner's own.
        self._inputs: list[Tensor | None] = [None] * len(compiled.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run; large inputs are read in place where they are contiguous.

        The first output lies in the request's memory until its next run; the others are copies.
        """
        for index, tensor in enumerate(inputs):
            kept, given = self._inputs[index], tensor.contiguous()
            if given.numel() <= _SMALL:
                if kept is not None and kept.shape == given.shape:
                    kept.copy_(given)
                    continue
                given = given.clone()
            if given is not kept:
                shared = openvino.Tensor(given.numpy(), shared_memory=True)
                self._request.set_input_tensor(index, shared)
                self._inputs[index] = given
        self._request.infer()
        results = (self._request.get_output_tensor(index).data for index in self._outputs)
        first, *others = map(torch.from_numpy, results)
        return [first, *(other.clone() for other in others)]


class OpenVinoEngine:
    """Encoder and decoder step on the CPU, through OpenVINO; as many threads as torch has.

    Args:
        encoder: On the CPU, in evaluation mode.
        decoder: The same.
        input_size: Side in pixels of the square that is encoded.
        precision: Of the encoder: ``f32`` or ``bf16``.
        weights_in_8_bits: Let the decoder's step keep its weights in eight bits.

    Raises:
        RuntimeUnavailable: OpenVINO is not installed, or cannot run one of the modules.

    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        input_size: int,
        precision: str = "f32",
        *,
        weights_in_8_bits: bool = False,
    ) -> None:
        if openvino is None:
            raise RuntimeUnavailable(
                "OpenVINO is not installed; `pip install openvino`, or use --runtime eager"
            )
        half = "-bf16" if precision == "bf16" else ""
        self.name = f"openvino{half}{'-int8' if weights_in_8_bits else ''}"
        threads = torch.get_num_threads()
        self._encoder, self._threads = encoder, threads
        self._lowering: dict[tuple[int, int], Runner] = {}
        try:
            self._encoding = encoder_graph(encoder, input_size).compile(precision, threads)
            step = step_graph(decoder)
            if weights_in_8_bits:
                step.weights_to_8_bits()
            # Scores stay in float32: half precision there saves little and reorders beams.
            self._stepping = step.compile("f32", threads)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RuntimeUnavailable(
                f"OpenVINO cannot run this model ({reason}); use --runtime eager"
            ) from error
        if precision == "f32":
            self._check(encoder, input_size)

    def _check(self, encoder: Encoder, input_size: int) -> None:
        """Compare with the module itself: a trace keeps no branch that depends on the pixels."""
        shape = (3, 3, input_size, input_size)  # another number than was traced with
        pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        with torch.inference_mode():
            expected = encoder(pixels)
        found = self.encode(pixels)
        largest = float(expected.abs().max())
        if found.shape != expected.shape or float((found - expected).abs().max()) > 1e-3 * largest:
            raise RuntimeUnavailable(
                f"OpenVINO gives other features than {encoder.name} itself; use --runtime eager"
            )

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels."""
        return self._encoding([pixels])[0].clone()

    def lower(self, pixels: Tensor, stages: int) -> Tensor:
        """Run the lower stages, in float32: a graph for each side, made when first asked for."""
        side = pixels.shape[-1]
        if (side, stages) not in self._lowering:
            shape = (3, side, side)
            example = torch.zeros((1, *shape), dtype=torch.uint8)
            try:
                lower = Graph(LowerStages(self._encoder, stages), [example], [(_ANY, *shape)])
                self._lowering[side, stages] = lower.compile("f32", self._threads)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise RuntimeUnavailable(
                    f"OpenVINO cannot look closer with this model ({reason}); use --runtime eager"
                ) from error
        return self._lowering[side, stages]([pixels])[0].clone()

    def stepper(self, memory: Memory) -> Stepper:
        """Return the step over these clips."""
        return _OpenVinoStepper(self._stepping, memory)


class _OpenVinoStepper:
    def __init__(self, stepping: Runner, memory: Memory) -> None:
        self._stepping = stepping
        self._memory = memory

    def __call__(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        logits, *parts = self._stepping([tokens, *state, *self._memory])
        return logits, DecoderState(*parts)

    def keep(self, clips: Tensor) -> None:
        """Go on with these clips only."""
        self._memory = select_clips(self._memory, clips)


def encoder_graph(encoder: Encoder, input_size: int) -> Graph:
    """Graph of an encoder: (N, 3, S, S) uint8 to (N, R, D) float32."""
    pixels = torch.zeros((1, 3, input_size, input_size), dtype=torch.uint8)
    return Graph(encoder, [pixels], [(_ANY, 3, input_size, input_size)])


def step_graph(decoder: Decoder) -> Graph:
    """Graph of a decoder's step; inputs are tokens, then the state's parts, then the memory's."""
    config = decoder.config
    clips, beams = 2, 3
    with torch.inference_mode():
        features = torch.zeros((clips, 2, 4, config.feature_size + config.evidence_size))
        memory = decoder.memory(features, torch.ones((clips, 2), dtype=torch.bool))
        once = decoder.initial_state(memory)
        state = DecoderState(*(part.repeat_interleave(beams, 0) for part in once))
    tokens = torch.full((clips * beams,), 1, dtype=torch.int64)
    examples = [tokens, *state, *memory]
    return Graph(_Step(decoder), examples, [_free_shape(example) for example in examples])


class _Step(nn.Module):
    """A decoder's step over plain tensors, as tracing wants it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        state = DecoderState(*parts[: len(DecoderState._fields)])
        memory = Memory(*parts[len(DecoderState._fields) :])
        logits, new_state = self.decoder.step(tokens, state, memory)
        return logits, *new_state


def _is_matrix(constant: Any) -> bool:
    return bool(constant.get_element_type() == openvino.Type.f32 and constant.data.ndim == 2)


def _in_8_bits(weights: NDArray[np.float32]) -> Any:
    """Return the node that turns (rows, columns) eight-bit weights back into float32."""
    scale = np.maximum(np.abs(weights).max(1, keepdims=True) / 127, np.float32(1e-12))
    rounded = np.rint(weights / scale).astype(np.int8)
    return opset13.multiply(opset13.convert(rounded, np.float32), scale)


def _free_shape(example: Tensor) -> list[int]:
    return [_ANY] * example.dim()


def _frozen(module: nn.Module, examples: Sequence[Tensor]) -> torch.jit.ScriptModule:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that become constants: they are constants
        traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), tuple(examples), check_trace=False
        )
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return frozen


def _convert(module: torch.jit.ScriptModule) -> Any:
    front_end = FrontEndManager().load_by_framework("pytorch")
    graph = TorchScriptPythonDecoder(module)  # the front end keeps no reference of its own
    loaded = front_end.load(graph)
    return front_end.convert(loaded)


def _element_type(example: Tensor) -> Any:
    array: NDArray[Any] = example.numpy()
    return openvino.Type(array.dtype)
