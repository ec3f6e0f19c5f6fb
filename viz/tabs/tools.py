"""The page's endpoints as tools for assistants, by the Model Context Protocol, held to the same limits as everything.

call of a tool -> its photo: sent to the page before, or in the call -> the page's line -> pictures, addresses of files

An address is never fetched, and a call waits in line as the visitor's own.
"""

import binascii
import json
from base64 import b64decode
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import gradio.mcp
from anyio.to_thread import run_sync
from gradio.block_function import BlockFunction
from gradio_client.client import Job
from gradio_client.utils import is_file_obj_with_meta

from sparnet.errors import UserError
from sparnet.images import check_first_bytes
from viz.tabs.door import API, ON_BEHALF, SECRET, address, only_sent_files
from viz.tabs.serving import download, sent_file

HOW_TO_SEND = (
    f"Send the file to the page first, by POST to {API}/upload, and give its address, http://HOST{API}/file=PATH; "
    "or give a small one as data:image/png;base64,... Other addresses are not fetched."
)


def offered() -> bool:
    """Whether the page offers tools from now on: where the package `mcp` is installed."""
    if find_spec("mcp") is None:
        return False
    gradio.mcp.GradioMCPServer = Tools
    return True


class Tools(gradio.mcp.GradioMCPServer):
    """Gradio's, which would fetch any address, and read files for whoever names them."""

    def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
        """Arguments as they came -> those of the endpoint; `UserError` for a file that was not sent to this page."""
        files = [path[0] for path in filedata_positions]
        given = {name: _file(one) if name in files and one is not None else one for name, one in value.items()}
        only_sent_files(given)  # whatever else may name one
        return given

    def _prepare_tool_call_args(self, name: str, arguments: dict[str, Any]) -> tuple[str, list, dict, BlockFunction]:
        endpoint, values, headers, event = super()._prepare_tool_call_args(name, arguments)
        request: Any = self.mcp_server.request_context.request  # by HTTP there is always one
        visitor = address(request.scope)
        return endpoint, values, headers | {ON_BEHALF: f"{SECRET} {visitor}"}, event

    def get_tool_to_endpoint(self) -> dict[str, str]:
        return {self.tool_prefix + name.lstrip("/"): name for name in self.api_info["named_endpoints"]}

    def get_input_schema(
        self, tool_name: str, parameters: dict[str, str] | None = None
    ) -> tuple[dict[str, Any], list[list[str | int]]]:
        """Gradio's, without what no schema may hold: the type of any JSON, and a choice of nothing."""
        schema, files = super().get_input_schema(tool_name, parameters)
        return _mended(schema), files

    def get_fn_description(self, block_fn: BlockFunction, tool_name: str) -> tuple[str, dict[str, str]]:
        """What the endpoint does, and of each parameter what its control says."""
        description, parameters = super().get_fn_description(block_fn, tool_name)
        labels: list[Any] = [
            getattr(control, "info", None) or getattr(control, "label", None) for control in block_fn.inputs
        ]
        return description, parameters | dict(zip(parameters, labels, strict=False))

    @property
    def _file_data_tool_description(self) -> str:
        return f" {HOW_TO_SEND}"

    async def _execute_tool_without_progress(self, job: Job) -> list[Any]:
        """The endpoint's answers one by one; Gradio's would give all of them as the text of one."""
        answer = await run_sync(job.result)
        return list(answer) if isinstance(answer, tuple) else [answer]

    def postprocess_output_data(self, data: Any, root_url: str) -> list:
        plain = [value if is_file_obj_with_meta(value) else json.dumps(value) for value in data]
        return super().postprocess_output_data(plain, root_url)


def _mended(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_mended(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _mended(one) for name, one in schema.items() if one or name not in ("type", "enum")}


def _file(given: object) -> dict[str, str]:
    """A file of this server as the endpoints take it; `UserError` in words unless it was sent here, now or before."""
    if not isinstance(given, str):
        raise UserError(f"A file is given as text. {HOW_TO_SEND}")
    if not given.startswith("data:"):
        return {"path": str(sent_file(unquote(given.partition(f"{API}/file=")[2]) or None))}
    try:
        data = b64decode(given.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise UserError(f"The file in the call is no base64. {HOW_TO_SEND}") from error
    if not data.lstrip().startswith(b"{"):  # edits are JSON
        check_first_bytes(data)
    return {"path": download(data, "sent")}
