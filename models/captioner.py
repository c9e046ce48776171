"""Encoder, decoder and search as one: pictures or clips in, hypotheses out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.claims import CLAIMS
from models.closer_look import FIRE, POSSIBLE, SPOT_SIDE, CloserLook, Spot, Spotted, warm_spot
from models.colour import COLOUR, shows_colour
from models.concept_vocabulary import NO_CONCEPTS, ConceptVocabulary
from models.concepts import concept_lemma
from models.decoders import Decoder, FrameLook
from models.decoding import BEAM_SEARCH, Decoding, Prepared, Searcher
from models.encoders import Encoder
from models.explanations import grids_over_picture
from models.frame_looks import FrameLooks, pad_frames
from models.fusion import Memory
from models.grounding import Grounding
from models.hazard_words import HAZARD_WORDS
from models.preference import CaptionChooser
from models.runtimes.engine import EagerEngine, Engine, Stepper
from models.search import Hypothesis as Path
from models.transforms import to_square
from models.vocabulary import BEGIN, END, PAD, Vocabulary
from models.wording import FORBIDDEN_WORDS

__all__ = ["Alternative", "Captioner", "Hypothesis", "Prepared", "Window", "Word", "pad_windows"]

Window = (
    tuple[Sequence[Tensor] | Tensor, Sequence[float]]
    | tuple[Sequence[Tensor] | Tensor, Sequence[float], Sequence[bool]]
    | tuple[Sequence[Tensor] | Tensor, Sequence[float], Sequence[bool], Spot | None]
)
"""Features of T frames, each (R, D), oldest first, their times in seconds, which of them show a
colour (:meth:`Captioner.coloured`), and the newest one's warm spot (:meth:`Captioner.spot`). The
last may be left out, or the last two: then any frame may show a colour, and the whole pictures
alone tell of fires."""


@dataclass(frozen=True)
class Word:
    """A word, its probability given the words before it, and where the model looked.

    ``attention`` is (T, rows, columns) float32 over the window's frames and sums to one, less
    what an adaptive model took from its sentinel instead.
    """

    text: str
    probability: float
    attention: NDArray[np.float32] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Alternative:
    """Another hypothesis: text and log probability in nats."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class Hypothesis:
    """The best caption of a clip; ``alternatives`` are the other beams, best first.

    ``finished`` is False for the best partial caption of a search that never ended.
    """

    text: str
    log_probability: float
    words: tuple[Word, ...]
    alternatives: tuple[Alternative, ...] = ()
    finished: bool = True


class Captioner(nn.Module):
    """A captioner ready to use.

    Attributes:
        closer: What looks closer for small fires, where the checkpoint has it.
        input_size: Side in pixels of the square :meth:`encode` takes.
        identity: Id of the checkpoint (:func:`models.checkpoint_files.checkpoint_identity`).

    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        vocabulary: Vocabulary,
        input_size: int,
        concepts: ConceptVocabulary = NO_CONCEPTS,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.closer: CloserLook | None = None
        self.vocabulary = vocabulary
        self.input_size = input_size
        self.identity = "untrained"
        self._engine: Engine = EagerEngine(encoder, decoder)
        self._looks = FrameLooks(decoder)
        self.concepts = concepts

    @property
    def concepts(self) -> ConceptVocabulary:
        """What it knows of its concepts; others of as many words may be set."""
        return self._concepts

    @concepts.setter
    def concepts(self, known: ConceptVocabulary) -> None:
        if len(known.words) != (count := self.decoder.config.concept_count):
            raise ValueError(f"{len(known.words)} concept words for a head of {count}")
        self._concepts = known
        self._grounding = Grounding(known.thresholds, self.vocabulary)
        chooser = CaptionChooser(known.lexicon, self.vocabulary) if known.lexicon else None
        never = _forbidden_tokens(self.vocabulary)
        self._search = Searcher(self.decoder, self.vocabulary, self._stepper, never, chooser)

    @property
    def concept_words(self) -> tuple[str, ...]:
        """What :meth:`detect` knows, lemmas, in the order of the concept head."""
        return self.concepts.words

    @property
    def runtime(self) -> str:
        """How it runs; ``eager`` is plain PyTorch."""
        return self._engine.name

    def run_on(self, engine: Engine) -> None:
        """Encode and decode through ``engine``, made of this captioner's encoder and decoder.

        Raises:
            RuntimeUnavailable: It cannot look closer, where the checkpoint does.

        """
        if self.closer is not None:  # now, and not in the middle of a live camera's caption
            blank = torch.zeros((1, 3, SPOT_SIDE, SPOT_SIDE), dtype=torch.uint8)
            engine.lower(blank, self.closer.after)
        self._engine = engine

    def _stepper(self, memory: Memory) -> Stepper:
        return self._engine.stepper(memory)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.output.weight.device

    def caption(
        self,
        clips: Sequence[NDArray[np.uint8]],
        beam_size: int = 3,
        max_words: int = 20,
        decoding: Decoding = BEAM_SEARCH,
    ) -> list[Hypothesis]:
        """Caption pictures (H, W, 3) or clips (T, H, W, 3), uint8 RGB, of any sizes.

        Raises:
            ValueError: An array of another shape or type, or decoding options that do not fit.

        """
        windows = self.windows(clips)
        return self.decode(windows, beam_size=beam_size, max_words=max_words, decoding=decoding)

    @torch.inference_mode()
    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """Encode (N, S, S, 3) uint8 RGB squares into (N, R, D + E) features on the device."""
        expected = (self.input_size, self.input_size, 3)
        if frames.dtype != np.uint8 or frames.shape[1:] != expected:
            raise ValueError(
                f"encode takes uint8 (N, {expected[0]}, {expected[1]}, 3), "
                f"not {frames.dtype} {frames.shape}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return self._engine.encode(pixels)

    def coloured(self, frames: NDArray[np.uint8]) -> list[bool]:
        """Whether each of (N, S, S, 3) uint8 RGB squares shows any colour; night cameras do not."""
        return [shows_colour(frame) for frame in frames]

    def spot(self, frame: NDArray[np.uint8]) -> Spot | None:
        """What :meth:`prepare` looks at closer of a window's newest (S, S, 3) uint8 RGB square."""
        return None if self.closer is None else warm_spot(frame)

    @torch.inference_mode()
    def prepare(self, windows: Sequence[Window] | Prepared) -> Prepared:
        """Make at least one window ready for :meth:`decode` and whatever else asks about it."""
        if isinstance(windows, Prepared):
            return windows
        longest = self.decoder.config.window_frames
        stacks = [list(window[0])[-longest:] for window in windows]
        features, mask = pad_windows(stacks)
        look = self._looks(stacks, mask.shape[1])
        # Two entries: nothing is said of colours.
        coloured = [len(window) < 3 or any(window[2][-longest:]) for window in windows]
        features, mask = features.to(self.device), mask.to(self.device)
        spots = [window[3] if len(window) == 4 else None for window in windows]
        hazards, spotted = self._looked_closer(look, features, mask, spots)
        return Prepared.of(self.decoder, features, mask, look, coloured, hazards, spotted)

    def _looked_closer(
        self,
        look: FrameLook,
        features: Tensor,
        mask: Tensor,
        spots: Sequence[Spot | None],
    ) -> tuple[Tensor | None, list[Spotted | None]]:
        """Probability of each hazard, (N, H), after a closer look, and what was found.

        Without any closer look the first is None.
        """
        found: list[Spotted | None] = [None] * len(spots)
        readout = self.decoder.readout
        if self.closer is None or readout is None or all(spot is None for spot in spots):
            return None, found
        evidence = self.decoder.evidence(features)
        hazards: Tensor = readout.judge(evidence, look.most, look.mean, mask)
        column = self._concept_index(FIRE)
        shown: dict[int, Spot] = {}
        for row, (spot, fire) in enumerate(zip(spots, hazards[:, column].tolist(), strict=True)):
            if spot is not None and fire >= POSSIBLE:
                shown[row] = spot
        if shown:
            pixels = np.stack([spot.picture for spot in shown.values()])
            maps = self._engine.lower(
                torch.from_numpy(pixels).permute(0, 3, 1, 2), self.closer.after
            )
            nats = self.closer(maps)
            rows = torch.tensor(list(shown), device=hazards.device)
            hazards[rows, column] = self.closer.weigh(hazards[rows, column], nats)
            for (row, spot), likelier in zip(shown.items(), nats.tolist(), strict=True):
                found[row] = Spotted(spot, likelier)
        return hazards, found

    @torch.inference_mode()
    def decode(
        self,
        windows: Sequence[Window] | Prepared,
        *,
        beam_size: int = 3,
        max_words: int = 20,
        decoding: Decoding = BEAM_SEARCH,
    ) -> list[Hypothesis]:
        """Caption windows of features; one :class:`Hypothesis` each, in order.

        Raises:
            ValueError: Decoding options that do not fit the model, its vocabulary or the beam.

        """
        if not len(windows):
            return []
        ready = self.prepare(windows)
        paths = self._search(ready, beam_size, max_words, decoding)
        evidence = self._evidence(ready) if decoding.grounded and decoding.plain else {}
        if evidence:
            paths = self._grounding.ground(
                ready,
                paths,
                evidence,
                lambda some, options: self._search(some, beam_size, max_words, options),
                decoding,
            )
        if decoding.prefers:
            paths = [of_window[:beam_size] for of_window in paths]
        frames: list[int] = ready.mask.sum(1).tolist()
        found = [
            self._hypothesis(path, own[-count:])
            for path, own, count in zip(paths, ready.features, frames, strict=True)
        ]
        return [
            self._borne_out(one, {kind: of[index] for kind, of in evidence.items()})
            for index, one in enumerate(found)
        ]

    def _evidence(self, windows: Prepared) -> dict[str, list[float]]:
        """Probability in each window of each kind of claim that captions are held against."""
        found: dict[str, list[float]] = {}
        for kind in self.concepts.thresholds:
            seen_as = CLAIMS[kind].concepts
            columns = [i for i, word in enumerate(self.concept_words) if word in seen_as]
            if columns:
                found[kind] = windows.memory.concepts[:, columns].amax(1).tolist()
        if not all(windows.coloured):
            found[COLOUR] = [float(one) for one in windows.coloured]
        return found

    def _borne_out(self, found: Hypothesis, evidence: Mapping[str, float]) -> Hypothesis:
        """A hazard's word is as probable as its evidence, where language alone is less sure."""
        words = tuple(
            replace(
                word,
                probability=max(
                    word.probability,
                    *(p for h, p in evidence.items() if word.text in HAZARD_WORDS.get(h, ())),
                    0.0,
                ),
            )
            for word in found.words
        )
        return replace(found, words=words)

    @torch.inference_mode()
    def score(self, clips: Sequence[NDArray[np.uint8]], sentences: Sequence[str]) -> Tensor:
        """Evidence in nats: log P(sentence | clip) - log P(sentence), (len(clips), n).

        The prior is taken with the picture hidden: a memory of zero features, of as many frames.
        """
        if not clips:
            return torch.zeros(0, len(sentences))
        return self.score_windows(self.windows(clips), sentences)

    @torch.inference_mode()
    def score_windows(
        self, windows: Sequence[Window] | Prepared, sentences: Sequence[str]
    ) -> Tensor:
        """Like :meth:`score`, of windows that are encoded already."""
        ready = self.prepare(windows)
        given = self._sentence_log_probability(ready.memory, sentences)
        # A hidden picture has as many frames as the window: what a sentence weighs is then the same
        # whatever windows stand beside it.
        masks, which = torch.unique(ready.mask, dim=0, return_inverse=True)
        blank = self.decoder.memory(
            ready.features.new_zeros(len(masks), *ready.features.shape[1:]), masks
        )
        return given - self._sentence_log_probability(blank, sentences)[which]

    @overload
    def detect(
        self, clips: Sequence[NDArray[np.uint8]], words: Sequence[str]
    ) -> NDArray[np.float32]: ...

    @overload
    def detect(
        self,
        clips: Sequence[NDArray[np.uint8]],
        words: Sequence[str],
        return_regions: Literal[True],
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]: ...

    @torch.inference_mode()
    def detect(
        self,
        clips: Sequence[NDArray[np.uint8]],
        words: Sequence[str],
        return_regions: bool = False,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Probability that each word belongs to each clip, (len(clips), n) float32.

        Args:
            clips: Pictures (H, W, 3) or clips (T, H, W, 3), uint8 RGB, of any sizes.
            words: Words the concept head was trained on, in any form (``fighting`` is fight).
            return_regions: Also return, for each clip, the evidence in nats that each position
                alone puts in: (n, T, rows, columns) float32. Of hazards it is the position's part
                of the log-odds (:meth:`models.concepts.HazardReadout.positions`); where a closer
                look made a fire likelier, what it added stands at each position of its spot too.

        Raises:
            ValueError: A word is not among :attr:`concept_words`; the text names the nearest.

        """
        if not clips:
            nothing = np.zeros((0, len(words)), np.float32)
            return (nothing, []) if return_regions else nothing
        windows = self.windows(clips)
        found, evidence = self.detect_windows(windows, words)
        if not return_regions:
            return found
        return found, [one[:, -len(w[0]) :] for one, w in zip(evidence, windows, strict=True)]

    @torch.inference_mode()
    def detect_windows(
        self, windows: Sequence[Window] | Prepared, words: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Like :meth:`detect` with regions, of windows that are encoded already.

        Returns:
            Probabilities (N, n), and evidence (N, n, T, rows, columns) in nats; frames that a
            window shorter than the longest lacks stand first and hold zeros.

        """
        columns = [self._concept_index(word) for word in words]
        ready = self.prepare(windows)
        head = self.decoder.concepts
        assert head is not None  # there are concepts, so there is a head
        found = ready.memory.concepts[:, columns].float().cpu().numpy()
        evidence = head.regions(ready.look.concepts, ready.mask, columns)
        readout = self.decoder.readout
        told = [i for i, column in enumerate(columns) if readout and column < len(readout.offset)]
        if readout and told:
            read = self.decoder.evidence(ready.features)
            evidence[..., told] = readout.positions(read, ready.mask, [columns[i] for i in told])
        evidence = evidence.movedim(-1, 1)
        boxes = self.encoder.boxes_in_features
        grids = grids_over_picture(evidence, ready.features.unsqueeze(1), boxes)
        for index, column in enumerate(columns):
            if self.concept_words[column] == FIRE:
                _mark(grids[:, index, -1], ready.spotted)
        return found, grids

    def _concept_index(self, word: str) -> int:
        # The lemma only where it is needed: it loads a dictionary.
        concept = word if word in self.concept_words else concept_lemma(word)
        if concept in self.concept_words:
            return self.concept_words.index(concept)
        near = difflib.get_close_matches(word, self.concept_words, 3, 0.0)
        nearest = f"the nearest are {', '.join(near)}" if near else "it has no concept head"
        raise ValueError(f"the model {self.identity} cannot detect {word!r}: {nearest}")

    def windows(self, clips: Sequence[NDArray[np.uint8]]) -> list[Window]:
        """Encode the newest frames of each clip, for :meth:`decode`; times are a second apart."""
        windows: list[Window] = []
        for clip in clips:
            frames = _frames_of(clip)[-self.decoder.config.window_frames :]
            squares = np.stack([to_square(frame, self.input_size) for frame in frames])
            times_s = [float(i) for i in range(len(frames))]
            spot = self.spot(squares[-1])
            windows.append((self.encode(squares), times_s, self.coloured(squares), spot))
        return windows

    def _sentence_log_probability(self, memory: Memory, sentences: Sequence[str]) -> Tensor:
        encoded = [[BEGIN, *self.vocabulary.encode(text), END] for text in sentences]
        tokens = torch.full((len(encoded), max(map(len, encoded))), PAD)
        for row, sentence in enumerate(encoded):
            tokens[row, : len(sentence)] = torch.tensor(sentence)
        tokens = tokens.to(self.device).expand(len(memory.values), *tokens.shape)
        logits, _ = self.decoder(memory, tokens.contiguous())
        targets = tokens[:, :, 1:]
        log_probabilities = F.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        total: Tensor = (log_probabilities * (targets != PAD)).sum(-1)
        return total

    def _hypothesis(self, paths: list[Path], features: Tensor) -> Hypothesis:
        """Read the paths of a clip whose real frames have these features (T, R, D)."""
        best = paths[0]
        words = tuple(
            Word(self.vocabulary.words[token], math.exp(log_probability), grid)
            for token, log_probability, grid in zip(
                best.tokens, best.word_log_probs, self._grids(best, features), strict=False
            )
        )
        return Hypothesis(
            self.vocabulary.decode(best.tokens),
            best.log_probability,
            words,
            tuple(
                Alternative(self.vocabulary.decode(path.tokens), path.log_probability)
                for path in paths[1:]
            ),
            best.finished,
        )

    def _grids(self, path: Path, features: Tensor) -> NDArray[np.float32]:
        """Attention of each word over the clip's real frames, (L, T, rows, columns)."""
        frames, regions, _ = features.shape
        if path.trace is None:
            return np.zeros((len(path.tokens), frames, 1, 1), np.float32)
        weights = path.trace[:, -frames * regions :].view(-1, frames, regions)
        return grids_over_picture(weights, features, self.encoder.boxes_in_features)


def _forbidden_tokens(vocabulary: Vocabulary) -> list[int]:
    return [token for token, word in enumerate(vocabulary.words) if word in FORBIDDEN_WORDS]


def pad_windows(windows: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack windows of features (R, D), newest frame last, missing frames in front.

    Returns:
        Features (N, T, R, D) and a mask (N, T), True where a frame exists; T is the longest
        window's.

    """
    frames = max(len(window) for window in windows)
    missing = torch.tensor([[frames - len(window)] for window in windows])
    return pad_frames(windows, frames).float(), torch.arange(frames) >= missing


def _mark(grids: NDArray[np.float32], spotted: Sequence[Spotted | None]) -> None:
    """Put what closer looks added into the newest frames' grids, (N, rows, columns)."""
    for grid, found in zip(grids, spotted, strict=True):
        if found is not None and found.nats > 0:
            found.spot.mark(grid, found.nats)


def _frames_of(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if clip.dtype != np.uint8 or clip.ndim not in (3, 4) or clip.shape[-1] != 3 or not clip.size:
        raise ValueError(
            "a clip is a uint8 RGB array of shape (H, W, 3) or (T, H, W, 3) with a frame or more, "
            f"not {clip.dtype} {clip.shape}"
        )
    return clip[None] if clip.ndim == 3 else clip
