"""The page of guarantees is that of the tests, and it is read off them rightly."""

from __future__ import annotations

from pathlib import Path

from guarantees import TESTS, TOPICS, Proof, page, proofs


def test_the_page_is_in_step_with_the_tests() -> None:
    found = list(proofs(TESTS))
    assert {one.topic for one in found} == set(TOPICS)
    assert all(one.promise[0].isupper() and one.promise.endswith(".") for one in found)
    written = (TESTS.parent / "docs/guarantees.md").read_text()
    assert written == page(found), "a promise has changed: run `make guarantees`"


def test_a_promise_is_read_with_all_its_proofs(tmp_path: Path) -> None:
    mark = '@pytest.mark.promise("Right answers", "A is B.")\n'
    (tmp_path / "test_b.py").write_text(f"{mark}@pytest.mark.slow\ndef test_two(): ...\ndef test_no(): ...\n")
    (tmp_path / "test_a.py").write_text(f"{mark}def test_one(): ...\n")
    (tmp_path / "helper.py").write_text(f"{mark}def test_three(): ...\n")
    found = list(proofs(tmp_path))
    tests = ["test_a.py::test_one", "test_b.py::test_two"]
    assert found == [Proof("Right answers", "A is B.", test) for test in tests]
    links = "[`test_one`](../tests/test_a.py), [`test_two`](../tests/test_b.py)"
    assert f"- **A is B.**\n  {links}\n" in page(found)
