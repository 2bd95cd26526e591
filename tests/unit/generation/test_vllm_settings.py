"""The embedded engine before it is started: a configuration, and nothing more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlef_lightning.errors import EngineError
from rlef_lightning.generation import Engine, VLLMEngine

CONSTRUCT = """
import os, sys, threading
environment = dict(os.environ)
from rlef_lightning.generation import VLLMEngine
engine = VLLMEngine(dtype="float32", max_context_tokens=512, extra={"swap_space": 1})
assert (engine.policy_version, engine.max_context_tokens) == (0, 512)
assert threading.active_count() == 1
assert dict(os.environ) == environment
print(sorted({"vllm", "torch", "transformers"} & set(sys.modules)))
"""


def test_the_constructor_starts_and_imports_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONSTRUCT], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_it_has_all_that_an_engine_needs() -> None:
    members = {name for name in vars(Engine) if not name.startswith("_")}
    assert {"submit", "step", "sync_weights"} <= members
    assert all(hasattr(VLLMEngine, name) for name in members)


def test_a_step_before_the_start_is_an_error_that_says_so() -> None:
    with pytest.raises(EngineError, match=r"^the engine has not been started: call start\(\) first$"):
        VLLMEngine().step()


def test_weights_before_the_start_are_an_error_that_says_so() -> None:
    engine = VLLMEngine()
    with pytest.raises(EngineError, match="has not been started"):
        engine.sync_weights([])
    assert engine.policy_version == 0


def test_ending_what_was_not_started_does_nothing() -> None:
    engine = VLLMEngine()
    engine.abort()
    engine.close()
    engine.close()


def test_the_settings_are_not_shared_between_engines() -> None:
    extra = {"swap_space": 1}
    engine = VLLMEngine(extra=extra)
    extra["swap_space"] = 2
    assert engine.extra == {"swap_space": 1}
    assert VLLMEngine().extra == {}


def test_without_vllm_the_start_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # A variable that the user has set is left as it is.
    monkeypatch.setattr(os, "environ", {"VLLM_LOGGING_LEVEL": "DEBUG"})
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"vLLM cannot be imported .*extra 'cpu' or 'gpu'"):
        VLLMEngine(cpu_cache_gib=3).start("nowhere", [])
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_reading_the_options_does_not_import_vllm() -> None:
    # jsonargparse runs the imports under TYPE_CHECKING to resolve annotations.
    code = (
        "import sys, jsonargparse\n"
        "from rlef_lightning.generation import VLLMEngine\n"
        "parser = jsonargparse.ArgumentParser()\n"
        "parser.add_class_arguments(VLLMEngine, 'engine')\n"
        "assert parser.get_defaults().engine.dtype == 'float32'\n"
        "print('vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
