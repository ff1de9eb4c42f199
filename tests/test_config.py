"""Settings: flags beat environment beats file, and what does not fit is named."""

import sys
from pathlib import Path

import pytest

from cld.config import ENVIRONMENT, Graph, Settings, load_settings
from cld.errors import ConfigError
from cld.resource import MAX_BYTES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_anything_the_defaults_hold(folder: Path) -> None:
    settings = load_settings({}, {})
    assert settings == Settings()
    assert (settings.root, settings.principal, settings.tools, settings.http) == (
        "./resources",
        "user:local",
        "core",
        "",
    )
    assert (settings.durability, settings.limits.body_bytes) == ("full", MAX_BYTES)
    assert (settings.policy.on_error, settings.policy.timeout_ms) == ("last_good", 100)
    assert settings.is_local and settings.root_path == folder / "resources"


@pytest.mark.parametrize("name", sorted(ENVIRONMENT.keys() - {"root", "log"}))
def test_flags_beat_environment_beats_file(folder: Path, name: str) -> None:
    (folder / "cld.toml").write_text(f'{name} = "from-file"\n')
    variable = ENVIRONMENT[name]
    assert getattr(load_settings({}, {}), name) == "from-file"
    assert getattr(load_settings({}, {variable: "from-environment"}), name) == "from-environment"
    assert getattr(load_settings({name: None}, {variable: "from-environment"}), name) == "from-environment"
    assert getattr(load_settings({name: "from-flag"}, {variable: "from-environment"}), name) == "from-flag"


def test_how_much_is_said_is_one_of_three_words(folder: Path) -> None:
    assert load_settings({}, {"CLD_LOG": "debug"}).log == "debug"
    with pytest.raises(ConfigError, match="log"):
        load_settings({}, {"CLD_LOG": "loud"})


def test_an_empty_variable_is_as_good_as_none(folder: Path) -> None:
    assert load_settings({}, dict.fromkeys(ENVIRONMENT.values(), "")) == Settings()


def test_the_file_lies_beside_the_root_that_flag_or_environment_name(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (folder / "cld.toml").write_text('tools = "here"\n')
    (other / "cld.toml").write_text('tools = "there"\n')
    assert load_settings({}, {}).tools == "here"
    assert load_settings({}, {"CLD_ROOT": str(other / "tree")}).tools == "there"
    assert load_settings({"root": "other/tree"}, {"CLD_ROOT": "/nowhere"}).tools == "there"
    assert load_settings({"root": "memory://x"}, {}).tools == "here", "a root that is no folder has none beside it"


def test_every_setting_can_be_written_in_the_file(folder: Path) -> None:
    (folder / "cld.toml").write_text(
        """
        policies = "rules"
        principal = "user:ada"
        tools = "all"
        http = "127.0.0.1:8000"
        durability = "file"
        [limits]
        body_bytes = 1000
        [history]
        keep = 5
        days = 7
        [watch]
        source = "poll"
        reconcile_seconds = 60
        poll_seconds = 0.5
        [policy]
        on_error = "deny_all"
        timeout_ms = 50
        log_bytes = 2000000
        [index]
        reconcile_seconds = 60
        dimensions = 128
        [graph]
        seconds = 2.5
        rows = 10
        result_bytes = 1000
        memory_bytes = 100000000
        workers = 1
        idle_seconds = 3
        """
    )
    own = folder / "own.toml"
    own.write_text(
        """
        [auth]
        jwks_url = "https://example.org/jwks"
        algorithms = ["RS256"]
        audience = "tree"
        allowed_hosts = ["example.org"]
        """
    )
    settings = load_settings({}, {"CLD_CONFIG": str(own)})
    assert settings.principal == "user:ada" and settings.durability == "file" and settings.http == "127.0.0.1:8000"
    assert settings.limits.body_bytes == 1000
    assert (settings.history.keep, settings.history.days) == (5, 7)
    assert (settings.watch.source, settings.watch.reconcile_seconds, settings.watch.poll_seconds) == ("poll", 60, 0.5)
    assert (settings.policy.on_error, settings.policy.timeout_ms) == ("deny_all", 50)
    assert settings.policy.log_bytes == 2_000_000
    assert (settings.index.reconcile_seconds, settings.index.dimensions) == (60, 128)
    assert settings.graph == Graph(2.5, 10, 1000, 100_000_000, 1, 3)
    assert (settings.auth.algorithms, settings.auth.audience) == (("RS256",), "tree")
    assert settings.auth.allowed_hosts == ("example.org",)
    assert settings.policies_path == folder / "rules"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("tool = 'all'", "unknown field `tool`"),
        ("[limits]\nbody = 1", "unknown field `body` - at `$.limits`"),
        ("[limits]\nbody_bytes = 0", "`int` >= 1 - at `$.limits.body_bytes`"),
        ("[limits]\nbody_bytes = '1'", "Expected `int`, got `str` - at `$.limits.body_bytes`"),
        ("[watch]\nsource = 'magic'", "Invalid enum value 'magic' - at `$.watch.source`"),
        ("[watch]\npoll_seconds = 0", "`float` > 0.0 - at `$.watch.poll_seconds`"),
        ("[watch]\npoll_seconds = nan", "`float` > 0.0 - at `$.watch.poll_seconds`"),
        ("[watch]\npoll_seconds = inf", "`float` <= 86400.0 - at `$.watch.poll_seconds`"),
        ("[policy]\ntimeout_ms = -1", "- at `$.policy.timeout_ms`"),
        ("[policy]\non_error = 'allow'", "Invalid enum value 'allow'"),
        ("[policy]\nlog_bytes = 1000", "`int` >= 1048576 - at `$.policy.log_bytes`"),
        ("[index]\nreconcile_seconds = 0", "`float` > 0.0 - at `$.index.reconcile_seconds`"),
        ("[graph]\nsecond = 1", "unknown field `second` - at `$.graph`"),
        ("[graph]\nseconds = 0", "`float` > 0.0 - at `$.graph.seconds`"),
        ("[graph]\nrows = 0", "`int` >= 1 - at `$.graph.rows`"),
        ("[graph]\nresult_bytes = 0.5", "- at `$.graph.result_bytes`"),
        ("[graph]\nmemory_bytes = 512", "`int` >= 1048576 - at `$.graph.memory_bytes`"),
        ("[graph]\nworkers = 0", "`int` >= 1 - at `$.graph.workers`"),
        ("[graph]\nworkers = 1000", "`int` <= 64 - at `$.graph.workers`"),
        ("[graph]\nidle_seconds = 'long'", "Expected `float`, got `str` - at `$.graph.idle_seconds`"),
        ("durability = 'some'", "Invalid enum value 'some' - at `$.durability`"),
        ("root = 'elsewhere'", "sets root; use --root or CLD_ROOT"),
        ("tools = ", "is no TOML"),
        ("tools = 'a'\ntools = 'b'", "is no TOML"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(folder: Path, written: str, said: str) -> None:
    (folder / "cld.toml").write_text(written)
    with pytest.raises(ConfigError) as caught:
        load_settings({}, {})
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(folder / "cld.toml"))


def test_the_users_own_file_gives_what_nothing_else_says(folder: Path) -> None:
    own = folder / "config" / "cld" / "cld.toml"
    own.parent.mkdir(parents=True)
    own.write_text("tools = 'all'\nprincipal = 'user:ada'\n[history]\nkeep = 5\ndays = 7\n")
    environment = {"XDG_CONFIG_HOME": str(folder / "config")}
    assert load_settings({}, environment).tools == "all"
    (folder / "cld.toml").write_text("tools = 'core'\n[history]\nkeep = 6\n")
    settings = load_settings({"principal": "user:grace"}, environment)
    assert (settings.tools, settings.principal) == ("core", "user:grace")
    assert (settings.history.keep, settings.history.days) == (6, 7), "tables are laid over one another key by key"


def test_the_users_own_file_must_be_there_where_it_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"CLD_CONFIG names .*own\.toml, which is not there"):
        load_settings({}, {"CLD_CONFIG": str(folder / "own.toml")})


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("[policy]\nopa = '/tmp/theirs'", "policy.opa"),
        ("[index]\nmodel = 'openai/some'", "index.model"),
        ("[index]\napi_base = 'https://example.org'", "index.api_base"),
        ("[ingest]\nroots = ['/']", "ingest.roots"),
        ("[auth]\nlocal_principal = true", "auth"),
        ("[auth]", "auth"),
        ("[[tooling.servers]]\ncommand = ['rm', '-rf', '*']", "tooling.servers"),
    ],
)
def test_a_file_that_may_have_come_with_a_tree_names_no_programs_folders_places_or_keys(
    folder: Path, written: str, name: str
) -> None:
    (folder / "cld.toml").write_text(written)
    with pytest.raises(ConfigError, match=rf"cld\.toml sets {name}, .*set it in .*own\.toml") as caught:
        (folder / "own.toml").write_text("")
        load_settings({}, {"CLD_CONFIG": str(folder / "own.toml"), "CLD_OPA": "/opt/opa"})
    assert "CLD_CONFIG" in str(caught.value)
    # A file the user names as theirs may, also where it lies beside the tree.
    load_settings({}, {"CLD_CONFIG": str(folder / "cld.toml")})


def test_the_environment_names_the_compiler_before_any_file(folder: Path) -> None:
    (folder / "own.toml").write_text("[policy]\ntimeout_ms = 50\nopa = '/usr/bin/opa'")
    settings = load_settings({}, {"CLD_CONFIG": str(folder / "own.toml"), "CLD_OPA": "/opt/opa"})
    assert (settings.policy.opa, settings.policy.timeout_ms) == ("/opt/opa", 50)


def test_a_faulty_file_is_named_even_where_a_flag_would_beat_it(folder: Path) -> None:
    (folder / "cld.toml").write_text("tools = 3")
    with pytest.raises(ConfigError, match=r"cld\.toml does not fit"):
        load_settings({"tools": "all"}, {})


def test_a_flag_that_is_no_setting_is_not_blamed_on_the_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^a flag or one of CLD_ROOT, .*unknown field `colour`"):
        load_settings({"colour": "red"}, {})


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "cld.toml").write_bytes(b"tools = '\xff'")
    with pytest.raises(ConfigError, match=r"cld\.toml cannot be read"):
        load_settings({}, {})
    (folder / "cld.toml").unlink()
    (folder / "cld.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cld\.toml cannot be read"):
        load_settings({}, {})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no ~user")
@pytest.mark.parametrize("name", ["root", "policies"])
def test_a_home_that_does_not_exist_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="'~no-such-person/x' is no path"):
        load_settings({name: "~no-such-person/x"}, {})


def test_a_path_that_no_system_has_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings({"root": "a\x00b/c"}, {})


def test_home_is_expanded_and_paths_are_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME" if sys.platform != "win32" else "USERPROFILE", str(folder))
    settings = load_settings({"root": "~/tree", "policies": "rules"}, {})
    assert settings.root_path == folder / "tree"
    assert settings.policies_path == folder / "rules"


def test_policies_are_those_set_else_those_beside_the_root_else_those_shipped(folder: Path) -> None:
    shipped = load_settings({"root": "memory://x"}, {}).policies_path
    assert (shipped / "data.json").is_file(), "cld comes with rules"
    assert load_settings({}, {}).policies_path == shipped
    (folder / "policies").mkdir()
    assert load_settings({}, {}).policies_path == folder / "policies"
    assert load_settings({"root": "memory://x"}, {}).policies_path == shipped
    assert load_settings({}, {"CLD_POLICIES": "/mine"}).policies_path == Path("/mine").absolute()


@pytest.mark.parametrize(("root", "local"), [("./x", True), ("/x", True), ("memory://x", False), ("sftp://h/x", False)])
def test_a_root_is_a_folder_or_a_url(folder: Path, root: str, local: bool) -> None:
    assert load_settings({"root": root}, {}).is_local is local


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().tools = "all"  # type: ignore[misc]
