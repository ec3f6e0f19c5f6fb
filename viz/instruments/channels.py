"""What attention does that differs from channel to channel, and whether one map for all channels would do.

alpha (C,h,w) -> channel_maps: mean, max, spread, channels in use (h,w)
              -> ChannelNumbers: variance = place (2D could do it) + channel (channel attention) + only 3D
              -> clusters: channels that look alike, one representative each
edit: alpha -> its channel mean -> restored, changed -> RMS: what 3D adds over its mean
"""

from dataclasses import asdict, dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import WHERE, Instrument, Option, Seed
from viz.instruments.ablation import levels, rms
from viz.subject import Subject
from viz.views import Bars, Lines, Panel, View

MEANING = (
    "How the maps of one unit's channels differ, and how much the face changes when all of them are given their mean: "
    "a small change says that one map would do for this network and face, not that a network trained with one map "
    "would be as good; the groups are found in these maps alone and have no meaning of their own."
)
CHANNEL_MEANING = (
    "How far each channel's gate is open, the same at every place, so it says what is let through and nothing about "
    "where; groups and places do not exist here, the change is that of giving all channels of a unit their mean gate."
)
SHARES = {
    "place": "place: one map would do",
    "channel": "channel: one number a channel would do",
    "only_3d": "only 3D",
}
_ROUNDING = 1e-6  # a spread below this is float32's, not the map's
MAPS = {"mean": 1, "max": 1, "spread": 0.5, "in_use": 1}  # over the channels, each with the end of its scale


@dataclass(frozen=True)
class ChannelNumbers:
    """Shares of the variance of one alpha (C,h,w), which sum to 1: two-way analysis of variance (Fisher 1925).

    place = C sum_p (m_p - m)^2 / sum_cp (alpha_cp - m)^2 with m_p the mean over channels; channel likewise with each
    channel's mean over places. C unrelated maps have a place of about 1 / C. An alpha without variance: place = 1.
    """

    channels: int
    place: float  # what the channel mean explains
    channel: float  # what one number a channel explains
    only_3d: float  # the rest: channels that open in different places

    @classmethod
    def of(cls, alpha: ndarray) -> "ChannelNumbers":
        values = alpha.reshape(len(alpha), -1).astype(np.float64)
        centred = values - values.mean()
        variance = np.square(centred).mean()
        if variance <= _ROUNDING**2:
            return cls(len(alpha), 1.0, 0.0, 0.0)
        place, channel = (np.square(centred.mean(axis=axis)).mean() / variance for axis in (0, 1))
        return cls(len(alpha), float(place), float(channel), float(1 - place - channel))


def channel_maps(alpha: ndarray) -> dict[str, ndarray]:
    """(C,h,w) in (0,1) -> maps (h,w) over the channels: mean, max, spread (standard deviation, at most 0.5), in_use.

    in_use = 2^H / C with the entropy H of p_c = alpha_c / sum alpha (Shannon 1948; Hill 1973's effective number): 1 if
    all channels are equally open there, 1 / C if one is open alone.
    """
    p = alpha / alpha.sum(axis=0)
    entropy = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=0)
    return {
        "mean": alpha.mean(axis=0),
        "max": alpha.max(axis=0),
        "spread": alpha.std(axis=0),
        "in_use": 2**entropy / len(alpha),
    }


def clusters(alpha: ndarray, count: int, seed: int) -> tuple[ndarray, list[tuple[int, int, float]]]:
    """(C,h,w) -> each channel's cluster (C,), -1 for a flat map; and (representative channel, members, mean r) of each.

    k-means++ (OpenCV) on the maps brought to mean 0 and length 1, whose squared distance is 2 (1 - r): alike is what
    correlates, whatever its level. Largest cluster first; the representative correlates best with its centre, mean r
    is the members' mean correlation with it. `count` is asked for, not found; fewer where fewer maps differ.
    """
    maps = alpha.reshape(len(alpha), -1)
    flat = maps.std(axis=1) <= _ROUNDING
    labels, kinds = np.full(len(maps), -1), []
    if flat.all():
        return labels, kinds
    standard = maps[~flat] - maps[~flat].mean(axis=1, keepdims=True)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    different = len(np.unique(standard.round(5), axis=0))
    cv2.setRNGSeed(seed)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    blank = np.zeros((len(standard), 1), np.int32)
    points, count = standard.astype(np.float32), min(count, different)
    _, found, centres = cv2.kmeans(points, count, blank, stop, 10, cv2.KMEANS_PP_CENTERS)
    found, where = found.ravel(), np.flatnonzero(~flat)
    for label, cluster in enumerate(np.argsort(-np.bincount(found, minlength=len(centres)), kind="stable")):
        members = np.flatnonzero(found == cluster)
        best = members[np.argmax(standard[members] @ centres[cluster])]
        labels[where[members]] = label
        kinds.append((int(where[best]), len(members), float((standard[members] @ standard[best]).mean())))
    return labels, kinds


def mean_effect(subject: Subject, progress: Progress = silent) -> dict[str, float]:
    """RMS change of the restored face, in 8-bit levels, when a unit's alpha is its channel mean; last, "all" at once.

    Later units react to the change, so it is the total effect.
    """
    model, face, effects = subject.model, subject.degraded, {}
    with torch.no_grad():
        trace = model.trace(face)
        before = levels(trace.restored)
        averaged = {unit: [unit] for unit in trace.alphas} | {"all": list(trace.alphas)}
        for i, (name, units) in enumerate(averaged.items()):
            progress(i, len(averaged), f"One map for all channels: {name}")
            edited = model.trace(
                face, lambda unit, alpha, units=units: alpha.mean(1, keepdim=True) if unit in units else alpha
            )
            effects[name] = float(rms(levels(edited.restored) - before)[0])
    return effects


def study(
    subject: Subject,
    count: Annotated[int, Option("How many groups of channels that look alike.", 1, 1000)] = 4,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The channels of every unit, in `count` clusters; `UserError` for a network with one map a unit.

    Arrays "UNIT/mean", "/max", "/spread", "/in_use", "/cluster" and "/representatives"; of channel attention "/gates".
    """
    if subject.model.config.attention == "none":
        raise UserError(f"{subject.name} has no attention, so it has no maps. Choose a model with 3D attention.")
    if subject.model.config.attention == "2d":
        raise UserError(
            f"{subject.name} has one attention map a unit for all its channels, so there are no channels to compare. "
            "See its maps in the atlas, or choose a model with 3D attention."
        )
    with torch.no_grad():
        traced = subject.model.trace(subject.degraded).alphas
    alphas = {unit: alpha[0].float().cpu().numpy() for unit, alpha in traced.items()}
    places = any(alpha[0].size > 1 for alpha in alphas.values())
    effects = mean_effect(subject, progress)
    units, arrays, groups = {}, {}, {}
    for unit, alpha in alphas.items():
        units[unit] = asdict(ChannelNumbers.of(alpha)) | {"rms_change": effects[unit]}
        if not places:
            arrays[f"{unit}/gates"] = alpha.ravel()
            continue
        (labels, kinds), maps = clusters(alpha, count, seed), channel_maps(alpha)
        units[unit]["clusters"] = [
            {"channel": channel, "members": members, "mean_r": r} for channel, members, r in kinds
        ]
        arrays |= {f"{unit}/{name}": values for name, values in maps.items()}
        arrays |= {f"{unit}/cluster": labels, f"{unit}/representatives": alpha[[channel for channel, _, _ in kinds]]}
        groups[unit] = [Panel(name.replace("_", " "), maps[name], (0, end)) for name, end in MAPS.items()]
        groups[unit] += [Panel(f"{members} channels, r {r:.2f}", alpha[channel]) for channel, members, r in kinds]
    found = {"model": subject.name, "unit_of_rms": "8-bit levels", "rms_change_of_all": effects["all"], "units": units}
    if places:
        found |= {"seed": seed, "clusters_asked_for": count}
    progress(len(units) + 1, len(units) + 1, "Done")
    series = {label: [shares[name] for shares in units.values()] for name, label in SHARES.items()}
    change = Bars(effects, {"RMS change": list(effects.values())}, "8-bit levels")
    diagrams: dict[str, Bars | Lines] = {
        "Whose variance it is:": Bars(units, series, "share", ends=(0, 1), stacked=True),
        "How much the face changes when all channels of a unit are given their mean:": change,
    }
    if not places:
        most = max(len(alpha) for alpha in alphas.values())
        gates = {
            unit: np.pad(np.sort(alpha.ravel())[::-1], (0, most - len(alpha)), constant_values=np.nan)
            for unit, alpha in alphas.items()
        }
        caption = "The gates of all channels, from the most open to the most closed:"
        diagrams = {caption: Lines(range(1, most + 1), gates, "channel", "alpha")} | diagrams
    note = (
        "After the maps over the channels, of each group that looks alike one: its size, its mean correlation with it."
    )
    meaning, note = (MEANING, note) if places else (CHANNEL_MEANING, "")
    title = f"Channels of {subject.name}: one face"
    return Finding("channels", meaning, found, arrays, View([], groups, diagrams), title, note, side=0.9)


INSTRUMENT = Instrument(
    "channels",
    WHERE,
    "Does attention differ from channel to channel?",
    "For networks with a map for each channel: their mean, their spread, and groups of channels that look alike.",
    study,
    attention=("3d", "2d+channel", "channel"),
)
