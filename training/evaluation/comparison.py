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
from training.evaluation.judges import Judges, Sample, known_points
from training.evaluation.ledger import SHARP, Fault, Ledger, Row
from training.evaluation.methods import Bicubic, Method, Model
from training.evaluation.protocols import AS_IT_IS, PROTOCOLS, Condition, Protocol, factor_of

MOST_IMPOSTORS = 1000  # faces compared with one another: half a million pairs
BATCH = 8  # of every case, however many processes share them: what rounds differently would score differently


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the indices 0 to total - 1, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist()


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
        return set(spread(len(self.items), MOST_IMPOSTORS))

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
        others = [method for method in self.methods if isinstance(method, Model) and method.size != self.size]
        if others:
            sizes = ", ".join(f"{method.name} works at {method.size}x{method.size}" for method in others)
            how += f"; {sizes}, bicubic there and back"
        if not self.protocol.sharp:
            return how
        return how + "; PSNR and SSIM on Y" + (" cut to 8 bits" if self.judges.truncate else "")


@dataclass(frozen=True, eq=False)
class Case:
    """One face and what every method made of it; without a `sample` its picture cannot be read."""

    index: int
    name: str
    sample: Sample | None
    celebas: bool = False  # whether the picture was cut as one of CelebA's
    restored: dict[str, ndarray] = field(default_factory=dict)  # (S,S,3) uint8, of the methods that have it
    faults: list[Fault] = field(default_factory=list)


def compare(
    trial: Trial, indices: Sequence[int], condition: Condition = AS_IT_IS, clock: Counter[str] | None = None
) -> list[Case]:
    """Degrade the pictures of these indices and have every method restore them; ns of each go to the clock."""
    cases = [_case(trial, index, condition) for index in indices]
    readable = [(case, case.sample) for case in cases if case.sample is not None]
    for method in trial.methods if readable else ():
        started = time.perf_counter_ns()
        answers = method.restore([sample.degraded for _, sample in readable], [case.name for case, _ in readable])
        if clock is not None:
            clock[method.name] += time.perf_counter_ns() - started
        for (case, _), answer in zip(readable, answers, strict=True):
            if isinstance(answer, Fault):
                case.faults.append(answer)
            else:
                case.restored[method.name] = answer
    return cases


def _case(trial: Trial, index: int, condition: Condition) -> Case:
    """One face before any method saw it."""
    item = trial.items[index]
    name = item.within
    try:
        picture = item.picture()
    except UserError as error:
        return Case(index, name, None, faults=[Fault("unreadable", SHARP, str(error))])
    view, celebas = centre_view(picture, trial.size, trial.crop), is_celebas(picture, trial.crop)
    if not trial.protocol.sharp:
        return Case(index, name, Sample(view), celebas)
    known = known_points(item, picture, trial.size, trial.crop) if trial.judges.need_points else None
    sharp, known = condition.moved(view, known)
    degraded = sharp
    if trial.degradation is not None:
        factor = factor_of(trial.degradation)
        degraded = condition.spoilt(fixed(sharp, factor and trial.size // factor, name), name, trial.seed)
    sample, faults = trial.judges.look(degraded, sharp, known)
    side = face_square(picture, trial.crop)[2]
    if is_grey(picture):
        faults.insert(0, Fault("grey", SHARP, "all pixels have red = green = blue"))
    if side < trial.size:
        faults.insert(0, Fault("enlarged", SHARP, f"from {side:g}x{side:g} to {trial.size}x{trial.size}"))
    return Case(index, name, sample, celebas, faults=faults)


def measure(trial: Trial, case: Case, condition: int = 0) -> Row:
    """All values of one face."""
    sample, faults, values, embeddings = case.sample, list(case.faults), {}, {}
    if sample is None:
        return Row(condition, case.index, case.name, values, faults)
    colourless = is_grey(sample.degraded if sample.sharp is None else sample.sharp)
    for method, face in case.restored.items():
        values[method], embedding = trial.judges.measure(face, sample)
        if np.isnan(values[method].get("nrmse", 0)):
            faults.append(Fault("no landmarks", method, "in the restored face"))
        if is_grey(face) and not colourless:
            faults.append(Fault("grey", method, "restored without the colours of the sharp face"))
        if embedding is not None and condition == 0 and case.index in trial.embedded:
            embeddings[method] = embedding.tolist()
    if embeddings and sample.embedding is not None:
        embeddings[SHARP] = sample.embedding.tolist()
    floor = trial.judges.floor(sample) if condition == 0 else {}
    known = sample.known is not None
    return Row(condition, case.index, case.name, values, faults, embeddings, known, floor, case.celebas)


def run(trial: Trial, ledger: Ledger, distances: InceptionDistances | None, state: PartialState) -> Counter[str]:
    """This process's share of the rows, into the ledger; -> ns of each method and number of faces, of all.

    A batch is whole or not at all in the ledger. With FID, what is in the ledger is restored again: its features are
    not kept.
    """
    size, conditions = len(trial.items), trial.protocol.conditions
    starts, clock = range(0, size, BATCH), Counter()
    mine = range(state.process_index, len(conditions) * len(starts), state.num_processes)
    faces = sum(min(BATCH, size - starts[i % len(starts)]) for i in mine)
    quiet = not (state.is_main_process and sys.stderr.isatty())
    with tqdm(total=faces, unit="face", disable=quiet, dynamic_ncols=True) as bar:
        for condition, batch in (divmod(i, len(starts)) for i in mine):
            indices = range(starts[batch], min(starts[batch] + BATCH, size))
            known = ledger.done[condition, indices].all()
            featured = distances if condition == 0 else None
            if not known or featured is not None:
                cases = compare(trial, indices, conditions[condition], clock)
                clock["faces"] += sum(case.sample is not None for case in cases)
                if not known:
                    ledger.add(measure(trial, case, condition) for case in cases)
                if featured is not None:
                    for case in cases:
                        if case.restored and case.sample is not None and case.sample.sharp is not None:
                            featured.add(case.sample.sharp, case.restored)
            bar.update(len(indices))
    return sum(gather_object([clock]), Counter())
