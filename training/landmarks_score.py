"""Errors the landmark net: `python -m training.landmarks_score --model DIR --helen DIR --aligned DIR`.

    Helen faces, 68 known points -> box of the LBP cascade, or a true box with its error -> refine -> points, error
    aligned faces -> turned by a known angle -> box with its error -> refine -> eyes and roll, error

Errors are mean distances as a share of the distance of the eyes, for the box alone and with the net.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy import ndarray

from sparnet import images
from sparnet.errors import UserError
from sparnet.faces import (
    LBP_BOX,
    TEMPLATE,
    TEMPLATE_SIDE,
    Face,
    LBPCascade,
    crop_transform,
    inverse_transform,
    refine,
    template_box,
    transform_points,
)
from sparnet.folders import pictures_in
from sparnet.landmarks import LandmarkNet, five_of_68, read_landmarks
from training.command import run_command

DRAWS = 4  # of a box with its error, for each face
BOX_ERROR = np.array([19, 21]) / LBP_BOX[2], 40 / LBP_BOX[2]  # sd of the cascade's centre and side, over its side


def true_box(points: ndarray) -> ndarray:
    """The upright box that a perfect detector would draw around these points."""
    return template_box(crop_transform(Face(np.zeros(4), points), TEMPLATE_SIDE))


def shaken(box: ndarray, generator: np.random.Generator) -> ndarray:
    """The box with the cascade's errors of place and size."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    centre = centre + generator.normal(0, BOX_ERROR[0]) * 2 * half[0]
    half = half * np.exp(generator.normal(0, BOX_ERROR[1]))
    return np.concatenate((centre - half, centre + half))


def points_of(face: Face) -> ndarray:
    """Where the template's points lie when it is aligned with the face."""
    return transform_points(inverse_transform(crop_transform(face, 512)), TEMPLATE)


class Errors:
    """Errors of the points, of the alignment that follows from them and of its roll: by the box alone, by the net."""

    def __init__(self, net: LandmarkNet):
        self.net, self.alone, self.refined, self.refused = net, [], [], 0

    def add(self, photo: ndarray, box: ndarray, truth: ndarray) -> None:
        alone, refined = points_of(Face(box)), refine(photo, box, self.net)
        if refined is None:
            self.refused, refined = self.refused + 1, alone
        self.alone.append(errors(alone, truth))
        self.refined.append(errors(refined, truth))

    def __str__(self) -> str:
        lines = [f"{len(self.alone)} boxes, the net refused {self.refused} of them"]
        for name, rows in (("box alone", self.alone), ("with the net", self.refined)):
            *points, alignment, roll = np.mean(rows, axis=0)
            parts = " ".join(f"{part:.1%}" for part in points)
            lines.append(
                f"  {name:12} {np.mean(points):.1%} (eyes {np.mean(points[:2]):.1%}; each: {parts}), "
                f"alignment {alignment:.1%}, roll {roll:.1f} degrees"
            )
        return "\n".join(lines)


def errors(points: ndarray, truth: ndarray) -> ndarray:
    """Seven: of each point; of the template when aligned by these points, not the true ones; of roll in degrees."""
    aligned, ideal = points_of(Face(np.zeros(4), points)), points_of(Face(np.zeros(4), truth))
    eyes = np.linalg.norm(truth[1] - truth[0])
    alignment = np.linalg.norm(aligned - ideal, axis=1).mean() / eyes
    return np.array([*np.linalg.norm(points - truth, axis=1) / eyes, alignment, abs(roll(aligned) - roll(ideal))])


def roll(points: ndarray) -> float:
    """Degrees by which the line of the eyes is turned, clockwise in the picture."""
    return float(np.degrees(np.arctan2(*(points[1] - points[0])[::-1])))


def main(
    helen: Annotated[Path, typer.Option(help="Folder of PNG faces, each with 68 landmarks in a file beside it.")],
    aligned: Annotated[Path, typer.Option(help="Folder of 512x512 faces aligned as FFHQ's.")],
    model: Annotated[Path, typer.Option(help="Folder of the net.")] = Path("checkpoints/landmarks5"),
    seed: int = 0,
):
    """Print the scores of the landmark net."""
    net, cascade, generator = LandmarkNet.from_pretrained(model), LBPCascade(), np.random.default_rng(seed)
    found, drawn, turned = Errors(net), Errors(net), Errors(net)
    faces = [(path, points) for path in pictures_in(helen) if (points := read_landmarks(path)) is not None]
    if not faces:
        raise UserError(f"No faces with landmarks in {helen}.")
    for path, points in faces:
        photo, truth = images.load(path), five_of_68(points)
        for face in cascade(photo)[:1]:
            found.add(photo, face.box, truth)
        for _ in range(DRAWS):
            drawn.add(photo, shaken(true_box(truth), generator), truth)
    for path in pictures_in(aligned):
        photo = images.resize(images.load(path), 256)
        for _ in range(DRAWS):
            turn = cv2.getRotationMatrix2D((127.5, 127.5), generator.uniform(-30, 30), 1)
            truth = transform_points(turn, (TEMPLATE + 0.5) / 2 - 0.5)
            view = cv2.warpAffine(photo, turn, (256, 256), borderMode=cv2.BORDER_REFLECT_101)
            turned.add(view, shaken(true_box(truth), generator), truth)
    print(f"Helen, {len(faces)} faces, boxes of the LBP cascade: {found}")
    print(f"Helen, true boxes with the cascade's errors: {drawn}")
    print(f"aligned faces turned by up to 30 degrees, canonical points as truth: {turned}")


if __name__ == "__main__":
    run_command(main)
