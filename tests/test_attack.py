"""A running page attacked over raw HTTP, as a client library would not: everything is refused, in words, and soon."""

import asyncio
import io
import json
import os
import select
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from attacker import ASTRONAUT, GIVEN, Attacker, begun, own
from gradio import route_utils, routes
from gradio.queueing import EventQueue
from made_up import PORTRAIT
from PIL import Image
from served import started

from sparnet.checkpoints import DEFAULT_MODEL
from sparnet.errors import UserError
from sparnet.faces import Detector, Face
from sparnet.images import encode_png
from viz.tabs import bench, door, serving

ROOT = Path(__file__).parents[1]
META = {"_type": "gradio.FileData"}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[SimpleNamespace]:
    files = tmp_path_factory.mktemp("served")
    with started(files, tmp_path_factory.mktemp("log") / "app.log") as (address, process):
        yield SimpleNamespace(address=address, files=files, process=process, attacker=Attacker(address))


@pytest.fixture(scope="module")
def attacker(page) -> Attacker:
    return page.attacker


@pytest.fixture(scope="module")
def sent(attacker) -> dict:
    """A photo that was sent to the page."""
    return {"path": attacker.upload(encode_png(PORTRAIT), "Ann's $50 photo.png").raise_for_status().json()[0]}


@pytest.fixture(scope="module")
def unsent(tmp_path_factory, sent) -> list[dict]:
    """Everything else that a photo can be said to be."""
    folder = tmp_path_factory.mktemp("private")
    photo = folder / "photo.png"
    photo.write_bytes(ASTRONAUT.read_bytes())
    os.mkfifo(folder / "pipe")
    paths = [photo, folder / "missing.png", folder, folder / "pipe", "/dev/zero", "/proc/self/environ", "", "\0", "/"]
    paths += [f"{sent['path']}/../../../private0/photo.png", Path(sent["path"]).parent, f"file://{photo}"]
    paths += ["http://127.0.0.1:9/photo.png", "https://huggingface.co/front/assets/huggingface_logo.svg"]
    named = [{"path": str(path), **more} for path in paths for more in ({}, {"meta": META}, {"url": "http://[::1]:9/"})]
    return [*named, {"path": [sent["path"]]}, {"path": 5}, {"url": f"file://{photo}"}, {"path": None}, {}]


def resident(process) -> int:
    """Bytes of memory that the page's process holds."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_only_what_was_sent_to_the_page_is_opened_and_all_else_gets_the_same_answer(attacker, sent, unsent):
    assert "event: complete" in attacker.call("restore", sent, *GIVEN[:2], False)  # the request itself is right
    before, after = attacker.call("restore", unsent[0], *GIVEN[:2], False).split(serving.NOT_SENT)
    for photo in unsent:
        assert attacker.call("restore", photo, *GIVEN[:2], False) == before + serving.NOT_SENT + after, photo


@pytest.mark.parametrize("name", ["attention", "compare", "gate", "regions", "ablation", "query", "report", "edit"])
def test_no_endpoint_opens_a_photo_that_was_not_sent(attacker, unsent, name):
    assert serving.NOT_SENT in attacker.call(name, unsent[0], *GIVEN, *own(name))


def test_neither_does_the_second_photo_nor_a_file_of_edits(attacker, sent, unsent):
    for file in unsent[:6]:
        assert serving.NOT_SENT in attacker.call("agreement", sent, *GIVEN, *own("agreement", other_photo=file))
        assert serving.NOT_SENT in attacker.call("edit", sent, *GIVEN, file | {"meta": META})


def test_neither_do_replayed_edits(attacker, unsent):
    for file in (unsent[0], unsent[0] | {"meta": META}, {"path": "http://127.0.0.1:9/", "meta": META}):
        assert serving.NOT_SENT in attacker.event("paint-load", "upload", "painter", [None, None, file])


def test_a_request_names_few_files_or_a_thousand_pictures_would_fill_the_memory(page, attacker):
    file = io.BytesIO()
    Image.new("RGBA", (1024, 1024)).save(file, "PNG")
    photo = {"path": attacker.upload(file.getvalue()).json()[0], "meta": META}
    held = resident(page.process)
    assert f"names more than {serving.UPLOAD_FILES} files" in attacker.call("gate", [photo] * 100, *GIVEN, None)
    assert resident(page.process) - held < 30 * MEGABYTE


def test_links_out_of_the_folder_of_uploads_are_followed_before_it_is_decided(tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "photo.png").write_bytes(b"sent")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (uploads / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(uploads / "pipe")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    assert serving.read_upload({"path": str(uploads / "photo.png")}) == b"sent"
    monkeypatch.setattr(serving, "UPLOAD_BYTES", 3)
    for name in ("link.png", "pipe", "photo.png"):
        with pytest.raises(UserError, match=r"^This is no file that was sent to this page\."):
            serving.read_upload({"path": str(uploads / name)})


@pytest.mark.parametrize(
    "route",
    [
        "deep_link?session_hash=a",
        "proxy=http://[::1]/",
        "file=https://[::1]/",
        "stream/a",
        "custom_component/a%0Aforged/client/a/b",
    ],
)
def test_routes_that_fetch_or_write_for_a_visitor_are_closed(attacker, route):
    assert attacker.http.get(route).status_code == 404
    assert attacker.http.get(route.replace("http", "HTTP")).status_code in (403, 404)


@pytest.mark.parametrize(
    ("route", "headers"),
    [("queue/data?session_hash=none", {}), ("call/restore/none", {}), ("file={}", {"Range": "bytes=0-1,2-3"})],
)
def test_a_question_that_gradio_stumbles_over_is_answered_and_the_log_is_not_filled(attacker, sent, route, headers):
    """The fixture looks into the log."""
    answer = attacker.http.get(route.format(sent["path"]), headers=headers)
    assert answer.status_code == 400 or "404" in answer.text


def test_no_event_goes_round_the_queue_and_no_other_route_takes_anything(attacker, sent):
    for route in ("run/restore", "run/predict", "api/restore", "process_recording", "vibe-edit", "stream/1", "cancel"):
        answer = attacker.http.post(route, json={"data": [sent, *GIVEN[:2], False]})
        assert answer.status_code in (400, 404), route


def test_a_photo_of_more_pixels_than_a_camera_makes_is_refused_by_its_header(attacker):
    file = io.BytesIO()
    Image.new("1", (999, 40_000)).save(file, "PNG")
    large = {"path": attacker.upload(file.getvalue()).json()[0]}
    for name in ("restore", "gate"):
        told = attacker.call(name, large, *([*GIVEN, *own("gate")] if name == "gate" else [*GIVEN[:2], False]))
        assert "999 x 40000 pixels, which is more than 12 megapixels" in told


def test_of_a_crowd_the_largest_faces_are_restored_and_it_is_said(monkeypatch):
    monkeypatch.setattr(serving, "FACES", 2)
    crowd = [Face(np.array([0, 0, side, side], float)) for side in (30, 10, 20)]
    monkeypatch.setattr(serving, "_detectors", [Detector("stand-in", "A stand-in.", lambda photo: crowd)])
    photo = np.zeros((64, 64, 3), np.uint8)
    faces, _, notes = serving.find(photo, False)
    assert [face.box[2] for face in faces] == [30, 20]
    assert "3 faces were found; this page takes the 2 largest." in notes[-1]
    given = serving.Photo(encode_png(photo), "crowd")
    facts = bench.opened(given, DEFAULT_MODEL, "simulate", False, lambda *_, **__: None).facts()
    assert len(facts["faces"]) == 2
    assert facts["detector"] == "stand-in"
    assert facts["notes"][: len(notes)] == notes


WRONG = {
    "face": ("attention", [DEFAULT_MODEL, "simulate", "x", False], "There is no face 'x'"),
    "face half": ("gate", [DEFAULT_MODEL, "simulate", 1.5, False, None], "There is no face 1.5"),
    "face 0": ("gate", [DEFAULT_MODEL, "simulate", 0, False, None], "There is no face 0"),
    "whole": ("restore", [DEFAULT_MODEL, "simulate", "false"], "whole is 'false'"),
    "mode": ("restore", [DEFAULT_MODEL, ["simulate"], False], "is not a mode"),
    "model": ("restore", [[DEFAULT_MODEL], "simulate", False], "is not a model's name"),
    "models": ("compare", [[5], "simulate", 1, False], "is not a list of models' names"),
    "models nested": ("compare", [[[DEFAULT_MODEL]], "simulate", 1, False], "is not a list of models' names"),
    "models number": ("compare", [5, "simulate", 1, False], "is not a list of models' names"),
    "models path": ("compare", [["/etc"], "simulate", 1, False], "'/etc' is not a model"),
    "units": ("faithfulness", [*GIVEN, *own("faithfulness", units=5)], "units is 5. Input should be a valid list"),
    "unit": ("faithfulness", [*GIVEN, *own("faithfulness", units=[5])], "units is [5]. Input should be a valid string"),
    "patch": ("query", [*GIVEN, *own("query", patch=[1, 2, "x"])], "A patch is four whole numbers"),
    "patch text": ("query", [*GIVEN, *own("query", patch="1,2,3,4")], "A patch is four whole numbers"),
    "patch outside": ("query", [*GIVEN, *own("query", patch=[0, 0, 999, 1])], "is not inside the face"),
    "detector": (
        "query",
        [*GIVEN, *own("query", detector=["sum"])],
        "detector is ['sum']. Input should be",
    ),
    "pairs": ("ablation", [*GIVEN, *own("ablation", pairs="no")], "pairs is 'no'"),
    "modes": (
        "ablation",
        [*GIVEN, *own("ablation", modes=["zero", "two"])],
        "modes is ['zero', 'two']. Input",
    ),
    "steps": ("query", [*GIVEN, *own("query", steps=10**9)], "steps is 1000000000. Input should be less than"),
    "steps half": ("query", [*GIVEN, *own("query", steps=1.5)], "steps is 1.5. Input should be a valid integer"),
    "sigma": ("query", [*GIVEN, *own("query", sigma="1e9")], "sigma is '1e9'. Input should be a valid number"),
    "noises": (
        "stability",
        [*GIVEN, *own("stability", noises=True)],
        "noises is True. Input should be a valid",
    ),
    "seed": ("sanity", [*GIVEN, *own("sanity", seed=-1)], "seed is -1. Input should be greater than"),
    "colormap": ("atlas", [*GIVEN, *own("atlas", colormap={"a": 1})], "colormap is {"),
    "other model": ("agreement", [*GIVEN, *own("agreement", other_model=5)], "is not a model's name"),
    "too few": ("restore", [], "A value is missing"),
    "no such endpoint": ("rm", [], "A value is missing"),
}


@pytest.mark.parametrize(("name", "data", "told"), WRONG.values(), ids=WRONG)
def test_a_value_of_the_wrong_type_is_answered_by_what_is_wrong_with_it(attacker, sent, name, data, told):
    answer = attacker.call(name, sent, *data)
    assert told in answer
    assert serving.BUG not in answer


def test_no_event_of_the_page_stumbles_over_a_value_that_the_page_never_sends(attacker):
    """The fixture finds what a handler says of it in the log."""
    kinds = {part["id"]: part["type"] for part in attacker.config["components"]}
    for event in attacker.config["dependencies"]:
        if not event["backend_fn"]:  # the browser's alone
            continue
        for value in (None, [[5]]):
            data = [None if kinds[part] == "state" else value for part in event["inputs"]]
            told = attacker.joined(event["id"], "nobody", data, [value])
            assert serving.BUG not in told
            assert '"error":null' not in told


@pytest.mark.parametrize("photo", ["photo.png", 5, [], [5], True])
def test_a_photo_that_is_no_file_is_answered_in_words(attacker, photo):
    assert "of the wrong type" in attacker.call("restore", photo, *GIVEN[:2], False)


def test_a_face_strength_or_part_that_the_page_never_sends_is_answered_in_words(attacker, sent):
    session = "restored"
    token = next(
        part["props"]["value"] for part in attacker.config["components"] if part["props"].get("elem_id") == "token"
    )
    wrong = [{"index": index} for index in (-1, 7, "0", [0])] + [{"toggle": 7}, {"toggle": "x"}, {"turn": 9}, {}, None]
    for touch in wrong:
        assert "There is no" in attacker.event("faces", "select", session, [None, token], touch), touch
    for box in ([0, 0, 2, 2], [0, 0, "x", 1], [0.5, 0.5, 0.4, 0.4], "x", [0, 0, 0.001, 0.001]):
        assert "The frame is" in attacker.event("faces", "select", session, [None, token], {"box": box}), box
    assert "was deleted" in attacker.event("faces", "select", session, [None, "another's"], {"index": 0})
    for strength in (-1, 2, "x", None):
        assert '"success":true' in attacker.event("stage", "release", session, [], {"strength": strength})
    for patch in ([1], "x", [0, 0, float(10**9), 1], None):
        assert '"success":true' in attacker.event(
            "view-query", "select", session, [None, None, None, *own("query")], {"patch": patch}
        )
    for canvas in (None, "x", {"unit": "rm", "mask": "x"}, {"unit": "body.0", "mask": "é" * 20_000}):
        told = attacker.event("paint", "input", session, [None, None, None, canvas])
        assert "What was painted cannot be read" in told


def test_no_message_tells_where_anything_lies_on_the_server(attacker, sent):
    told = attacker.call("restore", sent, "sparnet", *GIVEN[1:2], False)
    assert "is not bundled" in told
    assert str(ROOT) not in told
    file = "YuNet from /srv/host/models/yunet.onnx, see https://a.b/c/d.html or 'checkpoints/released'."
    assert serving.without_paths(file) == file.replace("/srv/host/models/", "")


def test_downloads_are_called_as_the_photo_in_harmless_letters(attacker, sent):
    _, events = attacker.call("restore", sent, *GIVEN[:2], False).split("data: ")
    assert json.loads(events)[0]["orig_name"] == "Ann-s-50-photo-restored.png"
    for name in ("../../etc/passwd", "a\nb", '<img src="x">', "$" * 300, "x" * 300):
        stem = serving.file_stem(name)
        assert stem.replace("-", "").replace("_", "").isalnum()
        assert len(stem) <= 40


def test_what_is_no_picture_is_refused_at_the_upload_and_leaves_nothing(page, attacker):
    before = sorted(page.files.rglob("*"))
    for data in (
        b"MZ" + bytes(100),
        b"<svg xmlns=''>" + bytes(100),
        b"hello",
        b"",
        b"RIFF1234AVI " + bytes(100),
        b"GIF89a",
    ):
        refused = attacker.upload(data, "photo.png")
        assert refused.status_code == 400
        assert any(words in refused.text for words in ("not a photo that can be read", "is empty", "is damaged"))
    assert sorted(page.files.rglob("*")) == before
    assert attacker.upload(b'{"format": "edits"}', "edits.json").status_code == 200


def test_more_files_or_bytes_than_a_request_may_have_are_refused_and_leave_nothing(page, attacker):
    before = sorted(page.files.rglob("*"))
    photo = ASTRONAUT.read_bytes()
    many = [("files", (f"{i}.png", photo)) for i in range(serving.MANY_PHOTOS + 1)]
    assert attacker.http.post("upload", files=many).status_code == 400
    assert attacker.upload(photo[:12] + bytes(serving.UPLOAD_BYTES)).status_code == 413
    for route in ("upload", "component_server"):
        kind = {"Content-Type": f"multipart/form-data; boundary={'x' * 3000}"}
        assert attacker.http.post(route, content=b"--x", headers=kind).status_code == 400
    field = {"files": (None, b"x" * (serving.FIELD_BYTES + 1))}
    assert attacker.http.post("upload", files=field).status_code == 413
    assert sorted(page.files.rglob("*")) == before


def test_a_large_body_is_refused_before_it_has_come(page):
    held = resident(page.process)
    kind = "Content-Type: application/json"
    for headers, body in (
        (("Content-Length: 200000000",), b""),
        (("Transfer-Encoding: chunked",), b"%x\r\n" % MEGABYTE + b"[" * MEGABYTE + b"\r\n"),
    ):
        routes = ("call/restore", "queue/join", "component_server", "reset")
        for connection in [begun(page.address, route, kind, *headers, body=body) for route in routes]:
            with connection:
                assert b" 413 " in connection.recv(100)
    assert resident(page.process) - held < 20 * MEGABYTE


@pytest.mark.parametrize("route", ["upload", "component_server", "call/restore"])
def test_two_hundred_dripping_bodies_hold_neither_memory_nor_places_nor_files(page, attacker, route):
    attacker.upload(ASTRONAUT.read_bytes()).raise_for_status()
    held, files = resident(page.process), sorted(page.files.rglob("*"))
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    kind = ("Content-Type: multipart/form-data; boundary=x", f"Content-Length: {serving.JSON_BYTES}")
    drips = [begun(page.address, route, *kind, body=part + ASTRONAUT.read_bytes()[:100_000]) for _ in range(200)]
    refused = 0
    while refused < len(drips) - serving.UPLOADS_OF_ONE:
        for drip in select.select(drips, [], [], 30)[0]:
            answer = drip.makefile("rb").read()
            assert b" 503 " in answer
            assert b"busy, try again" in answer
            drip.close()
            drips.remove(drip)
            refused += 1
    assert resident(page.process) - held < 30 * MEGABYTE
    for drip in drips:
        drip.close()
    for _ in range(100):  # until the server has seen that they are gone
        if attacker.http.post(route, json={}).status_code != 503:
            break
    assert sorted(page.files.rglob("*")) == files


def test_an_address_has_a_share_of_the_connections_that_wait_for_an_answer(page):
    host, port = page.address.removeprefix("http://").split(":")
    waiting = []
    for number in range(serving.REQUESTS_OF_ONE + 5):
        waiting.append(socket.create_connection((host, int(port)), timeout=30))
        waiting[-1].sendall(f"GET /gradio_api/heartbeat/{number} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = waiting[-1].recv(100)
    assert b" 503 " in answer
    for connection in waiting:
        connection.close()


def test_a_body_that_comes_too_slowly_is_given_up(monkeypatch):
    monkeypatch.setattr(serving, "GRACE", 0.01)

    async def never():
        await asyncio.sleep(60)

    receive = door._bounded({"headers": []}, never, MEGABYTE)
    with pytest.raises(door._Refused, match="too slowly"):
        asyncio.run(receive())


def test_memory_over_all_sessions_is_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(serving, "KEPT_BYTES", 2500)
    photo = serving.Photo(bytes(1000), "shared")
    sessions = {name: SimpleNamespace(state_data={1: [serving.Photo(bytes(1000), name), photo]}) for name in "abcd"}
    messages = {name: asyncio.Queue() for name in "abcd"}
    for name, queue in messages.items():
        queue.put_nowait(SimpleNamespace(output={"data": [name * 1000]}))
    line = SimpleNamespace(pending_messages_per_session=messages)
    door.forget_the_oldest(SimpleNamespace(session_data=sessions), line)
    assert [name for name, session in sessions.items() if session.state_data] == ["d"]  # 1000, and 1000 that all share
    assert list(messages) == ["c", "d"]


def test_a_thousand_sessions_that_look_at_nothing_take_nobody_s_result(monkeypatch):
    sessions = door.Sessions()
    sessions.set_blocks(door.Page())
    sessions.capacity = 5
    sessions["ann"].state_data[1] = serving.Photo(bytes(2000), "ann")
    for number in range(20):
        sessions[f"flood {number}"]
    assert list(sessions.session_data) == ["ann", *(f"flood {number}" for number in range(16, 20))]
    assert sessions["ann"].state_data


def test_of_answers_that_nobody_fetches_few_are_kept_and_none_of_those_who_wait_are_lost(monkeypatch):
    monkeypatch.setattr(serving, "SESSIONS", 3)
    line = door.Line(live_updates=False, concurrency_count=1, update_intervals=1, max_size=None, blocks=None)
    for name in "abcdef":
        line.pending_messages_per_session[name] = asyncio.Queue()
        line.pending_event_ids_session[name] = set()
    waiting = line.event_ids_to_events["id"] = SimpleNamespace(session_hash="a", alive=True, _id="id")
    line._forget_the_unread()
    assert list(line.pending_messages_per_session) == list(line.pending_event_ids_session) == ["a", "e", "f"]
    line.send_message(waiting, SimpleNamespace())
    assert line.pending_messages_per_session["a"].qsize() == 1
    line.send_message(SimpleNamespace(session_hash="b", alive=True, _id="old"), SimpleNamespace())  # and no error


def test_a_browser_s_name_for_itself_is_short_and_of_uploads_few_are_remembered(attacker, sent, monkeypatch):
    body = {"data": [sent, *GIVEN[:2], False], "session_hash": "x" * (serving.SESSION_LETTERS + 1), "fn_index": 0}
    for route in ("call/restore", "queue/join", "run/predict"):
        answer = attacker.http.post(route, json=body)
        assert answer.status_code in (400, 500), route
        assert "of the wrong type" in answer.text
    assert attacker.http.get("upload_progress", params={"upload_id": "x" * 5000}).status_code == 414
    monkeypatch.setattr(serving, "SESSIONS", 3)
    progress = route_utils.FileUploadProgress()
    monkeypatch.setattr(routes, "file_upload_statuses", progress)
    for number in range(9):
        progress.track(str(number))
        door._forget_old_uploads()
    assert list(progress._statuses) == list(progress._signals) == ["6", "7", "8"]


def test_memory_is_counted_once_and_a_view_counts_as_what_it_keeps():
    pixels, tensor = np.zeros((10, 10, 3), np.uint8), torch.zeros(5)
    value = {"a": pixels[:1], "b": [pixels, (tensor, tensor[:1])], "c": serving.Photo(b"1234", "name"), "d": 5}
    assert serving.size_of(value, set()) == 300 + 20 + 4 + 4


@pytest.mark.parametrize("lane", [serving.QUICK, serving.SLOW], ids=["quick", "slow"])
def test_what_an_answer_leaves_behind_is_freed_with_it(lane):
    class Figure:
        def __init__(self):
            self.itself = self

    figures = []
    with door.Page() as page:
        gr.Button().click(lambda: figures.append(weakref.ref(Figure())), **lane)
    page.state_holder = SimpleNamespace(session_data={})
    asyncio.run(page.process_api(0, []))
    assert [figure() for figure in figures] == [None]


def test_disk_is_bounded_and_the_oldest_files_go_first(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(serving, "DISK_BYTES", 250)
    for age, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").write_bytes(bytes(100))
        os.utime(tmp_path / name / "photo.png", (age, age))
    serving.delete_the_oldest()
    assert sorted(path.parent.name for path in tmp_path.rglob("*.png")) == ["b", "c"]


def test_a_start_removes_the_folders_of_dead_servers_and_only_those(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    dead, foreign, link = (tmp_path / f"sparnet-{name}" for name in ("dead", "foreign", "link"))
    for folder in (dead, foreign, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "photo.png").write_bytes(b"a visitor's")
    for folder in (dead, tmp_path / "elsewhere"):
        (folder / "in-use").touch()  # as a killed server leaves it
    link.symlink_to(tmp_path / "elsewhere")
    with serving.own_folder() as living, serving.own_folder() as second:
        assert not dead.exists()
        assert living.is_dir()
        assert living != second
        assert (foreign / "photo.png").exists()
        assert (tmp_path / "elsewhere" / "photo.png").exists()
    assert not living.exists()


def waiting_event(visitor: str) -> SimpleNamespace:
    scope = {"client": (visitor, 1), "headers": []}
    return SimpleNamespace(visitor=visitor, request=SimpleNamespace(scope=scope), fn=SimpleNamespace(batch=False))


def test_visitors_take_turns_however_many_requests_one_of_them_sends():
    line = door.Line(live_updates=False, concurrency_count=1, update_intervals=1, max_size=None, blocks=None)
    lane = line.event_queue_per_concurrency_id["slow"] = EventQueue("slow", 1)
    lane.queue = [waiting_event(visitor) for visitor in ("flood", "flood", "flood", "flood", "ann", "bob", "ann")]
    served = []
    while lane.queue:
        served.append(line.get_events()[0][0].visitor)
    assert served == ["flood", "ann", "bob", "flood", "ann", "flood", "flood"]


def test_on_a_space_the_proxy_tells_the_address_and_elsewhere_nobody_is_believed(monkeypatch):
    scope = {"client": ("10.0.0.1", 5), "headers": [(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2")]}
    assert door.address(scope) == "10.0.0.1"
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "a/b")
    assert door.address(scope) == "2.2.2.2"


def test_a_flood_of_slow_requests_is_refused_in_words_and_no_restoration_waits_behind_it(attacker, sent):
    body = {"data": [sent, *GIVEN, *own("faithfulness")], "session_hash": "flood"}
    answers = [attacker.http.post("call/faithfulness", json=body) for _ in range(3 * serving.WAITING_OF_ONE)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) - len(refused) in range(serving.WAITING_OF_ONE, serving.WAITING_OF_ONE + 5)  # some were done
    assert {(answer.status_code, answer.json()["detail"]) for answer in refused} == {(503, serving.BUSY)}
    assert "event: complete" in attacker.call("restore", sent, *GIVEN[:2], False)
    assert attacker.http.get("queue/status").json()["queue_size"] >= serving.WAITING_OF_ONE // 2
    with attacker.http.stream("GET", "queue/data", params={"session_hash": "flood"}):
        pass  # gone: what waited is given up


def test_the_page_is_well_after_all_that(page, attacker, sent):
    assert page.process.poll() is None
    assert "event: complete" in attacker.call("gate", sent, *GIVEN, *own("gate"))
