"""The page's endpoints as tools, asked by the official client of the Model Context Protocol, also with ill will."""

import json
import socket
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager
from io import BytesIO
from types import SimpleNamespace

import anyio
import httpx2
import numpy as np
import pytest
import torch
from attacker import ASTRONAUT, Attacker
from made_up import SMALL
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from served import served

from sparnet import Restorer, SPARNet, images
from sparnet.faces import Face
from viz.tabs import door, serving, tools

FACE = Face(np.array([178.0, 64, 268, 188]), np.array([[200.0, 108], [246, 106], [228, 130], [204, 156], [244, 154]]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """.address, .model, and .ask(tool, **arguments) -> (whether it failed, what it answered)"""
    torch.manual_seed(0)
    model = SPARNet(SMALL).eval()
    with pytest.MonkeyPatch.context() as patch:
        assert tools.offered()
        patch.setenv("GRADIO_MCP_SERVER", "true")
        with served(tmp_path_factory.mktemp("page"), model, [FACE]) as address:

            @asynccontextmanager
            async def session():
                opened = streamable_http_client(f"{address}gradio_api/mcp/")
                async with opened as (read, write, _), ClientSession(read, write) as session:
                    await session.initialize()
                    yield session

            async def listed():
                async with session() as asked:
                    return (await asked.list_tools()).tools

            async def called(tool, arguments):
                async with session() as asked:
                    return await asked.call_tool(tool, arguments)

            def ask(tool, **arguments):
                answer = anyio.run(called, tool, arguments)
                return answer.isError, answer.content

            yield SimpleNamespace(
                address=address, model=model, ask=ask, listed=lambda: anyio.run(listed), attacker=Attacker(address[:-1])
            )


@pytest.fixture(scope="module")
def sent(page) -> str:
    """The address of a photo that was sent to the page."""
    path = page.attacker.upload(ASTRONAUT.read_bytes()).raise_for_status().json()[0]
    return f"{page.address}gradio_api/file={path}"


def inline(data: bytes) -> str:
    return f"data:image/png;base64,{b64encode(data).decode()}"


def test_every_public_endpoint_is_a_tool_with_typed_and_explained_arguments(page):
    found = {tool.name: tool for tool in page.listed()}
    public = httpx2.get(f"{page.address}gradio_api/info").json()["named_endpoints"]
    assert sorted(found) == sorted(name.lstrip("/") for name in public)
    assert {"restore", "attention", "compare", "report", "ablation"} <= found.keys()
    for tool in found.values():
        assert len(tool.description) > 50
        assert tool.inputSchema["required"][0] == "photo"
        for name, argument in tool.inputSchema["properties"].items():
            assert argument["description"], (tool.name, name)
            assert argument.get("enum") != []
            assert isinstance(argument.get("type", "any"), str)


def test_a_photo_that_was_sent_is_restored_and_comes_back_as_a_picture(page, sent):
    failed, (picture, _, facts) = page.ask("restore", photo=sent, model="model", mode="simulate")
    assert not failed
    expected = Restorer(page.model)(images.load(ASTRONAUT), "simulate", [FACE]).photo
    np.testing.assert_array_equal(np.array(Image.open(BytesIO(b64decode(picture.data))).convert("RGB")), expected)
    assert len(json.loads(facts.text)["faces"]) == 1


def test_a_photo_within_the_call_is_looked_into_by_an_option_of_the_instrument(page):
    failed, answer = page.ask("gate", photo=inline(ASTRONAUT.read_bytes()), mode="simulate", unit="body.0")
    assert not failed
    numbers = httpx2.get(answer[-1].text).json()
    assert numbers["provenance"]["settings"]["unit"] == "body.0"


@pytest.mark.parametrize(
    "photo", ["/etc/hostname", "http://127.0.0.1:9/gradio_api/file=/etc/hostname", "http://127.0.0.1:9/a.png", "x"]
)
def test_nothing_but_what_was_sent_is_opened_and_all_gets_one_answer(page, photo):
    failed, (answer,) = page.ask("restore", photo=photo)
    assert failed
    assert serving.NOT_SENT in answer.text


def test_no_argument_smuggles_a_file_of_the_server_to_the_page_s_own_client(page, sent, tmp_path):
    (tmp_path / "private.png").write_bytes(ASTRONAUT.read_bytes())
    smuggled = {"path": str(tmp_path / "private.png"), "meta": {"_type": "gradio.FileData"}}
    failed, (answer,) = page.ask("query", photo=sent, patch=[smuggled, 0, 1, 1])
    assert failed
    assert serving.NOT_SENT in answer.text


def test_addresses_are_not_fetched(page):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        assert page.ask("restore", photo=f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.png")[0]
        with pytest.raises(TimeoutError):
            elsewhere.accept()


@pytest.mark.parametrize(
    ("photo", "message"), [("data:image/png;base64,????", "no base64"), (inline(b"GIF89a" + bytes(99)), "not a")]
)
def test_what_is_no_photo_is_refused_before_it_is_stored(page, photo, message):
    before = len(list(serving.Path(serving.get_upload_folder()).glob("*")))
    failed, (answer,) = page.ask("restore", photo=photo)
    assert failed
    assert message in answer.text
    assert len(list(serving.Path(serving.get_upload_folder()).glob("*"))) == before


def test_a_visitor_s_mistake_is_told_in_the_page_s_words(page, sent):
    failed, (answer,) = page.ask("attention", photo=sent, face=7)
    assert failed
    assert "There is no face 7; 1 found." in answer.text


def test_a_call_is_of_bounded_size_and_the_older_transport_is_closed(page):
    large = httpx2.post(f"{page.address}gradio_api/mcp/", content=bytes(serving.CALL_BYTES + 1))
    assert large.status_code == 413
    assert httpx2.get(f"{page.address}gradio_api/mcp/sse").status_code == 404
    assert httpx2.post(f"{page.address}gradio_api/mcp/messages/").status_code == 404


def test_a_call_waits_in_line_as_its_visitor_s_own(page, sent, monkeypatch):
    waited = []
    push = door.Line.push

    async def counted(self, body, request, username):
        waited.append(door.address(request.scope))
        return await push(self, body, request, username)

    monkeypatch.setattr(door.Line, "push", counted)
    monkeypatch.setattr(tools, "address", lambda scope: "203.0.113.7")
    page.ask("restore", photo=sent)
    assert waited == ["203.0.113.7"]
    forged = {"type": "http", "headers": [(b"x-on-behalf-of", b"0" * 32 + b" 203.0.113.7")], "client": ("192.0.2.1", 1)}
    assert door.address(forged) == "192.0.2.1"
