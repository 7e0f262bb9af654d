"""What schedules.yml may say; every mistake is named with file, key, value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline.config.schedules import Schedule, cron_fields
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.schedules.jobs import Job
from g2d_pipeline.schedules.settings import read_jobs, select

FILE = "conf/base/schedules.yml"
GOOD = {"dataset": "av_digits", "cron": "0 3 * * *"}


def nightly(**changes: Any) -> dict[str, Any]:
    return {"nightly": GOOD | changes}


def test_the_example_of_the_project_is_valid_and_not_active(repository: Path) -> None:
    jobs = read_jobs(repository, check=True)
    assert [job.schedule.active for job in jobs.values()] == [False]
    with pytest.raises(ConfigError, match="no schedule is active"):
        select(jobs)
    assert select(jobs, ["example"]) == [jobs["example"]]
    with pytest.raises(ConfigError, match=r"unknown schedule 'exmple'\. Did you mean 'example'"):
        select(jobs, ["exmple"])


def test_a_schedule_is_read_with_its_units_and_the_environment_wins(write: Callable[[Any], Path]) -> None:
    notify = "{webhook_env: HOOK, on: [failed, kept]}"  # YAML reads the key `on` as true
    project = write(
        "schedules:\n  nightly:\n    dataset: av_digits\n    cron: 30 3 * * mon-fri\n"
        f"    overrides: {{tau: [1, 2], training: {{epochs: 3}}}}\n    retry_delay: 2 min\n    timeout: 6 h\n"
        f"    notify: {notify}\n"
    )
    (project / "conf" / "local" / "schedules.yml").write_text("schedules: {nightly: {retries: 0}}")
    job = read_jobs(project, check=True)["nightly"]
    s = job.schedule
    assert (s.retry_delay, s.timeout, s.retries) == (120, 6 * 3600, 0)
    assert s.notify is not None
    assert s.notify.on == ["failed", "kept"]
    params = "dataset=av_digits,wait=true,tau=1/2,training.epochs=3"
    assert job.command("teachers")[3:] == [
        *("run", "--pipeline", "retrain", "--to-nodes", "train_teachers", "--params", params)
    ]
    assert job.command("promote")[3:] == ["run", "--pipeline", "retrain", "--params", params]
    assert job.stages == ["ingest", "gates", "featurize", "teachers", "distill", "evaluate", "promote"]


def test_other_pipelines_have_no_gates() -> None:
    job = Job("x", Schedule(dataset="d", cron="* * * * *", pipeline="distill"), Path())
    assert job.stages == ["ingest", "featurize", "teachers", "distill"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nightly(cron="0 25 * * *"), f"{FILE}: nightly.cron = '0 25 * * *': hour '25' should be 0 to 23"),
        (nightly(cron="0 3 * *"), "it has 4 fields; cron has five (minute, hour, day, month, weekday)"),
        (nightly(cron="0 3 * * fr"), "weekday 'fr' should be 0 to 7, sun/mon/tue/wed/thu/fri/sat"),
        (nightly(cron="0 3 31 4,6 *"), "there is no day 31 in month 4/6"),
        (nightly(cron="0 3 */2 * mon"), "list the days"),
        (nightly(cron="*/90 * * * *"), "minute '*/90' should be 0 to 59"),
        (nightly(cron="@daily"), "it has 1 fields"),
        (nightly(timezone="Europe/Wien"), "nightly.timezone = 'Europe/Wien': no such time zone."),
        (nightly(timezone="Europe/Viena"), "Did you mean 'Europe/Vienna'"),
        (
            nightly(dataset="av_digit"),
            f"{FILE}: nightly.dataset = 'av_digit' is unknown. Did you mean 'av_digits'",
        ),
        (nightly(crn=1), "unknown key 'nightly.crn' (value 1). Did you mean 'cron'"),
        ({"nightly": {"dataset": "av_digits"}}, "'nightly.cron' is missing"),
        ({"Nightly run": GOOD}, "the name of a schedule, 'Nightly run': lower-case letters"),
        (nightly(pipeline="retrian"), "nightly.pipeline = 'retrian'"),
        (nightly(retries=-1), "nightly.retries = -1"),
        (nightly(timeout="6 hours"), "nightly.timeout = '6 hours': a number with its unit"),
        (nightly(notify={"on": "failed"}), "say command, webhook_env or both"),
        (nightly(notify={"command": "x", "on": "faild"}), "nightly.notify.on.0 = 'faild'"),
        (nightly(overrides={"alhpa": 1}), f"{FILE}: nightly.overrides: unknown key 'alhpa'"),
        (nightly(overrides={"method": "a,b"}), "nightly.overrides: method = 'a,b': no value has a comma"),
        (nightly(overrides={"dataset": "mis_me"}), "say dataset beside overrides"),
        ("schedules: [a]", f"{FILE}: 'schedules:' should hold names"),
        ("schedule: {}", f"{FILE}: unknown key 'schedule'"),
        ("schedules: {a: {cron: 0 3", f"{FILE}, line 1"),
    ],
)
def test_a_mistake_is_named(write: Callable[[Any], Path], content: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_jobs(write(content), check=True)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_address_in_the_file_is_refused_and_not_shown(write: Callable[[Any], Path]) -> None:
    with pytest.raises(ConfigError, match="name of an environment variable") as caught:
        read_jobs(write(nightly(notify={"webhook_env": "https://hooks.example.org/T0/secret"})))
    assert "secret" not in str(caught.value).replace("is a secret", "")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("*/20 2-4 * jan,MAR 7", [[0, 20, 40], [2, 3, 4], None, [1, 3], [0]]),
        ("5 0-23/6 1,15 * *", [[5], [0, 6, 12, 18], [1, 15], None, None]),
    ],
)
def test_fields_of_cron(text: str, fields: list[list[int] | None]) -> None:
    assert cron_fields(text) == fields
