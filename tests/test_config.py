"""The configuration: what a whole file becomes, and that each refusal says where, what and what else was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from rbeerouter.config.loading import control_access, load
from rbeerouter.config.sections import (
    Config,
    ConfigError,
    Control,
    Discovery,
    Health,
    Limits,
    Probes,
    Registration,
    Routing,
    Server,
    Split,
)
from rbeerouter.config.strategies import Names
from rbeerouter.config.values import split_bind
from rbeerouter.core.models import Model, Profile
from rbeerouter.core.types import WorkerSpec
from rbeerouter.routing.strategies import NAMES

ENGINES = ("vllm", "ollama")
ONE = '[[workers]]\nurl = "http://gpu.test:8000"\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it; the file under test is written elsewhere."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder / "config.toml"


def read(file: Path, text: str, **options: Any) -> Config:
    file.write_text(text)
    return load(file, strategies=NAMES, engines=ENGINES, **options)


def refusal(file: Path, text: str, **options: Any) -> str:
    """What is wrong with a file, without the file's name, which must come first."""
    with pytest.raises(ConfigError) as raised:
        read(file, text, **options)
    message = str(raised.value)
    assert message.startswith(f"{file}: "), message
    return message.removeprefix(f"{file}: ")


# What a file becomes.


def test_without_any_file_these_are_the_defaults(home: Path) -> None:
    assert load() == Config(
        source=None,
        server=Server(
            bind="127.0.0.1:8881", allow_unauthenticated=False, max_connections=0, drain_s=300.0,
            request_headers=(
                "accept", "accept-language", "traceparent", "tracestate", "user-agent", "openai-beta",
                "openai-organization", "openai-project", "x-session-id", "anthropic-version", "anthropic-beta",
            ),
            response_headers=(
                "content-type", "content-language", "cache-control", "retry-after", "retry-after-ms", "server-timing",
                "openai-*", "anthropic-*", "request-id", "x-ratelimit-*", "x-accel-buffering",
            ),
        ),
        control=Control(bind="127.0.0.1:8882", allow_unauthenticated=False),
        routing=Routing(
            script=None, strategy="least-request", debug=False, log=None, script_instructions=2_000_000,
            script_cpu_s=0.02, script_memory_bytes=2_097_152, script_faults=20, isolation="none", reload_gate="test",
            gate_s=60.0, timezone=None, request_headers=("user-agent", "x-session-id", "accept-language"),
            set_headers=("x-session-id", "x-priority"), expose_prompt=False, prompt_chars=16_384, state_keys=10_000,
            state_bytes=1_048_576, state_value_bytes=16_384, log_lines=20, log_line_chars=1000, decisions_kept=1000,
        ),
        limits=Limits(
            request_body_bytes=10_485_760, upload_bytes=67_108_864, header_bytes=32_768, header_count=100, header_s=10.0, body_gap_s=10.0,
            body_s=60.0, keep_alive_s=75.0, write_stall_s=30.0, connect_s=2.0, first_content_s=120.0, gap_s=60.0,
            request_s=600.0, stream_s=1800.0, attempts=3, retry_share=0.2, retry_floor=30,
            comment_s=15.0, continuation_bytes=1 << 20, queue_length=512, queue_per_caller=64, queue_s=30.0, queue_most_s=300.0, field_chars=4096, metadata_pairs=64, hold_bytes=65_536,
            idle_connection_s=3.0, idle_connections=64, log_backlog_bytes=8_388_608,
        ),
        probes=Probes(
            interval_s=30.0, down_interval_s=1.0, metrics_s=5.0, timeout_s=2.0, fall=2, rise=2, stale_s=15.0,
            at_once=64, page_bytes=4 << 20,
        ),
        health=Health(
            connect_failures=3, failures=5, error_rate=0.5, error_rate_requests=20, ejection_s=10.0,
            ejection_cap_s=300.0, max_ejected=0.5, slow_start_s=30.0, cool_down_cap_s=60.0, yield_to_owner=True,
            poison_strikes=2, poison_s=60.0, poison_kept=1000,
        ),
        workers=(),
        script=None,
        log=home / ".config" / "rbee" / "logs" / "routing.log",
        discovery=Discovery(
            workers_file=None, file_s=2.0, controller=None, controller_s=30.0, controller_token=None,
            controller_api_key=None, dns=(),
        ),
        registration=Registration(
            token=None, ttl_s=90.0, most_workers=1024,
            allow=(
                "127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7",
            ),
        ),
        state_folder=home / ".local" / "state" / "rbee",
    )  # fmt: skip


def test_an_empty_file_is_the_defaults_under_its_own_name(file: Path) -> None:
    assert read(file, "") == msgspec.structs.replace(load(), source=file)


def test_a_whole_file_is_read(file: Path) -> None:
    trustme.CA().cert_pem.write_to_path(file.parent / "ca.pem")
    config = read(
        file,
        """
        [server]
        bind = "0.0.0.0:80"
        allow_unauthenticated = true
        drain_s = 5
        [control]
        bind = "unix:/run/rbee.sock"
        [routing]
        script = "my.lua"
        strategy = "Round_Robin"
        debug = true
        log = "log/routing.log"
        [limits]
        attempts = 5
        queue_length = 0
        [probes]
        interval_s = 0.5
        [[workers]]
        url = "https://gpu.test:8443/base/v1/"
        id = "gpu-1"
        engine = "vllm"
        backend = "cuda"
        vram = 24
        models = ["a", "b"]
        performance = 1.5
        cost_per_hour = 0.5
        max_concurrency = 8
        weight = 2.5
        metadata = { region = "eu", tier = 2, spot = true, price = 0.5 }
        api_key = "sk-secret"
        ca_file = "ca.pem"
        role = "batch"
        loras = ["poet"]
        """,
    )
    assert (config.server.bind, config.server.allow_unauthenticated, config.server.drain_s) == ("0.0.0.0:80", True, 5.0)
    assert config.control == Control("unix:/run/rbee.sock")
    assert config.routing == Routing("my.lua", "Round_Robin", True, "log/routing.log")
    assert (config.limits, config.probes) == (Limits(attempts=5, queue_length=0), Probes(interval_s=0.5))
    assert (config.source, config.script, config.log) == (
        file, file.parent / "my.lua", file.parent / "log" / "routing.log",
    )  # fmt: skip
    assert config.workers == (
        WorkerSpec(
            id="gpu-1", url="https://gpu.test:8443/base", engine="vllm", backend="cuda", vram=24.0, models=("a", "b"),
            performance=1.5, cost_per_hour=0.5, max_concurrency=8, weight=2.5,
            metadata={"region": "eu", "tier": 2, "spot": True, "price": 0.5}, api_key="sk-secret",
            ca_file=str(file.parent / "ca.pem"), role="batch", loras=("poet",),
        ),
    )  # fmt: skip


def test_the_file_at_home_is_read_when_none_is_named_and_its_script_is_found(home: Path) -> None:
    folder = home / ".config" / "rbee"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(ONE)
    (folder / "routing.lua").touch()
    config = load()
    assert (config.source, config.script, len(config.workers)) == (
        folder / "config.toml", folder / "routing.lua", 1,
    )  # fmt: skip


def test_the_command_line_adds_workers_and_comes_before_the_file(file: Path, tmp_path: Path) -> None:
    text = f'[server]\nbind = "127.0.0.1:1"\n[routing]\nscript = "file.lua"\n{ONE}'
    config = read(file, text, workers=("http://more.test:1",), script=Path("here.lua"), bind="127.0.0.1:2")
    assert [spec.id for spec in config.workers] == ["gpu.test:8000", "more.test:1"]
    assert (config.server.bind, config.script) == ("127.0.0.1:2", tmp_path / "here.lua")


def test_the_command_line_alone_is_enough() -> None:
    config = load(workers=("http://gpu.test:8000",), bind="127.0.0.1:0")
    assert (config.source, config.server.bind, config.workers) == (
        None, "127.0.0.1:0", (WorkerSpec("gpu.test:8000", "http://gpu.test:8000"),),
    )  # fmt: skip


def test_a_fault_of_the_command_line_is_told_as_its_own() -> None:
    with pytest.raises(ConfigError) as raised:
        load(workers=("gpu.test",))
    assert str(raised.value) == (
        "the command line: workers[0].url = 'gpu.test': expected http://HOST:PORT or https://HOST[:PORT]"
    )


# Paths and variables.


def test_paths_are_relative_to_the_file_or_to_home_or_absolute(file: Path, home: Path) -> None:
    scripts = {
        name: read(file, f'[routing]\nscript = "{name}"\nlog = "{name}"') for name in ("a/b.lua", "~/b.lua", "/x/b.lua")
    }
    expected = {"a/b.lua": file.parent / "a/b.lua", "~/b.lua": home / "b.lua", "/x/b.lua": Path("/x/b.lua")}
    assert {name: config.script for name, config in scripts.items()} == expected
    assert {name: config.log for name, config in scripts.items()} == expected


def test_a_relative_file_gives_absolute_paths(file: Path) -> None:
    file.write_text('[routing]\nscript = "my.lua"')
    config = load(Path("etc/config.toml"))
    assert (config.source, config.script) == (Path("etc/config.toml"), file.parent / "my.lua")


@pytest.mark.parametrize("key", ["script", "log"])
def test_the_home_of_nobody_is_refused(file: Path, key: str) -> None:
    assert refusal(file, f'[routing]\n{key} = "~no-such-user-x/a"').startswith(f"routing.{key} = '~no-such-user-x/a': ")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${RBEE_TEST}", "gpu"), ("a${RBEE_TEST}b-${RBEE_TEST}", "agpub-gpu"), ("${RBEE_TEST:-other}", "gpu"),
        ("${RBEE_NOT_SET:-other}", "other"), ("x${RBEE_NOT_SET:-}", "x"), ("x${RBEE_EMPTY:-other}", "xother"),
        ("a:b", "a:b"),
    ],
)  # fmt: skip
def test_variables_of_the_environment_are_put_in(
    file: Path, monkeypatch: pytest.MonkeyPatch, written: str, value: str
) -> None:
    monkeypatch.setenv("RBEE_TEST", "gpu")
    monkeypatch.setenv("RBEE_EMPTY", "")
    assert read(file, f'{ONE}id = "{written}"').workers[0].id == value


@pytest.mark.parametrize(("written", "value"), [("$$", "$"), ("$${HOME}", "${HOME}"), ("$HOME", "$HOME"), ("$", "$")])
def test_a_dollar_sign_alone_is_a_dollar_sign(file: Path, written: str, value: str) -> None:
    assert read(file, f'{ONE}backend = "{written}"').workers[0].backend == value


def test_variables_are_put_in_everywhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBEE_TEST", "x")
    spec = read(file, f'{ONE}models = ["${{RBEE_TEST}}"]\nmetadata = {{ a = "${{RBEE_TEST}}" }}').workers[0]
    assert (spec.models, spec.metadata) == (("x",), {"a": "x"})


def test_a_variable_that_is_not_set_is_refused_by_its_place(file: Path) -> None:
    assert refusal(file, f'{ONE}metadata = {{ a = "${{RBEE_NOT_SET}}" }}') == (
        "workers[0].metadata.a: the environment variable RBEE_NOT_SET is not set; write ${RBEE_NOT_SET:-default}"
    )


# Keys and types.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sever = 1", "sever: unknown key; did you mean 'server'?"),
        ("[server]\nbnid = 1", "server.bnid: unknown key; did you mean 'bind'?"),
        ("[limits]\nattempt = 1", "limits.attempt: unknown key; did you mean 'attempts'?"),
        ("[probes]\ninterval = 1", "probes.interval: unknown key; did you mean 'interval_s'?"),
        (f"{ONE}max_concurency = 1", "workers[0].max_concurency: unknown key; did you mean 'max_concurrency'?"),
        (f"{ONE}{ONE}modles = []", "workers[1].modles: unknown key; did you mean 'models'?"),
        ("zzz = 1", "zzz: unknown key; known: server, control, routing, limits, probes, health, discovery, registration, state, workers, models"),
        ("[control]\nzzz = 1", "control.zzz: unknown key; known: bind, token, allow_unauthenticated"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known_one(file: Path, text: str, message: str) -> None:
    assert refusal(file, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server = 5", "server = 5: expected `object`, got `int`"),
        ("workers = 5", "workers = 5: expected `array`, got `int`"),
        ("[workers]\na = 1", "workers = a table with a: expected `array`, got `object`"),
        ("workers = [5]", "workers[0] = 5: expected `object`, got `int`"),
        ('[[workers]]\nid = "x"', "workers[0] = a table with id: object missing required field `url`"),
        ("[server]\nbind = 8881", "server.bind = 8881: expected `str`, got `int`"),
        ("[server]\nallow_unauthenticated = 1", "server.allow_unauthenticated = 1: expected `bool`, got `int`"),
        ("[server]\nmax_connections = -1", "server.max_connections = -1: expected `int` >= 0"),
        ("[server]\ndrain_s = 0", "server.drain_s = 0: expected `float` > 0.0"),
        ("[server]\ndrain_s = nan", "server.drain_s = nan: expected `float` > 0.0"),
        ('[server]\nrequest_headers = ["a", 5]', "server.request_headers[1] = 5: expected `str`, got `int`"),
        ("[limits]\nattempts = 0", "limits.attempts = 0: expected `int` >= 1"),
        ('[limits]\nattempts = "3"', "limits.attempts = '3': expected `int`, got `str`"),
        ("[limits]\nattempts = 1.5", "limits.attempts = 1.5: expected `int`, got `float`"),
        ("[limits]\nheader_bytes = 1023", "limits.header_bytes = 1023: expected `int` >= 1024"),
        ("[limits]\nidle_connections = -1", "limits.idle_connections = -1: expected `int` >= 0"),
        ("[limits]\ngap_s = -1.0", "limits.gap_s = -1.0: expected `float` > 0.0"),
        ("[probes]\ninterval_s = 0.09", "probes.interval_s = 0.09: expected `float` >= 0.1"),
        ("[routing]\nscript_instructions = 999", "routing.script_instructions = 999: expected `int` >= 1000"),
        ("[routing]\nscript_memory_bytes = 1000", "routing.script_memory_bytes = 1000: expected `int` >= 1048576"),
        ("[routing]\nscript = 5", "routing.script = 5: expected `str | null`, got `int`"),
        (f"{ONE}vram = -1", "workers[0].vram = -1: expected `float` >= 0.0"),
        (f"{ONE}cost_per_hour = nan", "workers[0].cost_per_hour = nan: expected `float` >= 0.0"),
        (f'{ONE}engine = "vlm"', "workers[0].engine = 'vlm': did you mean 'vllm'? expected one of auto, vllm, ollama"),
        (f'{ONE}performance = "fast"',
         "workers[0].performance = 'fast': expected a number of tokens per second, or 'auto'"),
        (f"{ONE}max_concurrency = 0", "workers[0].max_concurrency = 0: expected `int` >= 1"),
        (f"{ONE}weight = 0", "workers[0].weight = 0: expected `float` > 0.0"),
        (f'{ONE}models = "m"', "workers[0].models = 'm': expected `array`, got `str`"),
        (f"{ONE}metadata = {{ a = [1] }}",
         "workers[0].metadata[...] = a table with a: expected `bool | int | float | str`, got `array`"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(file: Path, text: str, message: str) -> None:
    assert refusal(file, text) == message


def test_what_is_not_toml_is_refused(file: Path) -> None:
    assert refusal(file, "a = \n") == "is not valid TOML: Invalid value (at line 1, column 5)"
    assert refusal(file, "a = 1\na = 2\n") == "is not valid TOML: Cannot overwrite a value (at line 2, column 6)"
    file.write_bytes(b"a = 1 # \xff")
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert str(raised.value) == f"{file}: is not UTF-8 text (byte 8)"


def test_a_file_that_was_named_must_be_there(file: Path) -> None:
    for path, why in ((file, "No such file or directory"), (file.parent, "Is a directory")):
        with pytest.raises(ConfigError) as raised:
            load(path)
        assert str(raised.value) == f"{path}: cannot be read: {why}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("least_requests", "did you mean 'least-request'? expected one of round-robin, least-request"),
        ("zzz", "expected one of round-robin, least-request"),
        ("", "expected one of round-robin, least-request"),
    ],
)
def test_an_unknown_strategy_is_answered_with_the_nearest_one(file: Path, name: str, message: str) -> None:
    file.write_text(f'[routing]\nstrategy = "{name}"')
    with pytest.raises(ConfigError) as raised:
        load(file, strategies=Names(("round-robin", "least-request")))
    assert str(raised.value) == f"{file}: routing.strategy = {name!r}: {message}"


@pytest.mark.parametrize("name", [*NAMES.known, *NAMES.aliases, *(name.upper().replace("-", "_") for name in NAMES.known)])
def test_every_strategy_can_be_named(file: Path, name: str) -> None:
    assert read(file, f'[routing]\nstrategy = "{name}"').routing.strategy == name


MODEL = '[[models]]\nname = "m"\n'
LISTED = f"expected one of {', '.join(NAMES.known)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[routing]\nfallback = ["least-request", "zzz"]', f"routing.fallback[1] = 'zzz': {LISTED}"),
        ('[routing]\nstrategy = "pd"', f"routing.strategy = 'pd': {NAMES.reserved['pd']}"),
        (
            '[routing]\nstrategy = "least-request:x,least-request"',
            "routing.strategy = 'least-request:x': the weight 'x': expected a whole number from 0 to 1000000",
        ),
        (f'{MODEL}locked_strategy = "zzz"', f"models[0].locked_strategy = 'zzz': {LISTED}"),
        (f'{MODEL}[models.profiles.fast]\nstrategy = "zzz"', f"models[0].profiles.fast.strategy = 'zzz': {LISTED}"),
        (
            f'{MODEL}default_profile = "slow"\n[models.profiles.fast]',
            "models[0].default_profile = 'slow': expected one of its profiles: fast",
        ),
        (f'{MODEL}default_profile = "slow"', "models[0].default_profile = 'slow': expected one of its profiles: none"),
        (
            f"{MODEL}[models.profiles.auto]",
            "models[0].profiles.auto: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that is not 'auto'",
        ),
        (
            f"{MODEL}[models.profiles.fast]\nmax_tokens_gte = 20\nmax_tokens_lt = 20",
            "models[0].profiles.fast.max_tokens_lt = 20: expected more than max_tokens_gte, which is 20",
        ),
        (
            '[routing]\nclient_ip_header = "x forwarded"',
            "routing.client_ip_header = 'x forwarded': expected the name of a header",
        ),
    ],
)  # fmt: skip
def test_strategies_are_checked_wherever_they_are_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(file, strategies=NAMES)
    assert str(raised.value) == f"{file}: {message}"


def test_a_models_profiles_are_its_own(file: Path) -> None:
    loaded = read(
        file,
        f'{MODEL}locked_strategy = "least_request"\ndefault_profile = "a"\n[models.profiles.a]\n'
        '[models.profiles.b]\nstrategy = "round-robin"\nprompt_tokens_gte = 0\nmax_tokens_lt = 9',
    )
    (model,) = loaded.models
    assert (model.locked_strategy, model.default_profile) == ("least_request", "a")
    assert model.profiles == (Profile("a"), Profile("b", "round-robin", 0, None, None, 9))


# Choices and time zones.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("isolation", "proces", "did you mean 'process'? expected one of none, process"),
        ("isolation", "None", "did you mean 'none'? expected one of none, process"),
        ("reload_gate", "", "expected one of off, check, test"),
        ("timezone", "Europe/Berlim", "did you mean 'Europe/Berlin'? expected the name of a time zone, such as 'Europe/Berlin'"),
        ("timezone", "../../etc/passwd", "expected the name of a time zone, such as 'Europe/Berlin'"),
        ("timezone", "/etc/localtime", "expected the name of a time zone, such as 'Europe/Berlin'"),
        ("timezone", "", "expected the name of a time zone, such as 'Europe/Berlin'"),
        ("timezone", "Europe", "expected the name of a time zone, such as 'Europe/Berlin'"),
    ],
)
def test_a_choice_that_there_is_not_is_answered_with_the_nearest_one(file: Path, key: str, value: str, message: str) -> None:
    told = refusal(file, f'[routing]\n{key} = "{value}"')
    assert told.startswith(f"routing.{key} = {value!r}: ")
    assert told.endswith(message)


def test_whose_account_tokens_are_on_and_what_tiers_get_is_checked(file: Path) -> None:
    table = "[routing.strategies.fairness]\n"
    key = "routing.strategies.fairness.by = 'users': did you mean 'user'? expected one of user, key"
    assert refusal(file, f'{table}by = "users"') == key
    assert "routing.strategies.fairness.tiers" in refusal(file, f"{table}tiers = {{ free = 0 }}")


@pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires"])
def test_any_time_zone_may_be_named(file: Path, name: str) -> None:
    assert read(file, f'[routing]\ntimezone = "{name}"').routing.timezone == name


# Addresses.

REACHABLE = (
    "{section}.bind = {bind!r}: this address can be reached from other machines and no API keys are configured; bind "
    "to 127.0.0.1, {also}or set {section}.allow_unauthenticated = true if the network is trusted"
)


def reachable(section: str, bind: str) -> str:
    also = "set control.token, " if section == "control" else ""
    return REACHABLE.format(section=section, bind=bind, also=also)


@pytest.mark.parametrize("section", ["server", "control"])
@pytest.mark.parametrize("bind", ["127.0.0.1:80", "127.0.0.1:0", "127.8.9.1:80", "[::1]:80", "localhost:65535"])
def test_loopback_needs_no_leave(file: Path, section: str, bind: str) -> None:
    assert getattr(read(file, f'[{section}]\nbind = "{bind}"'), section).bind == bind


@pytest.mark.parametrize("section", ["server", "control"])
@pytest.mark.parametrize(
    "bind",
    ["0.0.0.0:80", "[::]:80", "192.168.1.5:80", "10.0.0.1:80", "[2001:db8::1]:80", "gpu.test:80",
     "localhost.evil.test:80",
     "127.0.0.1.evil.test:80", "128.0.0.1:80", "*:80"],
)  # fmt: skip
def test_an_address_that_others_can_reach_needs_leave(file: Path, section: str, bind: str) -> None:
    assert refusal(file, f'[{section}]\nbind = "{bind}"') == reachable(section, bind)
    allowed = read(file, f'[{section}]\nbind = "{bind}"\nallow_unauthenticated = true')
    assert getattr(allowed, section).bind == bind


def test_leave_for_one_listener_is_none_for_the_other(file: Path) -> None:
    text = '[server]\nallow_unauthenticated = true\n[control]\nbind = "0.0.0.0:80"'
    assert refusal(file, text) == reachable("control", "0.0.0.0:80")


@pytest.mark.parametrize("bind", ["", "80", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                                  "127.0.0.1:-1",
                                  "::1:80", "http://127.0.0.1:80", "127.0.0.1:80/"])  # fmt: skip
def test_what_is_no_address_is_refused(file: Path, bind: str) -> None:
    assert refusal(file, f'[server]\nbind = "{bind}"') == (
        f"server.bind = {bind!r}: expected HOST:PORT, such as 127.0.0.1:8881"
    )
    assert refusal(file, f'[control]\nbind = "{bind}"') == (
        f"control.bind = {bind!r}: expected HOST:PORT or unix:PATH, such as 127.0.0.1:8881"
    )


def test_only_the_control_plane_may_be_bound_to_a_path(file: Path) -> None:
    assert read(file, '[control]\nbind = "unix:/run/rbee.sock"').control.bind == "unix:/run/rbee.sock"
    assert refusal(file, '[server]\nbind = "unix:/run/rbee.sock"').startswith(
        "server.bind = 'unix:/run/rbee.sock': expected"
    )


def test_an_address_comes_apart_into_host_and_port() -> None:
    assert [split_bind(bind) for bind in ("127.0.0.1:8881", "[::1]:0", "gpu.test:65535")] == [
        ("127.0.0.1", 8881), ("::1", 0), ("gpu.test", 65535),
    ]  # fmt: skip


# Headers that may pass.


@pytest.mark.parametrize("key", ["request_headers", "response_headers"])
@pytest.mark.parametrize("header", ["Authorization", "cookie", "HOST", "content-length", "transfer-encoding",
                                    "connection", "X-Conversation-Id", "x-override-priority",
                                    "proxy-authorization", "a b", "", "a:b", "x\\n", "ü"])  # fmt: skip
def test_a_header_that_must_not_pass_or_is_none_is_refused(file: Path, key: str, header: str) -> None:
    shown = header.replace("\\n", "\n")
    assert refusal(file, f'[server]\n{key} = ["accept", "{header}"]') == (
        f"server.{key}: {shown!r}: expected a header name that may be passed on"
    )


@pytest.mark.parametrize("header", ["X-Session-Id", "openai-*", "x-*", "x_y.z~"])
def test_a_header_may_be_named_in_any_case_or_by_its_beginning(file: Path, header: str) -> None:
    assert read(file, f'[server]\nrequest_headers = ["{header}"]').server.request_headers == (header,)


@pytest.mark.parametrize("key", ["request_headers", "set_headers"])
@pytest.mark.parametrize("header", ["Authorization", "cookie", "host", "x-request-id", "x-*", "a b", ""])
def test_the_script_sees_and_sets_no_header_that_must_not_pass(file: Path, key: str, header: str) -> None:
    assert refusal(file, f'[routing]\n{key} = ["{header}"]') == (
        f"routing.{key}: {header!r}: expected a header name that may be passed on"
    )


@pytest.mark.parametrize("header", ["content-type", "X-Rbee-Worker"])
def test_the_script_may_see_but_not_set_what_the_router_writes_itself(file: Path, header: str) -> None:
    assert read(file, f'[routing]\nrequest_headers = ["{header}"]').routing.request_headers == (header,)
    assert refusal(file, f'[routing]\nset_headers = ["{header}"]').startswith("routing.set_headers: ")


# Workers.


@pytest.mark.parametrize(
    ("url", "cleaned", "name"),
    [
        ("http://gpu.test:8000", "http://gpu.test:8000", "gpu.test:8000"),
        ("http://gpu.test:8000/", "http://gpu.test:8000", "gpu.test:8000"),
        ("http://gpu.test:8000/v1", "http://gpu.test:8000", "gpu.test:8000"),
        ("http://gpu.test:8000/v1/", "http://gpu.test:8000", "gpu.test:8000"),
        ("https://gpu.test/openai/v1", "https://gpu.test/openai", "gpu.test"),
        ("http://gpu.test/v1beta", "http://gpu.test/v1beta", "gpu.test"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("HTTP://gpu.test:8000", "http://gpu.test:8000", "gpu.test:8000"),
    ],
)
def test_a_worker_is_named_by_its_address_and_its_url_is_a_base(file: Path, url: str, cleaned: str, name: str) -> None:
    assert read(file, f'[[workers]]\nurl = "{url}"').workers == (WorkerSpec(name, cleaned),)


def test_a_worker_may_have_an_ipv6_address(file: Path) -> None:
    url = "http://[::1]:8000"
    named = [read(file, f'[[workers]]\nurl = "{url}"{more}').workers[0] for more in ("", '\nid = "six"')]
    assert [(spec.id, spec.url) for spec in named] == [("[::1]:8000", url), ("six", url)]


@pytest.mark.parametrize(
    "url",
    ["", "gpu.test:8000", "ftp://gpu.test", "http://", "http://:8000", "http://gpu.test:0", "http://gpu.test:65536",
     "http://gpu.test:x", "http://gpu.test?x=1", "http://gpu.test#x", "http://gpu.test/a b", "http://grün.test",
     "http://gpu.test\\n", "http://[::1", "unix:/run/x"],
)  # fmt: skip
def test_what_is_no_url_of_a_worker_is_refused(file: Path, url: str) -> None:
    shown = url.replace("\\n", "\n")
    assert refusal(file, f'{ONE}[[workers]]\nurl = "{url}"') == (
        f"workers[1].url = {shown!r}: expected http://HOST:PORT or https://HOST[:PORT]"
    )


@pytest.mark.parametrize("name", ["", "a b", "-a", ".a", "a/b", "grün", "a\\n", "x" * 65])
def test_what_is_no_name_of_a_worker_is_refused(file: Path, name: str) -> None:
    shown = name.replace("\\n", "\n")
    assert refusal(file, f'{ONE}id = "{name}"') == (
        f"workers[0].id = {shown!r}: expected 1 to 64 letters, digits, '.', '_', ':' or '-'"
    )


def test_two_workers_may_not_have_the_same_name(file: Path) -> None:
    assert refusal(file, ONE + ONE) == "workers[1].id = 'gpu.test:8000': another worker has this id; ids must differ"
    with_names = f'{ONE}id = "a"\n{ONE}id = "b"'
    assert [spec.id for spec in read(file, with_names).workers] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{ONE}kv_events = "gpu.test:5557"', "workers[0].kv_events = 'gpu.test:5557': expected tcp://HOST:PORT, such as tcp://10.0.0.7:5557"),
        (f'{ONE}kv_events = "tcp://*:5557"', "workers[0].kv_events = 'tcp://*:5557': expected tcp://HOST:PORT, such as tcp://10.0.0.7:5557"),
        (f'{ONE}kv_events = "tcp://gpu:65530"', "workers[0].kv_events = 'tcp://gpu:65530': expected tcp://HOST:PORT, such as tcp://10.0.0.7:5557"),
        (f'{ONE}kv_replay = "tcp://gpu:1"', "workers[0].kv_replay = 'tcp://gpu:1': is of no use without kv_events"),
        (f"{ONE}kv_ranks = 0", "workers[0].kv_ranks = 0: expected `int` >= 1"),
        (
            '[routing.strategies.kv_events]\nendpoint = "tcp://{hots}:1"',
            "routing.strategies.kv_events.endpoint = 'tcp://{hots}:1': expected tcp://{host}:PORT, such as tcp://10.0.0.7:5557",
        ),
        (
            '[[discovery.dns]]\nname = "gpus"\nport = 1\nkv_events = "tcp://gpu:1"',
            "discovery.dns[0]: kv_events and kv_replay are those of one worker; for all that the name leads to, set "
            "[routing.strategies.kv_events] endpoint and replay",
        ),
    ],
)
def test_where_caches_tell_of_themselves_is_an_address(file: Path, text: str, message: str) -> None:
    assert refusal(file, text) == message


def test_where_caches_tell_of_themselves(file: Path) -> None:
    text = f'{ONE}kv_events = "tcp://[::1]:5557"\nkv_replay = "tcp://gpu-1.lan:5558"\nkv_ranks = 2\n'
    spec = read(file, f'{text}[routing.strategies.kv_events]\nendpoint = "tcp://{{host}}:5557"').workers[0]
    assert (spec.kv_events, spec.kv_replay, spec.kv_ranks) == ("tcp://[::1]:5557", "tcp://gpu-1.lan:5558", 2)


def test_a_ca_file_must_be_there_and_be_one(file: Path) -> None:
    dns = '[[discovery.dns]]\nname = "a.test"\nport = 1\n'
    for block, key in ((ONE, "workers[0]"), (dns, "discovery.dns[0]")):
        assert refusal(file, f'{block}ca_file = "no.pem"') == f"{key}.ca_file = 'no.pem': no such file"
        (file.parent / "bad.pem").write_text("this is no certificate")
        refused = refusal(file, f'{block}ca_file = "bad.pem"')
        assert refused.startswith(f"{key}.ca_file = 'bad.pem': not a usable CA certificate: ")


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64 + ".de"])
def test_a_host_that_no_resolver_takes_is_refused(host: str, file: Path) -> None:
    said = refusal(file, f'[[workers]]\nurl = "http://{host}:1"')
    assert said == f"workers[0].url = 'http://{host}:1': expected http://HOST:PORT or https://HOST[:PORT]"


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809"])
def test_a_number_of_metadata_that_lua_cannot_hold_is_refused(file: Path, number: str) -> None:
    assert refusal(file, f"{ONE}metadata = {{ a = {number} }}").startswith("workers[0].metadata")


# Keys are secrets.


@pytest.mark.parametrize(
    "text",
    [
        '[[workers]]\nurl = 5\napi_key = "SECRET"',
        '[[workers]]\napi_key = "SECRET"',
        f'{ONE}api_key = ["SECRET"]',
        f'{ONE}api_key = "SECRET"\nid = "a b"',
        f'{ONE}api_key = "SECRET',
        f'{ONE}api_key = "SECRET" x',
        f'{ONE}api_key = "SECRET"\napi_key = "SECRET2"',
        f'{ONE}api_key = "SECRET"\nca_file = "no.pem"',
        f'{ONE}api_keys = "SECRET"',
        f'{ONE}api_key = "SECRET${{RBEE_NOT_SET}}"',
        'workers = { api_key = "SECRET" }',
    ],
)  # fmt: skip
def test_no_refusal_shows_a_key(file: Path, text: str) -> None:
    assert "SECRET" not in refusal(file, text)


def test_a_configuration_can_be_shown_without_its_keys(file: Path) -> None:
    config = read(file, f'{ONE}api_key = "SECRET"')
    assert "SECRET" not in repr(config) and "SECRET" not in f"{config} {config.workers[0]!r}"
    assert config.workers[0].api_key == "SECRET"


@pytest.mark.parametrize("key", ["SEC RET", "SECRET\\n", "SÉCRET", ""])
def test_a_key_that_no_header_can_carry_is_refused(file: Path, key: str) -> None:
    assert refusal(file, f'{ONE}api_key = "{key}"') == (
        "workers[0].api_key: expected printable ASCII without spaces, got something else"
    )


@pytest.mark.parametrize("url", ["http://me:SECRET@gpu.test:8000", "http://:SECRET@gpu.test:8000"])
def test_a_url_with_a_password_is_refused_without_showing_it(file: Path, url: str) -> None:
    assert refusal(file, f'[[workers]]\nurl = "{url}"') == (
        "workers[0].url = 'http://...@gpu.test:8000': expected http://HOST:PORT or https://HOST[:PORT]"
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[routing]\nexpose_prompt = true\nprompt_chars = 1_000_000\n", "routing.prompt_chars"),
        ("[limits]\nfield_chars = 100_000\n", "limits.field_chars"),
        ("[routing]\nscript_memory_bytes = 1_048_576\n[limits]\nmetadata_pairs = 1000\n", "limits.field_chars"),
    ],
)
def test_the_largest_request_must_fit_into_the_scripts_memory(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"routing\.script_memory_bytes = \d+: expected at least \d+") as caught:
        load(path)
    assert key in str(caught.value)


# Models and the split.

MODELS = ONE + '[[workers]]\nid = "cloud"\nurl = "https://api.test"\ndeployment = "remote"\nmodel_names = { m = "M" }\n'


def test_models_and_the_split_become_what_the_daemon_uses(file: Path) -> None:
    config = read(file, MODELS + """price_in = 2
[[models]]
name = "m"
size = 8
aliases = ["x", "y"]
workers = ["gpu.test*", "cloud"]
price_out = 0.5
continuation = true
gap_s = 5
[[models]]
name = "n"
deployment = "local"
[routing.split]
local_fraction = 0.6
""")
    assert config.models.resolve("y") == Model(
        "m", size=8, aliases=("x", "y"), workers=("gpu.test*", "cloud"), price_out=0.5, continuation=True, gap_s=5
    )
    assert list(config.models.restricted) == ["m", "n"]
    assert config.routing.split == Split(local_fraction=0.6, debt=10)
    assert [worker.deployment for worker in config.workers] == ["local", "remote"]
    assert (config.workers[1].model_names, config.workers[1].price_in) == ({"m": "M"}, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[models]]\nname = "m"\n[[models]]\nname = "m"', "models[1].name = 'm': models[0] has this name; names must differ"),
        ('[[models]]\nname = "m"\naliases = ["n"]\n[[models]]\nname = "n"',
         "models[0].aliases: 'n': there is a model of this name; expected a name that nothing else has"),
        ('[[models]]\nname = "m"\naliases = ["a"]\n[[models]]\nname = "n"\naliases = ["a"]',
         "models[1].aliases: 'a': it is an alias of 'm' already; expected a name that nothing else has"),
        ('[[models]]\nname = "m"\naliases = ["a", "a"]',
         "models[0].aliases: 'a': it is an alias of 'm' already; expected a name that nothing else has"),
        ('[[models]]\nname = "m"\nworkers = ["clout"]',
         "models[0].workers: 'clout': no worker has this id; did you mean 'cloud'? (* stands for any text)"),
        ('[[models]]\nname = ""', "models[0].name: '': expected 1 to 4096 characters"),
        ('[[models]]\nsize = 3', "models[0] = a table with size: object missing required field `name`"),
        ('[[models]]\nname = "m"\nalias = ["n"]', "models[0].alias: unknown key; did you mean 'aliases'?"),
        ('[[models]]\nname = "m"\ndeployment = "lokal"',
         "models[0].deployment = 'lokal': did you mean 'local'? expected one of local, remote"),
        ('[[models]]\nname = "m"\nprice_in = -1', "models[0].price_in = -1: expected `float` >= 0.0"),
        ("[routing.split]\nlocal_fraktion = 0.5", "routing.split.local_fraktion: unknown key; did you mean 'local_fraction'?"),
        ("[routing.split]\nlocal_fraction = 1.5", "routing.split.local_fraction = 1.5: expected `float` <= 1.0"),
        ("[routing]\nsplit = 0.5", "routing.split = 0.5: expected `object | null`, got `float`"),
    ],
)  # fmt: skip
def test_models_and_splits_that_cannot_be_meant_are_refused(text: str, expected: str, file: Path) -> None:
    assert refusal(file, MODELS + text) == expected


def test_a_workers_side_is_local_or_remote(file: Path) -> None:
    expected = "workers[0].deployment = 'cloud': expected one of local, remote"
    assert refusal(file, ONE + 'deployment = "cloud"') == expected


def test_a_cloud_is_remote_unless_it_is_said_to_be_local(file: Path) -> None:
    cloud = '[[workers]]\nurl = "https://api.openai.com/v1"\n'
    assert [worker.deployment for worker in read(file, ONE + cloud).workers] == ["local", "remote"]
    assert read(file, cloud + 'deployment = "local"').workers[0].deployment == "local"


# Workers from elsewhere.


def test_a_control_plane_with_a_token_may_be_reached_by_others(file: Path) -> None:
    found = read(file, '[control]\nbind = "0.0.0.0:80"\ntoken = "0123456789abcdef"').control
    assert (found.bind, found.token, repr(found.token)) == ("0.0.0.0:80", "0123456789abcdef", "'(hidden)'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[control]\ntoken = "short"', "control.token: expected at least 16 printable ASCII characters"),
        ('[registration]\ntoken = "with spaces in its text"', "registration.token: expected at least 16"),
        ("[registration]\ntoken = 1234567890123456", "registration.token = (hidden): expected `str | null`"),
        ('[registration]\nallow = ["10.0.0.1/8"]', "registration.allow: '10.0.0.1/8': expected a network"),
        ("[registration]\nttl_s = 1", "registration.ttl_s = 1: expected `float` >= 5.0"),
        ('[discovery]\ncontroller = "gpu"', "discovery.controller = 'gpu': expected http://HOST:PORT"),
        ('[[discovery.dns]]\nname = "a"', "discovery.dns[0].port: is missing; only SRV records name the port"),
        ('[[discovery.dns]]\nname = "a b"\nport = 1', "discovery.dns[0].name = 'a b': expected a DNS name"),
        ('[[discovery.dns]]\nname = "a"\ntype = "MX"', "discovery.dns[0].type = 'MX': expected one of A, AAAA, SRV"),
        ('[[discovery.dns]]\nname = "a"\nport = 1\nid = "x"', "discovery.dns[0]: url and id are made of"),
        ('[[discovery.dns]]\nname = "a"\nport = 1\nvran = 1', "discovery.dns[0].vran: unknown key; did you mean"),
        ('[[discovery.dns]]\nname = "a"\nport = 1\nserver = "ns"', "discovery.dns[0].server = 'ns': expected"),
    ],
)
def test_what_is_wrong_with_a_source_of_workers_is_told(file: Path, text: str, message: str) -> None:
    assert refusal(file, text).startswith(message)


def test_files_of_a_source_are_beside_the_config_and_its_secrets_are_hidden(file: Path) -> None:
    found = read(
        file,
        '[discovery]\nworkers_file = "w.toml"\ncontroller = "http://c:1/"\ncontroller_token = "t-secret"\n'
        'controller_api_key = "k-secret"\n[[discovery.dns]]\nname = "a"\nport = 1\napi_key = "d-secret"\n'
        '[state]\nfolder = "kept"',
    )
    assert (found.discovery.workers_file, found.discovery.controller) == (str(file.parent / "w.toml"), "http://c:1")
    assert (found.state_folder, "secret" in repr(found)) == (file.parent / "kept", False)


def test_systemd_says_where_the_state_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/rbee:/var/lib/other")
    assert read(file, "").state_folder == Path("/var/lib/rbee")


def test_rules_of_models_may_name_workers_that_come_later(file: Path) -> None:
    rules = '[[models]]\nname = "m"\nworkers = ["later"]\n'
    assert "no worker has this id" in refusal(file, rules)
    assert read(file, rules + '[discovery]\ncontroller = "http://c:1"').models


def test_commands_find_the_control_plane_and_its_tokens(file: Path) -> None:
    file.write_text('[control]\nbind = "1.2.3.4:5"\ntoken = "${RBEE_T:-hush}"\n[registration]\ntoken = "reg"\n[zzz]\n')
    access = control_access(file)
    assert (access.bind, access.token, access.registration_token) == ("1.2.3.4:5", "hush", "reg")
    assert "hush" not in repr(access)
    file.write_text("[control]\ntoken = 7")
    with pytest.raises(ConfigError, match=r"control\.token = \(hidden\): expected text"):
        control_access(file)
