"""The command `sparnet` of the installed package: one name for every verb.

    sparnet look | train | study | evaluate | app ...  ->  python -m viz | training.train | training.study | ...
    sparnet restore | models | convert | publish ...   ->  python -m sparnet ...

It lies above the packages, as app.py does, and imports one only when it knows which: PyTorch reads the environment when
it is imported, and the trainer's is another.
"""

import runpy
import sys

VERBS = {  # name: module, what it does
    "look": ("viz", "Look inside, by one instrument or all; `sparnet look --help` lists them."),
    "train": ("training.train", "Train a recipe of the SPARNet family."),
    "study": ("training.study", "Train and measure every row of a table of the paper."),
    "evaluate": ("training.evaluate", "Score models and other programs' pictures on the same degraded faces."),
    "app": ("app", "Open the page in the browser."),
}


def main() -> None:
    """Run the verb of the command line as `python -m` runs its module, and exit."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        module, _ = VERBS[verb]
        sys.argv = [module, *sys.argv[2:]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        from sparnet import cli

        for name, (_, about) in VERBS.items():  # so that --help tells of them
            cli.app.command(name, help=about)(main)
        cli.main()


if __name__ == "__main__":
    main()
