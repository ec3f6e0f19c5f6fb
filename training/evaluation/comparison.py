"""One comparison: every method on the same degraded faces, measured face by face, in any number of processes.

Trial, indices -> compare: picture -> sharp -> condition -> degradation -> degraded -> every method -> Case
                  -> measure: instruments on restored and sharp -> Row
Trial -> run: batches of 8, shared between processes, known rows left out -> Ledger
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy import ndarray
from tqdm import tqdm

from sparnet.errors import UserError
from sparnet.images import is_grey
from training.data import Crop, Item, centre_view, face_square, is_celebas
from training.degradations import fixed
from training.evaluation.frechet import InceptionDistances
from training.evaluation.identity import MOST_IMPOSTORS
from training.evaluation.judges import Judges, Sample, known_points
from training.evaluation.ledger import SHARP, Ledger, Row
from training.evaluation.methods import Bicubic, Fault, Method, Model
from training.evaluation.protocols import AS_IT_IS, PROTOCOLS, Condition, Protocol, factor_of

BATCH = 8  # of every case, however many processes share them: what rounds differently would score differently


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything that decides the numbers."""

    items: Sequence[Item]
    methods: Sequence[Method]
    size: int  # common side of the faces in px
    degradation: str | None  # None: the pictures are degraded already, or restored elsewhere
    judges: Judges = field(default_factory=Judges)
    protocol: Protocol = PROTOCOLS["plain"]
    seed: int = 0
    people: Sequence[str] | None = None  # whom each picture shows; None: everyone is another
    crop: Crop = "auto"

    @property
    def anchor(self) -> str | None:
        return next((method.name for method in self.methods if isinstance(method, Bicubic)), None)

    @cached_property
    def embedded(self) -> set[int]:
        """The pictures whose embeddings are kept, for impostors and Frechet distance: evenly spread."""
        return set(np.linspace(0, len(self.items) - 1, min(len(self.items), MOST_IMPOSTORS)).astype(int).tolist())

    def describe(self) -> str:
        """The protocol in one line."""
        if not self.protocol.sharp:
            how = f"as they are -> {self.size}x{self.size}, no ground truth"
        elif self.degradation is None:
            how = f"compared at {self.size}x{self.size}"
        elif factor := factor_of(self.degradation):
            how = f"{self.size // factor}x{self.size // factor} -> {self.size}x{self.size}, bicubic"
        else:
            how = f"blind -> {self.size}x{self.size}, drawn from each picture's name"
        others = [
            f"{method.name} works at {method.size}x{method.size}" for method in self.methods if self._resized(method)
        ]
        parts = [how, *([f"{', '.join(others)}, bicubic there and back"] if others else [])]
        if self.protocol.sharp:
            parts.append("PSNR and SSIM on Y" + (" cut to 8 bits" if self.judges.truncate else ""))
        return "; ".join(parts)

    def _resized(self, method: Method) -> bool:
        return isinstance(method, Model) and method.size != self.size


@dataclass(frozen=True, eq=False)
class Case:
    """One face and what every method made of it; without a `sample` its picture cannot be read."""

    index: int
    name: str
    sample: Sample | None
    celebas: bool  # whether the picture was cut as one of CelebA's
    restored: dict[str, ndarray]  # (S,S,3) uint8, of the methods that have it
    faults: list[tuple[str, str, str]]  # kind, whose picture, why


def compare(
    trial: Trial, indices: Sequence[int], condition: Condition = AS_IT_IS, clock: Counter | None = None
) -> list[Case]:
    """Degrade the pictures of these indices and have every method restore them; seconds of each go to the clock."""
    cases = []
    for index in indices:
        item, celebas = trial.items[index], False
        try:
            picture = item.picture()
        except UserError as error:
            sample, faults = None, [Fault("unreadable", str(error))]
        else:
            sample, faults = _sample(trial, item, picture, condition)
            celebas = is_celebas(picture.shape[1], picture.shape[0], trial.crop)
        named = [(fault.kind, SHARP, fault.why) for fault in faults]
        cases.append(Case(index, item.within, sample, celebas, {}, named))
    readable = [case for case in cases if case.sample is not None]
    for method in trial.methods if readable else ():
        started = time.perf_counter()
        answers = method.restore([case.sample.degraded for case in readable], [case.name for case in readable])
        if clock is not None:
            clock[method.name] += time.perf_counter() - started
        for case, answer in zip(readable, answers, strict=True):
            if isinstance(answer, Fault):
                case.faults.append((answer.kind, method.name, answer.why))
            else:
                case.restored[method.name] = answer
    return cases


def _sample(trial: Trial, item: Item, picture: ndarray, condition: Condition) -> tuple[Sample, list[Fault]]:
    name, view = item.within, centre_view(picture, trial.size, trial.crop)
    if not trial.protocol.sharp:
        return Sample(name, view), []
    faults, side = [], face_square(picture.shape[1], picture.shape[0], trial.crop)[2]
    if side < trial.size:
        faults.append(Fault("enlarged", f"from {side:g}x{side:g} to {trial.size}x{trial.size}"))
    if is_grey(picture):
        faults.append(Fault("grey", "all pixels have red = green = blue"))
    known = known_points(item, picture, trial.size, trial.crop) if trial.judges.need_points else None
    sharp, known = condition.moved(view, known)
    degraded = None
    if trial.degradation is not None:
        factor = factor_of(trial.degradation)
        degraded = condition.spoilt(fixed(sharp, factor and trial.size // factor, name), name, trial.seed)
    sample, missing = trial.judges.look(name, degraded, sharp, known)
    return sample, faults + missing


def measure(trial: Trial, case: Case, condition: int = 0) -> Row:
    """All values of one face."""
    values, faults, embeddings = {}, list(case.faults), {}
    for method, face in case.restored.items():
        values[method], missing, embedding = trial.judges.measure(face, case.sample)
        faults += [(fault.kind, method, fault.why) for fault in missing]
        if is_grey(face) and not is_grey(case.sample.degraded if case.sample.sharp is None else case.sample.sharp):
            faults.append(("grey", method, "restored without the colours of the sharp face"))
        if embedding is not None:
            embeddings[method] = embedding.tolist()
    if embeddings and condition == 0 and case.index in trial.embedded:
        embeddings[SHARP] = case.sample.embedding.tolist()
    else:
        embeddings = {}
    known = case.sample is not None and case.sample.known
    floor = trial.judges.floor(case.sample) if known and condition == 0 else {}
    return Row(condition, case.index, case.name, values, tuple(faults), embeddings, known, floor, case.celebas)


def run(trial: Trial, ledger: Ledger, distances: InceptionDistances | None, state: PartialState) -> Counter:
    """This process's share of the rows, into the ledger; -> seconds of each method and number of faces, of all.

    A batch is whole or not at all in the ledger's eyes. With FID, what is in the ledger is restored again: its
    features are not kept.
    """
    size, conditions = len(trial.items), trial.protocol.conditions
    starts, clock = range(0, size, BATCH), Counter()
    mine = range(state.process_index, len(conditions) * len(starts), state.num_processes)
    faces = sum(min(BATCH, size - starts[i % len(starts)]) for i in mine)
    with tqdm(total=faces, unit="face", disable=_quiet(state), dynamic_ncols=True) as bar:
        for condition, batch in (divmod(i, len(starts)) for i in mine):
            indices = range(starts[batch], min(starts[batch] + BATCH, size))
            known = ledger.done[condition, indices].all()
            if not known or (distances is not None and condition == 0):
                compared = compare(trial, indices, conditions[condition], clock)
                clock["faces"] += sum(case.sample is not None for case in compared)
                if distances is not None and condition == 0:
                    for case in compared:
                        if case.restored:
                            distances.add(case.sample.sharp, case.restored)
                if not known:
                    ledger.add(measure(trial, case, condition) for case in compared)
            bar.update(len(indices))
    total = Counter()
    for seconds in gather_object([clock]):
        total.update(seconds)
    return total


def _quiet(state: PartialState) -> bool:
    return not (state.is_main_process and sys.stderr.isatty())
