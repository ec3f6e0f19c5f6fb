"""The door: what comes from outside is held to the table of serving.py before Gradio sees it.

request -> Door: which routes there are, how large, how slow, how many at once -> Gradio
upload -> _Parser: few files, that can be photos, ZIPs of them or edits -> this server's folder, of bounded size
event -> Line: a share for each visitor, who take turns -> Page: no file but a sent one -> handler -> bounded memory
"""

import asyncio
import gc
import html
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio import queueing, route_utils, routes
from gradio.data_classes import PredictBodyInternal
from gradio.server_messages import EventMessage
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import LRUCache, get_space, get_upload_folder
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparnet.errors import UserError
from sparnet.images import check_first_bytes
from sparnet.text import plain
from viz.tabs import serving

log = logging.getLogger(__name__)

API = "/gradio_api"
UPLOAD, TOOLS = f"{API}/upload", f"{API}/mcp"
# What may be posted. No cancel: it frees the place in the lane while the thread works on.
POSTS = (UPLOAD, TOOLS, *(f"{API}/{route}" for route in ("component_server", "queue/join", "call/", "run/", "reset")))
MONITORING = "/monitoring/summary"  # which the page's list of endpoints asks for; there is none
CLOSED = (  # would fetch from other hosts, or write to the disk or the log
    f"{API}/custom_component",
    f"{API}/deep_link",
    f"{API}/proxy=",
    f"{API}/stream/",
    f"{TOOLS}/sse",  # the protocol's older transport, which keeps connections open
    f"{TOOLS}/messages",
    f"{API}/file/",
    f"{API}/file=http:",
    f"{API}/file=https:",
)
# How the tools (tools.py) tell this server, of which they are clients, for whom they ask.
ON_BEHALF, SECRET = "x-on-behalf-of", secrets.token_hex(16)
MISUNDERSTOOD = "A value is missing, superfluous or of the wrong type. See “Use via API” at the foot of the page."


class Page(gr.Blocks):
    """Gradio's page, behind the door."""

    def __init__(self, **settings):
        route_utils.GradioUploadFile = _Upload
        route_utils.GradioMultiPartParser = _Parser
        routes.GradioMultiPartParser = _Parser  # pyright: ignore[reportPrivateImportUsage]  Gradio's own parser
        queueing.Queue = Line
        routes.StateHolder = Sessions  # pyright: ignore[reportPrivateImportUsage]  Gradio's own sessions
        # or an empty folder for a feature that is off stays elsewhere
        routes.DEFAULT_TEMP_DIR = get_upload_folder()  # pyright: ignore[reportPrivateImportUsage]  Gradio's own folder
        super().__init__(**settings)

    def queue(self, *args, **settings) -> "Page":
        return super().queue(*args, **settings | {"api_open": False})  # or an event could go round the queue

    def launch(self, *args, **settings):
        gc.freeze()  # what is here stays: `gc.collect` need not look at it after every answer
        return super().launch(
            *args,
            app_kwargs={"middleware": [Middleware(Door)]},
            max_file_size=serving.UPLOAD_BYTES,
            state_session_capacity=serving.SESSIONS,
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            **settings,
        )

    async def preprocess_data(self, block_fn, inputs: list, state: SessionState | None, explicit_call: bool = False):
        """Values as they came -> what the handler gets; a file that was not sent here is neither copied nor fetched."""
        try:
            many = any(isinstance(block, gr.File) and block.file_count == "multiple" for block in block_fn.inputs)
            most = serving.MANY_PHOTOS if many else serving.UPLOAD_FILES
            if only_sent_files(inputs) > most:
                raise UserError(f"The request names more than {most} files. Name fewer.")
            values = await super().preprocess_data(block_fn, inputs, state, explicit_call)
            pairs = zip(block_fn.inputs, values, strict=False)
            if any(isinstance(block, gr.Dataset) and value is None for block, value in pairs):
                raise UserError("There is no such example. Choose one of those that are shown.")
            return values
        except UserError as error:
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
        except gr.Error as error:
            error.print_exception = False  # a visitor's mistake is not for the log
            raise
        except Exception as error:  # Gradio's and pydantic's own, of any kind, about what a visitor sent
            log.info("A request was not understood", exc_info=error)
            raise gr.Error(MISUNDERSTOOD, print_exception=False) from error
        finally:
            _forget_answers(state)

    async def postprocess_data(self, block_fn, predictions: list | dict, state: SessionState | None) -> list:
        answer = await super().postprocess_data(block_fn, predictions, state)
        _forget_answers(state)
        forget_the_oldest(self.state_holder, self._queue)
        if block_fn.concurrency_id in serving.LANES:
            gc.collect()  # figures hold themselves, 200 MB each, until somebody looks for such
        return answer


def _forget_answers(state: SessionState | None) -> None:
    """Gradio keeps them a second time, for deep links, which are closed."""
    if state is not None:
        state.config_values.clear()


def only_sent_files(value: object) -> int:
    """How many files JSON data names; addresses go. `UserError` unless every one of them was sent to this server."""
    count = 0
    if isinstance(value, dict):
        if value.get("path") is not None:
            serving.sent_file(value["path"])
            count = 1
        if isinstance(value.get("url"), str):
            value["url"] = None
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return count + sum(map(only_sent_files, items))


def forget_the_oldest(sessions: StateHolder, line: queueing.Queue) -> None:
    """Of what visitors look at, and of answers that nobody fetched, keep `KEPT_BYTES`, the latest used ones."""
    seen: set[int] = set()
    left = serving.KEPT_BYTES
    for session in reversed(sessions.session_data.values()):
        left -= serving.size_of(session.state_data, seen)
        if left < 0:
            session.state_data.clear()
    left = serving.KEPT_BYTES
    for session, messages in reversed(list(line.pending_messages_per_session.items())):
        left -= serving.size_of([getattr(message, "output", None) for message in messages._queue], seen)
        if left < 0:
            del line.pending_messages_per_session[session]


class Sessions(StateHolder):
    """Gradio's, under names of a bounded length; whoever looks at nothing is forgotten first."""

    def __getitem__(self, session_id: str) -> SessionState:
        if len(session_id) > serving.SESSION_LETTERS:
            raise gr.Error(MISUNDERSTOOD, print_exception=False)
        is_new = session_id not in self
        state = super().__getitem__(session_id)
        if is_new:
            _forget_answers(state)
        return state

    def update(self, session_id: str) -> None:
        if len(self.session_data) > self.capacity:
            others = (name for name in self.session_data if name != session_id)
            idle = (name for name in others if serving.size_of(self.session_data[name].state_data, set()) < 1000)
            self.session_data.move_to_end(next(idle, next(iter(self.session_data))), last=False)
        super().update(session_id)


class Line(queueing.Queue):
    """Gradio's queue, of bounded length, with a share for each visitor's address; the addresses take turns."""

    def __init__(self, **settings):
        # `push` bounds its length; on ZeroGPU Gradio's own would take one event
        super().__init__(**settings | {"max_size": None, "default_concurrency_limit": 1})
        self.ANALYTICS_MAX_EVENTS = 0  # or it keeps ten thousand, for monitoring, which is off
        self.turns = 0
        self.last_turn: dict[str, int] = LRUCache(serving.SESSIONS)

    async def push(self, body: PredictBodyInternal, request: Request, username: str | None):
        lane = self.blocks.fns[body.fn_index].concurrency_id if body.fn_index in self.blocks.fns else None
        if lane is None or len(body.session_hash or "") > serving.SESSION_LETTERS:
            return False, MISUNDERSTOOD, "error"
        waiting = self.event_queue_per_concurrency_id.get(lane)
        visitors = [address(event.request.scope) for event in waiting.queue] if waiting else []
        if len(self) >= serving.WAITING or visitors.count(address(request.scope)) >= serving.WAITING_OF_ONE:
            return False, serving.BUSY, "queue_full"
        self._forget_the_unread()
        return await super().push(body, request, username)

    def send_message(self, event: queueing.Event, event_message: EventMessage) -> None:
        """Gradio's, but for answers that were forgotten: its error would end the task that tells all their progress."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)

    def _forget_the_unread(self) -> None:
        """Keep the answers for the last `SESSIONS` visitors, and for all who wait."""
        waiting = {event.session_hash for event in self.event_ids_to_events.values()}
        for kept in (self.pending_messages_per_session, self.pending_event_ids_session):
            for session in [name for name in kept if name not in waiting][: max(0, len(kept) - serving.SESSIONS)]:
                del kept[session]

    def get_events(self):
        for waiting in self.event_queue_per_concurrency_id.values():
            waiting.queue.sort(key=lambda event: self.last_turn.get(address(event.request.scope), 0))
        found = super().get_events()
        if found:
            self.turns += 1
            self.last_turn[address(found[0][0].request.scope)] = self.turns
        return found


def address(scope: Scope) -> str:
    """Where a request comes from; on a Hugging Face Space the proxy in front of it tells, in the last entry."""
    headers = dict(scope["headers"])
    secret, _, visitor = headers.get(ON_BEHALF.encode(), b"").decode("latin-1").partition(" ")
    if secrets.compare_digest(secret.encode(), SECRET.encode()):
        return visitor
    told = headers.get(b"x-forwarded-for") if get_space() else None
    if told:
        return told.decode("latin-1").rpartition(",")[2].strip()
    return scope["client"][0] if scope["client"] else ""


class _Refused(Exception):
    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Door:
    """The ASGI middleware that every request passes first."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.requests: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What Gradio stumbles over is refused, or the answer ends there; a traceback each would fill the log."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        more, last, refused = True, None, None  # of the request; of the answer

        async def receiving() -> Message:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal last
            last = message
            await send(message)

        try:
            with _a_place(self.requests, scope, serving.REQUESTS, serving.REQUESTS_OF_ONE):
                await self._let_in(scope, receiving, sending)
        except ClientDisconnect:
            log.info("A visitor left in the middle of a request")
        except _Refused as error:
            refused = error
        except Exception as error:  # Gradio's own, of any kind: the body names no endpoint, or other values
            log.info("A request was not understood", exc_info=error)
            if last is None:
                refused = _Refused(400, MISUNDERSTOOD)
            elif last["type"] == "http.response.start" or last.get("more_body"):
                await send({"type": "http.response.body"})
        if refused:
            if more:
                await _drained(receive)
            await JSONResponse({"detail": str(refused)}, refused.status, {"Connection": "close"})(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD", "OPTIONS")
        if path.lower().startswith(CLOSED) or not (reads or path.startswith(POSTS)):
            raise _Refused(404, "There is no such page.")
        if len(scope["query_string"]) > serving.QUERY_BYTES:
            raise _Refused(414, "The address is too long.")
        _forget_old_uploads()
        if path.removeprefix(API) == MONITORING:
            await JSONResponse({"functions": {}})(scope, receive, send)
        elif reads:
            await self.app(scope, receive, send)
        elif path.startswith(UPLOAD):
            with _a_place(self.uploads, scope, serving.UPLOADS, serving.UPLOADS_OF_ONE):
                await self.app(scope, _bounded(scope, receive, serving.MANY_BYTES), send)
                await asyncio.to_thread(serving.delete_the_oldest)
        else:
            limit = serving.CALL_BYTES if path.startswith(TOOLS) else serving.JSON_BYTES
            with _a_place(self.bodies, scope, serving.UPLOADS, serving.UPLOADS_OF_ONE):
                body = await Request(scope, _bounded(scope, receive, limit)).body()
            await self.app(scope, _replayed(body, receive), send)


@contextmanager
def _a_place(taken: Counter[str], scope: Scope, most: int, most_of_one: int) -> Iterator[None]:
    """One of `most` places, of which an address has `most_of_one`; refused where none is free."""
    visitor = address(scope)
    if taken.total() >= most or taken[visitor] >= most_of_one:
        raise _Refused(503, serving.BUSY)
    taken[visitor] += 1
    try:
        yield
    finally:
        taken.subtract([visitor])
        taken += Counter()  # without those of none


def _forget_old_uploads() -> None:
    """Gradio remembers of every upload how far it is, and of all that were only asked after."""
    progress = routes.file_upload_statuses
    for kept in (progress._statuses, progress._signals):
        while len(kept) > serving.SESSIONS:
            del kept[next(iter(kept))]


def _bounded(scope: Scope, receive: Receive, limit: int) -> Receive:
    """`receive`, until more than `limit` bytes have come, or they come too slowly."""
    too_large = _Refused(413, f"The request is larger than {limit // 1000:,} kB. Send less.")
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > limit:
        raise too_large
    start, size = time.monotonic(), 0

    async def bounded() -> Message:
        nonlocal size
        left = serving.GRACE + size / serving.SLOWEST - (time.monotonic() - start)
        try:
            message = await asyncio.wait_for(receive(), max(left, 0))
        except TimeoutError as error:
            raise _Refused(408, "The request comes too slowly. Try again.") from error
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large
        return message

    return bounded


async def _drained(receive: Receive) -> None:
    """Throw away what else is sent, for a second: a visitor who is still sending would not read the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while (await receive()).get("more_body"):
                pass


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for a body that was read already."""
    rest = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        message = next(rest, None)
        return message or await receive()

    return replayed


class _Upload(route_utils.GradioUploadFile):
    """A file whose folder nobody else gets: Gradio names it by the content, so equal photos would share one."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.sha.update(secrets.token_bytes(32))
        self.head = b""  # its first bytes, until they are known to be a photo's
        self.fault: str | None = None  # why the page has no use for it


def _fault(file: _Upload) -> str | None:
    """What is wrong with a file that, by its first bytes, can be no photo, no ZIP and no file of edits."""
    if file.head.startswith(serving.ZIP_START) or file.head.lstrip().startswith(b"{"):
        return None
    try:
        check_first_bytes(file.head)
    except UserError as error:
        return f"{plain((file.filename or '')[:80])}: {error}"


class _Parser(route_utils.GradioMultiPartParser):
    """Gradio's, for few files, photos, ZIPs or edits, that leaves nothing on the disk of an upload that failed.

    A file of another kind is refused. Of several files the others are taken, and it is kept as its first bytes, which
    tell whoever reads it what it was.
    """

    def __init__(self, headers, stream, **settings):
        limits: dict[str, Any] = {"max_files": serving.MANY_PHOTOS, "max_fields": 2 * serving.MANY_PHOTOS}
        super().__init__(headers, stream, **settings | limits)

    @property
    def _file(self) -> _Upload | None:
        """The one that arrives, which Gradio makes as `Page` tells it; None: a field arrives."""
        return cast("_Upload | None", self._current_part.file)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        file = self._file
        if file is None:
            if len(self._current_part.data) + end - start > serving.FIELD_BYTES:
                raise MultiPartException("A field is larger than the maximum allowed size.")
        elif file.fault:
            return
        elif len(file.head) < 12:
            file.head += data[start:end][:12]
            if len(file.head) >= 12:
                file.fault = _fault(file)
            if file.fault:
                end = min(end, start + 12)
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        file = self._file
        if file is not None and len(file.head) < 12:
            file.fault = _fault(file)
        super().on_part_end()

    async def parse(self):
        try:
            form = await super().parse()
            files = [value for _, value in self.items if isinstance(value, _Upload)]
            if len(files) == 1 and files[0].fault:
                raise MultiPartException(files[0].fault)
            return form
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            raise
