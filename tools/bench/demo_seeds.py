"""The demo over several seeds: python tools/bench/demo_seeds.py --seeds 3 --json.

A seed decides the order of problems, every sample and the value network's first output layer; the
warm-started model is the same. Prints one JSON object last: for each number of the demo its values, mean
and 95% interval of the mean (Student's t).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Student's t, two-sided 95%, by degrees of freedom (any table of the distribution).
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def run_demo(seed: int, out: Path) -> dict[str, float]:
    """The numbers of one demo, whose output goes to seedN.log and whose complaints go to seedN.err."""
    command = [sys.executable, "-m", "tools.demo", "--seed", str(seed), "--out", str(out / f"seed{seed}")]
    out.mkdir(parents=True, exist_ok=True)
    log, errors = out / f"seed{seed}.log", out / f"seed{seed}.err"
    with log.open("w") as stdout, errors.open("w") as stderr:
        code = subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=stderr, check=False).returncode
    if code != 0:
        sys.exit(f"the demo with seed {seed} ended with code {code}: see {errors} and {log}")
    numbers = last_object(log.read_text(errors="replace"))
    if numbers is None:
        sys.exit(f"the demo with seed {seed} printed no JSON object: see {log}")
    return numbers


def last_object(text: str) -> dict[str, float] | None:
    """The last line that is a JSON object: a library may print something as the process ends."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return None


def summarise(values: list[float]) -> dict[str, object]:
    """Mean, and the interval in which the mean lies with 95%; no interval for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None, "values": values}
    half = T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return {
        "mean": round(mean, 5),
        "low": round(mean - half, 5),
        "high": round(mean + half, 5),
        "values": values,
    }


def main() -> None:
    """Run the demos one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 11), help="how many: 0, 1, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.seeds):
        runs.append(run_demo(seed, arguments.out.resolve()))
        if not arguments.json:
            print(f"seed {seed}: {json.dumps(runs[-1])}", flush=True)
    print(json.dumps({name: summarise([float(run[name]) for run in runs]) for name in runs[0]}))


if __name__ == "__main__":
    main()
