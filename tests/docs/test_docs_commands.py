"""The commands in README and guides run as they stand, in order, and what they are shown to print is what they print.

A fenced block of `sh` holds commands. One of `console` holds commands after `$`, each with what it prints below it,
compared without numbers, digests and the amount of white space; `...` stands for whatever there is. A block with the
name of a file behind its language is that file. Blocks of a page share one folder, and the guides go on from where the
walks of the README ended, but for its last block: the stack that it takes down is theirs, too. The tutorial has a
folder and a stack of its own.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from documents import ROOT, Block, blocks

from servers.stack import require_servers

README = ROOT / "README.md"
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
FOR_DEPARTMENTS = DOCS / "for-it-and-data-protection.md"
# What needs a hub, by its section; of the other pages in `ON_A_HUB` everything, and of all others nothing.
ON_REAL_SERVERS = {
    "README.md": "The same on real servers",
    "guide-researcher.md": "On a hub",
    "guide-clinic.md": "For real",
}
ON_A_HUB = (
    "guide-researcher.md",
    "guide-clinic.md",
    "guide-clinic-people.md",
    FOR_DEPARTMENTS.name,
    "guide-operator.md",
)
EMBEDDED = ("guide-researcher.md", "guide-clinic.md", "guide-trainer.md", "faults.md")
WITH_TORCH = "guide-trainer-torch.md"
NEEDS_SERVERS = "5. The same on real servers"  # the first section of the tutorial that does
PUT_AWAY = """
test ! -f lake/agent.pid || kill "$(cat lake/agent.pid)" || true
wardround stack down --name nodules --folder nodules-stack
"""
COMMANDS = {"wardround": "wardround.client.cli", "wardround-site-agent": "wardround.site_agent.main"}
WITHIN = 200  # seconds for a command or a block of them
EXIT_CODE = "exit code "
DIFFERS = re.compile(r"[0-9a-f]{8,}|[0-9]+(?:\.[0-9]+)?")
SHELL = ("bash", "-eu", "-o", "pipefail")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def checkout(root: Path) -> Path:
    """Looks like a checkout after `make setup`, but what is installed in it stays in it."""
    for name in ("examples", "benchmarks"):
        (root / name).symlink_to(ROOT / name)
    venv.create(root / ".venv", symlinks=True)
    (inner,) = (root / ".venv" / "lib").glob("python*/site-packages")
    (inner / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in COMMANDS.items():
        command = root / ".venv" / "bin" / name
        command.write_text(
            f"#!{root / '.venv' / 'bin' / 'python'}\nfrom {module} import run\nif __name__ == '__main__':\n    run()\n"
        )
        command.chmod(0o755)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the tutorial's sections that need no server."""
    require_torch()
    folder = checkout(tmp_path_factory.mktemp("tutorial"))
    follow(TUTORIAL, tutorial()[0], folder)
    return folder


@pytest.fixture(scope="module")
def walked(folder: Path) -> Path:
    """The folder after the README's five minutes."""
    follow(README, embedded(README), folder)
    return folder


@pytest.fixture(scope="module")
def stacked(folder: Path) -> Iterator[Path]:
    """The folder after the README's walk on real servers, while the stack still runs. It is taken down at the end as
    the README does it, and whatever happens."""
    require_servers()
    *walk, last = on_a_hub(README)
    assert "stack down" in last.text
    try:
        follow(README, walk, folder)
        yield folder
        follow(README, [last], folder)
    finally:
        in_shell("wardround stack down", folder)


def test_the_tutorial_in_one_process(learned: Path) -> None:
    assert (learned / "runs" / "nodules" / "model.safetensors").is_file()


def test_the_tutorial_on_real_servers(learned: Path) -> None:
    require_servers()
    try:
        follow(TUTORIAL, tutorial()[1], learned)
    finally:
        in_shell(PUT_AWAY, learned)
    assert not (learned / "nodules-stack").exists()


@pytest.mark.parametrize("page", [TUTORIAL, FOR_DEPARTMENTS], ids=lambda page: page.name)
def test_no_block_of_a_page_is_left_out(page: Path) -> None:
    assert [block for block in blocks(page) if not block.info and block.language not in ("sh", "console")] == []


def test_the_walk_of_the_readme(walked: Path) -> None:
    assert (walked / "runs" / "breast-cancer" / "model.safetensors").is_file()


def test_the_walk_of_the_readme_on_real_servers(walked: Path, stacked: Path) -> None:
    of_the_simulation = walked / "runs" / "breast-cancer" / "model.safetensors"
    assert (stacked / "model.safetensors").read_bytes() == of_the_simulation.read_bytes()


@pytest.mark.parametrize("guide", ON_A_HUB)
def test_the_commands_of_a_guide_on_a_hub(stacked: Path, guide: str) -> None:
    assert follow(DOCS / guide, on_a_hub(DOCS / guide), stacked) > 0


@pytest.mark.parametrize("guide", EMBEDDED)
def test_the_commands_of_a_guide(walked: Path, guide: str) -> None:
    assert follow(DOCS / guide, embedded(DOCS / guide), walked) > 0


def test_the_commands_of_the_guide_that_needs_torch(walked: Path) -> None:
    require_torch()
    assert follow(DOCS / WITH_TORCH, blocks(DOCS / WITH_TORCH), walked) > 0


def require_torch() -> None:
    if find_spec("torch") is None and "CI" not in os.environ:
        pytest.skip("torch is not installed; `make test` installs it")


def tutorial() -> tuple[list[Block], list[Block]]:
    """Its blocks that need no server, and those from the first on that does."""
    found = blocks(TUTORIAL)
    first = next(index for index, block in enumerate(found) if block.section == NEEDS_SERVERS)
    return found[:first], found[first:]


def on_a_hub(document: Path) -> list[Block]:
    section = ON_REAL_SERVERS.get(document.name)
    found = [block for block in blocks(document) if section in (None, block.section)]
    assert found, f"{document.name} has no section {section!r}"
    return found


def embedded(document: Path) -> list[Block]:
    return [block for block in blocks(document) if block.section != ON_REAL_SERVERS.get(document.name)]


def follow(document: Path, through: Sequence[Block], folder: Path) -> int:
    """Do what the page says there; the number of commands."""
    count = 0
    for block in through:
        where = f"{document.name}, line {block.line}"
        if block.info and block.language in ("toml", "python"):
            (folder / block.info).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.info).write_text(block.text)
        elif block.language == "sh":
            run(block.text, folder, where)
            count += 1
        elif block.language == "console":
            for command, expected in transcript(block):
                assert_alike(expected, run(command, folder, where), f"{where}: {command}")
                count += 1
    return count


def run(script: str, folder: Path, where: str) -> str:
    """What the commands print, errors included."""
    ended = in_shell(script, folder)
    assert ended.returncode == 0, f"{where}: exit code {ended.returncode}\n{script}\n{ended.stdout}"
    return ended.stdout


def in_shell(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """The commands, ended; a person's own hubs and stacks are left alone."""
    path = [folder / ".venv" / "bin", ROOT / ".cache" / "uv" / "bin", Path(sys.executable).parent]
    return subprocess.run(
        [*SHELL, "-c", script],
        cwd=folder,
        env=os.environ
        | {
            "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
            "VIRTUAL_ENV": str(folder / ".venv"),
            "COLUMNS": "200",
            "XDG_STATE_HOME": str(folder / "state"),
            "WARDROUND_HUBS": str(folder / "hubs.toml"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN,
        check=False,
    )


def transcript(block: Block) -> list[tuple[str, list[str]]]:
    """Each command with the lines that it is shown to print."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def assert_alike(expected: list[str], printed: str, where: str) -> None:
    pattern = "".join(".*\n?" if line.strip() == "..." else f"{_loose(line)}\n" for line in expected)
    assert re.fullmatch(pattern, _plain(printed), re.DOTALL), f"{where} printed\n{printed}"


def _loose(line: str) -> str:
    return ".*".join(map(re.escape, _plain(line).rstrip("\n").split("...")))


def _plain(text: str) -> str:
    """Without what differs from run to run and machine to machine."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "".join(line + "\n" if line.startswith(EXIT_CODE) else DIFFERS.sub("#", line) + "\n" for line in lines)
