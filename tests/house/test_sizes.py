"""Size: small functions, small files, assets that only read, call, write and report."""

import ast
import statistics

# The decorators of Dagster and dagster-dbt under which an asset is made.
ASSET_DECORATORS = {"asset", "multi_asset", "asset_check", "multi_asset_check", "dbt_assets", "graph_asset"}


def length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def ninth_decile(sizes: list[int]) -> int:
    return sorted(sizes)[int(0.9 * len(sizes))]


def test_functions_are_short(sources):
    sizes = [length(function) for source in sources for function in source.functions()]
    assert statistics.median(sizes) <= 8
    assert ninth_decile(sizes) <= 30


def test_no_function_is_long(sources):
    long = [
        f"{source.path}: {function.name}, {length(function)} lines"
        for source in sources
        for function in source.functions()
        if length(function) > 60
    ]
    assert long == []


def test_files_are_short(sources):
    assert ninth_decile([source.lines for source in sources]) <= 400
    assert [f"{source.path}: {source.lines} lines" for source in sources if source.lines > 600] == []


def test_files_of_tests_are_short_and_their_functions_too(tested):
    assert ninth_decile([source.lines for source in tested]) <= 450
    assert [f"{source.path}: {source.lines} lines" for source in tested if source.lines > 600] == []
    # A list of every route is one function.
    assert max(length(function) for source in tested for function in source.functions()) <= 70


def assets_of(source):
    for function in source.functions():
        names = {ast.unparse(one).partition("(")[0].rpartition(".")[2] for one in function.decorator_list}
        if names & ASSET_DECORATORS:
            yield function


def body_of(function):
    """The statements behind the docstring."""
    return function.body[1:] if ast.get_docstring(function) else function.body


def test_asset_bodies_are_thin(sources):
    assets = [(source, function) for source in sources for function in assets_of(source)]
    assert assets, "no asset was found: the decorators have other names now"
    thick = []
    for source, function in assets:
        body = body_of(function)
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
        if lines > 25:
            thick.append(f"{source.path}: {function.name}, {lines} lines")
    assert thick == []


def test_no_asset_body_has_a_polars_expression(sources):
    met = [
        f"{source.path}: {function.name}"
        for source in sources
        for function in assets_of(source)
        for statement in body_of(function)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and node.id in ("pl", "polars")
    ]
    assert met == []
