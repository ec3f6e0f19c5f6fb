"""What two processes that compute at once cost each other: `make bench-threads`.

a process -> restores a face again and again, or takes training steps -> median seconds of one
alone, then two at once, each with: torch's threads as they are | this project's choice | one thread
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 6.0
WAYS = {  # name: environment, arguments of the worker
    "torch as it is": ({}, "as-it-is"),
    "this project's choice": ({}, "chosen"),
    "one thread": ({"OMP_NUM_THREADS": "1"}, "as-it-is"),
}


def main():
    from benchmark import print_machine

    from training import SPIN

    print_machine()
    for work in ("restore", "train"):
        print(f"\nsparnet-tiny, {work}: milliseconds alone, and of two at once (ratio to twice torch's time alone)")
        first = None
        for name, (environment, choice) in WAYS.items():
            if work == "train" and choice == "chosen":
                environment = environment | {"GOMP_SPINCOUNT": SPIN}
            [alone], together = (measure(count, work, choice, environment) for count in (1, 2))
            first = first or alone
            slower = max(together)
            print(
                f"  {name:22} {alone:6.0f}  x {alone / first:.2f}    "
                f"{' and '.join(f'{value:.0f}' for value in together):>14}  x {slower / (2 * first):.2f}",
                flush=True,
            )


def measure(count: int, work: str, choice: str, environment: dict[str, str]) -> list[float]:
    """Median milliseconds of one piece of work in each of so many processes that begin together."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    command = [sys.executable, __file__, work, choice]
    processes = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        process.stdout.readline()  # ready
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in processes]


def worker(work: str, choice: str) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    from sparnet import load_model
    from sparnet.threads import use_free_cores

    model = load_model("sparnet-tiny")
    faces = torch.zeros(1 if work == "restore" else 8, 3, 128, 128)
    adam = torch.optim.Adam(model.parameters())

    def restore():
        if choice == "chosen":
            use_free_cores()
        with torch.inference_mode():
            model.trace(faces)

    def train():
        adam.zero_grad()
        model(faces).abs().mean().backward()
        adam.step()

    step = restore if work == "restore" else train
    step()
    print("ready", flush=True)
    sys.stdin.readline()
    spent, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    print(1000 * statistics.median(spent))


if __name__ == "__main__":
    worker(*sys.argv[1:]) if len(sys.argv) > 1 else main()
