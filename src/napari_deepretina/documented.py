"""What the fields of a settings class mean, read from the strings below them when somebody asks.

pydantic can do the same (``use_attribute_docstrings``), but for every class when it is imported, which took a
third of the time in which a dock opens.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap


@functools.cache
def meanings(kind: type) -> dict[str, str]:
    """Field → its documentation in one paragraph, of a class and those that it builds upon."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one.__module__.partition(".")[0] == __name__.partition(".")[0]:
            found |= _own(one)
    return found


def _own(kind: type) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:  # only compiled files are there
        return {}
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(told))):
                found[name] = " ".join(told.split())
    return found
