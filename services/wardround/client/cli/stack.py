"""`wardround stack`: a whole federation on this machine, with the real servers."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.stack_profiles import forget_profiles, hub_option, write_profiles
from wardround.metrics.wording import size_text

if TYPE_CHECKING:
    from wardround.stack.folder import Plan, StackState

app = typer.Typer(no_args_is_help=True, help="A whole federation on this machine: real servers and all services.")

Name = Annotated[str, typer.Option(help="The stack's name, which is also that of the hub profile it writes.")]
Folder = Annotated[
    Path | None, typer.Option(help="Where its data lie. Without it: a folder of that name for this user.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LONGEST_NAME = 31  # a profile has 40, and the operator's is called NAME-operator
MOST_SITES = 50  # each is a process of some 80 MB
MOST_AIRFLOWS = 10  # each takes 400 MB, and some twelve seconds of a processor to start
OF_THE_COMMAND = ("name", "folder", "fresh", "as_json")  # options of `up` that say nothing of the stack itself


@app.command()
def up(
    context: typer.Context,
    sites: Annotated[
        str, typer.Option(metavar="N|DIR", help="How many clinics to make, or a folder with DIR/<site>/site.toml.")
    ] = "3",
    name: Name = "stack",
    folder: Folder = None,
    seed: Annotated[int, typer.Option(min=0, help="Divides the example data; the examples themselves have 7.")] = 7,
    coordinators: Annotated[int, typer.Option(min=1, max=9)] = 1,
    aggregators: Annotated[int, typer.Option(min=1, max=9)] = 1,
    airflow: Annotated[
        bool | None,
        typer.Option(
            "--airflow/--no-airflow",
            help="Let each clinic train on an Airflow of its own. Without it: as the last time, at first not.",
        ),
    ] = None,
    brain_tumour: Annotated[
        bool, typer.Option(help="Also give the clinics the scans of the brain tumour example, unless they have them.")
    ] = False,
    guest: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A clinic that the hub knows, and whose agent somebody else starts; may be repeated. Without it: as "
            "the last time, at first none.",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Delete an earlier stack of this name first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start RabbitMQ, MinIO and all services on free ports of this machine; return when all is ready."""
    from wardround.client.hubs import profile_names
    from wardround.stack import control
    from wardround.stack.folder import Plan, StackError, StackRunsError, read_plan

    home = _folder(name, folder)
    own, names = _sites(sites)
    with _stack_errors():
        earlier = None if fresh else read_plan(home)
    if airflow is None:
        airflow = earlier is not None and earlier.airflow
    if brain_tumour and own is not None:
        raise CommandError("--brain-tumour: for clinics that are made here; a folder's clinics have their own data")
    if airflow and len(names) > MOST_AIRFLOWS:
        raise CommandError(f"--airflow: for at most {MOST_AIRFLOWS} clinics, as each has one of its own")
    plan = Plan(
        name=name,
        sites=names,
        own_sites=own,
        guests=_guests(guest, names, earlier),
        seed=seed,
        coordinators=coordinators,
        aggregators=aggregators,
        airflow=airflow,
    )
    with _stack_errors():
        profile_names(strictly=True)
    console = Console(stderr=True, highlight=False)
    began = time.monotonic()
    if brain_tumour:
        console.print("the scans of the brain tumour example are made where they are missing", markup=False)

    def say(program: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {program} is ready", markup=False)

    with _stack_errors():
        if fresh and read_plan(home) is not None:
            asyncio.run(control.down(home))
            control.delete(home)
        try:
            plan = asyncio.run(control.up(home, plan, brain_tumour=brain_tumour, say=say))
        except StackRunsError as error:
            raise StackError(f"{error}; {_to_have_it_otherwise(context, name, folder)}") from None
        except KeyboardInterrupt:
            again = "the same command without --fresh" if fresh else "the same command"
            raise CommandError(
                f"interrupted: the stack is stopped, and its data are kept in {home}; {again} begins again with them",
                Exit.INTERRUPTED,
            ) from None
        state = control.status(home)[1]
        profile = write_profiles(home, plan)
        _print(home, plan, state, as_json=as_json)
        if not as_json:
            example = "brain-tumour" if brain_tumour else "breast-cancer"
            following = "wardround sites" if own is not None else f"wardround start examples/{example}.toml"
            typer.echo(f"\nThe hub profile '{name}' is in {profile}. Next: {following}{hub_option(name)}")


@app.command()
def status(name: Name = "stack", folder: Folder = None, as_json: AsJson = False) -> None:
    """Show what runs, since when, with how much memory, and under which address. Exits 1 where it does not run."""
    from wardround.stack import control

    home = _folder(name, folder)
    with _stack_errors():
        plan, state = control.status(home)
    _print(home, plan, state, as_json=as_json)
    if state.phase != "running":
        raise typer.Exit(Exit.ENDED_BADLY)


@app.command()
def logs(
    program: Annotated[str | None, typer.Argument(help="The program; without it their names.")] = None,
    name: Name = "stack",
    folder: Folder = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are added, until Ctrl-C.")] = False,
) -> None:
    """Print what a program wrote into its log."""
    from wardround.stack.logs import followed, log_names, tail

    home = _folder(name, folder)
    known = log_names(home)
    if program is None:
        typer.echo("\n".join(known) or "no program has written a log yet")
        return
    if program not in known:
        raise CommandError(f"PROGRAM: there is no log of '{program}'; there are: {', '.join(known) or 'none'}")
    for line in tail(home, program, lines):
        typer.echo(line)
    if follow:
        for line in followed(home, program):
            typer.echo(line)


@app.command()
def down(
    name: Name = "stack",
    folder: Folder = None,
    delete: Annotated[bool, typer.Option(help="Delete its data, too: models, journals, everything.")] = False,
) -> None:
    """Stop everything. Its data stay; `wardround stack up` goes on with them."""
    from wardround.stack import control

    home = _folder(name, folder)
    with _stack_errors():
        ran = asyncio.run(control.down(home))
        if delete:
            forget_profiles(home)  # first: as long as there are data, this command can be given again
            control.delete(home)
    typer.echo(f"{'stopped' if ran else 'it was not running'}{'; its data are deleted' if delete else ''}: {home}")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _folder(name: str, folder: Path | None) -> Path:
    from platformdirs import user_state_path

    from wardround_messages.names import is_id

    if not is_id(name, LONGEST_NAME):
        raise CommandError(
            f"--name {name}: must be at most {LONGEST_NAME} lower-case letters and digits, with single dashes between"
        )
    return folder.absolute() if folder is not None else user_state_path("wardround") / "stacks" / name


def _sites(wish: str) -> tuple[Path | None, tuple[str, ...]]:
    from wardround.simulation.sites import SitesError
    from wardround.stack.sites import own_sites

    if not (wish.isascii() and wish.isdigit()):
        try:
            return Path(wish).absolute(), own_sites(Path(wish).absolute())
        except SitesError as error:
            raise CommandError(str(error)) from None
    if not 1 <= int(wish) <= MOST_SITES:
        raise CommandError(f"--sites {wish}: must be 1 to {MOST_SITES} clinics, or a folder")
    return None, tuple(f"clinic-{number}" for number in range(1, int(wish) + 1))


def _guests(wish: list[str] | None, sites: tuple[str, ...], earlier: "Plan | None") -> tuple[str, ...]:
    from wardround_messages.names import SITE_MAX, is_id

    for name in wish or ():
        if not is_id(name, SITE_MAX):
            raise CommandError(f"--guest {name}: cannot be a clinic")
        if name in sites:
            raise CommandError(f"--guest {name}: the stack has a clinic of that name itself")
    guests = wish if wish is not None or earlier is None else earlier.guests
    return tuple(dict.fromkeys(name for name in guests or () if name not in sites))


def _to_have_it_otherwise(context: typer.Context, name: str, folder: Path | None) -> str:
    """What to do about a stack that runs already, and which options of this command it goes on without."""
    given = [
        option.secondary_opts[0] if context.params[option.name] is False else option.opts[0]
        for option in context.command.params
        if option.name not in (None, *OF_THE_COMMAND)
        and (source := context.get_parameter_source(option.name)) is not None
        and source.name == "COMMANDLINE"
    ]
    where = ("" if name == "stack" else f" --name {name}") + ("" if folder is None else f" --folder {folder}")
    wish = f"with {', '.join(given)}" if given else "otherwise"
    return f"`wardround stack status{where}` shows it; to have it {wish}, `wardround stack down{where}` first"


@contextmanager
def _stack_errors() -> Iterator[None]:
    from wardround.hub.folder import HubError
    from wardround.runtime.toml_file import SettingsError
    from wardround.stack.folder import StackError

    try:
        yield
    except (StackError, HubError) as error:
        raise CommandError(str(error), Exit.ENDED_BADLY) from None
    except SettingsError as error:
        raise CommandError(str(error)) from None


def _airflow_logins(folder: Path, plan: "Plan") -> dict[str, dict[str, str]]:
    """Site -> where its Airflow is, and the login of a person there."""
    from wardround.stack.airflow_home import PERSON, AirflowHome

    logins = {}
    for site in plan.sites if plan.airflow else ():
        home = AirflowHome.of(folder, plan, site)
        file = home.password_file(PERSON)
        password = file.read_text() if file.exists() else ""  # it was never up
        logins[site] = {"url": home.url, "username": PERSON, "password": password, "password_file": str(file)}
    return logins


def _print(folder: Path, plan: "Plan", state: "StackState", *, as_json: bool) -> None:
    from wardround.stack.control import memory_of
    from wardround.stack.ports import LOOPBACK

    addresses = {
        "broker": f"amqp://{LOOPBACK}:{plan.ports.get('broker')}",
        "store": f"http://{LOOPBACK}:{plan.ports.get('store')}",
        "metrics": f"http://{LOOPBACK}:{plan.ports.get('metrics')}",
    }
    if as_json:
        programs = [{**each.model_dump(mode="json"), "memory": memory_of(each.pid)} for each in state.programs]
        known = {"name": plan.name, "folder": str(folder), "phase": state.phase, "error": state.error}
        logins = _airflow_logins(folder, plan)
        typer.echo(json.dumps({**known, "addresses": addresses, "airflow": logins, "programs": programs}))
        return
    typer.echo(f"stack '{plan.name}' is {state.phase}{f': {state.error}' if state.error else ''}; its data: {folder}")
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("program", "state", "pid", "restarts", "memory", "port"):
        table.add_column(column, justify="right" if column in ("pid", "restarts", "memory", "port") else "left")
    for each in state.programs:
        memory = memory_of(each.pid)
        port = plan.ports.get({"rabbitmq": "broker", "minio": "store"}.get(each.name, each.name))
        cells = (each.pid, each.restarts or None, None if memory is None else size_text(memory), port)
        table.add_row(each.name, each.state, *("–" if cell is None else str(cell) for cell in cells))  # noqa: RUF001
    Console(highlight=False).print(table)
    for what, address in addresses.items():
        login = {
            "broker": f"   researcher-a, password in {folder / 'hub/secrets/researcher-a.broker'}",
            "store": f"   researcher-a, secret in {folder / 'hub/secrets/researcher-a.store'}",
        }.get(what, "")
        typer.echo(f"{what:<8} {address}{login}")
    for site, airflow in _airflow_logins(folder, plan).items():
        typer.echo(f"Airflow of {site}  {airflow['url']}   {airflow['username']}, password {airflow['password']}")
