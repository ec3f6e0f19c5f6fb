"""The camera, live: the face restored and one unit's map over it, as fast as this machine restores one face.

camera -> static/live.js: the newest frame, a JPEG -> Seat.frame -> track, or find -> restore -> face, map -> drawn

A frame is answered before the page sends the one after next, so frames never queue. Nothing of them is kept: not on the
disk, and in memory only where the face was. One visitor at a time, for `LIVE_SECONDS`.
"""

import threading
import time
from base64 import b64decode, b64encode
from binascii import Error as NotBase64

import gradio as gr
import numpy as np

from sparnet.attention import mean_map
from sparnet.errors import UserError
from sparnet.faces import Face, crop_face, crop_transform, track
from sparnet.images import decode, preview
from viz.explorer import color_tables
from viz.tabs import serving
from viz.tabs.bench import model_for
from viz.tabs.pieces import GUESS, drawn

UNDER_WAY = 2  # frames, as static/live.js sends them; more are refused, so that nobody holds the server's threads
LOOK_AGAIN = 30  # frames that a face is tracked until the detector looks for one that is larger
ALIKE = 0.6  # correlation of a tracked face with the frame before; less is another thing: the net sees faces anywhere
TAKEN = "Another visitor is live. Try again in a moment; photos are restored meanwhile."
OVER = f"{serving.LIVE_SECONDS} seconds are over, so that others have their turn. Start again to go on."


class Seat:
    """Who is live, and where the face of their last frame was."""

    def __init__(self):
        self.lock, self.work = threading.Lock(), threading.Lock()
        self.places = threading.BoundedSemaphore(UNDER_WAY)
        self.visitor, self.began, self.seen = "", 0.0, 0.0
        self.face: Face | None = None
        self.patch: np.ndarray | None = None  # how it looked
        self.tracked = 0

    def frame(self, data: object) -> dict:
        """What the browser sends of a frame -> the face restored, the unit's map, where it was; or why not, in words.

        data: {visitor, image: base64 of a JPEG, mode, unit}. It can be called by several threads, for anybody.
        """
        try:
            given = data if isinstance(data, dict) else {}
            with self.lock:
                self.take(given.get("visitor"))
            if not self.places.acquire(blocking=False):
                raise UserError("The frames come faster than they are answered. Start again.")
            try:
                with self.work:
                    return self.restored(_image(given.get("image")), given.get("mode"), given.get("unit"))
            finally:
                self.places.release()
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return {"error": serving.sentence(error)}

    def take(self, visitor: object) -> None:
        """The seat, if it is free or the visitor's; `UserError` otherwise."""
        now = time.monotonic()
        if not isinstance(visitor, str) or not 8 <= len(visitor) <= 64:
            raise UserError("This page was opened in an unusual way. Load it again.")
        if visitor != self.visitor:
            if now - self.seen < serving.LIVE_IDLE and now - self.began < serving.LIVE_SECONDS:
                raise UserError(TAKEN)
            self.visitor, self.began, self.face = visitor, now, None
        if now - self.began > serving.LIVE_SECONDS:
            raise UserError(OVER)
        self.seen = now

    def restored(self, photo: np.ndarray, mode: object, unit: object) -> dict:
        model = model_for(str(mode))
        restore, mode, _ = serving.restorer_for(model, mode)
        face = self.located(photo)
        if face is None:
            return {"model": model, "face": None}
        made = restore.restore_face(photo, face, mode)
        height, width = photo.shape[:2]
        shown = {
            "model": model,
            "face": (face.box / [width, height, width, height]).round(4).tolist(),
            "restored": preview(made.restored),
            "units": list(made.alphas),
        }
        if made.alphas:
            alphas = {name: mean_map(alpha) for name, alpha in made.alphas.items()}
            most_contrast = max(alphas, key=lambda name: alphas[name].std())
            name = unit if isinstance(unit, str) and unit in alphas else most_contrast
            levels = np.rint(alphas[name] * 255).astype(np.uint8)
            shown |= {"unit": name, "side": len(levels), "map": b64encode(levels.tobytes()).decode()}
        return shown

    def located(self, photo: np.ndarray) -> Face | None:
        """The face of the last frame where it is now, or else the largest that the detector finds."""
        self.tracked += 1
        face = track(photo, self.face) if self.face is not None and self.tracked % LOOK_AGAIN else None
        if face is None or _likeness(_patch(photo, face), self.patch) < ALIKE:
            faces, _, _ = serving.find(photo, False)
            face = faces[0] if faces else None
        self.face, self.patch = face, None if face is None else _patch(photo, face)
        return face


def _patch(photo: np.ndarray, face: Face) -> np.ndarray:
    """(32,32) float, the aligned face's brightness."""
    return crop_face(photo, crop_transform(face, 32), 32).mean(-1)


def _likeness(patch: np.ndarray, last: np.ndarray | None) -> float:
    """The correlation of two patches, -1 to 1; 0 where one is flat."""
    if last is None or not patch.std() or not last.std():
        return 0.0
    return float(np.corrcoef(patch.ravel(), last.ravel())[0, 1])


def build() -> gr.HTML:
    """Put the tab into the Blocks that are open; its `select` event tells of a moment that was sent as a photo."""
    seat = Seat()

    def frame(data):
        return seat.frame(data)

    live = drawn({"tables": color_tables()}, "maps.js", "live.js", server_functions=[frame], elem_id="live")
    stored = f"For {serving.LIVE_SECONDS} seconds at a time. Nothing of the camera's pictures is stored."
    gr.HTML(f"<p class='guess'>{GUESS}</p><p class='guess plain'>{stored}</p>")
    return live


def _image(text: object) -> np.ndarray:
    """A frame as the browser sends it, trusted in nothing -> (H,W,3) uint8."""
    if not isinstance(text, str) or len(text) > serving.LIVE_BYTES * 4 // 3:
        raise UserError("The camera's picture is missing or too large. Start again.")
    try:
        return decode(b64decode(text, validate=True), serving.LIVE_PIXELS)
    except NotBase64 as error:
        raise UserError("The camera's picture cannot be read. Start again.") from error
