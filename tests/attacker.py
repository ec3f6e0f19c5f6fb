"""Requests to a running page over raw HTTP, as a client library would not send them."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import skimage.data

from sparnet.checkpoints import DEFAULT_MODEL
from viz.tabs import controls

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
GIVEN = [DEFAULT_MODEL, "simulate", 1, False]  # model, mode, face, whole


def own(name: str, **given) -> list:
    """The values of an endpoint's own parameters: those that are given, and the defaults of the others."""
    if name not in controls.on_page():
        return []
    return list((controls.given_to(controls.on_page()[name]) | given).values())


class Attacker:
    """A visitor; of a page on this machine only."""

    def __init__(self, address: str):
        assert urlsplit(address).hostname == "127.0.0.1", address
        self.http = httpx2.Client(base_url=f"{address}/gradio_api/", timeout=120)
        self.config = httpx2.get(f"{address}/config").json()

    def call(self, name: str, *data) -> str:
        """The events that an endpoint answers with, or why it does not."""
        asked = self.http.post(f"call/{name}", json={"data": data})
        if asked.status_code != 200:
            return asked.text
        return self.http.get(f"call/{name}/{asked.json()['event_id']}").text

    def upload(self, data: bytes, name: str = "photo.png") -> httpx2.Response:
        return self.http.post("upload", files={"files": (name, data)})

    def event(self, elem_id: str, kind: str, session: str, data: list, event_data: object = None) -> str:
        """What the page's own event, that has no name for programs, answers with."""
        return self.joined(self.number(elem_id, kind), session, data, event_data)

    def number(self, elem_id: str, kind: str) -> int:
        """Of an event in the page's configuration."""
        component = next(part["id"] for part in self.config["components"] if part["props"].get("elem_id") == elem_id)
        return next(event["id"] for event in self.config["dependencies"] if [component, kind] in event["targets"])

    def joined(self, number: int, session: str, data: list, event_data: object = None) -> str:
        """`event`, by its number in the page's configuration."""
        return self.messages(number, session, data, event_data)[-1]

    def messages(self, number: int, session: str, data: list, event_data: object = None) -> list[str]:
        """All that an event tells, of which `joined` is the last."""
        body = {"data": data, "fn_index": number, "session_hash": session, "event_data": event_data}
        self.http.post("queue/join", json=body).raise_for_status()
        told = []
        with self.http.stream("GET", "queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                told.append(line)
                if "process_completed" in line:
                    break
        return told


def begun(address: str, route: str, *headers: str, body: bytes = b"") -> socket.socket:
    """A POST that never ends."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    lines = [f"POST /gradio_api/{route} HTTP/1.1", f"Host: {host}:{port}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode() + body)
    return connection


def received(connection: socket.socket) -> bytes:
    """All that comes until the page closes the connection."""
    return b"".join(iter(lambda: connection.recv(4000), b""))
