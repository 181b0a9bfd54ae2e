"""The command line. Each command is imported only when it runs, so that the others start fast."""

import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, TypeVar

import click

from bridge import __version__
from bridge.address import Address
from bridge.errors import StartError

if TYPE_CHECKING:
    from bridge.settings import Settings

USAGE_ERROR: Final = 2
INTERNAL_ERROR: Final = 3
INTERRUPTED: Final = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments``; answers the exit code."""
    # Not standalone: click would exit with its own codes, and show NoSuchOption without our advice.
    try:
        return int(restbridge.main(arguments, prog_name="restbridge", standalone_mode=False) or 0)
    except click.NoSuchOption as error:
        _advise(error).show()
        return USAGE_ERROR
    except click.ClickException as error:
        error.show()
        return USAGE_ERROR
    except click.Abort:
        return INTERRUPTED


def _advise(error: click.NoSuchOption) -> click.UsageError:
    """Suggest our option for an option that is common in other programs."""
    command = error.ctx.command.name if error.ctx else ""
    if error.option_name in {"--port", "-p", "--host", "-t"} and command in {"serve", "demo"}:
        advice = "to serve HTTP, write --http [HOST:]PORT"
    elif command in {"call", "explain"}:
        advice = "a tool's arguments are written NAME=TEXT"
    else:
        return error
    return click.UsageError(f"No such option {error.option_name!r}; {advice}.", error.ctx)


class _Verb(click.Command):
    """A command whose epilog holds examples, printed without wrapping."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Examples"):
            for line in (self.epilog or "").splitlines():
                formatter.write(f"  {line}\n")


class _Serve(_Verb):
    """Has an option for each setting that has one, too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from bridge.commands.settings_from_options import options

        *own, help_ = super().get_params(ctx)  # click adds --help at the end
        return [*own, *options(), help_]


class _Verbs(click.Group):
    command_class = _Verb


class _Restbridge(_Verbs):
    """The outermost error handler: an unexpected exception becomes one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StartError as error:
            raise click.ClickException(str(error)) from None
        # For click itself. It ends quietly at a closed pipe: restbridge list | head
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - all expected errors were handled
            if ctx.params["verbose"]:
                traceback.print_exception(error)
            name = type(error).__name__
            click.echo(
                f"restbridge: internal error ({name}); for a stack trace run: restbridge --verbose …",
                err=True,
            )
            return INTERNAL_ERROR


def _address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Address | None:
    try:
        return None if value is None else Address.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _pairs(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = [each.partition("=") for each in value]
    if any(not equals for _, equals, _ in pairs):
        raise click.BadParameter("write NAME=TEXT")
    return {name: text for name, _, text in pairs}


def _key_field(field: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Validate an option like the same field of an entry of ``access.apiKeys``."""

    def validate(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        from bridge.commands.settings_file import invalid_key_field

        if problem := invalid_key_field(field, value):
            raise click.BadParameter(problem)
        return value

    return validate


_MAX_TOKEN_CHARACTERS: Final = 8 * 1024  # the longest token that access/jwt accepts
_DIRECTORY: Final = click.Path(path_type=Path)


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
    help="Take upstream files only from DIR; elsewhere they are errors.",
)


def _read_token(file: TextIO) -> str:
    """The token in a file; raises ``click.BadParameter``."""
    token = file.read(_MAX_TOKEN_CHARACTERS + 1).strip()  # bounded: the file may be /dev/zero
    if not re.fullmatch(r"[\x21-\x7e]+", token) or len(token) > _MAX_TOKEN_CHARACTERS:
        raise click.BadParameter(
            "found no token in that file, expected one word of ASCII, at most 8 KiB",
            param_hint="--token-file",
        )
    return token


def _format(*words: str, help: str) -> Callable[[_Command], _Command]:  # noqa: A002 - click's word
    return click.option("--format", "format_", type=click.Choice(words), default=words[0], help=help)


_CALLER: Final = click.option(
    "--caller", metavar="NAME", help="Name of the caller, for tools that send it: {$caller}."
)
_CLAIMS: Final = click.option(
    "--claim",
    "claims",
    multiple=True,
    callback=_pairs,
    metavar="NAME=TEXT",
    help="A claim of the caller's token, such as email=ann@example.com: {$caller.email}; may be repeated.",
)
_TOKEN: Final = click.option(
    "--token-file",
    "token",
    type=click.File(),
    metavar="FILE",
    help="A token of the caller, for APIs with token exchange; - reads it from stdin.",
)
_VIEW: Final = click.option(
    "--view", metavar="NAME", help="Only the tools of this view of the settings file."
)
_CONFIG: Final = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="RESTBRIDGE_CONFIG",
    show_envvar=True,
    help="A settings file, such as restbridge.yaml. Options take precedence.",
)


def _settings(
    directories: tuple[Path, ...], config: Path | None, *, lenient: bool = False, **options: Any
) -> "Settings":
    """Options, then the settings file, then the defaults. ``lenient``: errors in the settings file are ignored.

    ``directories``, ``config`` and ``options`` are the parameters of a command.
    """
    from bridge.commands.settings_from_options import settings

    file = None
    if config:
        from bridge.commands.settings_file import read

        file = read(config, lenient=lenient)
    return settings(file, {"config": config, "tools": directories, **options})


@click.group(cls=_Restbridge, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="restbridge")
@click.option(
    "--verbose", is_flag=True, envvar="RESTBRIDGE_VERBOSE", help="Show the stack trace of an internal error."
)
def restbridge(*, verbose: bool) -> None:
    """Put a REST API in front of AI agents: one YAML file is one MCP tool.

    Exit codes: 0 success; 1 a file has errors, or a call failed; 2 usage error; 3 internal error; 130 interrupted.
    """


@restbridge.command(
    cls=_Serve, epilog="restbridge serve\nrestbridge serve --http 8000 tools.d ../shared-tools"
)
@_DIRECTORIES
@_CONFIG
@_UPSTREAMS
@_VIEW
@click.option("--worker", type=click.IntRange(1, 64), hidden=True)
def serve(*, worker: int | None, **options: Any) -> int:
    """Serve tool files to agents, and reload them as they change.

    The files are those in DIRECTORIES (default: tools.d). Serves stdio, or with --http HTTP. Only this machine
    can reach the port, unless a host is given too.
    """
    from bridge.commands.serve import run, run_worker

    # The number only shows in the list of processes which worker it is.
    return run_worker() if worker else run(_settings(**options))


@restbridge.command(epilog="restbridge check\nrestbridge check --format github --secrets deploy/tools.d")
@_DIRECTORIES
@_CONFIG
@_UPSTREAMS
@_format("text", "json", "github", help="text for people, json for programs, github for its annotations.")
@click.option(
    "--secrets", is_flag=True, help="A ${env:…} or ${file:…} that is unset is an error, not a warning."
)
def check(*, format_: Literal["text", "json", "github"], secrets: bool, **options: Any) -> int:
    """Check tool files for errors. Nothing is sent.

    The files are those in DIRECTORIES (default: tools.d). Exits with 1 if one has errors.
    """
    from bridge.commands.check import run

    return run(_settings(**options, lenient=True), format_, secrets=secrets)


@restbridge.command("list", epilog="restbridge list\nrestbridge list --format json")
@_DIRECTORIES
@_CONFIG
@_UPSTREAMS
@_VIEW
@_format("table", "json", help="table for people; json is what tools/list answers.")
def list_(*, format_: Literal["table", "json"], **options: Any) -> int:
    """Show the tools as agents see them, and which files have errors.

    The files are those in DIRECTORIES (default: tools.d). Exits with 1 if one has errors.
    """
    from bridge.commands.list import run

    return run(_settings(**options), format_)


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
    caller: str | None,
    claims: dict[str, str],
    token: TextIO | None,
    format_: Literal["text", "json", "raw"],
    **options: Any,
) -> int:
    """Call one tool, as an agent would.

    The request is sent to the API. An argument is NAME=TEXT (parsed by its schema), NAME:=JSON, or NAME=@FILE
    (the content of the file). Exits with 1 if the result is an error.
    """
    from bridge.caller import Caller
    from bridge.commands.call import run

    who = Caller(caller, claims=claims, token=_read_token(token) if token else None)
    return run(_settings(**options), tool, arguments, format_, who)


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
    caller: str | None,
    claims: dict[str, str],
    format_: Literal["text", "json"],
    **options: Any,
) -> int:
    """Show the request that a call would send.

    It also shows where each argument goes. Nothing is sent. Secrets are shown as [hidden]. Arguments are
    written as for call.
    """
    from bridge.caller import Caller
    from bridge.commands.explain import run

    who = Caller(caller, claims=claims)
    return run(_settings(**options), tool, arguments, format_, who)


@restbridge.command("explain-code", epilog="restbridge explain-code bad-projection")
@click.argument("code")
def explain_code(code: str) -> int:
    """Explain the code of a diagnostic or of a failed call, with an example.

    check prints the code in brackets at the end of each line.
    """
    from bridge.commands.explain_code import run

    return run(code)


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
    """Create API keys for callers over HTTP."""


@key.command("new", epilog="restbridge key new --name ci --scope orders:read --expires 2027-01-31")
@click.option("--name", required=True, callback=_key_field("name"), help="Name of the caller.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    callback=_key_field("scopes"),
    help="A scope of the caller; may be repeated.",
)
@click.option(
    "--expires",
    metavar="DATE",
    callback=_key_field("expires"),
    help="When the key expires: 2027-01-31.",
)
@_format("text", "json", help="text for people, json for programs: {key, entry}.")
def new(*, name: str, scopes: tuple[str, ...], expires: str | None, format_: Literal["text", "json"]) -> int:
    """Print a new key, once, and its entry for the settings file.

    The entry goes into the list access.apiKeys. It holds only the SHA-256 of the key.
    """
    from bridge.commands.key import run

    return run(name, scopes, expires, format_)


@restbridge.command(epilog="restbridge demo\nrestbridge demo --http 9000 my-tools")
@click.argument("directory", type=_DIRECTORY, default=Path("tools.d"))
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    callback=_address,
    help="Serve HTTP there, at /mcp. Default: port 8101, or any free one.",
)
@click.option(
    "--stdio", is_flag=True, help="Serve the tools over stdio, for an agent that starts this command."
)
def demo(*, directory: Path, http: Address | None, stdio: bool) -> int:
    """Start a sample shop and the bridge in front of it.

    Edit its tool files and watch what agents see change. They are in DIRECTORY (default: tools.d). If it holds
    none, the samples are copied there.
    """
    from bridge.commands.demo import run

    return run(directory, http, stdio=stdio)
