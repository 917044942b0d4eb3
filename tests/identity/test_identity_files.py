from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
import threading
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest
import trustme

from macula_trio._identity.files import Identity, read_file, rewrite, write_new
from macula_trio.errors import IdentityFileError

pytestmark = pytest.mark.usefixtures("nothing_else_is_left")


@pytest.fixture
def nothing_else_is_left(tmp_path: Path) -> Any:
    """Whatever happens, no half-written key stays behind."""
    yield
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    identity = Identity.generate()
    identity.save(path)
    loaded = Identity.load(path)
    assert loaded.to_pem() == identity.to_pem() == path.read_bytes()
    assert type(loaded) is Identity


def test_two_generated_identities_differ() -> None:
    assert Identity.generate().node_id != Identity.generate().node_id


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_the_file_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Identity.load_or_create(tmp_path / "node.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "node.pem").stat().st_mode) == 0o600


def test_the_key_of_a_company_is_loaded_with_its_chain(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("node.example.org")
    path = tmp_path / "node.pem"
    path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    identity = Identity.load(str(path))
    identity.save(tmp_path / "copy.pem")
    assert Identity.load(tmp_path / "copy.pem").node_id == identity.node_id


def test_a_name_alone_is_a_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Identity.load_or_create("node.pem").node_id == Identity.load(tmp_path / "node.pem").node_id


# -- never overwritten ---------------------------------------------------------------------------------------------


def test_saving_never_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)
    assert path.read_bytes() == b"precious"


def test_saving_does_not_write_through_a_dangling_link(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_load_or_create_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path).node_id == first.node_id
    path.write_bytes(b"garbage")
    with pytest.raises(IdentityFileError, match="no private key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == b"garbage"


def test_an_identity_in_a_directory_that_cannot_be_written_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity.load_or_create(tmp_path / "node.pem")

    def read_only(*_arguments: object, **_options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    assert Identity.load_or_create(tmp_path / "node.pem").node_id == identity.node_id
    with pytest.raises(IdentityFileError, match="cannot be written: Read-only"):
        Identity.load_or_create(tmp_path / "other.pem")


def test_load_or_create_does_not_take_a_dangling_link_for_a_free_name(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(IdentityFileError, match="no such file"):
        Identity.load_or_create(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_load_or_create_follows_a_link_to_an_identity(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "real.pem")
    (tmp_path / "node.pem").symlink_to(tmp_path / "real.pem")
    assert Identity.load_or_create(tmp_path / "node.pem").node_id == identity.node_id


def test_whoever_comes_second_gets_the_identity_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.pem"
    winner = Identity.generate()
    generate = Identity.generate

    def slow() -> Identity:
        winner.save(path)
        return generate()

    monkeypatch.setattr(Identity, "generate", slow)
    assert Identity.load_or_create(path).node_id == winner.node_id


def test_threads_that_create_at_once_get_one_identity(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def create() -> None:
        barrier.wait()
        found.append(Identity.load_or_create(path).node_id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Identity.load(path).node_id] * 8


def create_and_tell(path: Path, barrier: Any, found: Queue[bytes]) -> None:
    barrier.wait(30)
    found.put(bytes(Identity.load_or_create(path).node_id))


@pytest.mark.processes
def test_processes_that_create_at_once_get_one_identity(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(3), context.Queue()
    path = tmp_path / "node.pem"
    processes = [context.Process(target=create_and_tell, args=(path, barrier, found)) for _ in range(3)]
    for process in processes:
        process.start()
    ids = [found.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
        process.close()
    found.close()
    found.join_thread()
    assert ids == [Identity.load(path).node_id] * 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.pem"]


# -- encrypted keys ------------------------------------------------------------------------------------------------


def test_what_was_saved_with_a_password_is_loaded_with_it(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    identity = Identity.generate()
    identity.save(path, password=b"secret")
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert Identity.load(path, password=b"secret").to_pem() == identity.to_pem()
    assert Identity.load_or_create(path, password=b"secret").to_pem() == identity.to_pem()
    for password, complaint in ((None, "is encrypted; give its password"), (b"Secret", "wrong password")):
        for read in (Identity.load, Identity.load_or_create):
            with pytest.raises(IdentityFileError, match=complaint) as error:
                read(path, password=password)
            assert one_line(error, path)


def test_load_or_create_encrypts_what_it_creates(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    made = Identity.load_or_create(path, password=b"secret")
    assert b"BEGIN PRIVATE KEY" not in path.read_bytes()
    assert Identity.load(path, password=b"secret").node_id == made.node_id


def test_a_password_for_a_file_that_is_not_encrypted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    Identity.generate().save(path)
    with pytest.raises(IdentityFileError, match="a password was given, but") as error:
        Identity.load(path, password=b"secret")
    assert one_line(error, path)


def test_a_password_that_cannot_be_used_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(IdentityFileError, match="password of 0 bytes"):
        Identity.generate().save(tmp_path / "node.pem", password=b"")
    assert list(tmp_path.iterdir()) == []


# -- other files ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize(("public", "mode"), [(False, 0o600), (True, 0o644)])
def test_what_is_public_everybody_can_read_whatever_the_umask(tmp_path: Path, public: bool, mode: int) -> None:
    path = tmp_path / "file.pem"
    before = os.umask(0o077)
    try:
        write_new(path, b"content", what="certificate", public=public)
    finally:
        os.umask(before)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"content", mode)
    with pytest.raises(FileExistsError):
        write_new(path, b"other", what="certificate", public=public)
    assert path.read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_file_that_is_rewritten_keeps_its_mode_and_the_links_to_it(tmp_path: Path, mode: int) -> None:
    path, link = tmp_path / "node.pem", tmp_path / "link.pem"
    path.write_bytes(b"before")
    path.chmod(mode)
    link.symlink_to(path)
    rewrite(link, b"after", what="identity")
    assert link.is_symlink()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"after", mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_root_rewrites_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(b"before")
    os.chown(path, 12345, 23456)
    rewrite(path, b"after", what="identity")
    status = path.stat()
    assert (path.read_bytes(), status.st_uid, status.st_gid) == (b"after", 12345, 23456)


def test_a_file_of_somebody_else_that_cannot_be_given_back_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(b"before")
    status = path.stat()
    foreign = os.stat_result((status.st_mode, *status[1:4], status.st_uid + 1, *status[5:]))

    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    stat_of = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: foreign if self == path else stat_of(self, **options))
    with pytest.raises(IdentityFileError, match="cannot be written: Operation not permitted") as error:
        rewrite(path, b"after", what="identity")
    assert one_line(error, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_disk_that_fails_midway_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "node.pem"
    path.write_bytes(b"before")
    monkeypatch.setattr(Path if step == "replace" else os, step, fail)
    with pytest.raises(IdentityFileError, match="cannot be written: No space left") as error:
        rewrite(path, b"after", what="identity")
    assert one_line(error, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.pem"]
    assert path.read_bytes() == b"before"


def test_a_file_that_is_not_there_is_not_rewritten(tmp_path: Path) -> None:
    with pytest.raises(IdentityFileError, match="cannot be written: No such file"):
        rewrite(tmp_path / "node.pem", b"after", what="identity")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_named_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(IdentityFileError, match=f"^CA {path}: no such file; make it$"):
        read_file(path, what="CA", mend="make it")
    with pytest.raises(IdentityFileError, match=f"^CA {tmp_path}: cannot be read: "):
        read_file(tmp_path, what="CA", mend="make it")
    with pytest.raises(IdentityFileError, match=f"^CA {path / 'x'}: cannot be written: "):
        write_new(path / "x", b"", what="CA")


# -- what can be wrong ---------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[IdentityFileError], path: Path) -> bool:
    return str(error.value).startswith(f"identity {path}: ") and "\n" not in str(error.value)


def test_a_missing_file_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(IdentityFileError, match="no such file; make it by macula-trio keygen") as error:
        Identity.load(tmp_path / "node.pem")
    assert one_line(error, tmp_path / "node.pem")


def test_a_directory_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.mkdir()
    for read in (Identity.load, Identity.load_or_create):
        with pytest.raises(IdentityFileError, match="cannot be read") as error:
            read(path)
        assert one_line(error, path)
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
def test_a_file_that_is_no_identity_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(content)
    with pytest.raises(IdentityFileError, match="no private key in PEM form") as error:
        Identity.load(path)
    assert one_line(error, path)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(Identity.generate().to_pem()[:150])
    with pytest.raises(IdentityFileError, match="no certificate in PEM form") as error:
        Identity.load(path)
    assert one_line(error, path)


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_file_that_cannot_be_made_is_named(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / parent / "node.pem"
    for write in (Identity.load_or_create, Identity.generate().save):
        with pytest.raises(IdentityFileError, match="cannot be written: No") as error:
            write(path)
        assert one_line(error, path)


@pytest.mark.parametrize("step", ["link", "fsync"])
def test_a_disk_that_fails_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(IdentityFileError, match="cannot be written: No space left") as error:
        Identity.generate().save(tmp_path / "node.pem")
    assert one_line(error, tmp_path / "node.pem")
    assert list(tmp_path.iterdir()) == []


def test_no_error_shows_the_key(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    identity = Identity.load_or_create(path)
    key, other = identity.to_pem(), Identity.generate().to_pem()
    end = b"-----END PRIVATE KEY-----\n"
    path.write_bytes(key[: key.index(end) + len(end)] + other[other.index(end) + len(end) :])
    with pytest.raises(IdentityFileError, match="not for this private key") as error:
        Identity.load(path)
    secret = key.splitlines()[1].decode()
    assert secret not in str(error.value) + repr(error.value) + repr(identity)
