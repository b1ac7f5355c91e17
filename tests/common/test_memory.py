import pytest

from utils.common import memory

NO_LIMIT = float("inf")


@pytest.mark.parametrize(("limit", "free"), [("max", NO_LIMIT), ("1000", 800), ("x", NO_LIMIT), (None, NO_LIMIT)])
def test_a_containers_limit_holds(tmp_path, monkeypatch, limit, free):
    """Cached files count as used, but the system frees them on demand."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_free_of_machine", lambda: NO_LIMIT)
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 500\n")
    if limit:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert memory.free_memory() == free
