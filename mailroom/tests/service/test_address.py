import pytest
from mailroom.errors import MisuseError
from mailroom.service.address import Address


def test_a_path_is_read_and_written_the_same():
    path = "tinker://0b9a:train:0/sampler_weights/final"

    assert Address.parse(path) == Address("0b9a:train:0", "sampler_weights", "final")
    assert str(Address.parse(path)) == path


@pytest.mark.parametrize(
    "path", ["", "base", "tinker://a", "tinker://a/models/b", "http://a/weights/b"]
)
def test_other_paths_are_refused(path):
    with pytest.raises(MisuseError, match="no path of weights"):
        Address.parse(path)
