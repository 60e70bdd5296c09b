import subprocess

import pytest
from kernels_support import library

from groupwise.kernels import build


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No library is known yet, and the cache is empty."""
    build.find.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    build.find.cache_clear()


def test_without_a_compiler_the_reason_is_said(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in build.find()


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit\necho "out of luck" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "out of luck" in build.find()
    assert not list(build.cache().glob("*.so"))


def test_a_library_is_built_once_and_found_again():
    made = library().path
    written = made.stat().st_mtime_ns
    assert build.build(library().kind, build._compiler()) == made
    assert made.stat().st_mtime_ns == written


def test_the_best_kind_that_the_machine_has_is_taken(fresh, monkeypatch):
    tried = []
    monkeypatch.setattr(build, "features", lambda: frozenset({"avx2", "fma", "bmi2"}))

    def refuse(kind, compiler):
        tried.append(kind.name)
        raise subprocess.CalledProcessError(1, compiler, stderr="no")

    monkeypatch.setattr(build, "build", refuse)
    library()  # skips where there is no compiler
    assert "avx2" in build.find()
    assert tried == ["avx2", "portable"]
