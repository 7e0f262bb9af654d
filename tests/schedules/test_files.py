"""Lines of cron, units of systemd, CronJobs and the Dockerfile: each as its own reader reads it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml

from g2d_pipeline.config.schedules import Schedule
from g2d_pipeline.schedules import files
from g2d_pipeline.schedules.jobs import Job

CRONS = [
    "0 3 * * *",
    "*/20 2-4 * * 1-5",
    "30 6 1,15 * *",
    "15 4 1 * sun",
    "0 0 29 2 *",
    "5 0-23/6 * jan,12 *",
]


def job(cron: str = "0 3 * * *", folder: str = "/srv/my %project", **settings: object) -> Job:
    fields = {"dataset": "av_digits", "cron": cron, "timezone": "Europe/Vienna"} | settings
    return Job("weekly_run", Schedule(**fields), Path(folder), env="prod", kedro=())


def ticks(cron: str, zone: str, start: datetime, number: int) -> list[datetime]:
    """Dagster's own."""
    schedules = pytest.importorskip("dagster._utils.schedules", reason="needs the extra `retrain`")
    iterator = schedules.cron_string_iterator(start.timestamp(), cron, zone)
    return [tick.astimezone(ZoneInfo(zone)) for tick in islice(iterator, number)]


@pytest.mark.parametrize("cron", CRONS)
def test_a_line_of_cron_has_the_ticks_of_dagster(cron: str) -> None:
    *_, zone, line = files.crontab([job(cron)]).splitlines()
    name = zone.removeprefix("CRON_TZ=")
    assert line.startswith(f"{cron} cd ")
    fields = line.split()[:5]
    start = datetime(2026, 11, 27, 12, tzinfo=ZoneInfo(name))
    expected = ticks(cron, name, start, number := 2 if "29" in cron else 5)
    found, minute = list[datetime](), start
    while len(found) < number and minute < expected[-1] + timedelta(days=1):
        if _is_due(fields, minute):
            found.append(minute)
        jump = _matches(fields[3], minute.month, 1) and (
            _matches(fields[2], minute.day, 1) or fields[2] == "*" or fields[4] != "*"
        )
        minute += timedelta(minutes=1) if jump else timedelta(days=1)
        minute = minute if jump else minute.replace(hour=0, minute=0)
    assert found == expected


def _is_due(fields: list[str], time: datetime) -> bool:
    """crontab(5): where day and weekday are both restricted, one of them will do."""
    minute, hour, day, month, weekday = fields
    by_day = _matches(day, time.day, 1)
    by_week = _matches(weekday, time.isoweekday() % 7, 0)
    either = day != "*" and weekday != "*"
    days = by_day or by_week if either else by_day and by_week
    return (
        _matches(minute, time.minute, 0)
        and _matches(hour, time.hour, 0)
        and _matches(month, time.month, 1)
        and days
    )


def _matches(field: str, value: int, low: int) -> bool:
    names = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    text = re.sub("|".join(names), lambda m: str(names.index(m[0]) + 1), field).replace("sun", "0")
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        a, b = (low, 59) if span == "*" else (int(first), int(last or first))
        if a <= value <= b and (value - a) % int(step or 1) == 0:
            return True
    return False


def test_the_command_of_cron_runs_under_a_lock_in_the_project(tmp_path: Path) -> None:
    """The line's own command, as cron's shell gets it, with a stub for Python."""
    folder = tmp_path / "my %project"
    folder.mkdir()
    line = files.crontab([job(folder=str(folder))]).splitlines()[-1]
    command = line.split(maxsplit=5)[5].replace(r"\%", "%")
    assert not re.search(r"(?<!\\)%", line)  # to cron, that is the end of the line
    words = shlex.split(command)
    assert words[words.index("flock") + 1 : words.index("flock") + 5] == [
        "--wait",
        "43200",
        "logs/av_digits.lock",
        "env",
    ]
    python = words[words.index("-m") - 1]
    if shutil.which("flock") is None:
        pytest.skip("flock (util-linux) is not installed")
    shell = command.replace(shlex.quote(python), "echo")
    subprocess.run(["sh", "-c", shell], check=True, timeout=10)
    log = (folder / "logs" / "weekly_run.log").read_text()
    assert log == "-m kedro schedule run weekly_run\n"


def test_none_of_a_crontab_is_this_machine_but_project_and_python() -> None:
    text = files.crontab([job("0 3 * * *"), job("0 4 * * *", timezone="UTC")])
    assert [line for line in text.splitlines() if "=" in line and " " not in line] == [
        "CRON_TZ=Europe/Vienna",
        "CRON_TZ=UTC",
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    units = files.systemd([job("15 4 1 * sun", folder=str(tmp_path))])
    for name, text in units.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    checked = [
        "systemd-analyze",
        "verify",
        "--recursive-errors=no",
        *(str(tmp_path / name) for name in units),
    ]
    done = subprocess.run(checked, capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "g2d-" in line] == []
    assert done.returncode == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("cron", CRONS)
def test_systemd_has_the_ticks_of_dagster(cron: str) -> None:
    start = datetime(2026, 11, 27, 12, tzinfo=ZoneInfo("UTC"))
    found = set()
    for time in files.calendar(job(cron, timezone="UTC")):
        base = "--base-time=2026-11-27 12:00:00 UTC"
        command = ["systemd-analyze", "calendar", "--iterations=5", base, time]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        found |= set(re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", text))
    expected = [f"{tick:%Y-%m-%d %H:%M:%S}" for tick in ticks(cron, "UTC", start, 5)]
    assert sorted(found - {"2026-11-27 12:00:00"})[:5] == expected


def test_units_of_systemd_catch_up_and_take_secrets_from_a_file() -> None:
    units = files.systemd([job(folder="/srv/my %project")])
    assert list(units) == ["g2d-weekly_run.service", "g2d-weekly_run.timer"]
    service, timer = units.values()
    assert "Persistent=true" in timer
    assert "OnCalendar=*-*-* 03:00:00 Europe/Vienna" in timer
    assert "WorkingDirectory=/srv/my %%project" in service
    assert "EnvironmentFile=-%h/.config/g2d-weekly_run.env" in service
    assert "flock --wait 43200 logs/av_digits.lock env KEDRO_ENV=prod" in service


def test_a_cron_job_is_one_of_kubernetes() -> None:
    """Against the fields of the API batch/v1 that it may have; a key that is none is refused."""
    one = job("0 3 * * 1", notify={"webhook_env": "HOOK"})
    claim, cron_job = yaml.safe_load_all(files.kubernetes([one], "registry.example.org/g2d:1", "data"))
    schema = yaml.safe_load(Path(__file__).with_name("cron_job.schema.yml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(cron_job, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cron_job | {"spec": cron_job["spec"] | {"timezone": "UTC"}}, schema)
    spec = cron_job["spec"]
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
        "0 3 * * 1",
        "Europe/Vienna",
        "Forbid",
    )
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] == "data"
    container = pod["containers"][0]
    assert container["args"] == ["schedule", "run", "weekly_run"]
    assert [v["name"] for v in container["env"]] == ["KEDRO_ENV", "HOOK"]
    assert container["env"][1]["valueFrom"] == {"secretKeyRef": {"name": "g2d-secrets", "key": "HOOK"}}


def test_the_dockerfile_builds_by_the_commands_of_the_readme(repository: Path) -> None:
    text = files.DOCKERFILE.read_text(encoding="utf-8")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [
        word
        for word, _ in lines
        if word not in ["FROM", "RUN", "ENV", "USER", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"]
    ] == []
    section = (repository / "README.md").read_text(encoding="utf-8").partition("## Two commands")[2]
    console = section.partition("```console\n")[2].partition("```")[0]
    commands = [line.removeprefix("$ ").partition("#")[0].strip() for line in console.splitlines()]
    made = [argument for word, argument in lines if word == "RUN"][-2:]
    assert made == commands == ["make run", "make test"]
    words = [word for word, _ in lines]
    assert ["USER", "g2d"] in lines
    assert words.index("USER") < words.index("COPY")
    for _, argument in (line for line in lines if line[0] == "COPY"):
        *sources, _ = [word for word in argument.split() if not word.startswith("--")]
        for source in sources:
            assert (repository / source).exists(), source
            ignored = ["git", "check-ignore", "--quiet", source]
            assert subprocess.run(ignored, cwd=repository).returncode != 0, f"{source} is not in a clone"
    assert not re.search(r"COPY.*(conf/local| conf |data |\. )", text)  # neither secrets nor data
    assert "KEDRO_DISABLE_TELEMETRY=1" in text


@pytest.mark.parametrize("word", ["/srv/a b", "100%", 'say "x"', "$HOME", "plain"])
def test_words_of_a_unit_are_quoted(word: str) -> None:
    quoted = files._unit_word(word).replace("%%", "%").replace("$$", "$")
    assert shlex.split(quoted) == [word]
