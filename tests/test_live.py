"""The live tab: frames of a fake camera in a real browser, one visitor at a time, nothing kept."""

import io
import threading
import time
from base64 import b64decode, b64encode

import camera
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from playwright.sync_api import expect
from served import PATIENCE, served, visit, watched

from sparnet import Restorer, SPARNet, SPARNetConfig
from sparnet.attention import mean_map
from sparnet.faces import Face, crop_transform, find_detector, track
from viz.tabs import live, serving

SMALL = SPARNetConfig(
    size=64, smallest=16, min_channels=8, max_channels=8, body_depth=1, bottleneck=8, hourglass_channels=8,
    degraded_size=16,
)  # fmt: skip
FACE = Face(np.array([110.0, 60, 210, 190]))
VISITOR = "visitor-one"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SPARNet(SMALL).eval()


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("live")
    with served(folder, model, [FACE]) as address:
        yield address, folder


@pytest.fixture
def page(server, browser, tmp_path_factory):
    film = tmp_path_factory.mktemp("film") / "face.mjpeg"
    camera.film(film)
    faked = browser.browser_type.launch(
        executable_path=browser.executable,
        args=["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
              f"--use-file-for-fake-video-capture={film}"],
    )  # fmt: skip
    with watched(faked, server[0]) as page:
        page.get_by_role("tab", name="Live").click()
        yield page
    faked.close()


@pytest.fixture
def seat(model, monkeypatch):
    """A seat whose detector finds `FACE` always, and whose network is `model`."""
    monkeypatch.setattr(live, "model_for", lambda mode: "small")
    monkeypatch.setattr(serving, "restorer", lambda name: (Restorer(model), []))
    monkeypatch.setattr(serving, "find", lambda photo, whole: ([FACE], "stand-in", []))
    return live.Seat()


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def asked(image: bytes | None = None, visitor: object = VISITOR, mode: object = "simulate", unit: object = "") -> dict:
    image = image or jpeg(skimage.data.astronaut()[:320, :320])
    return {"visitor": visitor, "image": b64encode(image).decode(), "mode": mode, "unit": unit}


def test_the_cameras_face_is_restored_under_a_map_and_the_moment_goes_to_the_bench(page, server):
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#live .hint")).to_contain_text("faces a second", timeout=PATIENCE)
    expect(page.locator("#live .frame")).to_be_visible()
    picture = page.locator("#live img")
    first = picture.get_attribute("src")
    expect(picture).not_to_have_attribute("src", first)  # it moves
    expect(page.locator("#live [name=unit] option")).to_have_count(1 + len(list(SMALL.units())))
    page.locator("#live [name=unit]").select_option("body.0")
    expect(page.locator("#live figcaption").last).to_contain_text("body.0 over it")
    assert list(server[1].rglob("*.jpg")) == [], "no frame is stored"
    page.get_by_role("button", name="Restore this moment as a photo").click()
    expect(page.locator(".stage .compare")).to_be_visible(timeout=PATIENCE)
    taken = page.locator(".stage .side.left .base").get_attribute("src")
    assert taken.startswith("data:image/jpeg")
    expect(page.locator(".photo img")).not_to_have_attribute("alt", "")


def test_a_camera_that_is_refused_is_told(server, browser):
    page = visit(browser)
    page.goto(server[0])
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start the camera").click()
    notice = page.locator("#live .notice")
    expect(notice).to_contain_text("No camera was found. Connect one", timeout=PATIENCE)
    refused = "name => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name) } }"
    for name, told in {"NotAllowedError": "Allow it", "NotReadableError": "Close that", "AbortError": "Give"}.items():
        page.evaluate(refused, name)
        page.get_by_role("button", name="Start the camera").click()
        expect(notice).to_contain_text(told)
    page.close()


def test_the_answer_is_the_restorers_and_the_map_the_networks(seat, model):
    photo = skimage.data.astronaut()[:320, :320]
    frame = np.array(Image.open(io.BytesIO(jpeg(photo))))
    answer = seat.frame(asked(unit="body.0"))
    expected = Restorer(model).restore_face(frame, FACE, "simulate")
    levels = np.frombuffer(b64decode(answer["map"]), np.uint8).reshape(answer["side"], -1)
    assert np.abs(levels - 255 * mean_map(expected.alphas["body.0"])).max() <= 1.5
    assert answer["units"] == list(expected.alphas)
    assert answer["face"] == pytest.approx((FACE.box / 320).tolist(), abs=1e-3)


def test_one_visitor_at_a_time_until_idle_or_over(seat, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    assert "restored" in seat.frame(asked())
    assert seat.frame(asked(visitor="visitor-two"))["error"] == live.TAKEN
    begun, second = now[0] + serving.LIVE_IDLE + 1, asked(visitor="visitor-two")
    for seconds in range(0, serving.LIVE_SECONDS + 1, serving.LIVE_IDLE - 1):
        now[0] = begun + seconds
        assert "restored" in seat.frame(second)
    now[0] = begun + serving.LIVE_SECONDS + 1
    assert seat.frame(second)["error"] == live.OVER
    assert "restored" in seat.frame(asked(visitor="visitor-three"))


def test_frames_that_come_faster_than_they_are_answered_are_refused(seat, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(seat, "restored", lambda *given: go.wait(10) and {"restored": ""})
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(seat.frame(asked()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(answers) < 8 - live.UNDER_WAY and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(answers) == 8 - live.UNDER_WAY
    assert all("faster than they are answered" in answer["error"] for answer in answers)
    go.set()
    for thread in threads:
        thread.join()
    assert "restored" in seat.frame(asked()), "and afterwards it goes on"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "unusual way"),
        (asked(visitor=["visitor-one"]), "unusual way"),
        (asked(mode="both"), "is not a mode"),
        (asked() | {"image": "%%%"}, "cannot be read"),
        (asked() | {"image": "A" * 400_000}, "too large"),
        (asked() | {"image": {"path": "/etc/passwd"}}, "missing or too large"),
        (asked(b"This is not a photo."), "not a photo"),
        (asked(jpeg(np.zeros((900, 900, 3), np.uint8))), "pixels"),
    ],
)
def test_what_a_browser_should_not_send_is_answered_in_words(seat, given, told):
    assert told in seat.frame(given)["error"]


def test_a_face_that_moved_is_tracked_without_the_detector():
    astronaut = skimage.data.astronaut()[:320, 60:380]
    found = find_detector()(astronaut)[0]
    moved = np.roll(astronaut, (6, 9), (0, 1))
    tracked = track(moved, found)
    assert np.abs(tracked.landmarks - found.landmarks - (9, 6)).max() < 4
    assert np.abs(tracked.box - found.box - (9, 6, 9, 6)).max() < 8
    assert np.abs(crop_transform(tracked, 64) - crop_transform(found, 64))[:, :2].max() < 0.08
    assert track(astronaut, Face(found.box)) is None


def test_the_detector_looks_only_where_the_face_is_not_seen_any_more(seat, monkeypatch):
    astronaut, looked = skimage.data.astronaut()[:320, 60:380], []
    found = find_detector()(astronaut)
    monkeypatch.setattr(serving, "find", lambda photo, whole: looked.append(photo) or (found, "stand-in", []))
    for step in range(4):
        assert seat.frame(asked(jpeg(np.roll(astronaut, 4 * step, 1))))["face"]
    assert len(looked) == 1
    seat.frame(asked(jpeg(np.full_like(astronaut, 90))))
    assert len(looked) == 2


def test_a_frame_without_a_face_says_so(seat, monkeypatch):
    monkeypatch.setattr(serving, "find", lambda photo, whole: ([], "stand-in", []))
    assert seat.frame(asked()) == {"model": "small", "face": None}
