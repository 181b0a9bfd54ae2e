"""``${env:…}`` and ``${file:…}``: resolved late, never shown."""

import json
import os
import re
import stat
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import PurePath
from typing import Final, assert_never
from urllib.parse import SplitResult, quote, unquote, urlsplit

from bridge.diagnostics import Finding, Findings, Route, did_you_mean
from bridge.egress import host_refusal
from bridge.redaction import Redactor
from bridge.spec import ApiKeyAuth, Auth, BasicAuth, BearerAuth, NoAuth, OAuth2, Scalar, Tls, UpstreamSpec

_LARGEST: Final = 1024**2

_PLACE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE: Final = re.compile(r"(?a)([A-Za-z_]\w*)(?::-(.*))?", re.DOTALL)
_SHELL: Final = re.compile(r"[A-Z][A-Z0-9_]*")
"""Names that are surely of variables, as a shell has them: nothing else of a misread text is shown."""
_ALMOST: Final = re.compile(
    rf"(?:\S+ )?(\$\(?({_SHELL.pattern})\)?|\{{?env:([A-Za-z_]\w*)\}}?|<[A-Za-z_ -]+>)"
)
"""A variable as a shell or others write it, or what an example leaves to be filled in; a scheme may stand before."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_TEXT: Final = (re.compile(r"[^\x00-\x1f\x7f-\x9f]+"), "a text without control characters")
_FORMS: Final = {
    "text": _TEXT,
    "query": _TEXT,
    "bearer": (
        re.compile(r"[\x21-\x7e]+"),
        "the token alone, ASCII without blanks and without the word Bearer",
    ),
    "header": (
        re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?"),
        "a text of ASCII characters without blanks at its ends",
    ),
    "cookie": (
        re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+"),
        "a cookie's value, ASCII without blanks, quotes, comma, semicolon and backslash",
    ),
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream ready to send to: its spec with every ``${…}`` resolved.

    ``spec.base_url`` is canonical: no trailing slash, lower-case host, no default port. ``name`` is
    the key of what outlives reloads (limits, tokens). ``secrets`` are the values to redact. ``files``
    are the files that were read; ``certificates`` changes when what is in those of ``tls`` does.
    ``warnings`` are about files that are gone. ``role`` is what kind of server it is, for texts. Where calls
    need a token, ``tokens`` is where it is got: an upstream whose ``base_url`` is the whole address.
    """

    name: str
    spec: UpstreamSpec = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[str, ...] = ()
    certificates: str = ""
    warnings: tuple[Finding, ...] = field(default=(), repr=False, compare=False)
    role: str = "API"
    tokens: "Upstream | None" = field(default=None, repr=False)
    origin: str = field(init=False, repr=False)
    place: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive ``origin`` (scheme://host[:port]) and ``place`` (host:port, for texts)."""
        origin = "/".join(self.spec.base_url.split("/", 3)[:3])
        scheme, _, host = origin.partition("://")
        has_port = ":" in host.rpartition("]")[2]
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "place", host if has_port else f"{host}:{443 if scheme == 'https' else 80}")

    @property
    def server(self) -> str:
        """What is at the other end, for texts: ``API server at api.example.com:443``."""
        return f"{self.role} server at {self.place}"

    def redactor(self, *others: str) -> Redactor:
        """What takes this upstream's secrets, and others, out of what it answers."""
        return _redactor(self.secrets + others)


class Sources:
    """Where secrets come from: a process's environment, and files.

    A file that vanishes keeps the value that it had, and is ``lost``. ``read`` answers a file's text; it raises
    ``OSError`` for one that cannot be read, and ``ValueError``, whose text is shown, for one that may not.
    """

    def __init__(self, environ: Mapping[str, str], read: Callable[[str], str] | None = None) -> None:
        self.environ = environ
        self.lost: set[str] = set()
        self._read = read or read_file
        self._last: dict[str, str | None] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that was asked for, also those that are not there: what a poll looks at."""
        return tuple(sorted(self._last))

    def file(self, path: str) -> str:
        """The text of a file, or what it was when it could last be read."""
        last = self._last.setdefault(path, None)
        try:
            text = self._last[path] = self._read(path)
        except OSError:
            if last is None:
                raise
            self.lost.add(path)
            return last
        self.lost.discard(path)
        return text


def read_file(path: str) -> str:
    """A regular file's text, at most 1 MiB of UTF-8; what else lies there (a pipe, a device) never blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no regular file")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError("is larger than 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def resolve(name: str, spec: UpstreamSpec, sources: Sources) -> Upstream:
    """The upstream with every ``${…}`` of its texts replaced, once, and its proxy chosen.

    Raises ``InvalidSpec``: ``unset-secret`` for what is not there, ``bad-secret`` for what cannot be
    used, ``bad-proxy``. No message holds a value.
    """
    texts = _Texts(sources)
    base_url = texts.resolved(spec.base_url, "baseUrl")
    auth = texts.auth(spec.auth)
    headers = {key: texts.header(value, key) for key, value in spec.headers.items()}
    tls, certificates = texts.tls(spec.tls)
    proxy = texts.proxy(spec.proxy, base_url)
    texts.findings.raise_errors()
    update = {"base_url": base_url, "auth": auth, "headers": headers, "tls": tls, "proxy": proxy}
    secrets, files = (tuple(dict.fromkeys(found)) for found in (texts.secrets, texts.files))
    warnings = tuple(texts.findings)
    return Upstream(name, spec.model_copy(update=update), secrets, files, certificates, warnings)


def resolved(text: str, sources: Sources, findings: Findings, *route: str | int) -> str:
    """A text of the settings file with each ``${…}`` replaced; ``findings`` get what is wrong with one."""
    texts = _Texts(sources, until="nobody has this key")
    found = texts.resolved(text, *route, secret=True)
    findings.extend(texts.findings)
    return found


def client_credentials(client_id: str, secret: str) -> str:
    """What ``client_secret_basic`` sends after the word Basic (RFC 6749 2.3.1).

    A blank becomes %20: some servers do not read a + as one.
    """
    return b64encode(f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()).decode()


class _Texts:
    """Resolves the texts of one file, and collects what it meets; ``until`` is what a missing one means."""

    def __init__(self, sources: Sources, until: str = "the tools of this upstream are not served") -> None:
        self._sources = sources
        self._until = until
        self.findings = Findings()
        self.secrets: list[str] = []
        self.files: list[str] = []

    def resolved(self, text: str, *route: str | int, secret: bool = False) -> str:
        """The text with each ``${…}`` replaced by its value, and ``$${`` by ``${``."""

        def replace(place: re.Match[str]) -> str:
            if place[0] == "$${":
                return "${"
            value = self._value(place, route)
            if secret:
                self.secrets.append(value)
            return value

        return _PLACE.sub(replace, text)

    def auth(self, auth: Auth) -> Auth:
        match auth:
            case BearerAuth():
                credentials = self._secret(auth.credentials, "credentials", "bearer")
                return auth.model_copy(update={"credentials": credentials})
            case BasicAuth():
                # Who we are is written in many a reply: a user name is a secret only where the operator says so.
                username = self.resolved(auth.username, "auth", "username", secret=True)
                self._check(username, "text", "auth", "username")
                password = self._secret(auth.password, "password", "text")
                self.secrets.append(b64encode(f"{username}:{password}".encode()).decode())
                return auth.model_copy(update={"username": username, "password": password})
            case ApiKeyAuth():
                name = self.resolved(auth.name, "auth", "name")
                value = self._secret(auth.value, "value", auth.in_)
                return auth.model_copy(update={"name": name, "value": value})
            case OAuth2():
                update = {"token_url": self.resolved(auth.token_url, "auth", "tokenUrl")}
                update["client_id"] = self.resolved(auth.client_id, "auth", "clientId", secret=True)
                self._check(update["client_id"], "text", "auth", "clientId")
                if auth.client_secret is not None:
                    secret = update["client_secret"] = self._secret(
                        auth.client_secret, "clientSecret", "text"
                    )
                    self.secrets += [quote(secret, safe=""), client_credentials(update["client_id"], secret)]
                return auth.model_copy(update=update)
            case NoAuth():
                return auth
            case _:
                assert_never(auth)

    def header(self, scalar: Scalar, name: str) -> str:
        text = scalar if isinstance(scalar, str) else json.dumps(scalar)
        value = self.resolved(text, "headers", name, secret=True)
        if value != text:
            self._check(value, "header", "headers", name)
        return value

    def tls(self, tls: Tls) -> tuple[Tls, str]:
        """The resolved words, and a digest of what their files hold: they are read again for each pool."""
        paths: dict[str, str] = {}
        digest = sha256()
        for key, path, route in (
            ("ca_file", tls.ca_file, "caFile"),
            ("cert_file", tls.cert_file, "certFile"),
            ("key_file", tls.key_file, "keyFile"),
        ):
            if path is not None:
                paths[key] = self.resolved(path, "tls", route)
                if not self._failed("tls", route):
                    digest.update(self._file(paths[key], ("tls", route), None).encode())
        return tls.model_copy(update=paths), digest.hexdigest() if paths else ""

    def proxy(self, written: str | None, base_url: str) -> str | None:
        """The proxy to take: the one written (none where that is empty), else the environment's."""
        if written is None:
            route, text = "baseUrl", _environment_proxy(self._sources.environ, base_url)
        else:
            route, text = "proxy", self.resolved(written, "proxy")
        if not text:
            return None
        parts = _proxy_parts(text)
        if parts is None or (what := host_refusal(unquote(parts.hostname or ""))):
            message = "the proxy is not of the form http://[user:password@]host:port; write it so"
            if parts is not None:
                message = f"the proxy has {what}, which is never contacted; write another"
            if written is None:
                message = (
                    f"HTTP_PROXY or HTTPS_PROXY of the environment: {message}, or set proxy in this file"
                )
            self.findings.error("bad-proxy", message, route)
            return None
        if (host := _host(base_url)) and not host_refusal(host) and host_refusal(host, proxied=True):
            message = (
                f"{host} is the name of a cloud metadata service to some proxies, and never sent to one;"
                " write the full name of the host, or proxy: '' for no proxy"
            )
            self.findings.error("bad-url", message, "baseUrl")
        if parts.username is not None:
            pair = [unquote(parts.username), unquote(parts.password or "")]
            self.secrets += [
                *pair,
                parts.netloc.rpartition("@")[0],
                b64encode(":".join(pair).encode()).decode(),
            ]
        return f"http://{parts.netloc}"

    def _secret(self, text: str, key: str, form: str) -> str:
        if almost := _ALMOST.fullmatch(text):
            name = almost[2] or almost[3] or "NAME"
            message = f"{almost[1]} would be sent as it is; write ${{env:{name}}}"
            self.findings.error("bad-secret", message, "auth", key)
            return ""
        value = self.resolved(text, "auth", key, secret=True)
        self.secrets.append(value)
        self._check(value, form, "auth", key)
        return value

    def _check(self, value: str, form: str, *route: str) -> None:
        pattern, expected = _FORMS[form]
        if not pattern.fullmatch(value) and not self._failed(*route):
            self.findings.error("bad-secret", f"expected {expected}; correct the value", *route)

    def _failed(self, *route: str) -> bool:
        """Whether a text could not be resolved: one finding is enough, it is not looked at again."""
        return any(finding.route == route for finding in self.findings.errors)

    def _value(self, place: re.Match[str], route: Route) -> str:
        """What ``${…}`` stands for; a finding, and nothing, where that is not to be had."""
        source, _, rest = place[1].partition(":")
        offset = place.start()
        if not place[2]:
            message = "${ is never closed; write } after the name, or $${ for the text ${"
        elif source == "env":
            if match := _VARIABLE.fullmatch(rest):
                return self._variable(match[1], match[2], route, offset)
            message = (
                "${env:…} names no variable; write letters, digits and _, as in ${env:API_KEY}, "
                "and a default as in ${env:API_KEY:-none}"
            )
        elif source == "file":
            if PurePath(rest).is_absolute():
                return self._file(rest, route, offset)
            message = (
                "${file:…} names no absolute path; write it from the root, as in ${file:/run/secrets/key}"
            )
        elif _SHELL.fullmatch(place[1]):
            message = f"${{{source}}} names no source of secrets; write ${{env:{source}}}"
        else:
            near = did_you_mean(source.lower(), ("env", "file"))
            message = f"${{…}} names no source of secrets; write ${{env:NAME}} or ${{file:/path}}{near}"
        self.findings.error("bad-secret", message, *route, offset=offset)
        return ""

    def _variable(self, name: str, default: str | None, route: Route, offset: int) -> str:
        set_to = self._sources.environ.get(name)
        value = set_to or default
        if value is None:
            advice = f"set it, for until then {self._until}"
            message = f"the variable {name} is not set, or empty; {advice}"
            self.findings.error("unset-secret", message, *route, offset=offset)
            return ""
        what = f"the variable {name}" if set_to else f"the default of {name}"
        return self._plain(value, what, route, offset)

    def _file(self, path: str, route: Route, offset: int | None) -> str:
        self.files.append(path)
        try:
            text = self._sources.file(path)
        except OSError as error:
            message = (
                f"the file {path} cannot be read ({error.strerror}); put it there, for this process to read"
            )
            self.findings.error("unset-secret", message, *route, offset=offset)
            return ""
        except ValueError as error:
            self.findings.error("bad-secret", f"the file {path} {error}; correct it", *route, offset=offset)
            return ""
        if path in self._sources.lost:
            message = f"the file {path} is gone, and its last content serves on; put it back"
            self.findings.warn("lost-secret", message, *route, offset=offset)
        if offset is None:
            return text
        return self._plain(text.removesuffix("\n").removesuffix("\r"), f"the file {path}", route, offset)

    def _plain(self, value: str, what: str, route: Route, offset: int) -> str:
        if _CONTROL.search(value):
            message = f"{what} holds a control character, such as a line break; take it out"
            self.findings.error("bad-secret", message, *route, offset=offset)
            return ""
        return value


def _host(base_url: str) -> str:
    """Empty for an address that cannot be read: what is wrong with it is reported where it is made canonical."""
    try:
        return urlsplit(base_url).hostname or ""
    except ValueError:
        return ""


def _environment_proxy(environ: Mapping[str, str], base_url: str) -> str:
    """HTTP_PROXY or HTTPS_PROXY (lower case first, as curl does), unless NO_PROXY or loopback says otherwise."""
    try:
        url = urlsplit(base_url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    except ValueError:  # what is wrong with it is reported where it is made canonical
        return ""

    def variable(name: str) -> str:
        return (environ.get(name.lower()) or environ.get(name) or "").strip()

    proxy = variable(f"{url.scheme.upper()}_PROXY")
    if not proxy or _is_direct(host, port, variable("NO_PROXY")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    """NO_PROXY as curl and Go read it: names with their subdomains, addresses, networks, ``host:port``, ``*``."""
    if host == "localhost" or _is_within(host, "127.0.0.0/8") or _is_within(host, "::1"):
        return True
    for entry in no_proxy.lower().replace(" ", "").split(","):
        name = entry.removesuffix(f":{port}").strip("[]").removeprefix("*").removeprefix(".")
        if entry == "*" or _is_within(host, name):
            return True
        if name and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _proxy_parts(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return None
    plain = re.fullmatch(r"http://[\x21-\x7e]+?/?", text) and not (parts.path.strip("/") or parts.query)
    return parts if usable and plain and not parts.fragment else None


@lru_cache(maxsize=256)
def _redactor(secrets: tuple[str, ...]) -> Redactor:
    return Redactor(secrets)
