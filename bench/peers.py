"""LiteLLM, installed into an environment of its own and started as its documentation says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from payload import UPSTREAM_MODEL
from processes import CannotMeasure, free_port, is_ready, running
from rigs import Subject, Upstream, Yard

LITELLM = "1.106.0"
PEERS = Path(__file__).resolve().parent.parent / ".venv-peers"
FIRST_ANSWER_S = 60
MASTER_KEY = "sk-" + "c" * 40


def is_installed() -> bool:
    """Whether the environment holds the version that is compared."""
    return (PEERS / f"litellm-{LITELLM}").exists()


def install() -> None:
    """Make the environment; takes a minute and 750 MB."""
    marker = PEERS / f"litellm-{LITELLM}"
    made = [sys.executable, "-m", "venv", "--clear", str(PEERS)]
    wanted = f"litellm[proxy]=={LITELLM}"
    filled = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "--quiet", wanted]
    for command in (made, filled):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            words = (ended.stdout + ended.stderr)[-1500:]
            raise CannotMeasure(f"LiteLLM cannot be installed (leave it out: --no-peers):\n{words}")
    marker.touch()


@contextmanager
def litellm(yard: Yard, behind: Upstream, body: Path) -> Iterator[Subject]:
    """LiteLLM's proxy with one worker, a master key and no database."""
    port = free_port()
    config = yard.folder / "litellm.yaml"
    config.write_text(json.dumps(_config(json.loads(body.read_text())["model"], behind)))
    command = [str(PEERS / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_PROXY": "*"}
    with running(
        "litellm",
        [*command, "--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"],
        core=yard.cores.tested,
        folder=yard.folder,
        environment=quiet,
    ) as program:
        program.wait_for(lambda: is_ready(port, "/health/liveliness"), every=0.2)
        _warm_up(port, body)
        yield Subject("LiteLLM", program, port, body, MASTER_KEY)


def _warm_up(port: int, body: Path) -> None:
    """Ask a few times: the first requests load what was put off at the start."""
    headers = {"Authorization": f"Bearer {MASTER_KEY}", "Content-Type": "application/json"}
    for _ in range(20):
        connection = HTTPConnection("127.0.0.1", port, timeout=FIRST_ANSWER_S)
        connection.request("POST", "/v1/chat/completions", body.read_bytes(), headers)
        answer = connection.getresponse()
        words = answer.read()
        connection.close()
        if answer.status != HTTPStatus.OK:
            raise CannotMeasure(f"LiteLLM answers {answer.status}: {words[:500]!r}")


def _config(model: str, behind: Upstream) -> dict[str, object]:
    target = {
        "model": f"openai/{UPSTREAM_MODEL}",
        "api_base": f"http://127.0.0.1:{behind.plain}/v1",
        "api_key": "sk-upstream",
    }
    return {
        "model_list": [{"model_name": model, "litellm_params": target}],
        "general_settings": {"master_key": MASTER_KEY},
    }
