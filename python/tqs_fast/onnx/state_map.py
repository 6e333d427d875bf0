"""Which outputs feed which inputs: guessed from names and shapes where only one answer fits, else asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tqs_fast.errors import ArgumentError
from tqs_fast.onnx.session import Port

# What exporters put around the name of a state on its way in and out: h -> hn, state -> stateN, past_k -> present_k.
_MARKS = re.compile(
    r"^(next|new|present|past|prev|previous|last|initial|init|updated|out|output|in|input)(?=_)|"
    r"(?<=_)(next|new|prev|previous|last|initial|init|updated|out|output|in|input|n|0|1|t)$|(?<=[a-z])N$|\.\d+$"
)


@dataclass(frozen=True)
class StateMap:
    """How a graph is closed to a loop.

    Attributes:
        feeds: output -> the input that takes its value in the next step.
        output: the observed output.
        driven: inputs that something outside gives at every step.
    """

    feeds: dict[str, str]
    output: str
    driven: tuple[str, ...]


def resolve(
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    *,
    feeds: Mapping[str, str] | None,
    output: str | None,
    constants: Mapping[str, object],
    where: str,
) -> StateMap:
    """The map that the user gave, checked; what is not given is guessed.

    Raises:
        ArgumentError: names that do not exist, an input fed twice or both fed and constant, shapes that cannot follow
            each other, or a guess with more than one answer (it lists the candidates).
    """
    for name in constants:
        _known(name, inputs, "constants name inputs", where)
    free = {name: port for name, port in inputs.items() if name not in constants}
    feeds = _guess(free, outputs, where) if feeds is None else dict(feeds)
    _check(feeds, inputs, outputs, constants, where)
    if output is None:
        rest = [name for name in outputs if name not in feeds]
        candidates = rest or list(feeds)
        if len(candidates) != 1:
            raise ArgumentError(
                f"[OnnxSystem] {where}: expected one output to observe, candidates are {_listed(outputs, candidates)}; "
                "give output=..."
            )
        (output,) = candidates
    _known(output, outputs, "output names an output", where)
    fed = set(feeds.values())
    return StateMap(dict(feeds), output, tuple(name for name in free if name not in fed))


def compatible(result: Port, entry: Port) -> bool:
    """Whether a value of `result` can be the next value of `entry`, as far as their shapes say."""
    return (
        result.dtype == entry.dtype
        and len(result.shape) == len(entry.shape)
        and all(
            not (isinstance(a, int) and isinstance(b, int)) or a == b
            for a, b in zip(result.shape, entry.shape, strict=True)
        )
    )


def _guess(inputs: Mapping[str, Port], outputs: Mapping[str, Port], where: str) -> dict[str, str]:
    fitting = {(o, i) for o, result in outputs.items() for i, entry in inputs.items() if compatible(result, entry)}
    named = _unique({(o, i) for o, i in fitting if _named_alike(o, i)})
    if named:
        return named
    found = _unique(fitting)
    if found and len(found) == len({i for _, i in fitting}):
        return found
    pairs = ", ".join(f"{o} -> {i}" for o, i in sorted(fitting)) or "none whose types and shapes agree"
    raise ArgumentError(
        f"[OnnxSystem] {where}: which outputs feed which inputs cannot be told from names and shapes; candidates are "
        f"{pairs}, of inputs {_listed(inputs, inputs)} and outputs {_listed(outputs, outputs)}; "
        "give state_map={output: input}"
    )


def _unique(pairs: set[tuple[str, str]]) -> dict[str, str]:
    """The pairs, where each of their outputs and inputs is in no other; else none."""
    once = len({o for o, _ in pairs}) == len(pairs) == len({i for _, i in pairs})
    return dict(sorted(pairs)) if once else {}


def _named_alike(result: str, entry: str) -> bool:
    if result == entry + "n" or result == entry + "N":
        return True
    return _bare(result) == _bare(entry) != ""


def _bare(name: str) -> str:
    previous = None
    while name != previous:
        previous = name
        stripped = _MARKS.sub("", name).strip("_.")
        name = stripped or name
    return re.sub(r"^(key|value)_values?", r"\1", name).lower()


def _check(
    feeds: Mapping[str, str],
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    constants: Mapping[str, object],
    where: str,
) -> None:
    if not feeds:
        raise ArgumentError(
            f"[OnnxSystem] {where}: the state map is empty, so nothing is carried; give {{output: input}}"
        )
    for result, entry in feeds.items():
        if result in inputs and entry in outputs:
            raise ArgumentError(
                f"[OnnxSystem] {where}: state_map goes from outputs to inputs, and {result} -> {entry} goes the other "
                f"way; write {{{entry!r}: {result!r}}}"
            )
        _known(result, outputs, "state_map goes from an output", where)
        _known(entry, inputs, "state_map goes to an input", where)
        if entry in constants:
            raise ArgumentError(f"[OnnxSystem] {where}: {entry} is in state_map and in constants; take it out of one")
        if list(feeds.values()).count(entry) > 1:
            raise ArgumentError(f"[OnnxSystem] {where}: state_map feeds {entry} from more than one output; keep one")
        if not compatible(outputs[result], inputs[entry]):
            raise ArgumentError(
                f"[OnnxSystem] {where}: the output {outputs[result]} cannot feed the input {inputs[entry]}: expected "
                "the same type and shape; correct state_map"
            )


def _known(name: str, ports: Mapping[str, Port], what: str, where: str) -> None:
    if name not in ports:
        raise ArgumentError(f"[OnnxSystem] {where}: {what}, got {name!r}; there are {_listed(ports, ports)}")


def _listed(ports: Mapping[str, Port], names: object) -> str:
    return ", ".join(str(port) for name, port in ports.items() if name in names) or "none"  # type: ignore[operator]
