"""Result files: strict JSON, written atomically, read with every field checked.

JSON has no word for NaN or infinity. Inside arrays and numbers NaN is `null`, infinity is `"inf"` or `"-inf"`;
everything else a file holds is finite.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast.errors import ArgumentError, FileFormatError


def write_json(path: str | os.PathLike[str], document: dict[str, Any], *, function: str) -> None:
    """Write `document` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        ArgumentError: the path cannot be written, or the document is not strict JSON (NaN, infinity, foreign objects).
    """
    try:
        text = json.dumps(document, allow_nan=False, indent=1)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"[{function}] expected only JSON values, got one that is not ({error})") from error
    write_text(path, text + "\n", function=function)


def write_text(path: str | os.PathLike[str], text: str, *, function: str) -> None:
    """Write `text` as UTF-8 to `path`, so that a reader sees the old file or the whole new one.

    Raises:
        ArgumentError: the path cannot be written.
    """
    target = Path(path)
    # In the same folder, because a rename is atomic only within one file system.
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise ArgumentError(f"[{function}] cannot write {target}: {error.strerror}; choose a writable path") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str], *, format: str, version: int, function: str) -> Fields:
    """The fields of a file of ours.

    Args:
        path: the file.
        format: what its "format" field must say, e.g. "tqs-fast/plan".
        version: the one version this release reads.
        function: the name that error messages carry.

    Raises:
        FileFormatError: missing, unreadable, truncated, foreign, or of another version.
    """
    where = f"[{function}] {os.fspath(path)}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FileFormatError(f"{where}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{where}: expected a {format} JSON file, got bytes that are not text") from error
    try:
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: not valid JSON, perhaps truncated ({error}); save it again") from error
    return check_document(document, format=format, version=version, where=where)


def check_document(document: object, *, format: str, version: int, where: str) -> Fields:
    """The fields of a parsed document of ours; `where` begins every error message.

    Raises:
        FileFormatError: foreign, or of another version.
    """
    if not isinstance(document, dict) or document.get("format") != format:
        got = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise FileFormatError(f"{where}: expected a file with format {format!r}, got {got!r}; check which file this is")
    if document.get("version") != version or isinstance(document["version"], bool):
        raise FileFormatError(
            f"{where}: expected {format} version {version}, got {document.get('version')!r}; "
            "read it with the release that wrote it"
        )
    return Fields(document, where)


class Fields:
    """One JSON object whose fields are taken out with their type checked; every mistake is a `FileFormatError`."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def _get(self, key: str, expected: str, kinds: tuple[type, ...]) -> Any:
        if key not in self._values:
            raise FileFormatError(f"{self.where}: the field {key!r} is missing; the file is damaged or foreign")
        value = self._values[key]
        # bool is an int to Python, and not to anyone else.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise FileFormatError(f"{self.where}: expected {key!r} to be {expected}, got {_short(value)}")
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, "a string", (str,)))

    def integer(self, key: str) -> int:
        return int(self._get(key, "a whole number", (int,)))

    def optional_integer(self, key: str) -> int | None:
        value = self._get(key, "a whole number or null", (int, type(None)))
        return None if value is None else int(value)

    def boolean(self, key: str) -> bool:
        return bool(self._get(key, "true or false", (bool,)))

    def number(self, key: str) -> float:
        """A float; null is NaN."""
        return float(self.array(key, 0))

    def object(self, key: str) -> dict[str, Any]:
        return dict(self._get(key, "an object", (dict,)))

    def fields(self, key: str) -> Fields:
        return Fields(self.object(key), f"{self.where}: {key}")

    def items(self, key: str) -> list[Fields]:
        """A list of objects."""
        values = self._get(key, "a list of objects", (list,))
        for value in values:
            if not isinstance(value, dict):
                raise FileFormatError(f"{self.where}: expected {key!r} to hold objects, got {_short(value)}")
        return [Fields(value, f"{self.where}: {key}[{i}]") for i, value in enumerate(values)]

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, "a list of strings", (list,))
        for value in values:
            if not isinstance(value, str):
                raise FileFormatError(f"{self.where}: expected {key!r} to hold strings, got {_short(value)}")
        return tuple(values)

    def integers(self, key: str, dimensions: int = 1) -> npt.NDArray[np.int64]:
        """An int64 array with that many dimensions."""
        return np.asarray(self._nested(key, dimensions, _integer), dtype=np.int64)

    def array(self, key: str, dimensions: int) -> npt.NDArray[np.float64]:
        """A float64 array with that many dimensions; null is NaN, "inf" and "-inf" are infinite."""
        return np.asarray(self._nested(key, dimensions, _number), dtype=np.float64)

    def _nested(self, key: str, dimensions: int, leaf: Any) -> Any:
        if key not in self._values:
            raise FileFormatError(f"{self.where}: the field {key!r} is missing; the file is damaged or foreign")
        shape: list[int] = []
        probe = self._values[key]
        for _ in range(dimensions):
            if not isinstance(probe, list) or not probe:
                break
            shape.append(len(probe))
            probe = probe[0]

        def decode(value: Any, depth: int) -> Any:
            if depth == dimensions:
                return leaf(value)
            if len(shape) != dimensions or not isinstance(value, list) or len(value) != shape[depth]:
                raise ValueError(f"expected a full array of {dimensions} dimensions")
            return [decode(item, depth + 1) for item in value]

        try:
            return decode(self._values[key], 0)
        except (ValueError, OverflowError) as error:
            raise FileFormatError(f"{self.where}: {key!r} is malformed: {error}") from error


def encode_array(values: npt.ArrayLike) -> Any:
    """Nested lists of `values`, bit-exact when read back: floats by shortest decimal, NaN and infinity as above."""
    array = np.asarray(values)
    if array.dtype.kind in "iu" or bool(np.isfinite(array).all()):
        return array.tolist()
    return _encode(array.tolist())


def json_copy(value: Any, *, function: str, name: str) -> Any:
    """A private copy of `value` in plain JSON types: tuples become lists, NumPy scalars Python ones.

    Raises:
        ArgumentError: something in it that JSON cannot hold, with its place.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [json_copy(item, function=function, name=f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: json_copy(item, function=function, name=f"{name}[{key!r}]") for key, item in value.items()}
    raise ArgumentError(f"[{function}] expected {name} to hold only finite JSON values, got {_short(value)}")


def _encode(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str) and value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected numbers, got {_short(value)}")
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected whole numbers, got {_short(value)}")
    if not -(2**63) <= value < 2**63:
        raise ValueError("expected whole numbers of at most 64 bits")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has the same key twice")
    return values
