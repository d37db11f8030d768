"""Numerics: whether a study's numbers are the same bits on every processor.

Libraries choose their code by the processor that they find, and each choice adds in another order: the last
bits differ, and after a few hundred steps of training the scores. ``portable`` holds every library on the
CPU to what all x86-64 processors with AVX2 have (Intel since 2013, AMD since 2015), in one thread.

- ATen's own kernels: AVX2.
- MKL's matrix products: the branch COMPATIBLE of its conditional numerical reproducibility, the only one
  that its documentation promises to be equal on processors of different vendors.
- oneDNN, and OpenBLAS under numpy and scikit-learn: AVX2. numpy's own loops: nothing beyond AVX2.

``fast`` leaves the choice to the libraries. Both repeat themselves exactly on one machine. What stays
outside: other versions of the libraries (they are part of a run's identity) and of the C library, whose
exponentials and logarithms a scalar here and there may take.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Literal

from repro.errors import UserError

Numerics = Literal["portable", "fast"]
LIBRARIES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_KNL AVX512_KNM AVX512_SKX AVX512_CLX AVX512_CNL "
    "AVX512_ICL AVX512_SPR",
}
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
CAPABLE = ("AVX2", "AVX512")  # what ATen calls processors that have AVX2
LATE = (
    "numerics: portable must be settled before numpy and torch are loaded: run the study by snakemake or the "
    "`repro` command, or call repro.numerics.settle before all imports"
)
PORTABLE: Mapping[str, str] = {**LIBRARIES, **THREADS, "CUDA_VISIBLE_DEVICES": ""}


def settle(numerics: Numerics) -> None:
    """Set the environment for a process and those that it starts. Libraries read it when they are first
    imported. Raises UserError where that was before."""
    if numerics != "portable" or _is_settled():
        return
    if {"numpy", "torch"} & sys.modules.keys():
        raise UserError(LATE)
    os.environ.update(PORTABLE)


def _is_settled() -> bool:
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())


def lacking() -> str:
    """Why this machine has no portable numerics, and the mend; empty where it has them."""
    found = capability()
    if found in CAPABLE:
        return ""
    return (
        f"numerics: portable needs an x86-64 processor with AVX2, and torch finds {found} here; set "
        "`numerics: fast`, with which numbers differ from those of other machines in their last bits"
    )


def capability() -> str:
    """The instructions that ATen uses, by its own name for them."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def check(numerics: Numerics) -> None:
    """Raise UserError where this process computes otherwise than it is asked to."""
    if numerics != "portable":
        return
    import torch

    if lack := lacking():
        raise UserError(lack)
    if not _is_settled() or capability() != "AVX2" or torch.get_num_threads() != 1:
        raise UserError(LATE)
