"""The files that start a run on several hosts: whole, and of one mind with the exit codes."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from jaxft.errors import INTERNAL, LOST, MEMORY, NOT_FINITE, USER
from tests.small import ROOT

PODS = ROOT / "docs" / "pods"
FINAL = [INTERNAL, USER, MEMORY, NOT_FINITE]


def stub(folder: Path, name: str, *codes: int) -> None:
    """A program that notes how it is called, and ends with one code after the other."""
    (folder / "codes").write_text("\n".join(map(str, codes)) + "\n")
    (folder / name).write_text(
        f'#!/usr/bin/env bash\necho "$@" >> {folder}/{name}.calls\n'
        "if [[ $* == *describe* ]]; then echo READY; exit; fi\n"
        f"code=$(head -1 {folder}/codes)\nsed -i 1d {folder}/codes\nexit $code\n"
    )
    (folder / name).chmod(0o755)


def run(script: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "sleep").write_text("#!/usr/bin/env bash\n")
    (folder / "sleep").chmod(0o755)
    found = os.environ | environment | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", str(PODS / script), *arguments], env=found, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("code", [0, *FINAL])
def test_a_tpu_run_is_started_again_until_it_ends_for_good(tmp_path: Path, code: int) -> None:
    stub(tmp_path, "gcloud", 143, LOST, 255, code)
    result = run("tpu-vm.sh", tmp_path, TPU="mine", ZONE="there", COMMAND="jaxft train --config my.py --resume")
    assert result.returncode == code
    calls = (tmp_path / "gcloud.calls").read_text().splitlines()
    assert len(calls) == (5 if code == 1 else 4)
    assert "ssh mine --zone there --worker all" in calls[0]
    assert calls[0].endswith("jaxft train --config my.py --resume --distributed")
    assert (calls[-1].startswith("compute tpus tpu-vm describe mine")) == (code == 1)


def test_a_tpu_run_is_not_started_for_ever(tmp_path: Path) -> None:
    stub(tmp_path, "gcloud", *[LOST] * 9)
    result = run("tpu-vm.sh", tmp_path, TPU="mine", ZONE="there", COMMAND="jaxft", ATTEMPTS="3")
    assert result.returncode == LOST
    assert len((tmp_path / "gcloud.calls").read_text().splitlines()) == 3
    assert "TPU: the name of the slice" in run("tpu-vm.sh", tmp_path).stderr


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), *((code, False) for code in FINAL), (143, True), (LOST, True), (134, True)]
)
def test_a_slurm_job_is_queued_again_where_that_helps(tmp_path: Path, code: int, again: bool) -> None:
    stub(tmp_path, "srun", code)
    (tmp_path / "scontrol").write_text(f'#!/usr/bin/env bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    result = run("slurm.sbatch", tmp_path, "jaxft", "train", "--resume", SLURM_JOB_ID="17")
    assert result.returncode == code
    assert (tmp_path / "srun.calls").read_text().strip().endswith("jaxft train --resume")
    assert (tmp_path / "requeued").exists() == again


def test_the_manifest_starts_again_what_can_go_on() -> None:
    manifest = yaml.safe_load((PODS / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert rule["onExitCodes"]["values"] == FINAL
    (container,) = job["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy asks for
    assert "--resume" in container["command"]
    # Four hosts of four chips are the slice.
    shape = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = eval(shape.replace("x", "*"))
    assert job["parallelism"] == job["completions"] == chips // container["resources"]["limits"]["google.com/tpu"]


def test_the_container_has_what_the_project_has() -> None:
    text = (PODS / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()]
    assert {"jaxft", "converters", "configs", "pyproject.toml"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_the_page_has_the_exit_codes() -> None:
    page = (ROOT / "docs" / "pods.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \|.*\|(.*)\|$", page, re.M)
    again = {code: said.strip() for codes, said in rows for code in codes.split(", ")}
    assert {code for code, said in again.items() if said == "no"} == {str(code) for code in FINAL}
    assert {code for code, said in again.items() if said == "yes"} == {str(LOST), "134", "143"}
    for file in re.findall(r"\]\((pods/\S+)\)", page):
        assert (ROOT / "docs" / file).is_file()
