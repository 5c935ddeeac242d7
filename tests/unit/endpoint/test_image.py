"""The Dockerfile. It cannot be built here: its steps are taken in an empty virtual environment, the result is used."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest
from dockerfile_parse import DockerfileParser

from endpoint.script_package import modules_reached
from tests.unit.endpoint.bodies import JSON, Application, as_json
from tests.unit.endpoint.models import an_artifact, some_rows
from tests.unit.endpoint.serving import unpack

CHECKOUT = Path(__file__).resolve().parents[3]
DOCKERFILE = CHECKOUT / "endpoint" / "Dockerfile"
UV = CHECKOUT / ".venv" / "bin" / "uv"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words on one line) of the Dockerfile, in order, comments left out."""
    parser = DockerfileParser(path=str(DOCKERFILE))
    return [(each["instruction"], each["value"]) for each in parser.structure if each["instruction"] != "COMMENT"]


def values_of(instruction: str) -> list[str]:
    return [value for name, value in instructions() if name == instruction]


def copied(root: Path) -> list[tuple[Path, str]]:
    """(source file, path below the working directory) of everything that COPY puts there."""
    found = []
    for *sources, target in (value.split() for value in values_of("COPY")):
        if not target.startswith("/"):
            paths = [path for source in sources for path in sorted(root.glob(source))]
            found += [(path, target + path.name) for path in paths]
    return found


def health_check() -> list[str]:
    [value] = values_of("HEALTHCHECK")
    command: list[str] = json.loads(value[value.index("CMD") + len("CMD") :])
    return command


# -- its text ----------------------------------------------------------------------------------------------------------


def test_the_base_is_pinned_by_version_and_digest():
    [base] = values_of("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


def test_packages_are_pinned_by_hash_and_nothing_else_is_installed():
    installs = [value for value in values_of("RUN") if re.search(r"\b(pip|apt|apt-get|curl|wget)\b", value)]
    assert len(installs) == 1
    [arguments] = re.findall(r"pip install (.*?)(?: &&|$)", installs[0])
    [lock] = [value.split()[-1] for value in values_of("COPY") if value.startswith("requirements/endpoint.lock ")]
    assert set(arguments.split()) == {"--no-cache-dir", "--require-hashes", "--no-deps", "-r", lock}
    assert f"rm {lock}" in installs[0]


def test_it_runs_as_somebody_without_rights():
    [made] = [value for value in values_of("RUN") if value.startswith("useradd")]
    [user] = values_of("USER")
    assert user.isdigit()
    assert int(user) > 0
    assert f"--uid {user} " in made
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(position for position, name in enumerate(names) if name in ("RUN", "COPY"))


def test_commands_are_lists_so_that_signals_reach_the_server_itself():
    [entry], [command] = values_of("ENTRYPOINT"), values_of("CMD")
    assert json.loads(entry)[:3] == ["python", "-m", "endpoint.server"]
    assert json.loads(command) == ["serve"]  # what SageMaker passes, too
    assert health_check()[0] == "python"


def test_it_follows_the_common_rules():
    text = DOCKERFILE.read_text()
    assert not values_of("ADD")
    assert "sudo" not in text
    assert ":latest" not in text
    assert "COPY . " not in text
    assert values_of("WORKDIR") == ["/opt/program"]
    assert values_of("EXPOSE") == ["8080"]
    assert not re.search(r"(?i)password|secret|token|aws_access", text)


def test_it_copies_what_the_server_reaches_and_no_module_of_another_engine():
    have = {target for _, target in copied(CHECKOUT)}
    assert set(modules_reached("endpoint/server.py")) <= have, "a module the server imports is not copied"
    folders = {target.rpartition("/")[0] for target in have}
    assert folders == {"endpoint", "model", "stream_features"}
    assert have >= {"endpoint/openapi.py"}
    assert not have & {"endpoint/script_mode.py", "model/train.py"}


def test_the_build_context_lets_exactly_the_copied_files_through():
    lines = (CHECKOUT / "endpoint" / "Dockerfile.dockerignore").read_text().split("\n")
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    let_in = [pattern.removeprefix("!") for pattern in patterns[1:]]
    needed = [str(source.relative_to(CHECKOUT)) for source, _ in copied(CHECKOUT)] + ["requirements/endpoint.lock"]
    assert not [path for path in needed if not any(fnmatch(path, pattern) for pattern in let_in)]


# -- its steps ---------------------------------------------------------------------------------------------------------


@contextmanager
def readable_by_all() -> Iterator[Path]:
    """A folder that the image's user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder as the image's file system: `venv` for its Python, `program` for its working directory, `model`."""
    with readable_by_all() as root:
        subprocess.run([UV, "venv", "--quiet", "--python", "3.11", root / "venv"], check=True)
        lock = CHECKOUT / "requirements" / "endpoint.lock"
        options = ["--require-hashes", "--no-deps", "-r", lock]
        subprocess.run([UV, "pip", "install", "--quiet", "--python", root / "venv/bin/python", *options], check=True)
        for source, target in copied(CHECKOUT):
            (root / "program" / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / "program" / target)
        unpack(an_artifact(), root / "model")
        # In the image root owns these and the server is another; so that nobody may write them here either:
        (root / "program").chmod(0o555)
        yield root
        (root / "program").chmod(0o755)


def without_rights(image: Path) -> tuple[list[str], dict[str, object]]:
    """What makes a command of this process run as the image's user, or as near to it as this machine allows.

    The interpreter may lie where that user may not go (root's home); then root without any of its powers.
    """
    if os.geteuid() != 0:
        return [], {}
    interpreter = (image / "venv" / "bin" / "python").resolve()
    if all(folder.stat().st_mode & stat.S_IXOTH for folder in interpreter.parents):
        [user] = values_of("USER")
        return [], {"user": int(user), "group": int(user), "extra_groups": []}
    if shutil.which("setpriv") is None:
        pytest.skip("root cannot give up its powers here: no setpriv")
    return ["setpriv", "--bounding-set=-all", "--no-new-privs"], {}


def run_in(image: Path, command: list[str], port: int) -> subprocess.Popen[bytes]:
    """Start a command of the image as its user would, with the port of the test for the image's own."""
    said = [part.replace("8080", str(port)).replace("0.0.0.0", "127.0.0.1") for part in command]  # noqa: S104
    environment = {
        "PATH": f"{image / 'venv/bin'}:/usr/bin:/bin",
        "SM_MODEL_DIR": str(image / "model"),
        **dict(part.split("=", 1) for value in values_of("ENV") for part in value.split()),
    }
    prefix, identity = without_rights(image)
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        prefix + said,
        cwd=image / "program",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **identity,
    )


@contextmanager
def container(image: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The image's ENTRYPOINT and CMD as a process of the image's user, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    process = run_in(image, json.loads(values_of("ENTRYPOINT")[0]) + json.loads(values_of("CMD")[0]), port)
    try:
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ping", timeout=10, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the image's server did not become ready")


def test_what_its_steps_make_answers_as_the_checkout_does_and_passes_its_own_health_check(image):
    rows = some_rows(4)
    headers = {"content-type": JSON}
    body = as_json(rows, explain_from=0.0)
    with container(image) as (process, port):
        until_ready(process, port)
        url = f"http://127.0.0.1:{port}/invocations"
        answered = httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False)
        healthy = run_in(image, health_check(), port)
        assert healthy.wait(30) == 0, healthy.communicate()[1]
        healthy.communicate()
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert answered.status_code == 200
    assert answered.content == Application(an_artifact()).post(headers, body).content
    assert b"Traceback" not in said


def test_its_health_check_fails_where_nothing_serves(image):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    unhealthy = run_in(image, health_check(), port)
    unhealthy.communicate(timeout=30)
    assert unhealthy.returncode != 0


def test_it_holds_no_other_package_and_its_user_may_write_nothing(image):
    installed = subprocess.run(
        [UV, "pip", "list", "--quiet", "--format", "json", "--python", image / "venv/bin/python"],
        capture_output=True,
        check=True,
    )
    names = {each["name"] for each in json.loads(installed.stdout)}
    lock = (CHECKOUT / "requirements" / "endpoint.lock").read_text()
    assert names == set(re.findall(r"^([a-z0-9-]+)==", lock, flags=re.MULTILINE))
    attempt = run_in(image, ["python", "-c", "open('written', 'w')"], 0)
    assert b"PermissionError" in attempt.communicate(timeout=30)[1]
