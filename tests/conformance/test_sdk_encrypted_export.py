"""Exports that are encrypted to keys which the server does not have, as age files."""

from __future__ import annotations

import urllib.request

import pyrage
import pytest
import tinker
from safetensors.numpy import load as load_safetensors
from sdk_steps import adapter_of, assert_equal_adapters, train


def fetch(rest: tinker.RestClient, path: str) -> dict[str, bytes]:
    found = {}
    for name, url in rest.get_external_weights_urls(path).result().urls.items():
        with urllib.request.urlopen(url, timeout=30) as response:
            found[name] = response.read()
    return found


def test_an_export_for_a_key_opens_with_that_key_alone(make_run, rest):
    run = make_run()
    train(run, [1])
    mine, other = (pyrage.x25519.Identity.generate() for _ in range(2))
    path = (
        run.save_weights_external("secret", age_encryption_recipients=[str(mine.to_public())])
        .result()
        .path
    )
    files = fetch(rest, path)
    assert files.keys() == {"adapter_config.json.age", "adapter_model.safetensors.age"}
    weights = files["adapter_model.safetensors.age"]
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(weights, [other])
    opened = load_safetensors(pyrage.decrypt(weights, [mine]))
    assert_equal_adapters(opened, adapter_of(run, rest, "open"))


def test_nothing_that_the_server_keeps_of_an_encrypted_export_is_readable(
    make_run, rest, live_server
):
    run = make_run()
    key = str(pyrage.x25519.Identity.generate().to_public())
    run.save_weights_external("kept", age_encryption_recipients=[key]).result()
    (directory,) = live_server.home.glob("**/external_weights/kept")
    kept = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert kept.pop("manifest.json")
    assert kept and all(data.startswith(b"age-encryption.org/v1") for data in kept.values())


def test_an_encrypted_export_is_not_sampled_from(make_run, service):
    run = make_run()
    key = str(pyrage.x25519.Identity.generate().to_public())
    path = run.save_weights_external("locked", age_encryption_recipients=[key]).result().path
    sampler = service.create_sampling_client(model_path=path).result()
    with pytest.raises(tinker.RequestFailedError, match="encrypted to keys"):
        sampler.sample(tinker.ModelInput.from_ints([1, 2]), 1, tinker.SamplingParams()).result()
