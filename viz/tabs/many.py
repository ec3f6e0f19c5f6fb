"""The tab where many photos are restored in one go.

files, ZIPs -> sent_photos: a name to show and how to read each, nothing opened by its name
            -> each restored as the first tab would -> gallery -> one ZIP: every restored PNG, and a table as CSV
One that fails has its sentence, in the gallery and in the table, and the rest goes on.
"""

import csv
import html
import io
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import gradio as gr

from sparnet.errors import UserError
from sparnet.files import unique_names
from sparnet.images import preview
from sparnet.text import plain
from viz.tabs import serving
from viz.tabs.bench import Opened, opened, silent
from viz.tabs.pieces import NOT_YET, notice
from viz.tabs.restore import MODES, PRIVACY, preference
from viz.tabs.restore import Tab as Bench

FORMATS = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".zip"]
COLUMNS = ("photo", "restored file", "faces", "model", "mode", "detector", "seconds", "notes")
_SIDE = 160  # pixels of a face in the gallery
_ENTRY = b"PK\x01\x02"  # begins every entry of a ZIP's table of contents


class Tab:
    """The tab's widgets."""

    def __init__(self, bench: Bench):
        self.bench = bench
        with gr.Row(elem_id="many"):
            with gr.Column(scale=4, min_width=300):
                self.files = gr.File(
                    label=f"Photos, or a ZIP of them: up to {serving.MANY_PHOTOS}, {serving.MANY_BYTES // 10**6} MB",
                    file_count="multiple",
                    file_types=FORMATS,
                    height=220,
                    elem_id="many-files",
                )
                self.how = gr.HTML(_how(*preference({})), elem_id="many-how")
                self.whole = gr.Checkbox(label="Each picture is already a face: do not search", elem_id="many-whole")
                self.run = gr.Button("Restore them all", variant="primary", elem_id="many-run")
                self.result = gr.DownloadButton("Results (ZIP)", interactive=False, elem_id="many-result")
            with gr.Column(scale=8, min_width=300):
                self.told = gr.HTML(_told("The restored faces appear here, one photo after the other."))
                self.gallery = gr.HTML(elem_id="many-gallery")
        outputs = [self.told, self.gallery, self.run, self.result, self.how]
        chosen = [bench.mode, bench.model]
        inputs = [self.files, self.whole, bench.badge, *chosen]
        self.run.click(self.restore, inputs, outputs, **serving.UNOPENED, **serving.HIDDEN, **serving.SLOW)
        gr.on([bench.mode.change, bench.model.change], _how, chosen, self.how, **serving.UNQUEUED)

    def restore(self, uploads, whole, badge, mode, model) -> Iterator[dict]:
        """Photo after photo; at the end, whatever happened, there is a ZIP of what was restored."""
        again = gr.update(value="Restore them all", interactive=True)
        try:
            serving.check_flag("badge", badge)
            serving.check_settings(model, mode, whole)
            photos = list(islice(sent_photos(uploads), serving.MANY_PHOTOS + 1))
            more, photos = photos[serving.MANY_PHOTOS :], photos[: serving.MANY_PHOTOS]
            yield {
                self.told: _told("Preparing…", 0, len(photos)),
                self.gallery: "",
                self.run: gr.update(value="Restoring…", interactive=False),
                self.result: NOT_YET,
                self.how: _how(mode, model),
            }
            results = Results()
            gallery = "<div class='gallery'>"  # never closed: only what is added goes to the browser
            for done, figure in enumerate(restored(photos, model, mode, bool(whole), bool(badge), results), 1):
                gallery += figure
                yield {self.told: _told(results.summary(), done, len(photos)), self.gallery: gallery}
            if more:
                yield {self.told: notice(f"The first {serving.MANY_PHOTOS} photos were restored, the others left out.")}
            file = results.close()
            yield {self.run: again, self.result: gr.update(value=file, interactive=True)}
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            yield {self.told: notice(serving.sentence(error)), self.run: again, self.result: NOT_YET}


@dataclass(frozen=True)
class Sent:
    """A photo that was sent, by itself or in a ZIP."""

    name: str  # as its sender calls it; only to be shown, never a path
    read: Callable[[], bytes]  # `UserError` in words if that cannot be


def sent_photos(uploads: object) -> Iterator[Sent]:
    """A gr.File's value as it came -> its photos; a file or ZIP that cannot be read is one whose `read` says why."""
    if not uploads:
        raise UserError("Choose photos first, or a ZIP of them.")
    if not isinstance(uploads, list):
        raise UserError(serving.NOT_SENT)
    for upload in uploads:
        name = _name(upload.get("orig_name") if isinstance(upload, dict) else None)
        try:
            data = serving.read_upload(upload)
            entries = _entries(data) if data.startswith(serving.ZIP_START) else None
        except UserError as error:
            yield Sent(name, partial(_refuse, error))
            continue
        if entries is None:
            yield Sent(name, partial(serving.read_upload, upload))
        else:
            yield from (Sent(_name(entry.filename), partial(_unpacked, upload, entry)) for entry in entries)


def _entries(data: bytes) -> list[zipfile.ZipInfo]:
    """The files in a ZIP, without those that systems put beside them; `UserError` if it is damaged, or has too many."""
    if data.count(_ENTRY) > serving.ZIP_ENTRIES:  # before they are read: each would be an object
        raise UserError(f"The ZIP holds more than {serving.ZIP_ENTRIES} files. Pack fewer.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises nearly anything on damaged ones
        raise UserError("The ZIP is damaged or incomplete. Pack or download it again.") from error
    return [entry for entry in entries if not entry.is_dir() and not _beside(entry.filename)]


def _beside(filename: str) -> bool:
    """Whether a system puts such a file beside photos: hidden ones, and macOS its notes."""
    parts = re.split(r"[\\/]", filename)
    return parts[-1].startswith(".") or "__MACOSX" in parts


def _unpacked(upload: object, entry: zipfile.ZipInfo) -> bytes:
    """A file of the ZIP, into memory; `UserError` in words if it is too large, by its header, or cannot be unpacked."""
    if entry.file_size > serving.UPLOAD_BYTES:  # zipfile never unpacks more than the header says
        raise UserError(
            f"It has {entry.file_size / 1e6:,.0f} MB when unpacked; at most {serving.UPLOAD_BYTES // 10**6} are taken. "
            "Make it smaller."
        )
    if entry.flag_bits & 1:
        raise UserError("It is locked by a password. Pack it without.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may take any memory
        raise UserError("It is packed in a way that is not read here. Pack it as a usual ZIP.")
    data = serving.read_upload(upload)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(entry) as file:
            return file.read(serving.UPLOAD_BYTES)
    except Exception as error:  # the same as above
        raise UserError("It is damaged within the ZIP. Pack it again.") from error


def _refuse(error: UserError) -> bytes:
    raise error


def _name(name: object) -> str:
    """The last part of what a sender calls a file, safe to show."""
    return plain(re.split(r"[\\/]", name)[-1][:80]) if isinstance(name, str) and name else "photo"


class Results:
    """The ZIP that is being written, and its table."""

    def __init__(self):
        self.file = serving.download_folder() / "restored.zip"
        self.archive = zipfile.ZipFile(self.file, "w", zipfile.ZIP_STORED)  # PNGs are packed already
        self.rows: list[dict] = []

    def add(self, row: dict, png: bytes | None = None) -> None:
        if png is not None:
            self.archive.writestr(row["restored file"], png)
        self.rows.append(row)

    def summary(self) -> str:
        failed = sum(not row["restored file"] for row in self.rows)
        return f"{len(self.rows) - failed} restored" + f", {failed} not" * bool(failed)

    def close(self) -> str:
        """Write the table; -> the ZIP's path."""
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in self.rows)
        self.archive.writestr("restored.csv", table.getvalue())
        self.archive.close()
        return str(self.file)


def _cell(value: object) -> object:
    """A text that a spreadsheet takes for a formula is marked as a text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def restored(photos: list[Sent], model: str, mode: str, whole: bool, badge: bool, results: "Results") -> Iterator[str]:
    """Each photo restored into `results`, within what visitors may do; -> its figure for the gallery."""
    names = unique_names([Path(serving.file_stem(Path(photo.name).stem)) for photo in photos])
    start, size, pixels = time.monotonic(), 0, 0
    for photo, name in zip(photos, names, strict=True):
        row: dict = {"photo": photo.name, "restored file": "", "faces": 0, "model": model, "mode": mode}
        began = time.monotonic()
        try:
            if began - start > serving.MANY_SECONDS or size > serving.MANY_BYTES or pixels > serving.MANY_PIXELS:
                raise UserError(
                    f"It was left out: at a time this page takes {serving.MANY_BYTES // 10**6} MB, "
                    f"{serving.MANY_PIXELS // 10**6} megapixels and {serving.MANY_SECONDS} seconds. Send it again, "
                    "with fewer."
                )
            data = photo.read()
            size += len(data)
            now = opened(serving.photo_of(data, name), model, mode, whole, silent)
            pixels += now.photo.pixels().size // 3
            count = sum(face is not None for face in now.restored)
            row |= {"faces": count, "mode": now.mode, "detector": now.detector, "notes": " ".join(now.notes)}
            if not count:
                raise UserError(now.notes[-1])
            row |= {"restored file": f"{name}-restored.png", "seconds": round(time.monotonic() - began, 2)}
            results.add(row, now.png(badge=badge))
            yield _figure(photo.name, f"{count} face{'s' * (count != 1)}", now)
        except Exception as error:  # told in its place; `sentence` logs what is not the visitor's mistake
            message = serving.sentence(error)
            results.add(row | {"notes": row.get("notes") or message, "restored file": ""})
            yield _figure(photo.name, message)


def _figure(name: str, text: str, now: Opened | None = None) -> str:
    pictures = ""
    if now is not None:
        face = next(face for face in now.restored if face is not None)
        for alt, picture in (("before", face.crop), ("restored", face.restored)):
            source = preview(picture, _SIDE)
            pictures += f"<img src='{source}' alt='The largest face of {html.escape(name, quote=True)}, {alt}'>"
    failed = " class='failed'" if now is None else ""
    return (
        f"<figure{failed}><div>{pictures}</div><figcaption><b>{html.escape(name)}</b>"
        f"<span>{html.escape(text)}</span></figcaption></figure>"
    )


def _told(text: str, done: int = 0, total: int = 0) -> str:
    bar = f"<progress max='{total}' value='{done}' aria-label='Photos done'></progress>" if total else ""
    count = f"{done} of {total} photos: " if total else ""
    return f"<p class='many-told' role='status'>{count}{html.escape(text)}</p>{bar}"


def _how(mode: object, model: object) -> str:
    does = next((label for label, value in MODES if value == mode), "").partition("\n")[0]
    return (
        f"<p>As in the tab Restore: <b>{html.escape(does)}</b>, with <b>{html.escape(str(model))}</b>. There you can "
        f"choose another. {PRIVACY}</p>"
    )
