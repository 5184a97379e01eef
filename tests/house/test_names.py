"""Names: what is public is described and typed; errors and audit actions follow their grammar."""

import ast
import re

from lockhouse.reference import read_errors, tree_of
from transforms.audit import Action


def public_functions(source):
    """Functions and methods that others may call: not private, not inside a function or a private class."""
    scopes = [source.tree.body]
    scopes += [
        one.body for one in source.tree.body if isinstance(one, ast.ClassDef) and not one.name.startswith("_")
    ]
    for scope in scopes:
        for node in scope:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield node


def test_public_functions_have_docstrings(sources):
    bare = [
        f"{source.path}: {function.name}"
        for source in sources
        for function in public_functions(source)
        if not ast.get_docstring(function)
    ]
    assert bare == []


def test_functions_are_annotated(sources):
    bare = []
    for source in sources:
        for function in source.functions():
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            untyped = [
                one.arg for one in arguments if one.annotation is None and one.arg not in ("self", "cls")
            ]
            if untyped or (function.returns is None and function.name != "__init__"):
                bare.append(f"{source.path}: {function.name} {untyped}")
    assert bare == []


def exceptions_of(sources):
    """Every class that derives from an exception, by what stands in its bases."""
    ours: dict[str, str] = {}
    builtin = {name for name in dir(__builtins__) if name.endswith(("Error", "Exception"))}
    builtin |= {"Exception", "BaseException", "RuntimeError", "ValueError", "KeyError", "OSError"}
    found = True
    while found:
        found = False
        for source in sources:
            for one in source.classes():
                bases = {ast.unparse(base).rpartition(".")[2] for base in one.bases}
                if one.name not in ours and bases & (builtin | set(ours) | {"LockhouseError"}):
                    ours[one.name] = source.path
                    found = True
    return ours


def test_every_error_is_one_of_ours(sources):
    errors = exceptions_of(sources)
    assert [f"{path}: {name}" for name, path in errors.items() if not name.endswith("Error")] == []
    known = read_errors()
    tree = set(tree_of(known, "LockhouseError"))
    assert {f"{path}: {name}" for name, path in errors.items() if name not in tree} == set()
    assert set(known) == tree


def test_audit_actions_have_a_subject_an_object_and_an_action():
    assert [action for action in Action if not re.fullmatch("[a-z]+(:[a-z]+){2}", action)] == []
    assert len({str(action) for action in Action}) == len(Action)
