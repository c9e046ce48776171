"""How to decode: options beyond beam size, and the search that each of them asks for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from models.closer_look import Spotted
from models.consensus import consensus_order
from models.decoders import Decoder, DecoderState, FrameLook
from models.fusion import Memory
from models.guided_search import constrained_search, diverse_search
from models.preference import BY_SCORE, PREFERENCE, CaptionChooser, Preference
from models.runtimes.engine import Stepper, select_clips
from models.sampling import NucleusSampling
from models.search import Hypothesis, SearchConfig, search
from models.vocabulary import BEGIN, END, PAD, UNKNOWN, Vocabulary

__all__ = ["BEAM_SEARCH", "Decoding", "Prepared", "Searcher"]

Paths = list[list[Hypothesis]]


@dataclass(frozen=True)
class Decoding:
    """What to look for besides the most likely caption. The default is plain beam search.

    ``forced_words`` must be said, a tuple among them means any one of its words;
    ``forbidden_words`` must not. At most one of these changes how captions are searched:
    ``forced_words``; ``diverse_groups`` above 1, one caption for each of so many parts of the
    beam, a word that another part chose costing ``diversity_strength`` nats; and ``top_p``,
    ``samples`` captions drawn from the nucleus at ``temperature``. ``latent_samples`` draws so many
    latents of a model that has them, and searches once for each. ``seed`` fixes what is drawn.
    ``consensus`` takes, instead of the most likely, the caption that the others agree with most:
    of all ``hypotheses``, or of those of the single ``frames`` of a window. Where neither draws nor
    consensus choose, and the checkpoint knows its concepts' words, the search keeps twice as many
    finished captions as its beam is wide, ``preference`` orders them (:mod:`models.preference`),
    and as many as the beam is wide are left; :data:`models.preference.BY_SCORE` leaves all of that
    out. ``grounded`` holds what captions claim (hazards, people, colours) against the evidence
    (:mod:`models.grounding`), in plain beam search.
    """

    forced_words: tuple[str | tuple[str, ...], ...] = ()
    forbidden_words: tuple[str, ...] = ()
    min_words: int = 3
    length_penalty: float = 0.7
    block_ngrams: int = 3
    diverse_groups: int = 1
    diversity_strength: float = 0.5
    top_p: float | None = None
    temperature: float = 1.0
    samples: int = 5
    latent_samples: int = 0
    seed: int = 0
    consensus: Literal["none", "hypotheses", "frames"] = "none"
    preference: Preference = PREFERENCE
    grounded: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        asked = (bool(self.forced_words), self.diverse_groups != 1, self.top_p is not None)
        if sum(asked) > 1:
            raise ValueError("choose one of forced_words, diverse_groups and top_p")
        if min(self.min_words, self.latent_samples) < 0 or self.samples < 1:
            raise ValueError("min_words and latent_samples are 0 or more, samples 1 or more")
        if self.consensus not in ("none", "hypotheses", "frames"):
            raise ValueError(f"consensus is none, hypotheses or frames, not {self.consensus!r}")

    @property
    def plain(self) -> bool:
        """Whether this is beam search with nothing but numbers changed."""
        return (
            not self.draws
            and not self.forced_words
            and self.diverse_groups == 1
            and self.consensus == "none"
        )

    @property
    def draws(self) -> bool:
        """Whether captions are drawn at random, so that each counts the same."""
        return self.top_p is not None or self.latent_samples > 0

    @property
    def prefers(self) -> bool:
        """Whether what was found is ordered by the preference."""
        return not self.draws and self.consensus == "none" and self.preference != BY_SCORE


BEAM_SEARCH = Decoding()
"""Plain beam search."""


@dataclass(frozen=True)
class Prepared:
    """Windows made ready, so that decoding, detecting and scoring share the work.

    ``features`` (N, T, R, D) with ``mask`` (N, T), the decoder's ``look`` at each of their frames
    and its ``memory`` of them; ``coloured`` (N), whether any of a window's frames shows a colour;
    ``spotted`` (N), what a closer look came to.
    """

    features: Tensor
    mask: Tensor
    look: FrameLook
    memory: Memory
    coloured: tuple[bool, ...]
    spotted: tuple[Spotted | None, ...]

    @classmethod
    def of(
        cls,
        decoder: Decoder,
        features: Tensor,
        mask: Tensor,
        look: FrameLook | None = None,
        coloured: Sequence[bool] | None = None,
        hazards: Tensor | None = None,
        spotted: Sequence[Spotted | None] | None = None,
    ) -> Prepared:
        """Make padded windows ready, from what was seen of their frames where that is known.

        Where nothing is said of colours, there may be some; ``hazards`` (N, H) are probabilities
        to go by instead of the read-out's own.
        """
        look = decoder.look(features) if look is None else look
        memory = decoder.remember(look, features, mask, hazards)
        known = (True,) * len(features) if coloured is None else tuple(coloured)
        seen = (None,) * len(features) if spotted is None else tuple(spotted)
        return cls(features, mask, look, memory, known, seen)

    def select(self, indices: Sequence[int]) -> Prepared:
        """Keep some windows only."""
        at = torch.tensor(indices, device=self.mask.device)
        look = FrameLook(*(part[at] for part in self.look))
        coloured = tuple(self.coloured[i] for i in indices)
        spotted = tuple(self.spotted[i] for i in indices)
        memory = select_clips(self.memory, at)
        return Prepared(self.features[at], self.mask[at], look, memory, coloured, spotted)

    def __len__(self) -> int:
        return len(self.features)


class Searcher:
    """Searches captions with one decoder and vocabulary.

    ``stepper`` gives the step of a memory (see :meth:`models.runtimes.engine.Engine.stepper`);
    ``never`` are tokens that no caption may hold; ``chooser`` orders what was found by a
    preference, where the checkpoint knows its concepts' words.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        stepper: Callable[[Memory], Stepper],
        never: Sequence[int] = (),
        chooser: CaptionChooser | None = None,
    ) -> None:
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._stepper = stepper
        self._never = (PAD, BEGIN, UNKNOWN, *never)
        self._chooser = chooser

    def __call__(
        self, windows: Prepared, beam_size: int, max_words: int, decoding: Decoding
    ) -> Paths:
        """Search captions; best first, for each clip.

        Where there is a choice, all that there was to choose from, up to twice a beam's; who asks
        keeps as many as the beam is wide.

        Raises:
            ValueError: Options that do not fit the model, its vocabulary or the beam.

        """
        if decoding.consensus == "frames":
            return self._frames(windows, beam_size, max_words, decoding)
        chooser = self._chooser if decoding.prefers else None
        config = self._config(beam_size, max_words, decoding)
        if chooser and beam_size > 1:
            config = replace(config, n_best=2 * beam_size)
        found = self._find(windows.memory, config, decoding)
        if decoding.consensus == "hypotheses":
            return [_consensus(paths, _weights(paths, decoding.draws)) for paths in found]
        if chooser is None:
            return found
        concepts = windows.memory.concepts.float().cpu().numpy()
        return [
            chooser.order(paths, row, decoding.preference)
            for paths, row in zip(found, concepts, strict=True)
        ]

    def _frames(
        self, windows: Prepared, beam_size: int, max_words: int, decoding: Decoding
    ) -> Paths:
        """Each frame alone, then what their captions agree on; attention stays on its frame."""
        mask = windows.mask
        clips, frames = mask.nonzero(as_tuple=True)
        single = windows.features[clips, frames].unsqueeze(1)
        alone = replace(decoding, consensus="none", preference=BY_SCORE)
        there = mask.new_ones((len(single), 1))
        ready = Prepared.of(self._decoder, single, there)
        found = self(ready, beam_size, max_words, alone)
        positions = single.shape[2]
        pooled: Paths = [[] for _ in mask]
        weights: list[list[float]] = [[] for _ in mask]
        for clip, frame, paths in zip(clips.tolist(), frames.tolist(), found, strict=True):
            width = mask.shape[1] * positions
            pooled[clip] += [_within(path, frame * positions, width) for path in paths]
            weights[clip] += _weights(paths, decoding.draws)
        return [_consensus(*both) for both in zip(pooled, weights, strict=True)]

    def _find(self, memory: Memory, config: SearchConfig, decoding: Decoding) -> Paths:
        draws = decoding.latent_samples
        if not draws:
            return self._search(memory, config, decoding)
        memory = self._decoder.sample_latents(memory, draws, decoding.seed)
        best = [paths[0] for paths in self._search(memory, config, decoding)]
        return [_different(best[i : i + draws]) for i in range(0, len(best), draws)]

    def _search(self, memory: Memory, config: SearchConfig, decoding: Decoding) -> Paths:
        if decoding.top_p is not None:
            return self._sample(memory, config, decoding)
        state, step = self._decoder.initial_state(memory), self._stepper(memory)
        if decoding.forced_words:
            forced = [self._forms(word, config) for word in decoding.forced_words]
            return constrained_search(step, state, config, forced, _attention)
        if decoding.diverse_groups != 1:
            groups, strength = decoding.diverse_groups, decoding.diversity_strength
            return diverse_search(step, state, config, groups, strength, _attention)
        return search(step, state, config, trace=_attention)

    def _sample(self, memory: Memory, config: SearchConfig, decoding: Decoding) -> Paths:
        count = decoding.samples
        assert decoding.top_p is not None
        drawing = NucleusSampling(decoding.top_p, decoding.temperature, count, decoding.seed)
        wide = Memory(*(part.repeat_interleave(count, 0) for part in memory))
        step = self._stepper(wide)

        def stay(tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
            return step(tokens, state)  # no row leaves: a row's place is its sample

        one = replace(config, beam_size=1, n_best=1)
        found = search(stay, self._decoder.initial_state(wide), one, (drawing,), _attention)
        best = [paths[0] for paths in found]
        return [_different(best[i : i + count]) for i in range(0, len(best), count)]

    def _config(self, beam_size: int, max_words: int, decoding: Decoding) -> SearchConfig:
        forbidden = [self._token(word) for word in decoding.forbidden_words]
        return SearchConfig(
            begin=BEGIN,
            end=END,
            beam_size=beam_size,
            n_best=beam_size,
            min_length=decoding.min_words + 1,
            max_length=max_words + 1,
            length_penalty=decoding.length_penalty,
            block_ngrams=decoding.block_ngrams,
            forbidden=(*self._never, *forbidden),
        )

    def _forms(self, word: str | tuple[str, ...], config: SearchConfig) -> list[int]:
        forms = (word,) if isinstance(word, str) else word
        tokens = [self._token(form) for form in forms]
        if not set(tokens) - set(config.forbidden):
            raise ValueError(f"the model may not say {' or '.join(forms)}; it cannot be forced")
        return tokens

    def _token(self, word: str) -> int:
        if word not in self._vocabulary:
            near = difflib.get_close_matches(word, self._vocabulary.words, 3, 0.0)
            raise ValueError(f"the model has no word {word!r}: the nearest are {', '.join(near)}")
        return self._vocabulary.encode(word)[0]


def _attention(state: DecoderState) -> Tensor:
    return state.attention


def _weights(paths: Sequence[Hypothesis], equal: bool) -> list[float]:
    """Posterior of hypotheses, from their length-normalised scores; sums to one."""
    scores = torch.tensor([0.0 if equal else path.score for path in paths], dtype=torch.float64)
    weights: list[float] = scores.softmax(0).tolist()
    return weights


def _consensus(paths: list[Hypothesis], weights: list[float]) -> list[Hypothesis]:
    order = consensus_order([path.tokens for path in paths], weights)
    return _first_of_each([paths[index] for index in order])


def _different(paths: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Different captions, the finished before the others, the most likely first."""
    ordered = sorted(paths, key=lambda path: (not path.finished, -path.score))
    return _first_of_each(ordered)


def _first_of_each(paths: Sequence[Hypothesis]) -> list[Hypothesis]:
    different: dict[tuple[int, ...], Hypothesis] = {}
    for path in paths:
        different.setdefault(path.tokens, path)
    return list(different.values())


def _within(path: Hypothesis, first: int, positions: int) -> Hypothesis:
    """Move a path's attention to ``first`` of so many positions."""
    if path.trace is None:
        return path
    trace = path.trace.new_zeros((len(path.trace), positions))
    trace[:, first : first + path.trace.shape[1]] = path.trace
    return replace(path, trace=trace)
