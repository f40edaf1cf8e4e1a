"""Exported programs (`torch.export`, ``.pt2``), screened before torch reads them.

`torch.export.load` unpickles, evaluates expressions and guards, imports modules that tree specifications name, and
makes Python source of the graph's names. So it is given a copy that holds nothing but plain tensors and a graph of ATen
operations, whose texts are all of the few forms that an ordinary export writes.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from keyword import iskeyword
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.export.unflatten import InterpreterModule, UnflattenedModule

from models.errors import ConfigurationError
from models.forms.archives import entries
from models.forms.leaves import with_own_leaves

_UNFLATTENED = (InterpreterModule, UnflattenedModule)

_MODEL = "models/model.json"
_SAMPLE = "data/sample_inputs/model.pt"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_PLAIN = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")

_OPERATION = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_OF_SIZES = re.compile(
    r"torch\.sym_(int|float|max|min|not|sqrt|ite|sum)|math\.trunc|"
    r"_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|add|sub|mul|floordiv|truediv|mod|pow|and_|or_|lshift|rshift)"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_PATH = re.compile(r"[\w.]*")
_EXPRESSION = re.compile(r"[\w\s+\-*/(),<>=.]*")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_SYMBOL = re.compile(r"'?\b[suzf]+\d+\b'?")
_WORDS = {
    *("Symbol", "Integer", "Float", "Rational", "positive", "nonnegative", "integer", "True", "False"),
    *("Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing"),
    *("Where", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not"),
}
_STACK = re.compile(r"([\w.,;@ ]|<locals>)*")
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}

_ADVICE = (
    "export the module itself again by `torch.export.save(torch.export.export(module.eval(), (images,), …), file)`"
)


def is_exported(data: bytes) -> bool:
    """Tell whether a file is an exported program, by its content."""
    return any(name.partition("/")[2].startswith("models/") for name in entries(data))


def load(data: bytes) -> nn.Module:
    """Load an exported program as a module of submodules, which can be watched and take gradients.

    Parameters
    ----------
    data
        A ``.pt2`` archive, as `torch.export.save` writes it, with a dynamic batch dimension.

    Raises
    ------
    ConfigurationError
        If the archive holds anything but plain tensors and a graph of ATen operations, or cannot be read.
    """
    screened = _screened(data)
    try:
        return with_own_leaves(torch.export.unflatten(torch.export.load(BytesIO(screened))))
    except Exception as error:
        raise ConfigurationError(
            f"model.weights: the exported program cannot be loaded ({type(error).__name__}): {_ADVICE} with torch "
            f"{torch.__version__}"
        ) from error


def shared_parts(module: nn.Module) -> list[Any]:
    """List what a copy of an unflattened program can share: its graphs, whose fake tensors cannot be copied."""
    parts = [part for part in module.modules() if isinstance(part, _UNFLATTENED)]
    graphs = {id(part.graph): part.graph for part in parts}
    traced = [found for part in parts if (found := getattr(part, "graph_module", None))]  # none in what is never called
    return [*graphs.values(), *traced, *(node for graph in graphs.values() for node in graph.nodes)]


def _screened(data: bytes) -> bytes:
    """Copy an archive entry by entry, each of which is known to be harmless."""
    copy = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as archive, zipfile.ZipFile(copy, "w") as clean:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _refused(f"{entry.filename!r} is compressed, which torch does not do")
            root, _, name = entry.filename.partition("/")
            clean.writestr(f"{root}/{name}", _entry(name, archive.read(entry)))
    return copy.getvalue()


def _entry(name: str, content: bytes) -> bytes:
    if name == _MODEL:
        return json.dumps(_graph(json.loads(content))).encode()
    if name in _TABLES:
        _check_table(name, json.loads(content)["config"])
    elif name == _SAMPLE:
        _check_sample(content)
    elif name not in _PLAIN and not _TENSOR.fullmatch(name):
        raise _refused(f"it holds {name!r}")
    return content


def _graph(program: dict[str, Any]) -> dict[str, Any]:
    """Check the graph, and leave out what is not needed to run it: guards, and where in the code a node comes from."""
    program["guards_code"] = []
    for node in program["graph_module"]["graph"]["nodes"]:
        stack = node["metadata"].get("nn_module_stack", "")
        node["metadata"] = {"nn_module_stack": stack} if _STACK.fullmatch(stack) else {}
    for path, value in _texts(program):
        check = _CHECKS.get(path[-1])
        if check and not check(value):
            raise _refused(f"{'.'.join(path)} is {value!r:.80}")
    return program


def _texts(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk through JSON: the path to each value, without positions in lists, and the value."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not _PATH.fullmatch(key):
                raise _refused(f"{'.'.join(path)} has the key {key!r:.80}")
            yield (*path, key), value
            yield from _texts(value, (*path, key))
    elif isinstance(content, list):
        for value in content:
            if path and not isinstance(value, (dict, list)):
                yield path, value
            yield from _texts(value, path)


def _is_name(value: Any) -> bool:
    return value is None or value == "" or (_NAME.fullmatch(str(value)) is not None and not iskeyword(str(value)))


def _is_path(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _PATH.fullmatch(value) is not None)


def _is_expression(value: Any) -> bool:
    rest = _SYMBOL.sub("1", str(value))
    return _EXPRESSION.fullmatch(rest) is not None and _WORDS.issuperset(_WORD.findall(rest))


def _is_tree(value: Any) -> bool:
    def known(tree: Any) -> bool:
        return tree["type"] in _TREES and all(map(known, tree["children_spec"]))

    return value in ("", None) or known(json.loads(value)[1])


def _is_operation(value: Any) -> bool:
    """Tell whether a target is arithmetic of sizes, or an operation of ATen that names no file to read or write."""
    if not isinstance(value, str) or _OF_SIZES.fullmatch(value):
        return True
    found = _OPERATION.fullmatch(value)
    operation = found and getattr(getattr(torch.ops.aten, found[1], None), found[2], None)
    return isinstance(operation, OpOverload) and all(one.name != "filename" for one in operation._schema.arguments)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "target": _is_operation,
    "name": _is_name,
    "as_name": _is_name,
    "forward_arg_names": lambda value: all(map(_is_name, value if isinstance(value, list) else [value])),
    "expr_str": _is_expression,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
    "fqn": _is_path,
    "parameter_name": _is_path,
    "buffer_name": _is_path,
    "tensor_constant_name": _is_path,
    "as_custom_obj": lambda value: value is None,
    "as_graph": lambda value: value is None,
    "as_operator": lambda value: value is None,
    "custom_obj_values": lambda value: not value,
    "treespec_namedtuple_fields": lambda value: not value,
    "metadata": lambda value: set(value) <= {"nn_module_stack"},
}
"""By the last key of its path, how a value must be; other values are numbers, or texts that stay texts."""


def _check_table(name: str, table: dict[str, Any]) -> None:
    for tensor, entry in table.items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise _refused(f"{tensor!r} of {name!r} is pickled, or no plain tensor")


def _check_sample(content: bytes) -> None:
    try:
        torch.load(BytesIO(content), map_location="cpu", weights_only=True)  # or torch would unpickle them as they are
    except Exception as error:
        raise _refused("its sample inputs are more than tensors") from error


def _refused(found: str) -> ConfigurationError:
    return ConfigurationError(f"model.weights: the exported program is not read, since {found}: {_ADVICE}")
