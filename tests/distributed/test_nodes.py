"""Several machines, here as processes of one: what they must agree on, one pipeline, the templates."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from torch.distributed import TCPStore

from g2d_pipeline.config import ComputeSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.training.nodes import Nodes, meeting_place, node_rank
from tests.conftest import REPOSITORY
from tests.e2e.project import copy_project


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("localhost", 0))
        return int(some.getsockname()[1])


def settings(timeout: float = 20.0, **changes: Any) -> ComputeSettings:
    where = {"rendezvous": f"localhost:{free_port()}", "num_nodes": 2, "timeout": timeout}
    return ComputeSettings(**(where | changes))


def test_two_machines_run_one_pipeline_and_the_models_stay_fresh_for_another_number(tmp_path: Path) -> None:
    project = copy_project(tmp_path, epochs=1)
    compute = f"compute.num_nodes=2,compute.timeout=120,compute.rendezvous=localhost:{free_port()}"
    command = project.command("run", "--pipeline", "teachers", "--params", compute)
    both = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=project.environment | {"NODE_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    first, second = (process.communicate(timeout=300)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], first + second
    nodes = re.findall(r"Running node: (\w+):", first)
    assert nodes == ["ingest_raw", "featurize_modalities", "describe_data", "train_teachers"]
    assert first.count("2 devices × 32 samples = 64 a step") == 2
    assert "machine 1 of 2: takes part in trainings" in second
    assert "Running node" not in second
    made = list((tmp_path / "data" / "06_models").rglob("model.json"))
    expected = {"devices": 1, "num_nodes": 2, "strategy": "ddp", "backend": "gloo", "global_batch": 64}
    assert [json.loads(file.read_text())["compute"] for file in made] == [expected] * 2
    again = project.run("run", "--pipeline", "teachers")
    assert again.nodes == []


def test_a_rendezvous_that_nobody_comes_to_ends_in_a_message_in_time() -> None:
    for rank in ("0", "1"):
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=r"compute\.rendezvous = localhost:\d+: the 2 machines"):
            Nodes(settings(timeout=1.0), {"NODE_RANK": rank})
        assert time.monotonic() - begin < 20


def test_other_versions_are_refused_with_both_named() -> None:
    compute = settings()
    host, port = meeting_place(compute)

    def other_machine() -> None:
        TCPStore(host, port, is_master=False).set("versions 1", json.dumps({"torch": "1.0"}))

    thread = threading.Thread(target=other_machine)
    thread.start()
    with pytest.raises(ConfigError, match=r"machine 0 has torch 2.*machine 1 has torch 1\.0"):
        Nodes(compute, {"NODE_RANK": "0"})
    thread.join()


def test_calls_of_any_size_arrive_in_order_and_end() -> None:
    compute, got = settings(), list[Any]()

    def follow() -> None:
        nodes = Nodes(compute, {"SLURM_NODEID": "1"})
        while (call := nodes.next_call()) is not None:
            got.append(call)

    thread = threading.Thread(target=follow)
    thread.start()
    first = Nodes(compute, {"SLURM_NODEID": "0"})
    first.call("a", 1)
    first.call(b"x" * 10_000_000)
    first.end()
    thread.join(20)
    assert got == [("a", 1), (b"x" * 10_000_000,)]


def test_slurm_says_where_and_who() -> None:
    slurm = {"SLURM_NODEID": "3", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_ID": "123456"}
    assert node_rank(slurm) == 3
    assert meeting_place(ComputeSettings(num_nodes=2), slurm) == ("10.0.0.7", 23456)
    with pytest.raises(ConfigError, match=r"needs compute\.rendezvous=HOST:PORT"):
        meeting_place(ComputeSettings(num_nodes=2), {})
    with pytest.raises(ConfigError, match="which of the machines is this"):
        node_rank({})


def test_the_template_of_slurm_has_directives_and_runs_one_command_a_node(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "slurm.sbatch"
    text = script.read_text()
    directives = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE)
    assert dict(directives)["ntasks-per-node"] == "1"
    assert len(directives) == text.count("#SBATCH")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "srun").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NUM_NODES": "4"}
    said = subprocess.run(
        ["bash", script, "dataset=vggsound"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert said.stdout.splitlines()[1:] == [
        *["kedro", "run", "--params"],
        "dataset=vggsound,compute.devices=auto,compute.num_nodes=4,compute.timeout=600",
    ]


def test_the_manifest_of_kubernetes_is_an_indexed_job_whose_pods_find_the_first() -> None:
    text = (REPOSITORY / "scripts" / "kubernetes-training.yml").read_text()
    service, job = yaml.safe_load_all(text)
    schema = yaml.safe_load((REPOSITORY / "tests/schedules/cron_job.schema.yml").read_text())
    jsonschema.validate(job["spec"], {"$defs": schema["$defs"], "$ref": "#/$defs/job"})
    pod = job["spec"]["template"]["spec"]
    params = dict(p.split("=") for p in pod["containers"][0]["command"][-1].split(","))
    assert job["spec"]["completionMode"] == "Indexed"
    assert int(params["compute.num_nodes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    first = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert params["compute.rendezvous"].startswith(f"{first}:")
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]
