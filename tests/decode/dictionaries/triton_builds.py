"""The Triton kernels are compiled to machine code for NVIDIA GPUs, which needs none; ``test_triton_sums`` runs this."""

import pytest

from caseback.decode.dictionaries import triton_bags

triton = pytest.importorskip("triton")
tl = triton.language
INDEX = {"index": "*i64", "starts": "*i64", "left_index": "*i64", "right_index": "*i64"}


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("kernel", ["_sums", "_dots"])
def test_kernels_are_built_without_atomic_additions(kernel, dtype, capability):
    function = getattr(triton_bags, kernel)
    sizes = {"ENTRIES": 16, "WIDTH": 128, "WIDE": tl.float64 if dtype == "fp64" else tl.float32}
    kinds = {**INDEX, "n_entries": "i32", "n_bags": "i32", "d": "i32", **dict.fromkeys(sizes, "constexpr")}
    signature = {name: kinds.get(name, f"*{dtype}") for name in function.arg_names}
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    built = triton.compile(triton.compiler.ASTSource(function, signature, sizes), target=target)
    assert len(built.asm["cubin"]) > 1000
    assert "ld.global" in built.asm["ptx"] and not any(
        word.startswith(("atom.", "red.")) for word in built.asm["ptx"].split()
    )
