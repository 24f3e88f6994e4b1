"""Settings: a typed table, read from the environment and `myna.toml`.

All bad values and unknown names are reported together, each with a correction.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bot.errors import SettingsError

PREFIX = "MYNA_"


def _setting(default: Any, help: str, *, check: Callable[[Any], str | None] | None = None, secret: bool = False) -> Any:
    return field(default=default, metadata={"help": help, "check": check, "secret": secret})


def _between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda value: None if low <= value <= high else f"must be between {low:g} and {high:g}"


def _known_database(value: str) -> str | None:
    if value == "":
        return None
    if value.startswith("sqlite:///"):
        needs_file = value.removeprefix("sqlite:///").partition("?")[0] in ("", ":memory:")
        return "SQLite needs a file, like sqlite:////path/to/myna.db" if needs_file else None
    if not value.startswith(("postgresql://", "postgresql+psycopg://", "postgres://")):
        return "must begin with sqlite:/// or postgresql://"
    try:
        urllib.parse.urlsplit(value).port  # noqa: B018 - only this access looks at the port
    except ValueError as error:
        # The value contains a password, so the message does not repeat it.
        return f"is not a valid URL ({error}); write / and @ in a password as %2F and %40"
    return None


def _url(value: str) -> str | None:
    return None if value == "" or value.startswith(("http://", "https://")) else "must begin with http:// or https://"


def _urls(value: tuple[str, ...]) -> str | None:
    return next((complaint for url in value if (complaint := _url(url))), None)


def _origins(value: tuple[str, ...]) -> str | None:
    bad = [origin for origin in value if not origin.startswith(("http://", "https://")) or origin.count("/") != 2]
    return f"{', '.join(bad)}: an origin is scheme, host and port, like https://shop.example" if bad else None


def _countries(value: tuple[str, ...]) -> str | None:
    bad = [code for code in value if not (len(code) == 2 and code.isascii() and code.isupper())]
    return f"{', '.join(bad)}: a country is two capital letters, like DE" if bad else None


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_DATA_HOME/myna`, or `~/.local/share/myna`."""
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "myna"


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of an installation. A name in the environment is the field in capitals after `MYNA_`."""

    host: str = _setting("127.0.0.1", "Address to listen on; 0.0.0.0 for all")
    port: int = _setting(8080, "Port to listen on; 0 picks a free one", check=_between(0, 65535))
    public_url: str = _setting(
        "", "Public address of this server, if it differs, as behind a proxy: https://chat.example", check=_url
    )
    data: Path = _setting(None, "Folder for the database, models and versions (default: ~/.local/share/myna)")
    database_url: str = _setting(
        "",
        "sqlite:////path/to/file.db or postgresql://user:password@host/name (default: SQLite in MYNA_DATA)",
        check=_known_database,
        secret=True,
    )
    secret: str = _setting(
        "",
        "Key that signs visitors' cookies; the same on all servers of a database (default: made and kept in MYNA_DATA)",
        secret=True,
    )
    encryption_keys: tuple[str, ...] = _setting(
        (),
        "Keys that encrypt stored secrets, such as Slack tokens, with commas; the first encrypts, all decrypt "
        "(default: made and kept in MYNA_DATA)",
        secret=True,
    )
    title: str = _setting("Myna", "Name of the bot on the chat page")
    greeting: str = _setting("", "Greeting in an empty chat (default: a friendly line in the visitor's language)")
    system_prompt: str = _setting(
        "You are a helpful customer service assistant. Answer briefly, kindly and truthfully. "
        "Answer in the language you are written to. If you do not know something, say so.",
        "Instructions to the model, before every conversation",
    )
    generator: Literal["local", "remote"] = _setting(
        "local", "Where the model runs: in this process, or on an OpenAI-compatible server"
    )
    model: str = _setting(
        "smollm2-135m-instruct", "Name of the starter model, a local folder, or a Hugging Face id like org/name"
    )
    device: Literal["auto", "cpu", "cuda"] = _setting(
        "auto", "Where the local model runs; auto takes a GPU if there is one"
    )
    threads: int = _setting(0, "CPU threads of the local model; 0 takes one for each core", check=_between(0, 1024))
    cache_mb: int = _setting(
        0,
        "KV cache of the local model in MB, for running and kept prefixes; 0 takes 512, or half of a GPU's free memory",
        check=_between(0, 2**24),
    )
    compile: Literal["on", "off"] = _setting(
        "off", "Compile the model's small operations at load: fewer kernels on a GPU, slower on a CPU"
    )
    contact: str = _setting(
        "", "Contact given when the bot does not know an answer: an address, a phone number, opening hours"
    )
    web_audience: Literal["public", "customers", "staff"] = _setting(
        "public",
        "Audience of the web chat: whose articles it answers from; customers includes public, staff includes all",
    )
    slack_audience: Literal["public", "customers", "staff"] = _setting(
        "staff", "Audience of Slack, as MYNA_WEB_AUDIENCE"
    )
    api_audience: Literal["public", "customers", "staff"] = _setting(
        "public", "Audience of conversations over /v1, as MYNA_WEB_AUDIENCE"
    )
    article_words: int = _setting(
        0,
        "Maximum number of words of articles in a prompt; 0 means 50 for a local model without a GPU, which takes "
        "about a millisecond a word, and 300 elsewhere",
        check=lambda value: None if value == 0 or 20 <= value <= 10_000 else "must be 0, or from 20 to 10000",
    )
    embedder: str = _setting(
        "all-minilm-l6-v2",
        "Embedding model for questions and articles: all-minilm-l6-v2 (English), a local folder, or a Hugging Face id "
        "of a sentence-transformers model",
    )
    training: Literal["on", "off"] = _setting(
        "on", "on: `myna serve` starts a worker when a job waits; off: you run `myna worker` yourself"
    )
    training_threads: int = _setting(
        0, "CPU threads of training; 0 takes one for each core that MYNA_THREADS leaves free", check=_between(0, 1024)
    )
    training_priority: Literal["idle", "normal"] = _setting(
        "idle",
        "idle: training uses only time that other programs leave; normal: training takes an equal share of the CPU",
    )
    slack_bot_token: str = _setting("", "Bot token of a Slack app, xoxb-...; makes Myna answer in Slack", secret=True)
    slack_signing_secret: str = _setting("", "Signing secret of the Slack app, which proves its requests", secret=True)
    slack_app_token: str = _setting(
        "",
        "App token for Socket Mode, xapp-...: Myna connects to Slack, so that Slack need not reach this machine",
        secret=True,
    )
    slack_client_id: str = _setting("", "Client id of a Slack app that several workspaces install at /slack/install")
    slack_client_secret: str = _setting("", "Client secret of that Slack app", secret=True)
    slack_api_url: str = _setting(
        "https://slack.com/api/", "Address of Slack's API; change it for a proxy or for tests"
    )
    remote_url: tuple[str, ...] = _setting(
        (),
        "Base URL of an OpenAI-compatible server, like http://127.0.0.1:8000/v1; with commas, several of one model",
        check=_urls,
    )
    remote_key: str = _setting("", "API key for that server", secret=True)
    context_tokens: int = _setting(
        2048,
        "Context window: most tokens of prompt and reply together, limited by the model's own window",
        check=_between(64, 2**20),
    )
    max_reply_tokens: int = _setting(512, "Longest reply, in tokens", check=_between(1, 2**17))
    temperature: float = _setting(
        0.2, "Sampling temperature: 0 always takes the likeliest token; higher is more varied", check=_between(0, 5)
    )
    top_p: float = _setting(
        0.9, "Nucleus sampling: choose among the likeliest tokens that make up this share", check=_between(0.001, 1)
    )
    repetition_penalty: float = _setting(
        0.0,
        "Over 1 discourages repetition; 0 means 1.1 in chats with the local model, and no penalty elsewhere",
        check=lambda value: None if value == 0 or 0.1 <= value <= 10 else "must be 0, or from 0.1 to 10",
    )
    max_message_chars: int = _setting(
        16_000, "Longest message of a person in the web chat, in characters", check=_between(1, 10**6)
    )
    max_waiting: int = _setting(
        64, "Maximum number of replies queued at the model; further ones wait in the database", check=_between(1, 10**5)
    )
    max_replies: int = _setting(
        256, "Maximum number of conversations answered at the same time", check=_between(1, 10**5)
    )
    lease_seconds: float = _setting(
        15.0,
        "Lease of a conversation: seconds without a heartbeat after which another process takes it over",
        check=_between(1, 3600),
    )
    grace_seconds: float = _setting(
        20.0, "Seconds that running replies may go on after SIGTERM", check=_between(0, 3600)
    )
    api_keys: Literal["on", "off"] = _setting(
        "on", "on: programs need a key for /v1 (see `myna key`); off: open to all, allowed on a loopback address only"
    )
    erasure_policy: Literal["retire", "mark"] = _setting(
        "retire",
        "Fate of versions that learnt from an erased person: retire replaces them at once, mark lets them answer "
        "until another is promoted",
    )
    allowed_origins: tuple[str, ...] = _setting(
        (), "Sites that may embed the chat widget, separated by commas: https://shop.example", check=_origins
    )
    learning_consent: Literal["opt-out", "opt-in"] = _setting(
        "opt-out", "Consent for learning: opt-out learns from all who did not refuse, opt-in only from those who agreed"
    )
    regions: tuple[str, ...] = _setting(
        ("US", "GB", "DE", "CN"),
        "Countries whose phone numbers are recognised without a country code, as US,GB,DE,CN",
        check=_countries,
    )
    trusted_channels: tuple[str, ...] = _setting(
        ("console", "slack", "api"), "Channels whose corrections are learnt without a review, with commas"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Lowest level of messages that are logged"
    )

    @property
    def chat_repetition_penalty(self) -> float:
        return self.repetition_penalty or (1.1 if self.generator == "local" else 1.0)

    @property
    def chat_quoting_penalty(self) -> float:
        """Repetition penalty of prompts with articles: the penalty of chats would keep small models from quoting."""
        return self.repetition_penalty or 1.0

    @property
    def resolved_database_url(self) -> str:
        url = self.database_url or f"sqlite:///{self.data / 'myna.db'}"
        return url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url


def load_settings(environ: Mapping[str, str], config_file: Path | None = None) -> Settings:
    """Read `myna.toml` (named by MYNA_CONFIG, or in the working folder), then override it by the environment.

    Raises `SettingsError` with all problems at once.
    """
    problems: list[str] = []
    chosen = config_file or (Path(environ["MYNA_CONFIG"]) if environ.get("MYNA_CONFIG") else None)
    if chosen is not None and not chosen.is_file():
        problems.append(f"{'MYNA_CONFIG' if config_file is None else 'settings'}: there is no file {chosen}")
    raw = _read_toml(chosen or Path("myna.toml"), problems)
    named = {name: value for name, value in environ.items() if name.startswith(PREFIX) and name != "MYNA_CONFIG"}
    raw |= {name: (value, name) for name, value in named.items()}
    values: dict[str, Any] = {"data": default_data_dir(environ)}
    hints, fields = get_type_hints(Settings), {setting.name: setting for setting in dataclasses.fields(Settings)}
    for key, (value, source) in raw.items():
        name = key.removeprefix(PREFIX).lower()
        if name not in fields:
            problems.append(_unknown(source, name, fields))
            continue
        try:
            values[name] = _convert(value, hints[name])
        except (ValueError, TypeError) as error:
            problems.append(f"{source}: {error}")
            continue
        check = fields[name].metadata["check"]
        if check is not None and (complaint := check(values[name])):
            problems.append(f"{source}: {complaint}")
    if problems:
        raise SettingsError("The settings are not valid:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Settings(**values)


def _read_toml(path: Path, problems: list[str]) -> dict[str, tuple[Any, str]]:
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: {error}")
        return {}
    except OSError as error:
        problems.append(f"{path}: can't be read: {error.strerror}")
        return {}
    return {PREFIX + key.upper(): (value, f"{path}: {key}") for key, value in table.items()}


def _unknown(source: str, name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    hint = f"did you mean {PREFIX}{close[0].upper()}?" if close else "see `myna settings` for the list"
    return f"{source}: there is no such setting; {hint}"


def _convert(value: Any, wanted: Any) -> Any:
    if get_origin(wanted) is Literal:
        if not isinstance(value, str) or value not in get_args(wanted):
            raise ValueError(f"must be one of {', '.join(get_args(wanted))}")
        return value
    if get_origin(wanted) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise TypeError('must be a list, like ["https://shop.example"]')
        return tuple(str(part).strip().rstrip("/") for part in parts if str(part).strip())
    if wanted is Path:
        return _convert_folder(value)
    if wanted in (int, float):
        return _convert_number(value, wanted)
    if not isinstance(value, str):
        raise TypeError("must be text in quotes")
    return value


def _convert_folder(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise TypeError("must name a folder")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _convert_number(value: Any, wanted: type[int] | type[float]) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("must be a number")
    if wanted is int and isinstance(value, float):
        raise ValueError(f"{value!r} is not a whole number")
    try:
        return wanted(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a {'whole ' if wanted is int else ''}number") from None


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting, as docs and `myna settings` list it."""

    field: str
    name: str
    type: str
    default: str
    help: str
    secret: bool


def describe_settings() -> list[SettingRow]:
    """List all settings in the order of the table."""
    hints = get_type_hints(Settings)
    rows = []
    for setting in dataclasses.fields(Settings):
        default = "" if setting.default in (None, "", ()) else str(setting.default)
        if isinstance(setting.default, tuple):
            default = ",".join(setting.default)
        about = setting.metadata
        kind = _type_name(hints[setting.name])
        rows.append(
            SettingRow(setting.name, PREFIX + setting.name.upper(), kind, default, about["help"], about["secret"])
        )
    return rows


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " / ".join(get_args(hint))
    if get_origin(hint) in (tuple, types.GenericAlias):
        return "list"
    return {int: "number", float: "number", str: "text", Path: "folder"}[hint]
