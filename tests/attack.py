"""Many visitors work on one page while others attack it: `make attack ARGS="--clients 20 --seconds 120"`.

this process: distinct faces -> the library's own answers
child:        app.py on 127.0.0.1 <- clients: upload, endpoint, files, compared with those answers
                                  <- a hostile visitor, whom everything must be refused
              SIGTERM -> nothing may be left

Exit code 1 when an answer was wrong, something hostile was let in, memory grew or files stayed.
"""

import argparse
import io
import json
import os
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from threading import Lock

import numpy as np
import psutil
import skimage.data

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from attacker import ASTRONAUT, GIVEN, Attacker, begun, own, received  # noqa: E402
from served import started  # noqa: E402

from sparnet import Restorer, images, load_model  # noqa: E402
from sparnet.checkpoints import DEFAULT_MODEL  # noqa: E402
from viz.compare import OneFace, restored_column, side_by_side  # noqa: E402
from viz.instruments import INSTRUMENTS  # noqa: E402
from viz.subject import Subject  # noqa: E402
from viz.tabs import serving  # noqa: E402

MOST_CLIENTS, MOST_SECONDS, MOST_ANSWERS, MOST_ATTACKS = 40, 600, 200, 1000  # the last two: of one visitor
GROWTH = 1_500_000_000  # bytes that the server may take more while all of them are there
STUDIES = {name: INSTRUMENTS[name].study for name in ("gate", "regions")}
ENDPOINTS = ("restore", "attention", "compare", *STUDIES)
SETTINGS = {"restore": [*GIVEN[:2], False], "compare": [[DEFAULT_MODEL], *GIVEN[1:]]}  # the others': GIVEN
Answer = dict[str, np.ndarray]


@dataclass
class Tally:
    """What happened, told by many threads."""

    seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def add(self, what: str, answer: str, expected: str) -> None:
        """Something hostile, refused by the words that were expected or not."""
        with self.lock:
            if expected in answer:
                self.refused[what] += 1
            else:
                self.wrong.append(f"{what}: {answer[:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20, choices=range(1, MOST_CLIENTS + 1), metavar="N")
    parser.add_argument("--seconds", type=int, default=120, choices=range(1, MOST_SECONDS + 1), metavar="S")
    options = parser.parse_args()
    os.environ.setdefault("SPARNET_ENGINE", "torch")  # float32 on every processor, so that answers can be compared
    restorer = Restorer(load_model(DEFAULT_MODEL))
    photos = [distinct_photo(number) for number in range(options.clients)]
    right = [right_answers(restorer, photo) for photo in photos]
    check_distinct(right)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "served"
        files.mkdir()
        with started(files, Path(folder) / "app.log") as (address, process):
            server = psutil.Process(process.pid)
            Attacker(address).call("restore", None)  # so that what is made once is there
            memory = [server.memory_info().rss]
            end = time.monotonic() + options.seconds
            with ThreadPoolExecutor(options.clients + 1) as pool:
                work = [
                    pool.submit(visit, address, images.encode_png(photo), answers, end, tally)
                    for photo, answers in zip(photos, right, strict=True)
                ]
                work.append(pool.submit(attack, address, end, tally))
                watch(work, server, memory)
            memory.append(server.memory_info().rss)
            server.terminate()
            tally.wrong += [f"the server ended with {code}"] if (code := process.wait(60)) else []
        left = sorted(str(path.relative_to(files)) for path in files.rglob("*"))
    if max(memory) - memory[0] > GROWTH:
        tally.wrong.append(f"memory grew by {(max(memory) - memory[0]) / 1e6:.0f} MB")
    report(tally, memory, left)
    sys.exit(bool(tally.wrong or left or not tally.seconds))


def distinct_photo(number: int) -> np.ndarray:
    """The astronaut once more, in other colours, another cut, or mirrored: a face with a right answer of its own."""
    shift = 8 * (number // 12)
    photo = skimage.data.astronaut()[shift : shift + 320, 40 + shift : 400 + shift]
    photo = photo[:, :, [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)][number // 2 % 6]]
    return np.ascontiguousarray(photo[:, :: -1 if number % 2 else 1])


def right_answers(restorer: Restorer, photo: np.ndarray) -> dict[str, Answer]:
    """By the library, without the page: endpoint -> its answer."""
    result = restorer(photo, "simulate")
    face = result.faces[0]
    subject = Subject.of(restorer.model, DEFAULT_MODEL, face, result.detector)
    alone = OneFace(photo, face.face, "simulate")
    columns = side_by_side(alone, [restored_column(DEFAULT_MODEL, restorer, alone)])
    return {
        "restore": {"photo": result.photo},
        "attention": {unit: alpha.numpy() for unit, alpha in face.alphas.items()},
        "compare": scores([column.facts() for column in columns]),
        **{name: study(subject).arrays for name, study in STUDIES.items()},
    }


def scores(columns: list[dict]) -> Answer:
    return {
        score: np.array([column[score] for column in columns[1:]]) for score in ("psnr", "ssim")
    }  # not the original


def check_distinct(right: list[dict[str, Answer]]) -> None:
    """Otherwise an answer that another visitor should get would pass."""
    for name in ENDPOINTS:
        for i, answers in enumerate(right):
            for other in right[:i]:
                assert not same(answers[name], other[name]), f"two faces have one right answer of {name}"


def same(answer: Answer, expected: Answer) -> bool:
    """Whether they differ by no more than rounding, which threads change."""
    if answer.keys() != expected.keys():
        return False
    return all(
        answer[key].shape == value.shape
        and np.allclose(
            np.asarray(answer[key], float), np.asarray(value, float), rtol=1e-4, equal_nan=True,
            atol=1 if value.dtype == np.uint8 else 1e-4,
        )
        for key, value in expected.items()
        if value.dtype.kind in "iufb"
    )  # fmt: skip


def visit(address: str, photo: bytes, right: dict[str, Answer], end: float, tally: Tally) -> None:
    """One endpoint after the other, until the end."""
    visitor = Attacker(address)
    with closing(visitor.http):
        for turn in range(MOST_ANSWERS):
            if time.monotonic() > end:
                return
            name, start = ENDPOINTS[turn % len(ENDPOINTS)], time.monotonic()
            sent = visitor.upload(photo)
            events = sent.text
            if sent.status_code == 200:
                events = visitor.call(name, {"path": sent.json()[0]}, *SETTINGS.get(name, GIVEN), *own(name))
            if "event: complete" not in events:
                tally.add("a visitor, busy", events, serving.BUSY)
                time.sleep(0.1)
                continue
            answer = answer_of(visitor, name, json.loads(events.rpartition("data: ")[2]))
            with tally.lock:
                tally.seconds.append(time.monotonic() - start)
                if not same(answer, right[name]):
                    tally.wrong.append(f"{name}: another answer than the library's")


def answer_of(visitor: Attacker, name: str, data: list) -> Answer:
    """What an endpoint's events hold, its files fetched."""
    if name == "compare":
        return scores(data[1]["columns"])
    file = visitor.http.get(f"file={data[0 if name == 'restore' else 1]['path']}").raise_for_status().content
    return {"photo": images.decode(file)} if name == "restore" else dict(np.load(io.BytesIO(file)))


def attack(address: str, end: float, tally: Tally) -> None:
    """Everything hostile in turns, until the end."""
    attacker = Attacker(address)
    with closing(attacker.http):
        sent = {"path": attacker.upload(ASTRONAUT.read_bytes()).raise_for_status().json()[0]}
        attacks = list(hostile(attacker, address, sent).items())
        for turn in range(MOST_ATTACKS):
            if time.monotonic() > end:
                return
            what, (send, expected) = attacks[turn % len(attacks)]
            tally.add(what, send(), expected)


def hostile(attacker: Attacker, address: str, sent: dict) -> dict[str, tuple[Callable[[], str], str]]:
    """What is sent, how, and the words or the status that it must be refused with."""

    def restored(photo: object, *settings: object) -> Callable[[], str]:
        return lambda: attacker.call("restore", photo, *(settings or SETTINGS["restore"]))

    def uploaded(data: bytes) -> Callable[[], str]:
        return lambda: restored({"path": attacker.upload(data).raise_for_status().json()[0]})()

    def posted(route: str, **content: object) -> Callable[[], str]:
        def post() -> str:
            answer = attacker.http.post(route, **content)
            return f"{answer.status_code} {answer.text}"

        return post

    def announced(route: str, *headers: str) -> Callable[[], str]:
        return lambda: received(begun(address, route, *headers)).decode()

    def dripping() -> str:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bomb(9, 9)
        kind = form, "Content-Length: 1000000"
        drips = [begun(address, "upload", *kind, body=head) for _ in range(2 * serving.UPLOADS_OF_ONE)]
        answer = received(drips[-1])
        for drip in drips:
            drip.close()
        while attacker.upload(bomb(9, 9)).status_code == 503:
            time.sleep(0.1)  # until the server has seen that they are gone
        return answer.decode()

    def flood() -> str:
        body = {"data": [sent, *GIVEN, *own("stability")], "session_hash": "flood"}
        answers = [attacker.http.post("call/stability", json=body).text for _ in range(2 * serving.WAITING_OF_ONE)]
        with attacker.http.stream("GET", "queue/data", params={"session_hash": "flood"}):
            return answers[-1]  # gone: what waited is given up

    def packed(data: bytes) -> Callable[[], str]:
        """Many photos at once, in a ZIP."""

        def restore() -> str:
            sent = attacker.upload(data, "photos.zip").raise_for_status().json()[0]
            file = {"path": sent, "meta": {"_type": "gradio.FileData"}}
            given = [[file], False, False, "simulate", DEFAULT_MODEL]
            return "".join(attacker.messages(attacker.number("many-run", "click"), token_hex(8), given))

        return restore

    many = [("files", (f"{number}.png", bomb(9, 9))) for number in range(50)]
    deep = b'{"data": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"
    as_json, form = "application/json", "Content-Type: multipart/form-data; boundary=x"
    fetched = {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}
    return {
        "uploads that drip": (dripping, "busy, try again"),
        "a flood": (flood, "busy, try again"),
        "a path": (restored({"path": str(ASTRONAUT)}), serving.NOT_SENT),
        "a device": (restored({"path": "/dev/zero"}), serving.NOT_SENT),
        "an address": (restored(fetched), serving.NOT_SENT),
        "a file of the server": (lambda: attacker.http.get("file=/etc/passwd").text, "not allowed"),
        "a closed route": (lambda: attacker.http.get("proxy=http://127.0.0.1:9/").text, "no such page"),
        "too many pixels": (uploaded(bomb(60_000, 60_000)), "megapixels"),
        "a text that inflates": (uploaded(bomb(64, 64, text=100_000_000)), "more than 1 MB"),
        "no picture": (posted("upload", files={"files": ("a.png", b"MZ" + bytes(100))}), "400"),
        "many files": (posted("upload", files=many), "400"),
        "a large file": (announced("upload", form, "Content-Length: 1000000000"), " 413 "),
        "huge JSON": (announced("call/restore", f"Content-Type: {as_json}", "Content-Length: 200000000"), " 413 "),
        "deep JSON": (posted("call/restore", content=deep, headers={"Content-Type": as_json}), "400"),
        "a number for a photo": (restored(5), "wrong type"),
        "a list for a model": (restored(sent, [DEFAULT_MODEL], "simulate", False), "not a model's name"),
        "a model that is none": (restored(sent, "../../etc", "simulate", False), "not a model of this page"),
    } | {what: (packed(data), told) for what, (data, told) in hostile_zips().items()}  # fmt: skip


def hostile_zips() -> dict[str, tuple[bytes, str]]:
    """What a ZIP holds, the ZIP, and the words that it must be refused with."""
    zeros, text = bytes(serving.UPLOAD_BYTES + 1), b"root:x:0:0:root:/root:/bin/bash\n"
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    large = zipped({"a.png": zeros})
    liar = large.replace(struct.pack("<I", len(zeros)), struct.pack("<I", 1000))
    locked = bytearray(zipped({"a.png": text}))
    locked[6] |= 1  # the flag of the file, and in the table of contents
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    return {
        "a ZIP bomb": (large, "MB when unpacked"),
        "a ZIP bomb that lies": (liar, "damaged within the ZIP"),
        "a ZIP of many bombs": (zipped({f"{i}.png": zeros[2:] for i in range(6)}), "It was left out"),
        "a ZIP of many files": (zipped({str(i): b"" for i in range(serving.ZIP_ENTRIES + 1)}), "ZIP holds more than"),
        "a ZIP in a ZIP": (zipped({"a.zip": zipped({"a.png": text})}), "is a ZIP archive"),
        "a ZIP with a path": (zipped({"../../../etc/passwd.png": text}), "<b>passwd.png</b>"),
        "a ZIP with a link": (zipped({link: b"/etc/passwd"}), "is a text, not a photo"),
        "a ZIP with a password": (bytes(locked), "locked by a password"),
        "a ZIP packed oddly": (zipped({"a.png": text}, zipfile.ZIP_LZMA), "packed in a way that is not read"),
        "a ZIP cut short": (large[:-30], "The ZIP is damaged"),
    }


def zipped(files: Mapping[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data, how)
    return file.getvalue()


def bomb(width: int, height: int, text: int = 0) -> bytes:
    """A PNG that says it has so many pixels, and a text that inflates to so many bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(text)))] * bool(text)
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")])


def watch(work: list[Future], server: psutil.Process, memory: list[int]) -> None:
    """The server's memory until all are done; an error of theirs is raised."""
    while not all(visitor.done() for visitor in work):
        memory.append(server.memory_info().rss)
        time.sleep(0.2)
    for visitor in work:
        visitor.result()


def report(tally: Tally, memory: list[int], left: list[str]) -> None:
    print(f"answers   {len(tally.seconds)}, wrong {len(tally.wrong)}")
    if tally.seconds:
        middle, slow = np.percentile(tally.seconds, (50, 95))
        print(f"latency   p50 {middle:.2f} s, p95 {slow:.2f} s, from the upload to the last file")
    print(f"memory    {memory[0] / 1e6:.0f} MB before, {max(memory) / 1e6:.0f} at most, {memory[-1] / 1e6:.0f} after")
    print(f"files     {len(left)} left after the end")
    print("refused   " + ", ".join(f"{what} {count}" for what, count in sorted(tally.refused.items())))
    for trouble in [*tally.wrong[:20], *left[:20]]:
        print(f"WRONG     {trouble}")


if __name__ == "__main__":
    main()
