"""The web app: assembles the tabs and launches. `python app.py [--host H] [--port P] [--model M] [--allow-hub OWNER/*]`

tabs -> gr.Blocks -> a page at http://HOST:PORT, with /restore, /attention, /compare and every instrument for programs
"""

import argparse
import os
import signal
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before Gradio is imported, which reads it
if find_spec("spaces"):
    import_module("spaces")  # before PyTorch, which it makes ready for ZeroGPU

import viz.tabs  # noqa: F401  isort: skip  first, for it imports Gradio more quickly
import gradio as gr

from sparnet.errors import UserError
from viz.tabs import compare, inside, live, many, models, programs, restore, serving, tools, zero
from viz.tabs.door import Page
from viz.tabs.serving import explained
from viz.tabs.theme import CSS, theme

TABS = ("restore", "inside", "compare", "live", "many")
TITLE = "Face SPARNet: restore a face, see its attention"
HEAD = """<h1>See where a face restorer looks</h1>
<p>Each unit of SPARNet learns where to let its features through: eyes, nose, mouth, without a label.</p>"""


def build() -> gr.Blocks:
    """The whole page, not launched."""
    files = (serving.SWEEP_SECONDS, serving.FILE_SECONDS)
    with Page(title=TITLE, analytics_enabled=False, delete_cache=files, fill_width=True) as page:
        gr.HTML(HEAD, elem_id="head")
        with gr.Tabs() as tabs:
            with gr.Tab("Restore", id="restore"):
                bench = restore.Tab()
            with gr.Tab("Look inside", id="inside") as inside_tab:
                looked = inside.Tab(bench, inside_tab)
            with gr.Tab("Compare", id="compare"):
                compare.Tab(bench)
            with gr.Tab("Live", id="live"):
                camera = live.build()
            with gr.Tab("Many photos", id="many"):
                many.Tab(bench)
        programs.build()
        for button, tab in ((bench.to_inside, "inside"), (looked.change, "restore")):
            button.click(partial(gr.Tabs, selected=tab), None, tabs, **serving.UNQUEUED)
        chosen, settings = [bench.mode, bench.model], {**serving.PRIVATE, **serving.QUICK}
        take = explained(bench.take, bench.failed)
        taken = camera.select(take, chosen, bench.outputs, show_progress_on=bench.stage, **settings)
        taken.then(partial(gr.Tabs, selected="restore"), None, tabs, **serving.HIDDEN)

        def arrive(request: gr.Request, progress=gr.Progress()):  # noqa: B008  Gradio looks for this default
            """What a link asks for: ?tab=inside&instrument=ablation&unit=body.3&example=astronaut"""
            asked = request.query_params
            example = explained(bench.example_named, bench.failed)
            made = example(asked["example"], progress) if "example" in asked else {}
            if "instrument" in asked or "unit" in asked:
                made |= looked.open_at(asked.get("instrument"), asked.get("unit"))
                value = {"value": made[bench.maps]} if bench.maps in made else {}
                made[bench.maps] = gr.update(unit=asked.get("unit"), **value)
            if asked.get("tab") in TABS:
                made[tabs] = gr.Tabs(selected=asked["tab"])
            return made or gr.skip()

        page.load(bench.recall, bench.remembered, chosen, **serving.UNQUEUED)
        opening = [tabs, *bench.outputs, *looked.opening]
        page.load(explained(arrive), None, opening, **serving.HIDDEN, **serving.QUICK)
    for event in page.fns.values():  # the browser walks through all that progress is shown on, hidden or not
        if event.show_progress == "hidden":
            event.show_progress_on = [bench.now]  # a State, which is not on the screen
    zero.lend(page)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Restore faces in the browser and see every attention map.")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument(
        "--model", action="append", default=[], help="offer your own, a folder, .pth or Hub id; repeatable"
    )
    parser.add_argument(
        "--allow-hub",
        action="append",
        metavar="PATTERN",
        help="Hub ids that visitors may type, as 'owner/*'; repeatable; by default all on 127.0.0.1, none elsewhere",
    )
    parser.add_argument("--yunet", metavar="FILE", help="find faces with this YuNet .onnx instead of the Hub's")
    options = parser.parse_args()
    try:
        for source in options.model:
            models.offer(source)
        if options.yunet:
            serving.find_faces_with(options.yunet)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    models.fetch_named_by_host()
    models.allow_hub(options.allow_hub or ["*"] * (options.host in models.LOCAL_HOSTS))
    zero.prepare()
    signal.signal(signal.SIGTERM, stop)
    with serving.own_folder() as files:
        os.environ["GRADIO_TEMP_DIR"] = str(files)  # uploads and results of this server alone, gone when it ends
        serve(options.host, options.port)


def stop(*_) -> None:
    """On SIGTERM leave as on an error, so that the temporary files go; a second signal must not cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def serve(host: str, port: int) -> None:
    """Until interrupted; exit code 2 and a sentence if the port cannot be had."""
    try:
        build().launch(
            server_name=host,
            server_port=port,
            theme=theme(),
            css_paths=list(CSS),
            footer_links=["api"],
            mcp_server=tools.offered(),
        )
    except OSError as error:
        if "port" not in str(error):
            raise
        print(
            f"Port {port} on {host} cannot be used; another program may have it. "
            f"Choose another: python app.py --port {port + 1}",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    sys.stdout.flush()
    os._exit(0)  # a thread still at work in PyTorch would abort the interpreter's own end: exit code -6
