from pathlib import Path

import pytest
from tinsmith.config import Config
from tinsmith.domain.errors import InvalidInputError


def load(tmp_path: Path, text: str) -> Config:
    (tmp_path / "t.toml").write_text(text)
    return Config.load(tmp_path / "t.toml")


def test_a_file_overlays_the_defaults(tmp_path: Path):
    config = load(
        tmp_path, 'port = 0\nmodels = ["a/b"]\n[limits]\nmax_rank = 8\n[service]\npoll_hold_s = 5\n'
    )
    assert (config.port, config.models, config.limits.max_rank) == (0, ("a/b",), 8)
    assert config.service.poll_hold_s == 5.0
    assert config.engine == Config().engine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown setting prot; did you mean port"),
        ("[limits]\nmax_rnak = 1", "limits.max_rank"),
        ('port = "x"', "port wants a int"),
        ("limits = 3", "limits is a table"),
        ('[engine]\ndtype = "fp16"', "engine.dtype is 'fp16'; allowed are auto, float32, bfloat16"),
        ('[engine]\nquantize = "3bit"', "engine.quantize is '3bit'; allowed are nothing, 8bit"),
        ("= 3", "cannot read the config file"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        load(tmp_path, text)
