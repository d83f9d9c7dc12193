"""CUDA without a GPU: what is emitted runs on this CPU, the shells run in the simulator, the whole compiles to PTX.

The last tests launch real kernels and are skipped, by name, where there is no GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)

from cuda_golden import assert_as_committed, assert_float32_alone
from cuda_host import WARP, HostWarp, aligned, simulate
from cuda_programs import PROGRAMS, batch_for, every_operation, program
from referees import assert_close, assert_same_bits

import jitgrad as jg
from jitgrad import backends, errors, losses
from jitgrad.backends import cuda as backend
from jitgrad.backends import cuda_forms, cuda_text
from jitgrad.backends.cuda import CudaKernel
from jitgrad.backends.cuda_simulator import tape_holes
from jitgrad.backends.cuda_wide_form import WideForm
from jitgrad.backends.interpret import InterpretKernel
from jitgrad.compiler import schedule
from jitgrad.compiler.emit_cuda import FusedCode, Layout
from jitgrad.compiler.program import Program
from jitgrad.kernels import cuda_lines

DTYPES = ("float32", "float64")
# A sum of n terms in float32 by a tree over the warp and compensated sums: some rounding errors of ε = 1.2e-7.
SUM = {"float32": 2e-6, "float64": 1e-13}

needs_ptxas = pytest.mark.skipif(cuda_text.tool("ptxas") is None, reason="ptxas is not installed: jitgrad[test] has it")
needs_gpu = pytest.mark.skipif(backend.problem() is not None, reason=f"no GPU here: {backend.problem()}")
without_gpu = pytest.mark.skipif(backend.problem() is None, reason="there is a GPU here")


@pytest.fixture(scope="module")
def compiled() -> Any:
    """A kernel of a program by name and dtype, compiled once for all tests."""
    known: dict[tuple[str, str], CudaKernel] = {}

    def get(name: str, dtype: str) -> CudaKernel:
        if (name, dtype) not in known:
            known[name, dtype] = CudaKernel(PROGRAMS[name](np.dtype(dtype)))
        return known[name, dtype]
    return get


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_compiles_to_ptx(name: str, dtype: str, compiled: Any) -> None:
    kernel = compiled(name, dtype)
    text = kernel.as_text("ptx")
    assert ".target sm_90a" in text
    assert text.count(".visible .entry") == 1
    assert isinstance(kernel._form, cuda_forms.Tape) == name.startswith("tape")
    assert isinstance(kernel._form, WideForm) == name.startswith("rows")
    assert "fma.rn" not in text or name not in ("mse", "hinge"), "a product and a sum were joined"
    if dtype == "float32":
        assert_float32_alone(text)


# One program for each kind of kernel: sums of each thread's own, sums over the warp, rows an example, a tape, lanes.
FAMILIES = ("mse", "cross_entropy", "per_example", "tape_64_32_10", "rows_cross_entropy_1024")


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)], ids=["sm_80", "sm_100"])
@pytest.mark.parametrize(("name", "dtype"), [
    pytest.param(name, dtype, marks=[pytest.mark.slow] if dtype == "float64" or name != "cross_entropy" else [])
    for name in FAMILIES for dtype in DTYPES])
def test_every_kind_of_kernel_compiles_for_other_gpus(name: str, dtype: str, capability: tuple[int, int],
                                                      compiled: Any) -> None:
    kernel = compiled(name, dtype)
    text = kernel.ptx(capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
    if dtype == "float32":
        assert_float32_alone(text)
    assert kernel.resources(capability)["spills"] in (0, None)




@needs_ptxas
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_resources_are_as_committed(name: str, dtype: str, compiled: Any) -> None:
    """After a change that is meant: `JITGRAD_GOLDEN=write pytest tests/test_cuda.py -k committed`, and review it."""
    kernel = compiled(name, dtype)
    loop = cuda_text.hot_loop(kernel.as_text("sass")) if cuda_text.tool("nvdisasm") else None
    assert_as_committed(f"{name} {dtype}", kernel.resources(), loop)


def test_the_hot_loop_reads_memory_and_has_most_arithmetic_of_its_own() -> None:
    code = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
    .L_x_0:
        /*0010*/                   LDS R2, [R3] ;
        /*0020*/              @!P0 BRA `(.L_x_2) ;
    .L_x_1:
        /*0030*/                   LDG.E.128 R4, desc[UR16][R8.64] ;
        /*0040*/               @P1 FMUL R9, R4, R5 ;
        /*0050*/              @!P2 FADD.FTZ R9, R9, R6 ;
        /*0060*/                   DADD R10, R10, R12 ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
    .L_x_2:
        /*0080*/                   FADD R9, R9, R6 ;
        /*0084*/                   FADD R9, R9, R6 ;
        /*0090*/              @!P3 BRA `(.L_x_0) ;
    .L_x_3:
        /*00a0*/                   FADD R9, R9, R6 ;
        /*00b0*/                   STG.E desc[UR16][R8.64], R9 ;
        /*00c0*/               @P0 BRA `(.L_x_3) ;
    .L_x_4:
        /*00d0*/                   LDG.E R4, desc[UR16][R8.64] ;
        /*00e0*/               @P0 BRA `(.L_x_4) ;
    .L_x_5:
        /*00f0*/                   FADD R9, R9, R6 ;
        /*0100*/                   FADD R9, R9, R6 ;
        /*0110*/                   FADD R9, R9, R6 ;
        /*0120*/                   FADD R9, R9, R6 ;
        /*0130*/               @P0 BRA `(.L_x_5) ;
        /*0140*/                   EXIT ;
    .L_x_6:
        /*0150*/                   WARPSYNC.ALL ;
        /*0160*/                   BRA `(.L_x_1) ;
    """
    found = cuda_text.hot_loop(code.replace("\n    ", "\n"))
    assert {k: v for k, v in found.items() if v} == {"instructions": 5, "loads": 1, "float32": 2, "float64": 1}
    assert cuda_text.hot_loop("/*0000*/  EXIT ;") == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_light_body_moves_16_bytes_at_a_time(dtype: str, compiled: Any) -> None:
    """Of three arrays a thread's four examples are 16 bytes each in float32, twice that in float64."""
    text = compiled("elementwise", dtype).as_text("ptx")
    kind, vectors = ("v4.f32", 1) if dtype == "float32" else ("v2.f64", 2)
    assert text.count(f"ld.global.{kind}") == 2 * vectors
    assert text.count(f"st.global.{kind}") == vectors


@needs_ptxas
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["mlp_2_16_16_1", *(pytest.param(name, marks=[pytest.mark.slow]) for name in
                                                      ("cross_entropy", "wide_softmax", "per_example", "tape_64_32_10"))])
def test_a_multiprocessor_has_room_for_its_blocks(name: str, dtype: str, compiled: Any) -> None:
    """An H100's has 65,536 registers, which a warp takes in steps of 256, and 227 KiB, of which a block takes 1 more."""
    kernel = compiled(name, dtype)
    found, warps = kernel.resources(), kernel.plan.block // WARP
    blocks = kernel.plan.blocks // schedule.MULTIPROCESSORS
    assert blocks * warps * WARP * -(-found["registers"] // 8) * 8 <= 65_536
    assert blocks * (found["shared_memory"] + kernel.plan.shared + 1024) <= 227 << 10


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [True, False])
def test_every_operation_compiles(dtype: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(schedule, "FUSED_LIMIT", -1)
    text = CudaKernel(every_operation(np.dtype(dtype))).ptx()
    assert ".target sm_90a" in text
    if dtype == "float32":
        assert_float32_alone(text)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_over_blocks_compiles(dtype: str) -> None:
    from numba import cuda, from_dtype, types
    i, array = types.int64, [types.Array(from_dtype(np.dtype(t)), 1, "C") for t in (dtype, "float64")]
    shell = cuda_forms.sum_kernel(2, np.dtype(dtype))
    text, _ = cuda.compile(shell.py_func, types.void(*array, i, types.Array(i, 1, "C"), i, i, i, types.float64),
                           cc=backend.CC, device=False, abi="numba", output="ptx")
    assert "add.f64" in text or "add.rn.f64" in text


class _Host:
    """A fused program's emitted functions, on this machine's CPU, with everything the shell would hold."""

    def __init__(self, made: Program):
        self.layout = Layout(made)
        self.plan = schedule.for_cuda(self.layout.tape, made.dtype, lambda: self.layout.sums)
        assert self.plan.fused
        self.code = FusedCode(self.layout, self.plan)
        module = ir.Module("jitgrad")
        for function in (self.code.clear, self.code.body, self.code.fold):
            function(module)
        self.warp, self.pieces = HostWarp(module), self.layout.pieces
        self.acc = np.full((WARP, self.code.slots), np.nan, made.dtype)
        self.tiles = aligned(self.code.columns * self.pieces, made.dtype)
        self.board = aligned(self.code.board + 4, made.dtype)
        self.board[:] = np.nan
        self.call("clear", lambda lane: [self.acc[lane]])

    def call(self, name: str, arguments: Any) -> None:
        self.warp.call(name, arguments)

    def fold(self) -> None:
        self.call("fold", lambda lane: [self.acc[lane], self.tiles, 0])

    def sums(self) -> Any:
        pieces = self.tiles.astype(np.float64).reshape(self.pieces, -1)
        return pieces.sum(axis=0)[self.code.places]

    def run(self, shared: Any, batched: list[Any], n: int) -> tuple[Any, list[Any]]:
        dtype = self.layout.dtype
        numbers = aligned(len(self.code.numbers) + 4, dtype)
        numbers[:len(self.code.numbers)] = shared[self.code.numbers]
        inputs = [aligned(a.size, dtype) for a in batched]
        for copy, a in zip(inputs, batched, strict=True):
            copy[:] = a.reshape(-1)
        outputs = [aligned(n * w, dtype) for w in self.layout.out_widths]
        unroll = self.plan.unroll
        for first in range(0, n, WARP * unroll):
            self.call("body", lambda lane, first=first: [self.acc[lane], self.board, numbers, first + lane * unroll, n,
                                                         *inputs, *outputs])
            self.fold()
        return self.sums(), [o.reshape(n, -1) for o in outputs]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in PROGRAMS if not name.startswith(("tape", "rows"))])
def test_what_is_emitted_computes_the_program(name: str, dtype: str) -> None:
    made = PROGRAMS[name](np.dtype(dtype))
    n = 1 if not made.batched else 150 if len(made.leaves) < 4 else 41
    shared, batched = batch_for(made, n)
    sums, examples = _Host(made).run(shared, batched, n)
    expected = InterpretKernel(made)(shared, batched, n)
    assert_close(sums, expected.sums, 10 * SUM[dtype], name)
    for found, wanted in zip(examples, expected.examples, strict=True):
        assert_close(found, wanted, 10 * SUM[dtype], name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["mse", "hinge", "mlp_2_16_16_1"])
def test_a_value_keeps_the_scalar_programs_roundings(name: str, dtype: str) -> None:
    """Of a loss of arithmetic alone, for one example; only sums of derivatives are fused multiply-adds."""
    made = PROGRAMS[name](np.dtype(dtype))
    for seed in range(3):
        shared, batched = batch_for(made, 1, seed)
        sums, _ = _Host(made).run(shared, batched, 1)
        assert_same_bits(sums[1], InterpretKernel(made)(shared, batched, 1).sums[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation_computes(dtype: str) -> None:
    made = every_operation(np.dtype(dtype))
    x = np.random.default_rng(0).uniform(-2, 2, (45, made.batched[0].width)).astype(dtype)
    x[:8] = [[v] * x.shape[1] for v in (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1000.0)]
    _, examples = _Host(made).run(np.zeros(0, dtype), [x], len(x))
    expected = InterpretKernel(made)(np.zeros(0, dtype), [x], len(x))
    assert_close(examples[0], expected.examples[0], 1e-5 if dtype == "float32" else 1e-13)


def test_a_fold_keeps_what_a_float32_sum_loses() -> None:
    host = _Host(PROGRAMS["cross_entropy"](np.dtype("float32")))
    lanes = np.full(host.code.slots, WARP)                  # that have a part of the same sum
    for job in (job for phase in host.code.sums.phases for job in phase.jobs):
        lanes[job.slot:job.slot + job.slots] = job.share
    for value in (1.0, 2.0**30, 1.0, -2.0**30, 2.0**-20):
        host.acc[:] = value / lanes
        host.fold()
        assert not host.acc.any()
    assert_same_bits(host.sums(), np.full(len(host.layout.column_of), 2.0 + 2.0**-20))


LINED = {name: PROGRAMS[name] for name in ("mlp_2_16_16_1", "cross_entropy", "attention", "recurrent")}
LINED["operations"] = every_operation


@pytest.mark.parametrize("examples", [32, 13])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LINED)
def test_the_lines_of_a_tape_compute_what_the_simulators_do(name: str, dtype: str, examples: int) -> None:
    """Line by line on the same numbers; what the simulator's lines compute is tested there against the interpreter."""
    made = LINED[name](np.dtype(dtype))
    form = cuda_forms.Tape(Layout(made))
    module = ir.Module("jitgrad")
    form.emit(module)
    warp, simulated, kinds = HostWarp(module), tape_holes(made.dtype), set()
    shared, batched = batch_for(made, form.plan.examples)
    w, packed = map(_copied, form.numbers(shared))
    inputs, _, spread, table, operands = form.listed
    shift, stride = (form.plan.examples // form.count).bit_length() - 1, form.plan.examples + form.count
    v, acc = aligned(form.tables.rows * stride, dtype), np.zeros(max(1, form.columns), dtype)
    v[:] = 0.25                                             # padding too may be read
    rows = v.reshape(-1, stride)[:, :-form.count]
    for array, _, column, row in inputs.tolist():
        rows[row] = batched[array][:, column]
    for row, place in spread.tolist():
        rows[row] = w[place]
    operands = _copied(operands)
    for kind, lo, m, n, p, b, joined, _ in table.tolist():
        common = shift, 0, 1
        label, given = {
            cuda_lines.SUM: ("", []), cuda_lines.TAKE: ("", []),
            cuda_lines.DENSE: ("dense", [packed, operands, lo, m, n, p, b, joined]),
            cuda_lines.THIN: ("thin", [packed, operands, lo, m, n, p, b, joined]),
            cuda_lines.PAIR: ("pair", [w, operands, lo, m, n, p, joined]),
            cuda_lines.OUTER: ("outer", [operands, acc, 0, m, n, p, b, examples]),
            cuda_lines.PLAIN: ("plain", [operands, acc, 0, m, p, examples]),
        }.get(kind, ("step", [w, operands, kind, lo, m, p]))
        if not label:
            _listed(rows, w, operands, kind, lo, m, p)
            continue
        kinds.add(label)
        copies = v.copy(), acc.copy()
        simulated[label](copies[0], 0, *(copies[1] if a is acc else a for a in given), *common)
        warp.call(label, lambda lane, given=given: [v, 0, *given, shift, lane, WARP])
        scale = 1e-5 if dtype == "float32" else 1e-13
        assert_close(rows[lo:lo + m], copies[0].reshape(-1, stride)[lo:lo + m, :-form.count], scale, f"{label} {kind}")
        assert_close(acc, copies[1], scale, label)
    wanted = {"mlp_2_16_16_1": {"dense", "thin", "outer", "plain"}, "attention": {"pair"}}.get(name, {"step"})
    assert wanted <= kinds


def _copied(a: Any) -> Any:
    copy = aligned(a.size, a.dtype)
    copy[:] = a
    return copy


def _listed(rows: Any, w: Any, operands: Any, kind: int, lo: int, m: int, p: int) -> None:
    """The lines that the shell itself has: sums over lists, and what is taken from them."""
    def values(e: int) -> Any:
        return np.full(rows.shape[1], w[~operands[e]]) if operands[e] < 0 else rows[operands[e]]
    for j in range(m):
        at = p + j + (m if kind == cuda_lines.TAKE else 0)
        listed = np.array([values(e) for e in range(operands[at], operands[at + 1])])
        if kind == cuda_lines.SUM:
            rows[lo + j] = listed.sum(axis=0)
        else:
            index = values(p + j)
            good = (index >= 0) & (index < len(listed))
            rows[lo + j] = np.where(good, listed[np.where(good, index, 0).astype(int), np.arange(len(index))], np.nan)


@pytest.mark.slow
def test_the_shells_run_in_the_simulator() -> None:
    simulate("cuda_simulation.py")


def test_the_grid_depends_on_the_batch_alone() -> None:
    made = PROGRAMS["mlp_2_16_16_1"](np.dtype("float32"))
    plan = schedule.for_cuda(made.rolled[0], made.dtype, lambda: Layout(made).sums)
    assert [plan.grid(n) for n in (1, 128, 129, 10**6, 10**9)] == [1, 1, 2, 792, 792]


def test_a_row_that_is_several_results_is_summed_once() -> None:
    made = program(lambda p, x: p[0] * x + p[1] * x + 0.0 * p[2], np.ones(4), np.ones(3))
    layout = Layout(made)
    assert len(layout.columns) == len(set(made.reduced_rows.tolist())) < len(made.reduced_rows)
    assert [layout.columns[c] for c in layout.column_of] == made.reduced_rows.tolist()


def test_lowering_needs_no_gpu() -> None:
    step = jg.value_and_grad(lambda w, x, y: losses.mse(w * x, y), device="cuda")
    lowered = step.lower(2.0, np.ones(3), np.zeros(3))
    assert "define internal void @\"jitgrad_body\"" in lowered.as_text("llvm")
    assert "ld.global" in lowered.as_text("ptx")
    cost = lowered.cost_analysis()
    assert cost["spills"] in (0, None)
    assert (cost["registers"] is None) == (cuda_text.tool("ptxas") is None)


def test_without_ptxas_the_counts_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_text, "tool", lambda name: None)
    kernel = CudaKernel(PROGRAMS["mse"](np.dtype("float32")))
    assert set(kernel.resources().values()) == {None}
    with pytest.raises(errors.DeviceError, match="needs ptxas"):
        kernel.as_text("sass")


@needs_ptxas
@pytest.mark.skipif(cuda_text.tool("nvdisasm") is None, reason="nvdisasm is not installed: jitgrad[cuda] has it")
def test_machine_code_can_be_read(compiled: Any) -> None:
    assert "EXIT" in compiled("mse", "float32").as_text("sass")


@without_gpu
def test_calling_without_a_gpu_says_what_is_missing() -> None:
    step = jg.value_and_grad(lambda w, x: losses.mse(w * x, 1.0), device="cuda")
    with pytest.raises(errors.DeviceError, match=r"(?s)cannot be launched here: .*device='auto'.*falls back to the CPU"):
        step(2.0, np.ones(3))
    detail = next(d for d in backends.devices() if d.name == "cuda")
    assert not detail.available
    assert detail.detail == backend.problem()


@without_gpu
def test_auto_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "GPU_WORK", 0)
    step = jg.value_and_grad(lambda w, x: losses.mse(w * x, 1.0), device="auto")
    assert step.lower(2.0, np.ones(3)).device == "cpu"
    assert step(2.0, np.ones(3))[0] == 1.0


@pytest.mark.skipif(backends._has_driver(), reason="there is a driver here")
def test_auto_finds_out_without_numba_that_there_is_no_driver() -> None:
    program = ("import sys, numpy as np, jitgrad as jg; from jitgrad import backends; backends.GPU_WORK = 0; "
               "print(jg.value_and_grad(lambda w, x: w * x)(2.0, np.ones(3))[0], 'numba' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent.parent, capture_output=True, text=True,
                          check=True)
    assert done.stdout == "2.0 False\n"


def test_numba_cuda_missing_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jitgrad.backends.cuda", None)
    step = jg.value_and_grad(lambda w, x: losses.mse(w * x, 1.0), device="cuda")
    with pytest.raises(errors.DeviceError, match=r"(?s)needs numba-cuda.*pip install 'jitgrad\[cuda\]'"):
        step.lower(2.0, np.ones(3))


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_gpu_computes_the_program(name: str, dtype: str, compiled: Any) -> None:
    kernel = compiled(name, dtype)
    for n in (1, 31, 33, 10_007) if kernel.program.batched else (1,):
        shared, batched = batch_for(kernel.program, n)
        found, again = kernel(shared, batched, n), kernel(shared, batched, n)
        expected = InterpretKernel(kernel.program)(shared, batched, n)
        assert_same_bits(again.sums, found.sums)
        scale = np.maximum(1.0, np.sqrt(n))
        assert_close(found.sums / scale, expected.sums / scale, 50 * SUM[dtype], f"{name}, n={n}")
        for a, b in zip(found.examples, expected.examples, strict=True):
            assert_close(a, b, 50 * SUM[dtype], f"{name}, n={n}")


@needs_gpu
def test_two_threads_call_one_kernel(compiled: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor
    kernel = compiled("mlp_2_16_16_1", "float32")
    calls = [(*batch_for(kernel.program, 5_000, seed), 5_000) for seed in range(8)]
    alone = [kernel(*call).sums for call in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda call: kernel(*call).sums, calls))
    for a, b in zip(alone, together, strict=True):
        assert_same_bits(a, b)


@needs_gpu
def test_a_gpu_describes_itself() -> None:
    assert "compute capability" in backend.describe()
