"""Options of ViT: rows in which every pair of values occurs, and the full product."""

from itertools import product

import pytest

from vitlab.encoders import CLSSpecialization, Locality, Normalizer

OPTIONS: dict[str, list] = {
    "normalizer": [
        "softmax",
        "entmax15",
        "sparsemax",
        Normalizer(1.25, sharpness=2, blocks=(0, 2)),
    ],
    "cls_specialization": [
        CLSSpecialization(),
        CLSSpecialization(norm=1, qkv=0.334, registers="cls"),
        CLSSpecialization(norm=0.67, qkv=1, proj=0.67, mlp=0.334, final_norm=True, init="random"),
    ],
    "locality": [
        Locality(),
        Locality(refine=True),
        Locality("gaussian", refine=True, resolution="quadratic"),
        Locality("constant", init="warm"),
        Locality("fixed", refine=True),
        Locality("uniform", boost_prefix=True),
    ],
    "num_registers": [0, 2],
    "layer_scale": [0.0, 1e-2],
    "pos_interpolation": ["size", "dino", "antialias"],
}
# index of the value of each option
ROWS = [
    *("002011", "010102", "013111", "021110", "024002", "025001", "103010", "105002"),
    *("111102", "114001", "120101", "122102", "204110", "205010", "210011", "212100"),
    *("221010", "223102", "300100", "301001", "313002", "314110", "315112", "322102"),
]


def options_of(row: str) -> dict:
    return {
        name: values[int(index)] for (name, values), index in zip(OPTIONS.items(), row, strict=True)
    }


FULL = ["".join(map(str, each)) for each in product(*(range(len(v)) for v in OPTIONS.values()))]
rows = pytest.mark.parametrize(
    "row", [*ROWS, *(pytest.param(row, marks=pytest.mark.slow) for row in FULL if row not in ROWS)]
)
