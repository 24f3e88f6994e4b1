"""Settings from the environment and `myna.toml`: defaults, precedence, and all mistakes in one report."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import SettingsError
from bot.settings import PREFIX, Settings, describe_settings, load_settings

NAMES = [row.name for row in describe_settings()]


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no `myna.toml` of the developer is read."""
    monkeypatch.chdir(tmp_path)


def complaint(environ: dict[str, str], toml: str | None = None) -> str:
    file = None
    if toml is not None:
        file = Path("settings.toml")
        file.write_text(toml, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, file)
    return caught.value.message


def from_toml(text: str, environ: dict[str, str] | None = None) -> Settings:
    file = Path("settings.toml")
    file.write_text(text, encoding="utf-8")
    return load_settings(environ or {}, file)


def test_without_any_setting_everything_has_its_default() -> None:
    settings = load_settings({})
    assert settings == Settings(data=settings.data)
    assert (settings.host, settings.port, settings.generator) == ("127.0.0.1", 8080, "local")


def test_the_data_folder_follows_the_xdg_variable() -> None:
    assert load_settings({"XDG_DATA_HOME": "/var/x"}).data == Path("/var/x/myna")
    assert load_settings({}).data == Path.home() / ".local/share/myna"


def test_the_environment_goes_before_the_file() -> None:
    settings = from_toml('port = 1000\ntitle = "From the file"', {"MYNA_PORT": "2000"})
    assert (settings.port, settings.title) == (2000, "From the file")


def test_myna_toml_in_the_working_folder_is_read() -> None:
    Path("myna.toml").write_text('greeting = "Hello"', encoding="utf-8")
    assert load_settings({}).greeting == "Hello"


def test_a_named_file_must_exist() -> None:
    assert "MYNA_CONFIG: there is no file /nowhere/myna.toml" in complaint({"MYNA_CONFIG": "/nowhere/myna.toml"})


def test_a_named_file_is_read() -> None:
    Path("other.toml").write_text("port = 3000", encoding="utf-8")
    assert load_settings({"MYNA_CONFIG": "other.toml"}).port == 3000


def test_variables_of_other_programs_are_left_alone() -> None:
    load_settings({"MYNAH_PORT": "x", "PORT": "y", "myna_port": "z"})


def test_all_mistakes_are_reported_at_once() -> None:
    message = complaint(
        {"MYNA_PROT": "1", "MYNA_TEMPERATURE": "hot", "MYNA_DEVICE": "tpu", "MYNA_PUBLIC_URL": "chat.example"},
        'port = 99999\nmodell = "x"',
    )
    lines = message.splitlines()
    assert lines[0] == "The settings are not valid:"
    assert len(lines) == 7
    assert "MYNA_PROT: there is no such setting; did you mean MYNA_PORT?" in message
    assert "MYNA_TEMPERATURE: 'hot' is not a number" in message
    assert "MYNA_DEVICE: must be one of auto, cpu, cuda" in message
    assert "MYNA_PUBLIC_URL: must begin with http:// or https://" in message
    assert "settings.toml: port: must be between 0 and 65535" in message
    assert "settings.toml: modell: there is no such setting; did you mean MYNA_MODEL?" in message


def test_an_unknown_name_points_to_the_list() -> None:
    assert "see `myna settings`" in complaint({"MYNA_ZZZZ": "1"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "80.5", "not a whole number"),
        ("PORT", "", "not a whole number"),
        ("PORT", "-1", "between 0 and 65535"),
        ("TEMPERATURE", "nan", "between 0 and 5"),
        ("TEMPERATURE", "inf", "between 0 and 5"),
        ("MAX_REPLY_TOKENS", "0", "between 1 and"),
        ("DATABASE_URL", "mysql://host/x", "must begin with sqlite:/// or postgresql://"),
        ("DATABASE_URL", "sqlite://", "must begin with sqlite:///"),
        ("DATABASE_URL", "sqlite:///", "SQLite needs a file"),
        ("DATABASE_URL", "sqlite:///:memory:", "SQLite needs a file"),
        ("DATABASE_URL", "sqlite:///?timeout=3", "SQLite needs a file"),
        ("DATABASE_URL", "postgresql://me:p/w@host/x", "not a valid URL"),
        ("DATABASE_URL", "postgresql://host:port/x", "not a valid URL"),
        ("REMOTE_URL", "localhost:8000", "must begin with http:// or https://"),
        ("ALLOWED_ORIGINS", "https://shop.example/path", "an origin is scheme, host and port"),
        ("ALLOWED_ORIGINS", "https://a.example, shop.example", "shop.example: an origin"),
        ("DATA", "", "must name a folder"),
        ("LOG_LEVEL", "INFO", "must be one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_is_refused_with_a_correction(name: str, value: str, words: str) -> None:
    message = complaint({f"MYNA_{name}": value})
    assert f"MYNA_{name}: " in message
    assert words in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("port = 80.5", "80.5 is not a whole number"),
        ("port = inf", "inf is not a whole number"),
        ("port = true", "must be a number"),
        ("port = [1]", "must be a number"),
        ("title = 5", "must be text in quotes"),
        ("data = 5", "must name a folder"),
        ("allowed_origins = 5", "must be a list"),
        ('allowed_origins = {a = "b"}', "must be a list"),
        ("generator = 1", "must be one of local, remote"),
        ("generator = []", "must be one of local, remote"),
        ("config = 'x'", "there is no such setting"),
        ("port = ", "settings.toml: "),
        ("[web]\nport = 1", "there is no such setting"),
    ],
)
def test_a_bad_line_of_the_file_is_refused(line: str, words: str) -> None:
    assert words in complaint({}, line)


def test_an_unreadable_file_is_reported_as_a_mistake() -> None:
    Path("settings.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(SettingsError) as caught:
        load_settings({"MYNA_PORT": "x"}, Path("settings.toml"))
    assert "settings.toml" in caught.value.message
    assert "MYNA_PORT" in caught.value.message


def test_no_complaint_repeats_a_secret() -> None:
    message = complaint({"MYNA_DATABASE_URL": "postgresql://me:hunter2@host:port/x", "MYNA_SECRET": "hunter2"})
    assert "hunter2" not in message


def test_values_are_converted_to_their_types() -> None:
    settings = load_settings(
        {
            "MYNA_DATA": "~/chat",
            "MYNA_PORT": "0",
            "MYNA_TOP_P": "1",
            "MYNA_ALLOWED_ORIGINS": " https://a.example/ ,, http://b.example:81",
            "MYNA_REMOTE_URL": "http://127.0.0.1:8000/v1",
        }
    )
    assert settings.data == Path.home() / "chat"
    assert (settings.port, settings.top_p) == (0, 1.0)
    assert settings.allowed_origins == ("https://a.example", "http://b.example:81")
    assert settings.remote_url == ("http://127.0.0.1:8000/v1",)


def test_a_relative_data_folder_means_one_in_the_working_folder(tmp_path: Path) -> None:
    assert load_settings({"MYNA_DATA": "data"}).data == tmp_path / "data"


def test_the_database_is_a_file_in_the_data_folder_unless_it_is_named() -> None:
    assert load_settings({"MYNA_DATA": "/srv/m"}).resolved_database_url == "sqlite:////srv/m/myna.db"
    named = load_settings({"MYNA_DATABASE_URL": "postgres://me:p%2Fw@host:5433/chat?sslmode=require"})
    assert named.resolved_database_url == "postgresql://me:p%2Fw@host:5433/chat?sslmode=require"


def test_settings_can_not_be_changed_later() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings({}).port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    rows = describe_settings()
    assert [row.field for row in rows] == [one.name for one in dataclasses.fields(Settings)]
    assert all(row.help and not row.help.endswith(".") for row in rows), "a line of a table"
    assert {row.name for row in rows if row.secret} == {
        *("MYNA_DATABASE_URL", "MYNA_SECRET", "MYNA_REMOTE_KEY"),
        *("MYNA_SLACK_BOT_TOKEN", "MYNA_SLACK_SIGNING_SECRET", "MYNA_SLACK_APP_TOKEN", "MYNA_SLACK_CLIENT_SECRET"),
        "MYNA_ENCRYPTION_KEYS",
    }
    assert {row.type for row in rows} <= {"text", "number", "folder", "list"} | {
        "local / remote",
        "auto / cpu / cuda",
        "on / off",
        "debug / info / warning / error",
        "opt-out / opt-in",
        "idle / normal",
        "retire / mark",
        "public / customers / staff",
    }


def test_every_default_can_be_written_out_and_read_back() -> None:
    written = {row.name: row.default for row in describe_settings() if row.default}
    settings = load_settings(written)
    assert settings == Settings(data=settings.data)


@given(
    st.dictionaries(
        st.sampled_from(NAMES) | st.text(string.ascii_uppercase, min_size=1, max_size=8), st.text(max_size=20)
    )
)
def test_any_environment_gives_settings_or_a_list_of_mistakes(values: dict[str, str]) -> None:
    environ = {name if name.startswith(PREFIX) else PREFIX + name: value for name, value in values.items()}
    environ.pop("MYNA_CONFIG", None)
    try:
        load_settings(environ)
    except SettingsError as error:
        named = [line.strip().split(":")[0] for line in error.message.splitlines()[1:] if line.startswith("  ")]
        assert set(named) & set(environ)


toml_values = st.one_of(
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(st.characters(codec="ascii", categories=["L", "N"])),
)


@given(st.sampled_from([row.field for row in describe_settings()]), toml_values | st.lists(toml_values, max_size=2))
def test_any_file_gives_settings_or_a_list_of_mistakes(field: str, value: object) -> None:
    text = f"{field} = {str(value).lower() if not isinstance(value, str) else repr(value)}"
    Path("settings.toml").write_text(text.replace("'", '"'), encoding="utf-8")
    try:
        load_settings({}, Path("settings.toml"))
    except SettingsError as error:
        assert "settings.toml" in error.message
