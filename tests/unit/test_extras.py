"""Each service installs by its own extra, and imports nothing that another extra brings."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest

LEFT_TO_OTHERS = {
    "coordinator": {"numpy", "torch", "typer", "jsonschema", "sklearn", "httpx", "sse_starlette", "psutil"},
    "aggregator": {"torch", "typer", "jsonschema", "sklearn", "httpx", "sse_starlette", "psutil"},
    "metrics": {"numpy", "torch", "typer", "jsonschema", "sklearn", "httpx", "psutil"},
    "site-agent": {"numpy", "torch", "typer", "sklearn", "sse_starlette", "psutil", "safetensors"},
}
# structlog, rich and uvicorn take these where they are there, and do without where they are not.
TAKEN_IF_THERE = {
    "rich",
    "attr",
    "attrs",
    "pygments",
    "markdown_it",
    "mdurl",
    "colorama",
    "uvloop",
    "httptools",
    "websockets",
}
IMPORTED = """
import importlib, sys
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules.keys() - before})))
"""


def imported(module: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", IMPORTED, module], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.split())


def brought_by(extra: str) -> set[str]:
    """The distributions that `wardround[extra]` needs, and all that these need."""
    found: set[str] = set()
    waiting = [("wardround", extra)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in distribution(name).requires or ():
            match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?[^;]*(?:;(.*))?", requirement)
            assert match is not None, requirement
            needed, extras, marker = match[1].lower().replace("_", "-"), match[2], match[3] or ""
            of_extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
            if of_extra is not None and of_extra[1] != wanted:
                continue
            if needed == "wardround":
                waiting += [("wardround", each.strip()) for each in (extras or "").split(",")]
            elif needed not in found:
                try:
                    distribution(needed)
                except PackageNotFoundError:
                    continue  # for another platform or version of Python
                found.add(needed)
                waiting.append((needed, ""))
    return found


@pytest.mark.parametrize("service", LEFT_TO_OTHERS)
def test_a_service_imports_no_more_than_its_extra_brings(service: str) -> None:
    found = imported(f"wardround.{service.replace('-', '_')}.main")
    assert "wardround" in found
    assert found.isdisjoint(LEFT_TO_OTHERS[service])
    homes = packages_distributions()
    third_party = {name: {home.lower().replace("_", "-") for home in homes[name]} for name in found if name in homes}
    extra = brought_by(service)
    foreign = {
        name: owners
        for name, owners in third_party.items()
        if "wardround" not in owners and owners.isdisjoint(extra) and name not in TAKEN_IF_THERE
    }
    assert foreign == {}


def test_the_command_line_answers_without_what_only_a_hub_needs() -> None:
    found = imported("wardround.client.cli.main")
    assert found.isdisjoint({"aio_pika", "minio", "httpx", "torch", "sklearn", "starlette", "uvicorn", "psutil"})


def test_the_command_line_answers_without_all_the_services() -> None:
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", "import sys, wardround.client.cli.main; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    heavy = ("wardround.simulation", "wardround.coordinator", "wardround.aggregator", "wardround.stack")
    assert [name for name in loaded if name.startswith(heavy)] == []


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numpy", "jsonschema", "sklearn", "safetensors", "psutil", "torch"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from wardround.client.cli import run
run()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, ""),
        (["simulate", "x.toml", "--fresh"], 2, "install wardround[simulation]"),
        (["trainer", "list"], 2, "install wardround[training]"),
        (["site", "policy", "explain", "x"], 2, "install wardround[site-agent]"),
        (["stack", "status"], 2, "psutil is not installed here"),
        (["hub", "init", "--help"], 0, "--broker"),
    ],
)
def test_the_command_line_works_with_the_client_alone(arguments: list[str], code: int, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
