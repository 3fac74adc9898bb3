"""Writes tests/it/gradcheck/operators.txt: every operator of ai.onnx up to an opset, the opset of its last form, and whether it makes floats
from floats, by the schemas of the onnx package.

    python scripts/onnx_operators.py
"""

import pathlib

from onnx import defs

OPSET = 24


def makes(parameters, constraints) -> bool:
    """Whether one of the parameters may hold floats."""
    types = [t for p in parameters for t in constraints.get(p.type_str, [p.type_str])]
    return any("float" in t or "double" in t for t in types)


def main() -> None:
    latest = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain or schema.since_version > OPSET:
            continue
        known = latest.get(schema.name)
        if known is None or schema.since_version > known.since_version:
            latest[schema.name] = schema
    lines = []
    for name, schema in sorted(latest.items()):
        if schema.deprecated:
            continue
        constraints = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        floats = makes(schema.inputs, constraints) and makes(schema.outputs, constraints)
        # Bodies read floats, and give them, whatever the inputs are.
        floats = floats or name == "If"
        lines.append(f"{name} {schema.since_version} {'floats' if floats else 'other'}")
    target = pathlib.Path(__file__).parent.parent / "tests/it/gradcheck/operators.txt"
    target.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} operators up to opset {OPSET}")


if __name__ == "__main__":
    main()
