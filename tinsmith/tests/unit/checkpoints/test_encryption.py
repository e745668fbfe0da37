"""Encryption to public keys, opened again by the holders of the secret ones."""

from __future__ import annotations

import numpy as np
import pyrage
import pytest
from tinsmith.checkpoints.encryption import MAX_RECIPIENTS, check_recipients, encrypt
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import InvalidInputError

SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4T3fUjM4hDRGRZ3WCYmnjgBTrhKuU41iqaL+Bnh+GP somebody"


def test_each_recipient_opens_the_file_and_nobody_else():
    first, second, stranger = (pyrage.x25519.Identity.generate() for _ in range(3))
    data = encrypt(b"weights", [str(first.to_public()), str(second.to_public()), SSH])
    assert pyrage.decrypt(data, [first]) == pyrage.decrypt(data, [second]) == b"weights"
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(data, [stranger])


@pytest.mark.parametrize("recipient", ["", "age1xyz", "ssh-ed25519 x", "age1tag1q", "age1tagpq1q"])
def test_what_is_no_public_key_is_refused(recipient):
    with pytest.raises(InvalidInputError, match="no public key"):
        check_recipients([recipient])


def test_a_secret_key_is_not_repeated_in_the_refusal():
    secret = str(pyrage.x25519.Identity.generate())
    with pytest.raises(InvalidInputError) as refused:
        check_recipients([secret])
    assert secret[15:] not in str(refused.value)


def test_too_many_recipients_are_refused():
    key = str(pyrage.x25519.Identity.generate().to_public())
    check_recipients([key] * MAX_RECIPIENTS)
    with pytest.raises(InvalidInputError, match="at most"):
        check_recipients([key] * (MAX_RECIPIENTS + 1))


def test_an_encrypted_checkpoint_and_its_copy_are_files_for_the_key_alone(tmp_path):
    key = pyrage.x25519.Identity.generate()
    store = CheckpointStore(tmp_path)
    first, second = (CheckpointAddress(run, CheckpointKind.EXTERNAL, "x") for run in ("a", "b"))
    weights = {"lora_A.weight": np.ones((2, 3), np.float32)}
    recipients = [str(key.to_public())]

    store.write(first, adapter=weights, adapter_config={"r": 2}, recipients=recipients)
    store.copy(first, second)

    for address in (first, second):
        assert set(store.files(address)) == {
            "adapter_config.json.age",
            "adapter_model.safetensors.age",
            "manifest.json",
        }
        with store.open(address, "adapter_config.json.age") as file:
            assert pyrage.decrypt(file.read(), [key]) == b'{\n  "r": 2\n}'
        with pytest.raises(InvalidInputError, match="encrypted to keys"):
            store.read_adapter(address)
    assert store.sweep(lambda address: True) == 0
