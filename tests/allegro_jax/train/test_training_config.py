"""The configuration file: defaults, and an error that names what is wrong."""

from __future__ import annotations

import pytest

from allegro_jax.settings import ConfigError, read_section
from allegro_jax.train.config import FitConfig, TrainingConfig, load_config

MINIMAL = "data: {train: frames.xyz}\nmodel: {cutoff: 5.0}\n"


@pytest.fixture
def write(tmp_path):
    (tmp_path / "frames.xyz").write_text("")

    def write(text: str):
        path = tmp_path / "potential.yaml"
        path.write_text(text)
        return path

    return write


def test_minimal_file(write, tmp_path):
    config = load_config(write(MINIMAL))
    assert config == TrainingConfig(
        data=config.data, model={"cutoff": 5.0}, output=tmp_path / "runs/potential"
    )
    assert config.data.train == (tmp_path / "frames.xyz",)
    assert config.data.valid == 0.1


def test_overrides(write, tmp_path):
    overrides = [
        "training.learning_rate=1e-3",
        "training.patience=5",
        "model.l_max=3",
        "data.valid=20",
        "output=elsewhere",
        "data.isolated_atoms={H: -13.6}",
        "training.energy_weight={150: 100, 0: 1}",
        "training.forces_weight={100%: 0.5, 60%: 1, 3: 2}",
        "training.species_force_weights={Li: 5}",
        "training.clip=null",
    ]
    config = load_config(write(MINIMAL), overrides)
    assert config.training.learning_rate == 1e-3 and config.training.patience == 5
    assert config.model["l_max"] == 3
    assert config.data.valid == 20 and config.data.isolated_atoms == {"H": -13.6}
    assert config.output == tmp_path / "elsewhere"
    assert config.training.energy_weight == {0.0: 1.0, 150.0: 100.0}
    assert list(config.training.forces_weight.items()) == [(3.0, 2.0), ("60%", 1.0), ("100%", 0.5)]
    again = read_section(FitConfig, config.to_dict()["training"], "training.")
    assert again.forces_weight == config.training.forces_weight
    assert config.training.clip is None
    assert config.training.species_force_weights == {"Li": 5.0}
    assert config.to_dict()["training"]["patience"] == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"training\.epoch: no such key; did you mean training\.epochs"),
        ("trainig.epochs=3", r"trainig: no such key; did you mean training"),
        ("model.lmax=3", r"model\.lmax: no such key; did you mean model\.l_max"),
        ("data.forces=f", r"data\.forces: no such key; did you mean data\.forces_key"),
        ("data.train=absent.xyz", r"data\.train: .*absent\.xyz: no such file"),
        ("data.train=3", r"data\.train: expected a file or a list of files, got 3"),
        ("data.test=[frames.xyz, gone.xyz]", r"data\.test: .*gone\.xyz: no such file"),
        ("data.valid=-0.1", r"data\.valid: a share between 0 and 1"),
        ("data.valid=2.5", r"data\.valid: a share between 0 and 1"),
        ("data.reference_energies=lsq", r"data\.reference_energies: 'lsq' is not one of"),
        ("model.cutoff=-2", r"model\.cutoff: needs a positive distance"),
        ("model.l_max=x", r"model\.l_max: needs a whole number"),
        ("model.species_shifts=[1.0, 2.0]", r"model\.species_shifts: a list needs model\.species"),
        ("training.epochs=0", r"training\.epochs: expected a whole number of at least 1, got 0"),
        ("training.epochs=1.5", r"training\.epochs: expected a whole number"),
        ("training.learning_rate=fast", r"training\.learning_rate: expected a number, got 'fast'"),
        ("training.ema=1", r"training\.ema: expected a number .*below 1"),
        ("training.optimiser=adma", r"'adma' is not one of adam, .*; did you mean adam"),
        ("training.plateau_patience=3", r"has no effect with schedule cosine; it serves plateau"),
        ("training.huber_delta=0.5", r"huber_delta: has no effect with loss mse; it serves huber"),
        ("training.loss=rmse", r"training\.loss: 'rmse' is not one of mse, mae, huber"),
        ("training.energy_weight=-1", r"training\.energy_weight: expected a number of at least 0"),
        (
            "training.energy_weight={0: 1, 9: x}",
            r"training\.energy_weight\.9: expected a number, got 'x'",
        ),
        ("training.energy_weight={-1: 1}", r"training\.energy_weight: expected .* at least 0"),
        ("training.energy_weight={101%: 1}", r"energy_weight: expected .* at most 100, got '101'"),
        ("training.energy_weight={half: 1}", r"energy_weight: expected a number, got 'half'"),
        (
            "training={energy_weight: {0: 1, 5: 0}, forces_weight: 0, stress_weight: 0}",
            r"training\.forces_weight: all weights of the loss are 0",
        ),
        ("training.species_force_weights=5", r"species_force_weights: expected name: number"),
        (
            "training.optimiser=schedule_free",
            r"schedule: constant and training\.ema: 0",
        ),
        ("training.clip=0", r"training\.clip: expected a number above 0"),
        ("training.ema=null", r"training\.ema: expected a number, got None"),
        ("training.precision=float16", r"training\.precision: 'float16' is not one of"),
        ("seed=-1", r"seed: expected a whole number"),
        ("resume=maybe", r"resume: expected true or false"),
        ("seed.value=1", r"seed: expected a whole number|seed holds no further keys"),
        ("training", r"'training': expected key=value"),
    ],
)
def test_mistakes_are_named(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(MINIMAL), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {cutoff: 5.0}", r"potential\.yaml: the section 'data' is missing"),
        ("data: {train: frames.xyz}", r"potential\.yaml: the section 'model' is missing"),
        ("data: {train: frames.xyz}\nmodel: {}", r"model\.cutoff: missing"),
        ("data: {}\nmodel: {cutoff: 5}", r"data\.train: missing"),
        ("data: frames.xyz\nmodel: {cutoff: 5}", r"data: expected key: value pairs"),
        ("- 1", "expected the sections"),
        ("data: [", "not readable as YAML"),
    ],
)
def test_incomplete_files_are_named(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text))


def test_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file"):
        load_config(tmp_path / "absent.yaml")
