"""Words typed become a command; a command is imported when it is asked for."""

import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, TypeVar

import click

from bridge import __version__
from bridge.address import Address

if TYPE_CHECKING:
    from bridge.settings import Settings

WRONG_USE: Final = 2
OUR_FAULT: Final = 3
INTERRUPTED: Final = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was typed; answers the exit code."""
    try:
        return int(restbridge.main(arguments, prog_name="restbridge", standalone_mode=False) or 0)
    except click.NoSuchOption as error:
        _advise(error).show()
        return WRONG_USE
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except click.Abort:
        return INTERRUPTED


def _advise(error: click.NoSuchOption) -> click.UsageError:
    """What is meant by an option that other programs have."""
    command = error.ctx.command.name if error.ctx else ""
    if error.option_name in {"--port", "-p", "--host", "-t"} and command in {"serve", "demo"}:
        advice = "to serve HTTP, write --http [HOST:]PORT"
    elif command in {"call", "explain"}:
        advice = "a tool's arguments are written NAME=TEXT"
    else:
        return error
    return click.UsageError(f"No such option {error.option_name!r}; {advice}.", error.ctx)


class _Verb(click.Command):
    """A command whose epilog is examples, printed as they stand."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Examples"):
            for line in (self.epilog or "").splitlines():
                formatter.write(f"  {line}\n")


class _Verbs(click.Group):
    command_class = _Verb


class _Restbridge(_Verbs):
    """The outermost loop: what nobody foresaw becomes one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - what reaches this place is our fault
            if ctx.params["verbose"]:
                traceback.print_exception(error)
            name = type(error).__name__
            click.echo(
                f"restbridge: failed inside ({name}); see where with: restbridge --verbose …", err=True
            )
            return OUR_FAULT


def _address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Address | None:
    try:
        return None if value is None else Address.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _host_names(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...] | None:
    """None, as of what was not typed, where there is none."""
    from bridge.settingsfile import host_name

    try:
        return tuple(map(host_name, value)) or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _pairs(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = [each.partition("=") for each in value]
    if any(not equals for _, equals, _ in pairs):
        raise click.BadParameter("write NAME=TEXT")
    return {name: text for name, _, text in pairs}


def _judged(field: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """What is typed is judged as the same word of an entry under ``access.apiKeys``."""

    def judge(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        from bridge.commands.settings_from_options import wrong_key

        if problem := wrong_key(field, value):
            raise click.BadParameter(problem)
        return value

    return judge


_DEFAULT: Final = Path("tools.d")
_LONGEST_TOKEN: Final = 8 * 1024
_DIRECTORY: Final = click.Path(path_type=Path)


def _http(help: str) -> Callable[[_Command], _Command]:  # noqa: A002 - click's word
    return click.option("--http", metavar="[HOST:]PORT", callback=_address, help=help)


_DIRECTORIES: Final = click.argument("directories", nargs=-1, type=_DIRECTORY)
_TOOLS: Final = click.option(
    "--tools",
    "directories",
    multiple=True,
    type=_DIRECTORY,
    metavar="DIR",
    help="Tool files. Default: tools.d",
)
_UPSTREAMS: Final = click.option(
    "--upstreams",
    type=_DIRECTORY,
    metavar="DIR",
    help="Take upstream files from DIR alone; elsewhere they are errors.",
)


def _shown(file: TextIO) -> str:
    """The token in a file."""
    token = file.read(_LONGEST_TOKEN + 1).strip()
    if not re.fullmatch(r"[\x21-\x7e]+", token) or len(token) > _LONGEST_TOKEN:
        raise click.BadParameter(
            "that file holds no token: one word of ASCII, at most 8 KiB; put what the caller shows there",
            param_hint="--token-file",
        )
    return token


def _format(*words: str, help: str) -> Callable[[_Command], _Command]:  # noqa: A002 - click's word
    return click.option("--format", "format_", type=click.Choice(words), default=words[0], help=help)


_CALLER: Final = click.option(
    "--caller", metavar="NAME", help="Whose call it is, for tools that send on who calls: {$caller}."
)
_CLAIMS: Final = click.option(
    "--claim",
    "claims",
    multiple=True,
    callback=_pairs,
    metavar="NAME=TEXT",
    help="What the caller's token says, such as email=ann@example.com: {$caller.email}; may be repeated.",
)
_TOKEN: Final = click.option(
    "--token-file",
    "token",
    type=click.File(),
    metavar="FILE",
    help="A token of the caller's, for APIs that are called with one that is got in exchange; - reads it from stdin.",
)
_VIEW: Final = click.option(
    "--view", metavar="NAME", help="Only the tools of this view, which the settings file has."
)
_CONFIG: Final = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="RESTBRIDGE_CONFIG",
    show_envvar=True,
    help="A settings file, such as restbridge.yaml; what is typed counts before it.",
)


def _settings(
    directories: tuple[Path, ...], config: Path | None, *, lenient: bool = False, **options: Any
) -> "Settings":
    """What was typed, then what the settings file says, then the defaults; ``lenient`` to what is wrong there."""
    typed = {name: value for name, value in options.items() if value is not None}
    if directories:
        typed["directories"] = directories
    if config is None:
        from bridge.settings import Settings

        return Settings(**({"directories": (_DEFAULT,)} | typed))
    from bridge.commands.settings_from_options import settings

    return settings(config, typed, lenient=lenient)


def _of_worker(
    directories: tuple[Path, ...], config: Path | None, structured: str, **options: Any
) -> "Settings":
    """As ``Settings.words`` tells them: the settings file may be another by now, or wrong."""
    from bridge.settings import Settings, read_structured

    told = {name: value for name, value in options.items() if value is not None}
    return Settings(directories, config=config, **told, **read_structured(structured))


@click.group(cls=_Restbridge, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="restbridge")
@click.option(
    "--verbose", is_flag=True, envvar="RESTBRIDGE_VERBOSE", help="Show where a fault of ours came from."
)
def restbridge(*, verbose: bool) -> None:
    """Put a REST API in front of AI agents: one YAML file is one MCP tool.

    Exit codes: 0 fine; 1 a file has errors, or a call failed; 2 wrong use; 3 a fault of ours; 130 interrupted.
    """


@restbridge.command(epilog="restbridge serve\nrestbridge serve --http 8000 tools.d ../shared-tools")
@_DIRECTORIES
@_CONFIG
@_UPSTREAMS
@_http("Serve HTTP there, at /mcp, instead of stdio; port 0 is any free one.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="With --http, answer with N processes, to use N processors. Default 1.",
)
@click.option(
    "--host-name",
    "host_names",
    multiple=True,
    callback=_host_names,
    metavar="NAME",
    help="A name, beside its own, that clients may call the server by; may be repeated.",
)
@click.option(
    "--stateless/--no-stateless",
    default=None,
    help="Keep no sessions, so that any of several replicas can answer any request.",
)
@click.option("--worker", type=click.IntRange(1, 64), hidden=True)
@click.option("--guarded/--no-guarded", default=None, hidden=True)
@click.option(
    "--insecure/--no-insecure",
    default=None,
    help="Listen where others can reach it, although anybody may call.",
)
@click.option("--read-only/--no-read-only", default=None, help="Serve only tools of GET, HEAD and OPTIONS.")
@_VIEW
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How the log on stderr is written: text (default), or a JSON object on each line.",
)
@click.option(
    "--audit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append to FILE lines of JSON for each call that may change something, and each reload.",
)
@click.option(
    "--audit-required/--no-audit-required",
    default=None,
    help="Do not make a call that may change something if --audit FILE cannot be written.",
)
@click.option("--structured", hidden=True)
@click.option("--strict/--no-strict", default=None, help="Do not start while a file has errors.")
@click.option(
    "--on-invalid",
    type=click.Choice(["keep", "withdraw"]),
    help="What a broken edit does to its tool: keep the last good one (default), or withdraw it.",
)
@click.option(
    "--poll",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Look at all files this often, for what the system did not tell. Default 2.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="How long calls in flight may take when the server stops. Default 5.",
)
@click.option(
    "--express/--no-express",
    default=None,
    envvar="RESTBRIDGE_EXPRESS",
    show_envvar=True,
    help="Answer plain calls past the MCP SDK (default): the same answers, several times faster.",
)
def serve(
    *,
    directories: tuple[Path, ...],
    config: Path | None,
    worker: int | None,
    structured: str,
    **options: Any,
) -> int:
    """Serve tool files to agents, and reload them as they change.

    The files are those in DIRECTORIES (default: tools.d). Over stdio, unless --http is given; then only this
    machine can reach it, unless a host is given too.
    """
    from bridge.commands.serve import run

    if worker is None:
        settings = _settings(directories, config, **options)
    else:
        settings = _of_worker(directories, config, structured, **options)
    return run(settings, worker=worker)


@restbridge.command(epilog="restbridge check\nrestbridge check --format github --secrets deploy/tools.d")
@_DIRECTORIES
@_CONFIG
@_UPSTREAMS
@_format("text", "json", "github", help="text for people, json for programs, github for its annotations.")
@click.option(
    "--secrets", is_flag=True, help="A ${env:…} or ${file:…} that is unset is an error, not a warning."
)
def check(
    *,
    directories: tuple[Path, ...],
    config: Path | None,
    upstreams: Path | None,
    format_: Literal["text", "json", "github"],
    secrets: bool,
) -> int:
    """Look for mistakes in tool files; nothing is sent.

    The files are those in DIRECTORIES (default: tools.d). Exits with 1 where one has errors.
    """
    from bridge.commands.check import run

    settings = _settings(directories, config, lenient=True, upstreams=upstreams)
    return run(settings, format_, secrets=secrets)


@restbridge.command("list", epilog="restbridge list\nrestbridge list --format json")
@_DIRECTORIES
@_CONFIG
@_UPSTREAMS
@_VIEW
@_format("table", "json", help="table for people; json is what tools/list answers.")
def list_(
    *,
    directories: tuple[Path, ...],
    config: Path | None,
    upstreams: Path | None,
    view: str | None,
    format_: Literal["table", "json"],
) -> int:
    """Show the tools as agents see them, and which files are broken.

    The files are those in DIRECTORIES (default: tools.d). Exits with 1 where one has errors.
    """
    from bridge.commands.list import run

    return run(_settings(directories, config, upstreams=upstreams, view=view), format_)


@restbridge.command(
    epilog=(
        "restbridge call get_order order_id=o-1001\n"
        'restbridge call create_order customer_id=c-101 lines:=\'[{"product_id": "p-107", "quantity": 2}]\'\n'
    )
)
@click.argument("tool")
@click.argument("arguments", nargs=-1)
@_TOOLS
@_CONFIG
@_UPSTREAMS
@_CALLER
@_CLAIMS
@_TOKEN
@_format(
    "text",
    "json",
    "raw",
    help="text is what the model reads; json is the whole result; raw is the API's reply.",
)
def call(
    *,
    tool: str,
    arguments: tuple[str, ...],
    directories: tuple[Path, ...],
    config: Path | None,
    upstreams: Path | None,
    caller: str | None,
    claims: dict[str, str],
    token: TextIO | None,
    format_: Literal["text", "json", "raw"],
) -> int:
    """Call one tool, as an agent would.

    The upstream is asked for real. An argument is NAME=TEXT (read as its schema says), NAME:=JSON, or
    NAME=@FILE (what the file holds). Exits with 1 where the result is an error.
    """
    from bridge.caller import Caller
    from bridge.commands.call import run

    who = Caller(caller, claims=claims, token=_shown(token) if token else None)
    return run(_settings(directories, config, upstreams=upstreams), tool, arguments, format_, who)


@restbridge.command(epilog="restbridge explain get_order order_id=o-1001")
@click.argument("tool")
@click.argument("arguments", nargs=-1)
@_TOOLS
@_CONFIG
@_UPSTREAMS
@_CALLER
@_CLAIMS
@_format("text", "json", help="text for people, json for programs.")
def explain(
    *,
    tool: str,
    arguments: tuple[str, ...],
    directories: tuple[Path, ...],
    config: Path | None,
    upstreams: Path | None,
    caller: str | None,
    claims: dict[str, str],
    format_: Literal["text", "json"],
) -> int:
    """Show the request that a call would send.

    Shows where each argument goes, too; nothing is sent. Secrets are shown as [hidden]. Arguments are written
    as for call.
    """
    from bridge.caller import Caller
    from bridge.commands.explain import run

    who = Caller(caller, claims=claims)
    return run(_settings(directories, config, upstreams=upstreams), tool, arguments, format_, who)


@restbridge.command(epilog="restbridge schema tool > tool.schema.json")
@click.argument("kind", type=click.Choice(["tool", "upstream", "settings"]))
def schema(kind: Literal["tool", "upstream", "settings"]) -> int:
    """Print the JSON Schema of a kind of file, for editors.

    A file names it in its first line: # yaml-language-server: $schema=tool.schema.json
    """
    from bridge.commands.schema import run

    return run(kind)


@restbridge.group(cls=_Verbs)
def key() -> None:
    """Make keys for those who call over HTTP."""


@key.command("new", epilog="restbridge key new --name ci --scope orders:read --expires 2027-01-31")
@click.option("--name", required=True, callback=_judged("name"), help="Who is to hold it.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    callback=_judged("scopes"),
    help="What the holder may do; may be repeated.",
)
@click.option(
    "--expires",
    metavar="DATE",
    callback=_judged("expires"),
    help="From when on it counts no more: 2027-01-31.",
)
@_format("text", "json", help="text for people, json for programs: {key, entry}.")
def new(*, name: str, scopes: tuple[str, ...], expires: str | None, format_: Literal["text", "json"]) -> int:
    """Print a new key, once, and the entry that the settings file gets for it.

    The entry goes into the list access.apiKeys, and holds the key's SHA-256 alone.
    """
    from bridge.commands.key import run

    return run(name, scopes, expires, format_)


@restbridge.command(epilog="restbridge demo\nrestbridge demo --http 9000 my-tools")
@click.argument("directory", type=_DIRECTORY, default=_DEFAULT)
@_http("Serve HTTP there, at /mcp. Default: port 8101, or any free one.")
@click.option(
    "--stdio", is_flag=True, help="Serve the tools over stdio, for an agent that starts this command."
)
def demo(*, directory: Path, http: Address | None, stdio: bool) -> int:
    """Start a sample shop and the bridge in front of it.

    Edit its tool files and watch what agents see change. They are those in DIRECTORY (default: tools.d); where
    there are none, the samples are copied there.
    """
    from bridge.commands.demo import run

    return run(directory, http, stdio=stdio)
