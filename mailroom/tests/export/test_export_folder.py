import tarfile

import pytest
from mailroom.errors import MailroomError
from mailroom.export.folder import MARKER, check_out, pack


def test_a_new_folder_an_empty_one_and_an_older_export_may_be_written(tmp_path):
    check_out(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / MARKER).write_text("{}")
    check_out(tmp_path / "older")


def test_a_folder_of_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")

    with pytest.raises(MailroomError, match="holds other files"):
        check_out(tmp_path)
    with pytest.raises(MailroomError, match="is a file"):
        check_out(tmp_path / "photo.jpg")


def test_an_archive_holds_the_folder_without_a_merged_model_and_names_nobody(tmp_path):
    folder = tmp_path / "adapter"
    (folder / "merged").mkdir(parents=True)
    (folder / "merged" / "model.safetensors").write_bytes(b"big")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("card")

    first = pack(folder)
    first_bytes = first.read_bytes()
    second = pack(folder)

    assert first == second == tmp_path / "adapter.tar.gz"
    assert second.read_bytes() == first_bytes
    with tarfile.open(first) as archive:
        assert archive.getnames() == ["adapter/README.md", "adapter/adapter_config.json"]
        assert {(entry.uid, entry.uname, entry.mtime) for entry in archive} == {(0, "", 0)}
