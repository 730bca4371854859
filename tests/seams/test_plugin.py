"""Installed, the package is found: by Hydra from any folder, by fairseq's --user-dir, by spawned workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import fairseq_mtssl

RECIPES = sorted(
    path.stem
    for path in Path(fairseq_mtssl.__file__).parent.glob("config/*.yaml")
    if not path.stem.startswith("_")
)
BOTH_SIZES = ("joint_sequential", "joint_simultaneous", "w2v2", "vgs", "mt4ssl")
REGISTERED = {
    "task": {"vgs_retrieval": "VgsRetrievalTask", "joint_ssl_vgs": "JointSslVgsTask", "mt4ssl": "Mt4sslTask"},
    "model": {
        "vgs_retrieval": "VgsRetrievalModel",
        "joint_ssl_vgs": "JointSslVgsModel",
        "mt4ssl": "Mt4sslModel",
    },
    "criterion": {
        "vgs_retrieval": "VgsRetrievalCriterion",
        "joint_ssl_vgs": "JointSslVgsCriterion",
        "mt4ssl": "Mt4sslCriterion",
    },
}
PLUGIN = "hydra_plugins/fairseq_mtssl_searchpath/__init__.py"


def registered() -> dict[str, dict[str, str]]:
    """Module and class in fairseq's registries under our names; "" where there is none."""
    from fairseq.criterions import CRITERION_REGISTRY
    from fairseq.models import MODEL_REGISTRY
    from fairseq.tasks import TASK_REGISTRY

    registries = {"task": TASK_REGISTRY, "model": MODEL_REGISTRY, "criterion": CRITERION_REGISTRY}
    return {
        kind: {
            name: f"{registry[name].__module__}.{registry[name].__name__}" if name in registry else ""
            for name in REGISTERED[kind]
        }
        for kind, registry in registries.items()
    }


WANTED = {
    kind: {name: f"fairseq_mtssl.{kind}s.{name}.{cls}" for name, cls in names.items()}
    for kind, names in REGISTERED.items()
}


def test_the_recipes_of_the_paper_and_their_small_twins_are_offered() -> None:
    assert {*BOTH_SIZES, *(f"{name}_small" for name in BOTH_SIZES)} <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_and_resolves(recipe, compose) -> None:
    cfg = compose(recipe, ["task.data=somewhere"])
    resolved = OmegaConf.to_container(cfg, resolve=True)
    assert Path(resolved["common"]["user_dir"]) == Path(fairseq_mtssl.__file__).parent
    for group in ("task", "model", "criterion", "optimizer", "lr_scheduler"):
        assert resolved[group]["_name"], group
    assert not OmegaConf.missing_keys(cfg)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith(("joint", "vgs", "w2v2"))])
def test_the_papers_optimizer_and_course_are_those_of_the_paper_preset_alone(recipe, compose) -> None:
    cfg = compose(recipe, ["task.data=d"])
    small = recipe.endswith("_small")
    assert cfg.model.preset == ("modern" if small else "paper")
    assert cfg.optimizer._name == ("fused_adamw" if small else "bert_adam")
    assert cfg.optimizer.weight_decay == 0.01
    assert cfg.task.first_course == (None if small else "100 %")


def test_a_recipe_is_found_from_any_folder_without_config_dir(tmp_path, run_program) -> None:
    words = ["fairseq-hydra-train", "--config-name", "joint_sequential", "task.data=d"]
    run = run_program([*words, "model.encoder_layers=9", "--cfg", "job"], cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    cfg = OmegaConf.create(run.stdout)
    assert (cfg.task._name, cfg.task.data, cfg.model.encoder_layers) == ("joint_ssl_vgs", "d", 9)
    assert "schema" not in run.stderr  # Hydra's deprecation of automatic schema matching is not met


def test_everything_of_a_run_goes_to_save_dir_and_paths_are_those_of_the_shell(compose) -> None:
    for recipe in RECIPES:
        cfg = compose(recipe, ["task.data=d", "checkpoint.save_dir=runs/x"], with_hydra=True)
        assert cfg.hydra.job.chdir is False
        assert cfg.hydra.run.dir == "runs/x"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_of_a_recipe_can_be_overridden_without_a_plus(recipe, compose) -> None:
    cfg = compose(recipe, ["task.data=somewhere"])
    overrides = leaf_overrides(cfg)
    assert len(overrides) > 150
    assert compose(recipe, ["task.data=somewhere", *overrides]) == cfg


def leaf_overrides(cfg: DictConfig) -> list[str]:
    """`section.key=value`, with its own value, of every key that holds a plain value."""
    found = []
    for section, values in cfg.items():
        for key in values if OmegaConf.is_dict(values) else ():
            if OmegaConf.is_missing(values, key) or OmegaConf.is_interpolation(values, key):
                continue
            value = values[key]
            if value is None or isinstance(value, (bool, int, float)):
                found.append(f"{section}.{key}={'null' if value is None else str(value).lower()}")
    return [each for each in found if "._name=" not in each]


@pytest.mark.parametrize("section", ["common", "task", "model", "criterion", "optimizer", "lr_scheduler"])
def test_a_misspelt_key_is_refused_by_name(section, compose) -> None:
    with pytest.raises(HydraException) as error:
        compose("joint_sequential_small", ["task.data=d", f"{section}.misspelt=1"])
    assert "misspelt" in str(error.value) + str(error.value.__cause__)


def test_a_misspelt_key_ends_the_command_with_its_name(tmp_path, run_program) -> None:
    words = ["fairseq-hydra-train", "--config-name", "vgs_small", "task.data=d", "model.encoder_layerz=9"]
    run = run_program(words, cwd=tmp_path)
    assert run.returncode != 0
    assert "encoder_layerz" in run.stderr and "Config" in run.stderr


def test_a_misspelt_recipe_is_answered_with_the_one_meant(tmp_path, run_program) -> None:
    run = run_program(["fairseq-hydra-train", "--config-name", "joint_sequental_small"], cwd=tmp_path)
    assert run.returncode != 0
    assert "did you mean joint_sequential_small" in run.stderr
    assert "Traceback" not in run.stderr


def test_fairseqs_own_recipes_still_compose(tmp_path, run_program) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "plain.yaml").write_text("common: {seed: 7}\ntask: {_name: audio_pretraining, data: d}\n")
    words = ["fairseq-hydra-train", "--config-dir", str(folder), "--config-name", "plain", "--cfg", "job"]
    run = run_program(words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert OmegaConf.create(run.stdout).common.seed == 7


def test_another_hydra_program_is_left_alone(tmp_path, run_program) -> None:
    (tmp_path / "other.yaml").write_text("x: 1\n")
    program = (
        "import sys\n"
        "from hydra import compose, initialize_config_dir\n"
        "from hydra.core.config_store import ConfigStore\n"
        f"with initialize_config_dir({str(tmp_path)!r}, version_base='1.3'):\n"
        "    cfg = compose('other', return_hydra_config=True)\n"
        "paths = [source.provider for source in cfg.hydra.runtime.config_sources]\n"
        "assert cfg.x == 1 and 'fairseq-mtssl' not in paths, paths\n"
        "assert 'hydra_plugins.fairseq_mtssl_searchpath' in sys.modules\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'fairseq', 'fairseq_mtssl', 'torch'}, loaded\n"
        "assert 'fairseq_schema.yaml' not in ConfigStore.instance().repo\n"
    )
    run = run_program(["python", "-c", program], cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_our_names_are_ours_in_fairseqs_registries() -> None:
    # register_task and register_model silently keep the older class where a name is taken
    assert registered() == WANTED


def test_the_user_dir_alone_registers_everything_as_in_spawned_workers_and_fairseq_validate(
    tmp_path, compose, run_program
) -> None:
    printed = run_program(["mtssl", "user-dir"], cwd=tmp_path).stdout.strip()
    assert printed == compose("joint_sequential", ["task.data=d"]).common.user_dir
    program = (
        "import json, sys\n"
        "from argparse import Namespace\n"
        "from fairseq.utils import import_user_module\n"
        "assert 'fairseq_mtssl' not in sys.modules\n"
        f"import_user_module(Namespace(user_dir={printed!r}))\n"
        "from fairseq.criterions import CRITERION_REGISTRY as criterions\n"
        "from fairseq.models import MODEL_REGISTRY as models\n"
        "from fairseq.optim.lr_scheduler import LR_SCHEDULER_REGISTRY as schedulers\n"
        "from fairseq.tasks import TASK_REGISTRY as tasks\n"
        "names = ['vgs_retrieval', 'joint_ssl_vgs', 'mt4ssl']\n"
        "print(json.dumps([[r[n].__module__ for n in names] for r in (tasks, models, criterions)]))\n"
        "print(schedulers['phased'].__module__)\n"
    )
    run = run_program(["python", "-c", program], cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found, scheduler = run.stdout.strip().splitlines()[-2:]
    rooms = ("tasks", "models", "criterions")
    assert json.loads(found) == [
        [f"fairseq_mtssl.{room}.{name}" for name in ("vgs_retrieval", "joint_ssl_vgs", "mt4ssl")]
        for room in rooms
    ]
    assert scheduler.startswith("fairseq_mtssl.")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The package as a normal installation has it, built from a copy that leaves nothing in the project."""
    root = Path(__file__).resolve().parents[2]
    copy = tmp_path_factory.mktemp("source")
    for name in ("fairseq_mtssl", "hydra_plugins"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)]
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return next(out.glob("*.whl"))


def test_a_wheel_holds_the_recipes_and_the_plugin_as_a_namespace_package(wheel) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"fairseq_mtssl/config/{recipe}.yaml" for recipe in RECIPES} <= names
    assert {"fairseq_mtssl/config/__init__.py", PLUGIN} <= names
    report = Path(__file__).resolve().parents[2] / "fairseq_mtssl" / "report"
    templates = {f"fairseq_mtssl/report/templates/{path.name}" for path in report.glob("templates/*.j2")}
    assert templates and templates | {"fairseq_mtssl/report/page.css"} <= names
    assert "hydra_plugins/__init__.py" not in names  # it would hide the plugins of other packages
    assert not [name for name in names if name.startswith(("tests/", "examples/", "manifests/"))]


def test_a_normal_installation_is_found_by_hydra_too(wheel, tmp_path, run_program) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    words = ["fairseq-hydra-train", "--config-name", "joint_sequential", "task.data=d", "--cfg", "job"]
    run = run_program([*words, "--resolve"], cwd=tmp_path, env={"PYTHONPATH": str(site)})
    assert run.returncode == 0, run.stderr
    assert OmegaConf.create(run.stdout).common.user_dir == str(site / "fairseq_mtssl")


def test_help_of_the_command_is_quiet_about_fairseq(tmp_path, run_program) -> None:
    run = run_program(["mtssl", "--help"], cwd=tmp_path)
    assert run.returncode == 0
    assert "evaluate-retrieval" in run.stdout and not run.stderr


def test_ci_runs_the_test_command_of_the_readme(root) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text() and "\nmake test\n" in (root / "README.md").read_text()
